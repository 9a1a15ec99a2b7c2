"""The network in the layout that Apple advises for the Neural Engine, as functions of fixed shapes over one state.

After "Deploying Transformers on the Apple Neural Engine"
(https://machinelearning.apple.com/research/neural-engine-transformers): tensors are (1, channels, 1, tokens), a matrix
is a convolution with a kernel of one, every head has its attention for itself, scores and mixtures are the one form of
``einsum`` that needs no copy, and what is large is cut into parts. It is written with coremltools' MIL builder, from
the weights of `export.coreml_model`: tracing PyTorch for every shape takes many times as long, and nothing would say
which type a value has. Here all are float16, the one that the Neural Engine computes in, up to the logits.

A function over Q tokens, S being what the cache holds, takes

``input_ids``  (1, Q) int32            the new tokens
``positions``  (Q,) int32              where each of them stands
``write``      (1, Q, 1, S) float16    1 where the token's key and value go, 0 elsewhere
``past``       (1, S, 1, Q) float16    added to the scores of global layers: 0 where the query sees the key, or -30,000
``near``       (1, S, 1, Q) float16    the same for local layers

and gives ``logits`` (R, vocab) float32 of its last row or of all. One that chooses takes ``allowed`` (1, vocab)
float16 too, which is added to the logits, and gives ``id`` (1,) int32 and ``logit`` (1,) float32.

Nothing in it depends on a number of tokens: the cache is what it was, times 0 where something is written, plus
``write`` times what is new. These are sums of zeros and one number, which are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from runtimes.mil import quiet

if TYPE_CHECKING:
    import torch

    from export.coreml_model import Gemma3Stateful, Layer, Norm

with quiet():
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, types

PART: Final = 16_384
"""Rows of a part of the output matrix, (1, rows, 1, tokens): no axis is longer than the Neural Engine takes."""

TINY: Final = 2.0**-14
"""The smallest normal float16."""

LEAST: Final = 2.0**-7
"""What a norm takes for the largest magnitude where that is smaller: one over it, times one over the root of `TINY`, is
a float16 still, also of a vector of zeros."""

MASKED: Final = "masked_"
"""How values are called that hold a mask besides what is computed: with this before."""

Array = npt.NDArray[Any]
Var = Any
"""A value of the program (`coremltools.converters.mil.mil.Var`)."""


@dataclass(frozen=True)
class Shape:
    """A function: its name, over how many tokens, and what it gives: logits of the last row or of every, or the best
    id behind the last."""

    name: str
    tokens: int
    answer: Literal["last", "every", "best"]


FUNCTIONS: Final = (
    Shape("decode_1", 1, "last"),
    *(Shape(f"prefill_{size}", size, "last") for size in (8, 32, 128)),
    *(Shape(f"verify_{size}", size, "every") for size in (8, 32)),
    Shape("choose_1", 1, "best"),
)


class Weights:
    """A network's weights as the functions hold them: each array is made once, and all functions name the same."""

    def __init__(self, net: Gemma3Stateful) -> None:
        self.net, self.part = net, PART
        self.embedding = self._parts("embed", net.embed.weight)
        self.head = self.embedding if net.tied else self._parts("head", net.head.weight)
        self.angles = {
            kind: [(f"{name}_{kind}", self._table(getattr(net, f"{name}_{kind}"))) for name in ("cos", "sin")]
            for kind in ("global", "local")
        }
        self.matrices = {
            name: _half(weight)[:, :, None, None]
            for name, weight in net.named_parameters()
            if weight.dim() == 2 and name.startswith("layers.")
        }
        self.scales = {
            name: _half(weight)[None, :, None, None] for name, weight in net.named_parameters() if weight.dim() == 1
        }

    def _parts(self, name: str, matrix: torch.Tensor) -> list[tuple[str, Array]]:
        whole = _half(matrix)[:, :, None, None]
        starts = range(0, len(whole), self.part)
        return [(f"{name}_weight_{number}", whole[at : at + self.part]) for number, at in enumerate(starts)]

    @staticmethod
    def _table(rows: torch.Tensor) -> Array:
        """(positions, D/2) -> (1, D/2, 1, positions)."""
        return np.ascontiguousarray(_half(rows).T)[None, :, None, :]


