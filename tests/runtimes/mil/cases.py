"""One or more examples of every operation, with what PyTorch makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Example:
    """An operation, its inputs by name (arrays, lists of them, numbers, strings), and its result in PyTorch."""

    kind: str
    inputs: dict[str, Any]
    wanted: Callable[..., Any]
    """Takes the inputs with every array as a tensor; returns a tensor or a tuple of them."""
    tolerance: float = 1e-5
    narrow: dict[str, str] = field(default_factory=dict)
    """Which inputs have elements of less than eight bits, and of what type."""

    @property
    def name(self) -> str:
        told = [str(value) for value in self.inputs.values() if isinstance(value, str | bool | int)]
        return "-".join([self.kind, *told])


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def bools(*values: bool) -> np.ndarray:
    return np.array(values, np.bool_)


X = floats(2, 3, 4)
Y = floats(3, 1, seed=1)
POSITIVE = np.abs(floats(2, 3, 4, seed=2)) + np.float32(0.1)
UNIT = np.tanh(floats(2, 3, 4, seed=3)) * np.float32(0.99)
WHOLE = np.random.default_rng(4).integers(-9, 9, (2, 3, 4)).astype(np.int32)
DIVISORS = np.array([[[3], [-2], [5]]], np.int32)
FLAGS = np.random.default_rng(5).random((2, 3, 4)) < 0.5
ONE, TWO, HALF = np.float32(1), np.float32(2), np.float32(0.5)


def unary() -> Iterator[Example]:
    same: dict[str, tuple[np.ndarray, Callable[[Tensor], Tensor]]] = {
        "abs": (X, torch.abs), "acos": (UNIT, torch.acos), "asin": (UNIT, torch.asin), "atan": (X, torch.atan),
        "atanh": (UNIT, torch.atanh), "ceil": (X, torch.ceil), "cos": (X, torch.cos), "cosh": (X, torch.cosh),
        "erf": (X, torch.erf), "exp": (X, torch.exp), "exp2": (X, torch.exp2), "floor": (X, torch.floor),
        "logical_not": (FLAGS, torch.logical_not), "round": (X * 4, torch.round), "sign": (X, torch.sign),
        "sin": (X, torch.sin), "sinh": (X, torch.sinh), "sqrt": (POSITIVE, torch.sqrt), "square": (X, torch.square),
        "tan": (UNIT, torch.tan), "tanh": (X, torch.tanh), "relu": (X, F.relu), "relu6": (X * 9, F.relu6),
        "sigmoid": (X * 30, torch.sigmoid), "silu": (X, F.silu), "softplus": (X * 9, F.softplus),
        "softsign": (X, F.softsign), "identity": (X, lambda x: x),
    }  # fmt: skip
    for kind, (x, f) in same.items():
        yield Example(kind, {"x": x}, lambda x, f=f: f(x))
    yield Example("round", {"x": np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)}, torch.round)
    yield Example("abs", {"x": WHOLE}, torch.abs)
    yield Example("inverse", {"x": POSITIVE, "epsilon": HALF}, lambda x, epsilon: 1 / (x + 0.5))
    yield Example("inverse", {"x": POSITIVE}, lambda x: 1 / (x + 1e-4))
    yield Example("log", {"x": POSITIVE, "epsilon": HALF}, lambda x, epsilon: torch.log(x + 0.5))
    yield Example("rsqrt", {"x": POSITIVE, "epsilon": np.float32(1e-3)}, lambda x, epsilon: torch.rsqrt(x + 1e-3))
    yield Example("threshold", {"x": X, "alpha": HALF}, lambda x, alpha: x.clamp(min=0.5))
    yield Example("clip", {"x": X, "alpha": -HALF, "beta": ONE}, lambda x, alpha, beta: x.clamp(-0.5, 1.0))
    yield Example("cast", {"x": X * 9, "dtype": "int32"}, lambda x, dtype: x.to(torch.int32))
    edge = np.array([127.9, -128.4, 0.5], np.float32)
    yield Example("cast", {"x": edge, "dtype": "int8"}, lambda x, dtype: x.to(torch.int8))
    yield Example("cast", {"x": X, "dtype": "bool"}, lambda x, dtype: x != 0)
    yield Example("cast", {"x": WHOLE, "dtype": "fp32"}, lambda x, dtype: x.float())
    yield Example("cast", {"x": WHOLE, "dtype": "int16"}, lambda x, dtype: x.to(torch.int16))
    yield Example("cast", {"x": FLAGS, "dtype": "fp32"}, lambda x, dtype: x.float())


def binary() -> Iterator[Example]:
    for kind, f in {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.div, "maximum": torch.maximum,
        "minimum": torch.minimum, "floor_div": torch.floor_divide, "mod": torch.remainder,
    }.items():  # fmt: skip
        yield Example(kind, {"x": X, "y": Y}, lambda x, y, f=f: f(x, y))
    for kind, f in {
        "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt,
        "less_equal": torch.le,
    }.items():  # fmt: skip
        yield Example(kind, {"x": WHOLE, "y": WHOLE[:, :1]}, lambda x, y, f=f: f(x, y))
    for kind, f in {
        "logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_xor": torch.logical_xor,
    }.items():  # fmt: skip
        yield Example(kind, {"x": FLAGS, "y": FLAGS[:1]}, lambda x, y, f=f: f(x, y))
    yield Example("floor_div", {"x": WHOLE, "y": DIVISORS}, lambda x, y: torch.floor_divide(x, y))
    yield Example("mod", {"x": WHOLE, "y": DIVISORS}, lambda x, y: torch.remainder(x, y))
    yield Example("pow", {"x": POSITIVE, "y": Y}, lambda x, y: torch.pow(x, y))
    yield Example("select", {"cond": FLAGS, "a": X, "b": np.float32(-3e4)}, lambda cond, a, b: torch.where(cond, a, b))


def activations() -> Iterator[Example]:
    a, b = np.float32(0.3), np.float32(1.4)
    yield Example("gelu", {"x": X, "mode": "EXACT"}, lambda x, mode: F.gelu(x))
    yield Example("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}, lambda x, mode: F.gelu(x, approximate="tanh"))
    yield Example("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}, lambda x, mode: x * torch.sigmoid(1.702 * x))
    yield Example("elu", {"x": X, "alpha": a}, lambda x, alpha: F.elu(x, 0.3))
    yield Example("leaky_relu", {"x": X, "alpha": a}, lambda x, alpha: F.leaky_relu(x, 0.3))
    yield Example("prelu", {"x": floats(2, 3, 4, 2), "alpha": floats(3, seed=9)}, lambda x, alpha: F.prelu(x, alpha))
    yield Example("linear_activation", {"x": X, "alpha": a, "beta": b}, lambda x, alpha, beta: 0.3 * x + 1.4)
    yield Example("scaled_tanh", {"x": X, "alpha": a, "beta": b}, lambda x, alpha, beta: 0.3 * torch.tanh(1.4 * x))
    yield Example(
        "sigmoid_hard", {"x": X, "alpha": a, "beta": HALF}, lambda x, alpha, beta: (0.3 * x + 0.5).clamp(0, 1)
    )
    yield Example("thresholded_relu", {"x": X, "alpha": a}, lambda x, alpha: torch.where(x >= 0.3, x, 0.0))
    yield Example(
        "clamped_relu", {"x": X, "alpha": a, "beta": HALF}, lambda x, alpha, beta: F.leaky_relu(x, 0.3).clamp(max=0.5)
    )
    yield Example(
        "softplus_parametric",
        {"x": X, "alpha": POSITIVE[0, :, 0], "beta": POSITIVE[1, :, 0]},
        lambda x, alpha, beta: alpha[:, None] * F.softplus(x * beta[:, None]),
    )
    for axis in (-1, 1):
        yield Example("softmax", {"x": X * 9, "axis": axis}, lambda x, axis: x.softmax(axis))


def products() -> Iterator[Example]:
    weight, bias = floats(5, 4, seed=6), floats(5, seed=7)
    yield Example("linear", {"x": X, "weight": weight, "bias": bias}, F.linear)
    yield Example("linear", {"x": X, "weight": weight}, F.linear)
    for tx, ty in ((False, False), (True, False), (False, True), (True, True)):
        x, y = floats(2, 3, 4), floats(2, 4, 5, seed=8)
        yield Example(
            "matmul",
            {"x": x.swapaxes(1, 2).copy() if tx else x, "y": y.swapaxes(1, 2).copy() if ty else y,
             "transpose_x": tx, "transpose_y": ty},
            lambda x, y, transpose_x, transpose_y: (x.mT if transpose_x else x) @ (y.mT if transpose_y else y),
        )  # fmt: skip
    yield Example("matmul", {"x": floats(1, 4, 1, 8), "y": floats(1, 1, 6, 8, seed=1), "transpose_y": True},
                  lambda x, y, transpose_y: x @ y.mT)  # fmt: skip
    yield Example(
        "einsum",
        {"values": [floats(2, 3, 4, 5), floats(2, 5, 1, 6)], "equation": "nchw,nwhu->nchu"},
        lambda values, equation: torch.einsum(equation, values[0], values[1].expand(2, 5, 4, 6)),
    )
    yield Example(
        "einsum",
        {"values": [floats(3, 4, 5), floats(5, 4, 6)], "equation": "chw,whr->chr"},
        lambda values, equation: torch.einsum(equation, *values),
    )


def convolutions() -> Iterator[Example]:
    def of(x: np.ndarray, weight: np.ndarray, **more: Any) -> Example:
        def wanted(x: Tensor, weight: Tensor, bias: Tensor | None = None, **more: Any) -> Tensor:
            pads = [int(n) for n in more.get("pad", [0] * 2 * (x.dim() - 2))]
            pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)]
            x = F.pad(x, [n for pair in reversed(pairs) for n in pair])
            f = {3: F.conv1d, 4: F.conv2d}[x.dim()]
            return f(
                x, weight, bias, tuple(map(int, more.get("strides", (1,)))),
                "same" if more["pad_type"] == "same" else 0,
                tuple(map(int, more.get("dilations", (1,)))), more.get("groups", 1),
            )  # fmt: skip

        return Example("conv", {"x": x, "weight": weight, **more}, wanted, 1e-4)

    yield of(floats(1, 8, 1, 5), floats(6, 8, 1, 1), bias=floats(6), pad_type="valid")  # a linear layer
    yield of(floats(2, 4, 7, 6), floats(6, 4, 3, 2), pad_type="valid", strides=ints(2, 1))
    yield of(floats(2, 4, 7, 6), floats(6, 2, 3, 2), pad_type="custom", pad=ints(1, 0, 2, 1), groups=2)
    yield of(floats(2, 4, 9), floats(4, 1, 3), pad_type="valid", dilations=ints(2), groups=4)
    yield of(floats(2, 4, 7, 6), floats(5, 4, 3, 5), pad_type="same")


def attention() -> Iterator[Example]:
    q, k, v = floats(2, 3, 5, 8), floats(2, 3, 7, 8, seed=1), floats(2, 3, 7, 6, seed=2)
    flags = np.random.default_rng(1).random((5, 7)) < 0.7
    flags[:, 0] = True
    kind = "scaled_dot_product_attention"
    parts = {"query": q, "key": k, "value": v}
    yield Example(kind, parts, F.scaled_dot_product_attention)
    for mask in (flags, floats(1, 1, 5, 7)):
        yield Example(kind, {**parts, "attn_mask": mask}, F.scaled_dot_product_attention)


def norms() -> Iterator[Example]:
    eps = np.float32(1e-3)
    gamma, beta, mean, variance = floats(4, seed=1), floats(4, seed=2), floats(3, seed=3), POSITIVE[0, :, 0]
    yield Example(
        "layer_norm",
        {"x": X, "axes": ints(-1), "gamma": gamma, "beta": beta, "epsilon": eps},
        lambda x, axes, gamma, beta, epsilon: F.layer_norm(x, (4,), gamma, beta, 1e-3),
    )
    yield Example("layer_norm", {"x": X, "axes": ints(1, 2)}, lambda x, axes: F.layer_norm(x, (3, 4)))
    yield Example(
        "batch_norm",
        {"x": floats(2, 3, 4, 4), "mean": mean, "variance": variance, "gamma": mean + 1, "beta": mean, "epsilon": eps},
        lambda x, mean, variance, gamma, beta, epsilon: F.batch_norm(x, mean, variance, gamma, beta, eps=1e-3),
    )
    yield Example(
        "instance_norm",
        {"x": floats(2, 3, 4, 4), "gamma": mean, "beta": mean + 1, "epsilon": eps},
        lambda x, gamma, beta, epsilon: F.instance_norm(x, weight=gamma, bias=beta, eps=1e-3),
    )
    yield Example(
        "l2_norm", {"x": floats(2, 3, 4, 4), "epsilon": eps},
        lambda x, epsilon: x / (x.square().sum((1, 2, 3), keepdim=True) + 1e-3).sqrt(),
    )  # fmt: skip


def reductions() -> Iterator[Example]:
    for kind, f in {
        "reduce_mean": torch.mean, "reduce_sum": torch.sum, "reduce_max": torch.amax, "reduce_min": torch.amin,
        "reduce_l1_norm": lambda x, d, k: x.abs().sum(d, k), "reduce_l2_norm": lambda x, d, k: x.norm(2, d, k),
        "reduce_sum_square": lambda x, d, k: x.square().sum(d, k),
        "reduce_log_sum": lambda x, d, k: x.sum(d, k).log(), "reduce_log_sum_exp": torch.logsumexp,
    }.items():  # fmt: skip
        for axes, keep in (((-1,), True), ((0, 2), False)):
            yield Example(
                kind,
                {"x": POSITIVE, "axes": ints(*axes), "keep_dims": keep},
                lambda x, axes, keep_dims, f=f: f(x, tuple(axes.tolist()), keep_dims),
            )
    yield Example("reduce_prod", {"x": X, "axes": ints(1), "keep_dims": False}, lambda x, axes, keep_dims: x.prod(1))
    ties = np.array([[3, 7, 7, 1], [5, 5, 2, 5]], np.float32)
    for kind, g in {"reduce_argmax": torch.argmax, "reduce_argmin": torch.argmin}.items():
        yield Example(kind, {"x": X, "axis": 1, "keep_dims": True}, lambda x, axis, keep_dims, g=g: g(x, 1, True).int())
        yield Example(
            kind, {"x": ties, "axis": -1, "output_dtype": "uint16"},
            lambda x, axis, output_dtype, g=g: torch.from_numpy(g(x, -1).numpy().astype(np.uint16)),
        )  # fmt: skip


def before(x: Tensor) -> Tensor:
    """Running sums along axis 1 without the element itself."""
    return torch.cat([torch.zeros_like(x[:, :1]), x.cumsum(1)[:, :-1]], 1)


def shapes() -> Iterator[Example]:
    yield Example("shape", {"x": X}, lambda x: torch.tensor(x.shape, dtype=torch.int32))
    yield Example("reshape", {"x": X, "shape": ints(4, -1)}, lambda x, shape: x.reshape(4, 6))
    yield Example("reshape", {"x": X, "shape": ints(0, -1)}, lambda x, shape: x.reshape(3, 8))  # the 0 is axis 1
    yield Example(
        "reshape_like",
        {"x": X, "ref_tensors": [floats(6, 2), floats(7, 4)], "begins": [0, 1], "ends": [1, 0],
         "end_masks": [False, True]},
        lambda x, ref_tensors, begins, ends, end_masks: x.reshape(6, 4),
    )  # fmt: skip
    yield Example("flatten2d", {"x": X, "axis": 2}, lambda x, axis: x.reshape(6, 4))
    yield Example("transpose", {"x": X, "perm": ints(2, 0, 1)}, lambda x, perm: x.permute(2, 0, 1))
    yield Example("expand_dims", {"x": X, "axes": ints(0, -1)}, lambda x, axes: x[None, ..., None])
    yield Example("squeeze", {"x": X[:1], "axes": ints(0)}, lambda x, axes: x[0])
    yield Example("squeeze", {"x": X[:1], "axes": ints(0, 1)}, lambda x, axes: x[0])
    yield Example("reverse", {"x": X, "axes": ints(0, 2)}, lambda x, axes: x.flip(0, 2))
    yield Example("concat", {"values": [X, X[:, :1]], "axis": 1}, lambda values, axis: torch.cat(values, 1))
    yield Example(
        "concat", {"values": [X, -X], "axis": -1, "interleave": True},
        lambda values, axis, interleave: torch.stack(values, -1).reshape(2, 3, 8),
    )  # fmt: skip
    yield Example("concat", {"values": [np.int32(7), np.int32(9)], "axis": 0}, lambda values, axis: torch.stack(values))
    yield Example("stack", {"values": [X, -X], "axis": 1}, lambda values, axis: torch.stack(values, 1))
    yield Example("split", {"x": X, "num_splits": 2, "axis": 2}, lambda x, num_splits, axis: x.chunk(2, 2))
    yield Example(
        "split", {"x": X, "split_sizes": ints(1, 3), "axis": 2}, lambda x, split_sizes, axis: x.split([1, 3], 2)
    )
    yield Example("tile", {"x": X, "reps": ints(1, 2, 3)}, lambda x, reps: x.repeat(1, 2, 3))
    yield Example(
        "pad", {"x": X, "pad": ints(1, 0, 2, 1), "mode": "constant", "constant_val": TWO},
        lambda x, pad, mode, constant_val: F.pad(x, (2, 1, 1, 0), value=2.0),
    )  # fmt: skip
    for mode in ("reflect", "replicate"):
        yield Example("pad", {"x": X, "pad": ints(0, 0, 0, 0, 2, 1), "mode": mode},
                      lambda x, pad, mode: F.pad(x, (2, 1), mode=mode))  # fmt: skip
    yield Example("fill", {"shape": ints(2, 3), "value": HALF}, lambda shape, value: torch.full((2, 3), 0.5))
    yield Example("fill_like", {"ref_tensor": X, "value": ONE}, lambda ref_tensor, value: torch.ones_like(ref_tensor))
    yield Example("range_1d", {"end": np.int32(9), "start": np.int32(2), "step": np.int32(3)},
                  lambda end, start, step: torch.arange(2, 9, 3).int())  # fmt: skip
    yield Example(
        "one_hot", {"indices": ints(2, 0), "one_hot_vector_size": 4, "on_value": TWO, "off_value": HALF},
        lambda indices, one_hot_vector_size, on_value, off_value: F.one_hot(indices.long(), 4) * 1.5 + 0.5,
    )  # fmt: skip
    yield Example(
        "one_hot", {"indices": ints(2, 0), "one_hot_vector_size": 4, "axis": 0},
        lambda indices, one_hot_vector_size, axis: F.one_hot(indices.long(), 4).T.int(),
    )  # fmt: skip
    square = floats(2, 5, 5)
    yield Example("band_part", {"x": square, "lower": -1, "upper": 0}, lambda x, lower, upper: x.tril())
    yield Example("band_part", {"x": square, "lower": 1, "upper": 2}, lambda x, lower, upper: x.triu(-1).tril(2))
    yield Example("cumsum", {"x": X, "axis": 1}, lambda x, axis: x.cumsum(1))
    yield Example("cumsum", {"x": X, "axis": 2, "reverse": True}, lambda x, axis, reverse: x.flip(2).cumsum(2).flip(2))
    yield Example("cumsum", {"x": X, "axis": 1, "exclusive": True}, lambda x, axis, exclusive: before(x))
    steep = np.array([[1, 1e8, np.inf, 2]], np.float32)
    yield Example("cumsum", {"x": steep, "axis": 1, "exclusive": True}, lambda x, axis, exclusive: before(x))
    yield Example("non_zero", {"x": np.maximum(X, 0)}, lambda x: x.nonzero().int())


def sorting() -> Iterator[Example]:
    ties = np.array([[3, 7, 7, 1], [5, 5, 2, 5]], np.float32)
    for x, ascending in ((X, False), (X, True), (ties, False), (ties, True)):
        yield Example(
            "argsort", {"x": x, "axis": -1, "ascending": ascending},
            lambda x, axis, ascending: x.sort(dim=-1, descending=not ascending, stable=True).indices.int(),
        )  # fmt: skip
    yield Example(
        "topk", {"x": X, "k": 2, "axis": 1, "ascending": False},
        lambda x, k, axis, ascending: tuple(part.to(part.dtype if i == 0 else torch.int32)
                                            for i, part in enumerate(x.topk(2, 1))),
    )  # fmt: skip
    yield Example(
        "topk", {"x": X, "k": 3, "axis": -1, "ascending": True, "return_indices": False},
        lambda x, k, axis, ascending, return_indices: x.topk(3, -1, largest=False).values,
    )  # fmt: skip


def indexing() -> Iterator[Example]:
    yield Example(
        "slice_by_index",
        {"x": X, "begin": ints(0, 1, 0), "end": ints(2, 3, 4), "stride": ints(1, 1, 2)},
        lambda x, begin, end, stride: x[0:2, 1:3, 0:4:2],
    )
    yield Example(
        "slice_by_index",
        {"x": X, "begin": ints(1, -2, 0), "end": ints(0, 0, -1), "begin_mask": bools(False, False, True),
         "end_mask": bools(False, True, False), "squeeze_mask": bools(True, False, False)},
        lambda x, begin, end, begin_mask, end_mask, squeeze_mask: x[1, -2:, :-1],
    )  # fmt: skip
    yield Example(
        "slice_by_index",
        {"x": X, "begin": ints(1, 0, 0), "end": ints(0, 3, 4), "begin_mask": bools(True, False, False),
         "squeeze_mask": bools(True, False, False)},
        lambda x, begin, end, begin_mask, squeeze_mask: x[0],
    )  # fmt: skip
    yield Example("slice_by_size", {"x": X, "begin": ints(0, 1, -3), "size": ints(-1, 2, 2)},
                  lambda x, begin, size: x[:, 1:3, 1:3])  # fmt: skip

    def updated(x: Tensor, update: Tensor, begin: Tensor, end: Tensor, **_: Any) -> Tensor:
        out = x.clone()
        out[0:1, 1:3, ::2] = update
        return out

    yield Example(
        "slice_update",
        {"x": X, "update": floats(1, 2, 2, seed=5), "begin": ints(0, 1, 0), "end": ints(1, 3, 0),
         "stride": ints(1, 1, 2), "begin_mask": bools(True, False, False), "end_mask": bools(False, False, True)},
        updated,
    )  # fmt: skip
    table, ids = floats(6, 5), np.array([[3, 0, 5], [1, 1, 2]], np.int32)
    yield Example("gather", {"x": table, "indices": ids, "axis": 0}, lambda x, indices, axis: x[indices.long()])
    yield Example("gather", {"x": X, "indices": ints(2, 0), "axis": -1}, lambda x, indices, axis: x[..., [2, 0]])
    yield Example("gather", {"x": ints(4, 5, 6), "indices": np.int32(1), "axis": 0}, lambda x, indices, axis: x[1])
    yield Example(
        "gather", {"x": X, "indices": np.array([[2, 0], [1, 1]], np.int32), "axis": 1, "batch_dims": 1},
        lambda x, indices, axis, batch_dims: torch.stack([x[b][indices[b].long()] for b in range(2)]),
    )  # fmt: skip
    line = np.array([[[0, 2, 1, 0]], [[1, 1, 0, 2]]], np.int32)
    yield Example("gather_along_axis", {"x": X, "indices": line, "axis": 1},
                  lambda x, indices, axis: x.gather(1, indices.long()))  # fmt: skip
    yield Example(
        "gather_nd", {"x": X, "indices": np.array([[0, 2], [1, 0]], np.int32)},
        lambda x, indices: x[indices[:, 0].long(), indices[:, 1].long()],
    )  # fmt: skip
    yield Example(
        "gather_nd", {"x": X, "indices": np.array([[[2], [0]], [[1], [1]]], np.int32), "batch_dims": 1},
        lambda x, indices, batch_dims: torch.stack([x[b][indices[b, :, 0].long()] for b in range(2)]),
    )  # fmt: skip


def scattering() -> Iterator[Example]:
    reduce = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    places = ints(2, 0)
    for mode in ("update", "add", "sub", "mul", "div", "max", "min"):
        updates = floats(2, 2, 4, seed=8) + np.float32(3)

        def along(x: Tensor, axis: int, at: Tensor, updates: Tensor, mode: str) -> Tensor:
            if mode == "update":
                return x.scatter(axis, at, updates)
            turned = {"sub": -updates, "div": 1 / updates}.get(mode, updates)
            return x.scatter_reduce(axis, at, turned, reduce[{"sub": "add", "div": "mul"}.get(mode, mode)])

        yield Example(
            "scatter", {"data": X, "indices": places, "updates": updates, "axis": 1, "mode": mode},
            lambda data, indices, updates, axis, mode, f=along: f(
                data, 1, indices.long()[None, :, None].expand(2, 2, 4), updates, mode),
        )  # fmt: skip
        line = np.array([[[0, 2, 1, 0]], [[1, 1, 0, 2]]], np.int32)
        yield Example(
            "scatter_along_axis",
            {"data": X, "indices": line, "updates": updates[:, :1], "axis": 1, "mode": mode},
            lambda data, indices, updates, axis, mode, f=along: f(data, 1, indices.long(), updates, mode),
        )
        yield Example(
            "scatter_nd",
            {"data": X[0], "indices": np.array([[2], [0]], np.int32), "updates": updates[0], "mode": mode},
            lambda data, indices, updates, mode, f=along: f(data, 0, indices.long().expand(2, 4), updates, mode),
        )
    yield Example(  # one place twice
        "scatter_nd",
        {"data": X[0], "indices": np.array([[1, 1], [1, 1]], np.int32), "updates": np.array([5, 7], np.float32),
         "mode": "add"},
        lambda data, indices, updates, mode: data.index_put((torch.tensor([1]), torch.tensor([1])), data[1, 1] + 12.0),
    )  # fmt: skip


def quantization() -> Iterator[Example]:
    data = np.random.default_rng(3).integers(-128, 127, (4, 6)).astype(np.int8)
    scale, zero = POSITIVE[0, :, 0][[0, 1, 2, 0]], np.array([3, -4, 0, 9], np.int8)
    yield Example(
        "dequantize", {"input": data, "scale": scale, "zero_point": zero, "axis": 0},
        lambda input, scale, zero_point, axis: scale[:, None] * (input.float() - zero_point.float()[:, None]),
    )  # fmt: skip
    yield Example(
        "quantize", {"input": floats(4, 6, scale=60), "scale": HALF, "output_dtype": "int8"},
        lambda input, scale, output_dtype: (input / 0.5).round().clamp(-128, 127).to(torch.int8),
    )  # fmt: skip
    yield Example(
        "constexpr_affine_dequantize", {"quantized_data": data, "zero_point": zero, "scale": scale, "axis": 0},
        lambda quantized_data, zero_point, scale, axis: scale[:, None]
        * (quantized_data.float() - zero_point.float()[:, None]),
    )  # fmt: skip
    yield Example("constexpr_cast", {"source_val": X.astype(np.float16), "output_dtype": "fp32"},
                  lambda source_val, output_dtype: source_val.float())  # fmt: skip
    blocks, offset = floats(2, 3, seed=4), np.array([[1, -2, 3], [0, 5, -6]], np.int8)
    yield Example(
        "constexpr_blockwise_shift_scale", {"data": data, "scale": blocks, "offset": offset},
        lambda data, scale, offset: (data.float() - offset.float().repeat_interleave(2, 0).repeat_interleave(2, 1))
        * scale.repeat_interleave(2, 0).repeat_interleave(2, 1),
    )  # fmt: skip
    yield Example(
        "constexpr_blockwise_shift_scale",
        {"data": data, "scale": floats(4, 1, seed=5)},
        lambda data, scale: data * scale,
    )
    mask = (np.random.default_rng(7).random((4, 6)) < 0.5).astype(np.uint8)
    kept = floats(int(mask.sum()), seed=6)

    def dense(values: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask.bool(), values)

    yield Example("constexpr_sparse_to_dense", {"nonzero_data": kept, "mask": mask}, lambda nonzero_data, mask: dense(
        nonzero_data, mask), narrow={"mask": "uint1"})  # fmt: skip
    yield Example(
        "constexpr_sparse_blockwise_shift_scale",
        {"data_mask": mask, "nonzero_data": data[mask != 0], "scale": floats(1, 6, seed=2)},
        lambda data_mask, nonzero_data, scale: (
            data_mask, (dense(nonzero_data.float(), data_mask) * scale)[data_mask.bool()]
        ),
        narrow={"data_mask": "uint1"},
    )  # fmt: skip
    groups = floats(2, 1, 4, 1, seed=1)
    indices = np.random.default_rng(8).integers(0, 4, (4, 6)).astype(np.uint8)
    yield Example(
        "constexpr_lut_to_dense", {"indices": indices, "lut": groups},
        lambda indices, lut: torch.stack([lut[i // 2, 0, indices[i].long(), 0] for i in range(4)]),
        narrow={"indices": "uint2"},
    )  # fmt: skip
    vectors = floats(1, 1, 4, 3, seed=1)
    yield Example(
        "constexpr_lut_to_dense", {"indices": indices, "lut": vectors, "vector_axis": 0},
        lambda indices, lut, vector_axis: lut[0, 0][indices.long()].permute(0, 2, 1).reshape(12, 6),
        narrow={"indices": "uint2"},
    )  # fmt: skip
    yield Example(
        "constexpr_lut_to_dense", {"indices": indices, "lut": vectors, "vector_axis": 1},
        lambda indices, lut, vector_axis: lut[0, 0][indices.long()].reshape(4, 18),
        narrow={"indices": "uint2"},
    )  # fmt: skip
    yield Example(
        "constexpr_lut_to_sparse",
        {"indices_mask": mask, "indices_nonzero_data": indices[mask != 0], "lut": floats(1, 1, 4, 1, seed=9)},
        lambda indices_mask, indices_nonzero_data, lut: (indices_mask, lut[0, 0, indices_nonzero_data.long(), 0]),
        narrow={"indices_mask": "uint1", "indices_nonzero_data": "uint2"},
    )


def states() -> Iterator[Example]:
    yield Example("read_state", {"input": X}, lambda input: input)
    yield Example("write_state", {"input": X, "data": -X}, lambda input, data: ())
    yield Example("coreml_update_state", {"state": X, "value": -X}, lambda state, value: value)


EXAMPLES: list[Example] = [
    example
    for group in (
        unary, binary, activations, products, convolutions, attention, norms, reductions, shapes, sorting, indexing,
        scattering, quantization, states,
    )
    for example in group()
]  # fmt: skip

__all__ = ["EXAMPLES", "Example", "floats", "ints"]