def states_of(net: Gemma3Stateful) -> dict[str, tuple[int, ...]]:
    """State name -> shape: (layers, positions, 1, channels) for keys, (layers, channels, 1, positions) for values;
    a key head's channels behind another's."""
    layers, kv_heads, positions, width = net.keys.shape
    channels = kv_heads * width
    return {"keys": (layers, positions, 1, channels), "values": (layers, channels, 1, positions)}


def make_function(weights: Weights, shape: Shape) -> Any:
    """The MIL function (`coremltools.converters.mil.mil.Function`) of one shape."""
    size, capacity = shape.tokens, weights.net.capacity
    inputs = {
        "input_ids": mb.placeholder((1, size), types.int32),
        "positions": mb.placeholder((size,), types.int32),
        "write": mb.placeholder((1, size, 1, capacity), types.fp16),
        "past": mb.placeholder((1, capacity, 1, size), types.fp16),
        "near": mb.placeholder((1, capacity, 1, size), types.fp16),
    }
    if shape.answer == "best":
        inputs["allowed"] = mb.placeholder((1, weights.net.vocab_size), types.fp16)
    for name, sizes in states_of(weights.net).items():
        inputs[name] = mb.state_tensor_placeholder(sizes, types.fp16)
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        function.set_outputs(_Pass(weights, shape, function.inputs).outputs())
    return function


class _Pass:
    """One function while it is written. Comments on shapes leave the batch out: (channels, 1, tokens)."""

    def __init__(self, weights: Weights, shape: Shape, inputs: dict[str, Var]) -> None:
        self.weights, self.net, self.shape, self.inputs = weights, weights.net, shape, inputs
        self.constants: dict[str, Var] = {}
        write = inputs["write"]
        self.spread = mb.transpose(x=write, perm=[0, 3, 2, 1])  # (S, 1, Q)
        taken = mb.reduce_sum(x=write, axes=[1], keep_dims=True)
        self.keep = mb.sub(x=np.float16(1), y=taken)  # (1, 1, S)
        self.keep_down = mb.transpose(x=self.keep, perm=[0, 3, 2, 1])  # (S, 1, 1)
        self.held = {name: mb.read_state(input=inputs[name]) for name in states_of(weights.net)}
        self.turns = {kind: self._turn(kind) for kind in weights.angles}

    def outputs(self) -> list[Var]:
        """Write all of it."""
        x = mb.mul(x=self._embedded(), y=np.float16(self.net.scale.factor))
        for index, (layer, local) in enumerate(zip(self.net.layers, self.net.kinds, strict=True)):
            x = self._attention(x, layer, index, local=local)
            x = self._mlp(x, layer, f"layers.{index}")
        last = self.shape.tokens - 1
        if self.shape.answer != "every" and last:
            x = _cut(x, 3, last, last + 1)
        x = self._norm(x, self.net.norm, "norm")
        products = [mb.conv(x=x, weight=self._constant(*part)) for part in self.weights.head]
        return self._best(products) if self.shape.answer == "best" else [self._logits(products)]

    def _embedded(self) -> Var:
        """Rows of the embedding, (width, 1, Q): looked up in each part that the output matrix has, so that a tied one
        is stored once; of the last part that begins before the id, the row counts."""
        ids = mb.reshape(x=self.inputs["input_ids"], shape=[self.shape.tokens])
        found: Var = None
        for number, (name, part) in enumerate(self.weights.embedding):
            at = mb.sub(x=ids, y=np.int32(number * self.weights.part))
            inside = mb.minimum(x=mb.maximum(x=at, y=np.int32(0)), y=np.int32(len(part) - 1))
            row = mb.gather(x=self._constant(name, part), indices=inside, axis=0, validate_indices=False)
            if found is None:
                found = row
                continue
            here = mb.reshape(x=mb.greater_equal(x=at, y=np.int32(0)), shape=[self.shape.tokens, 1, 1, 1])
            found = mb.select(cond=here, a=row, b=found)
        return mb.transpose(x=found, perm=[3, 1, 2, 0])

    def _attention(self, x: Var, layer: Layer, index: int, *, local: bool) -> Var:
        name = f"layers.{index}"
        mask, turn = (self.inputs["near"], "local") if local else (self.inputs["past"], "global")
        h = self._norm(x, layer.before_attention, f"{name}.before_attention")
        keys = [
            self._rotated(self._norm(self._matrix(h, f"{name}.k.{head}"), layer.k_norm, f"{name}.k_norm"), turn)
            for head in range(layer.kv)
        ]
        values = [self._matrix(h, f"{name}.v.{head}") for head in range(layer.kv)]
        keys, values = self._cached(index, _joined(keys), _joined(values))
        queries = mb.split(x=self._matrix(h, f"{name}.q"), num_splits=layer.kv * layer.groups, axis=1)
        mixed = []
        for number, query in enumerate([queries] if layer.kv * layer.groups == 1 else queries):
            normed = self._norm(query, layer.q_norm, f"{name}.q_norm")
            query = self._rotated(mb.mul(x=normed, y=np.float16(layer.q_scale.factor)), turn)
            at = number // layer.groups * layer.dim
            key, value = _cut(keys, 3, at, at + layer.dim), _cut(values, 1, at, at + layer.dim)
            scores = mb.add(x=_einsum(key, query), y=mask, name=f"{MASKED}scores_{index}_{number}")  # (S, 1, Q)
            mixed.append(_einsum(value, mb.softmax(x=scores, axis=1)))  # (D, 1, Q)
        out = self._matrix(_joined(mixed), f"{name}.o")
        return mb.add(x=x, y=self._norm(out, layer.after_attention, f"{name}.after_attention"))

    def _mlp(self, x: Var, layer: Layer, name: str) -> Var:
        h = self._norm(x, layer.before_mlp, f"{name}.before_mlp")
        gate = mb.gelu(x=self._matrix(h, f"{name}.gate"), mode="TANH_APPROXIMATION")
        out = self._matrix(mb.mul(x=gate, y=self._matrix(h, f"{name}.up")), f"{name}.down")
        return mb.add(x=x, y=self._norm(out, layer.after_mlp, f"{name}.after_mlp"))

    def _cached(self, index: int, keys: Var, values: Var) -> tuple[Var, Var]:
        """Put new keys and values, (channels, 1, Q) each, into a layer's cache; all that it holds then: (S, 1,
        channels) and (channels, 1, S)."""
        new_keys = _einsum(self.spread, mb.transpose(x=keys, perm=[0, 3, 2, 1]))
        new_values = _einsum(values, self.inputs["write"])
        return self._stored("keys", index, new_keys, self.keep_down), self._stored(
            "values", index, new_values, self.keep
        )

    def _stored(self, name: str, index: int, new: Var, keep: Var) -> Var:
        """What a layer's part of a state is from now on: what it was where it is kept, and what is new."""
        whole = self.held[name]
        now = mb.add(x=mb.mul(x=_cut(whole, 0, index, index + 1), y=keep), y=new)
        ends = [index + 1, *whole.shape[1:]]
        updated = mb.slice_update(x=whole, update=now, begin=[index, 0, 0, 0], end=ends)
        self.held[name] = mb.coreml_update_state(state=self.inputs[name], value=updated)
        return now

    def _norm(self, x: Var, norm: Norm, name: str) -> Var:
        """RMS norm over the channels. What is squared is divided by the largest magnitude first: the squares are 1 at
        most and their mean at least one over the width, so that nothing on the way leaves float16 or vanishes in it."""
        magnitude = mb.reduce_max(x=mb.abs(x=x), axes=[1], keep_dims=True)
        most = mb.maximum(x=magnitude, y=np.float16(LEAST))
        y, root = mb.real_div(x=x, y=most), mb.real_div(x=np.float16(norm.eps**0.5), y=most)
        mean = mb.reduce_mean(x=mb.mul(x=y, y=y), axes=[1], keep_dims=True)
        total = mb.maximum(x=mb.add(x=mean, y=mb.mul(x=root, y=root)), y=np.float16(TINY))
        factor = mb.real_div(x=mb.rsqrt(x=total, epsilon=np.float16(0)), y=most)
        weight = self._constant(f"{name}.weight", self.weights.scales[f"{name}.weight"])
        return mb.mul(x=mb.mul(x=x, y=factor), y=weight)

    def _matrix(self, x: Var, name: str) -> Var:
        return mb.conv(x=x, weight=self._constant(f"{name}.weight", self.weights.matrices[f"{name}.weight"]))

    def _turn(self, kind: str) -> tuple[Var, Var]:
        """Cosines and sines of the positions, (D/2, 1, Q) each."""
        cos, sin = (
            mb.gather(x=self._constant(*table), indices=self.inputs["positions"], axis=3, validate_indices=False)
            for table in self.weights.angles[kind]
        )
        return cos, sin

    def _rotated(self, x: Var, kind: str) -> Var:
        """Rotary position: turns the channels (i, i + D/2)."""
        cos, sin = self.turns[kind]
        a, b = mb.split(x=x, num_splits=2, axis=1)
        first = mb.sub(x=mb.mul(x=a, y=cos), y=mb.mul(x=b, y=sin))
        second = mb.add(x=mb.mul(x=b, y=cos), y=mb.mul(x=a, y=sin))
        return mb.concat(values=[first, second], axis=1)

    def _logits(self, products: list[Var]) -> Var:
        """(R, vocab) float32."""
        rows = mb.transpose(x=mb.squeeze(x=_joined(products), axes=[0, 2]), perm=[1, 0])
        return self._unscaled(rows, "logits")

    def _best(self, products: list[Var]) -> list[Var]:
        """The id of the largest logit plus its number in ``allowed``, the first of equal ones, and that sum: of each
        part, and then of the parts."""
        tops, ids = [], []
        for number, (product, (_, part)) in enumerate(zip(products, self.weights.head, strict=True)):
            first = number * self.weights.part
            flat = mb.squeeze(x=product, axes=[2, 3])  # (1, rows)
            mask = _cut(self.inputs["allowed"], 1, first, first + len(part))
            allowed = mb.add(x=flat, y=mask, name=f"{MASKED}logits_{number}")
            tops.append(mb.reduce_max(x=allowed, axes=[1], keep_dims=False))
            found = mb.reduce_argmax(x=allowed, axis=1, keep_dims=False)
            ids.append(mb.add(x=found, y=np.int32(first)))
        top, which = mb.concat(values=tops, axis=0), mb.concat(values=ids, axis=0)
        winner = mb.reduce_argmax(x=top, axis=0, keep_dims=True)
        best = mb.gather(x=which, indices=winner, axis=0, validate_indices=False, name="id")
        logit = mb.gather(x=top, indices=winner, axis=0, validate_indices=False)
        return [best, self._unscaled(logit, "logit")]

    def _unscaled(self, logits: Var, name: str) -> Var:
        """In float32, where logits that were made smaller for float16 have room."""
        factor = self.net.unscale.factor
        if factor == 1:
            return mb.cast(x=logits, dtype="fp32", name=name)
        return mb.mul(x=mb.cast(x=logits, dtype="fp32"), y=np.float32(factor), name=name)

    def _constant(self, name: str, value: Array) -> Var:
        """A weight; of one name there is one in a function, and in the package."""
        if name not in self.constants:
            self.constants[name] = mb.const(val=value, name=name.replace(".", "_"))
            self.constants[name].op.weight_id = name
        return self.constants[name]


def _einsum(left: Var, right: Var) -> Var:
    """(n, 1, w) times (w, 1, u): (n, 1, u), in the form that Apple's advice keeps to."""
    return mb.einsum(values=(left, right), equation="nchw,nwhu->nchu")


def _joined(values: list[Var]) -> Var:
    """One behind the other along the channels."""
    return values[0] if len(values) == 1 else mb.concat(values=values, axis=1)


def _cut(x: Var, axis: int, begin: int, end: int) -> Var:
    """x from `begin` to `end` along an axis."""
    if (begin, end) == (0, x.shape[axis]):
        return x
    at, to = [0] * len(x.shape), list(x.shape)
    at[axis], to[axis] = begin, end
    return mb.slice_by_index(x=x, begin=at, end=to)


def _half(weight: torch.Tensor) -> Array:
    return weight.detach().numpy().astype(np.float16)
