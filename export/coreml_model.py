"""Gemma 3 in plain PyTorch with a KV cache of fixed capacity, written so that it traces into a stateful Core ML model.

One pass takes

``input_ids``  (1, Q) int32  the new tokens
``positions``  (1, E) int32  0, 1, …, E-1: every position that counts after this pass, E = tokens cached + Q
``rows``       (R,) int32    which of the Q new rows shall have logits

and returns ``logits`` (R, vocab). The cache is written at positions E-Q … E-1 and read up to E, so forgetting is
asking with a smaller E. Where the cache is written follows from the inputs' shapes alone: an index that is data
would be one that Core ML's GPU compiler does not lower.

Core ML keeps state in float16 only. For float32 each key and value is stored as the sum of two float16 numbers, the
second holding what the first rounds off (22 bits together).

The modules are small because the converter sees their names: `WIDE` are computed in float32 also in the float16
package, and `export.coreml_ranges` measures the outputs of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from runtimes.coreml_package import MASKED
from runtimes.errors import UserError

if TYPE_CHECKING:
    from export.base import Checkpoint


class Gemma3Stateful(nn.Module):
    """The network and its cache. `capacity`: positions that the cache holds; `exact`: float32 from two halves."""

    def __init__(self, config: dict[str, Any], capacity: int, *, exact: bool = True) -> None:
        super().__init__()
        _check(config)
        self.capacity, self.exact = capacity, exact
        self.vocab_size, self.hidden_size = int(config["vocab_size"]), int(config["hidden_size"])
        self.kinds = [kind == "sliding_attention" for kind in config["layer_types"]]
        self.window = int(config["sliding_window"])
        head_dim, kv_heads = int(config["head_dim"]), int(config["num_key_value_heads"])
        self.embed = nn.Embedding(self.vocab_size, self.hidden_size)
        self.scale = Scale(self.hidden_size**0.5)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(len(self.kinds)))
        self.norm, self.store = Norm(self.hidden_size, float(config["rms_norm_eps"])), Store()
        self.head, self.unscale = Linear(self.hidden_size, self.vocab_size), Scale(1.0)
        for name, base in (("global", config["rope_theta"]), ("local", config["rope_local_base_freq"])):
            angles = torch.arange(capacity)[:, None] * rope_frequencies(float(base), head_dim)
            self.register_buffer(f"cos_{name}", angles.cos().float(), persistent=False)
            self.register_buffer(f"sin_{name}", angles.sin().float(), persistent=False)
        shape = (len(self.kinds), kv_heads, capacity, head_dim)
        for name in self.states:
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float16), persistent=False)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the state buffers, each (layers, key heads, capacity, head width) float16."""
        return ("keys", "values", "keys_rest", "values_rest") if self.exact else ("keys", "values")

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        end = positions.shape[1]
        start = end - input_ids.shape[1]
        key = positions[0]
        query = key[start:]
        ahead = query[:, None] - key[None, :]  # (Q, E): how far back a key lies; negative: in the future
        past = ahead >= 0
        near = past & (ahead < self.window)
        turns = {
            False: (self.cos_global[query], self.sin_global[query]),
            True: (self.cos_local[query], self.sin_local[query]),
        }
        x = self.scale(self.embed(input_ids))
        for i, (layer, local) in enumerate(zip(self.layers, self.kinds, strict=True)):
            x = layer(x, turns[local], near if local else past, _Slot(self, i, start, end))
        logits = self.head(self.norm(x[0, rows]))
        return logits if self.unscale.factor == 1 else self.unscale(logits)

    def load(self, weights: dict[str, torch.Tensor]) -> Gemma3Stateful:
        """Copy a Hugging Face checkpoint's tensors in, in float32. Raises `UserError` for one missing or misshapen."""
        norms = {f"{name}.weight" for name, module in self.named_modules() if isinstance(module, Norm)}
        with torch.no_grad():
            for name, target in self.named_parameters():
                if name == "head.weight":
                    continue
                source, part = checkpoint_name(name)
                if source not in weights:
                    raise UserError(f"the checkpoint lacks {source}")
                tensor = weights[source].float()
                if part is not None:
                    tensor = tensor.view(-1, target.shape[0], target.shape[1])[part]
                if name in norms:
                    tensor = tensor + 1
                if tensor.shape != target.shape:
                    raise UserError(f"{source} has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}")
                target.copy_(tensor)
            if "lm_head.weight" in weights:
                self.head.weight.copy_(weights["lm_head.weight"].float())
            else:
                self.head.weight = self.embed.weight
        return self.eval()

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding, the same weights."""
        return self.head.weight is self.embed.weight

    def reset(self) -> None:
        """Zero the cache, as Core ML hands it out."""
        for name in self.states:
            getattr(self, name).zero_()

    def cache_in(self, dtype: torch.dtype) -> None:
        """Make an empty cache of `dtype`: float16 as Core ML has it, float32 to see what that cannot hold."""
        for name in self.states:
            setattr(self, name, torch.zeros_like(getattr(self, name), dtype=dtype))


class Norm(nn.Module):
    """RMS norm; `weight` is Gemma's plus one."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class Scale(nn.Module):
    """Times a constant: into the residual stream, the queries, and out of logits that a rescaling made smaller."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Residual(nn.Module):
    """The residual stream's sum: it grows with depth, past float16's 65,504 in large Gemmas."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


WIDE = (Norm, Scale, Residual)
"""Modules computed in float32 in every package; so is the softmax."""


class Linear(nn.Linear):
    """A matrix without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)


class Gate(nn.Module):
    """GELU (tanh form) of one times the other."""

    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.gelu(gate, approximate="tanh") * up


class Rope(nn.Module):
    """Rotary position: turns the pairs (i, i + D/2) of the last axis. `turn`: cosine and sine, (Q, D/2) each."""

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        cos, sin = turn
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Scores(nn.Module):
    """Query times key, masked."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, q @ k.transpose(-1, -2), MASKED)


class Mix(nn.Module):
    """Attention weights times values."""

    def forward(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return weights @ v


class Layer(nn.Module):
    """Attention and MLP, each normalized before and after."""

    def __init__(self, config: dict[str, Any], index: int) -> None:
        super().__init__()
        width, inner, eps = int(config["hidden_size"]), int(config["intermediate_size"]), float(config["rms_norm_eps"])
        self.dim, self.kv = int(config["head_dim"]), int(config["num_key_value_heads"])
        self.groups = int(config["num_attention_heads"]) // self.kv
        self.before_attention, self.after_attention = Norm(width, eps), Norm(width, eps)
        self.before_mlp, self.after_mlp = Norm(width, eps), Norm(width, eps)
        self.q = Linear(width, self.kv * self.groups * self.dim)
        # One matrix per key head: a view with a transpose on the way into the state is what Core ML mishandles.
        self.k = nn.ModuleList(Linear(width, self.dim) for _ in range(self.kv))
        self.v = nn.ModuleList(Linear(width, self.dim) for _ in range(self.kv))
        self.o = Linear(self.kv * self.groups * self.dim, width)
        self.q_norm, self.k_norm = Norm(self.dim, eps), Norm(self.dim, eps)
        self.q_scale = Scale(float(config["query_pre_attn_scalar"]) ** -0.5)
        self.rope, self.scores, self.mix = Rope(), Scores(), Mix()
        self.gate, self.up, self.down = Linear(width, inner), Linear(width, inner), Linear(inner, width)
        self.gated = Gate()
        self.add_attention, self.add_mlp = Residual(), Residual()

    def forward(
        self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, slot: _Slot
    ) -> torch.Tensor:
        h = self.before_attention(x)
        q = self.q(h).view(-1, self.kv, self.groups, self.dim).permute(1, 2, 0, 3)  # (kv, groups, Q, D)
        q = self.rope(self.q_scale(self.q_norm(q)), turn)
        k, v = _heads(self.k, h), _heads(self.v, h)  # (kv, Q, D)
        k, v = slot.write(self.rope(self.k_norm(k), turn), v)  # (kv, E, D)
        weights = self.scores(q, k[:, None], mask).softmax(-1)
        mixed = self.mix(weights, v[:, None]).permute(2, 0, 1, 3).reshape(1, -1, self.kv * self.groups * self.dim)
        x = self.add_attention(x, self.after_attention(self.o(mixed)))
        h = self.before_mlp(x)
        return self.add_mlp(x, self.after_mlp(self.down(self.gated(self.gate(h), self.up(h)))))


def _heads(matrices: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    parts = [one(x) for one in matrices]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Store(nn.Module):
    """Writes one layer's new keys or values into a state and reads back all up to the end, in float16."""

    def forward(self, state: torch.Tensor, layer: int, new: torch.Tensor, start: Any, end: Any) -> torch.Tensor:
        state[layer : layer + 1, :, start:end, :] = new[None]
        return state[layer, :, :end, :]


class _Slot:
    """Where one layer's keys and values of a pass go, and what may be read back."""

    def __init__(self, net: Gemma3Stateful, layer: int, start: Any, end: Any) -> None:
        self._net, self._layer, self._start, self._end = net, layer, start, end

    def write(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new ones; return all up to the end, (kv, E, D)."""
        return self._one("keys", k), self._one("values", v)

    def _one(self, name: str, new: torch.Tensor) -> torch.Tensor:
        dtype = getattr(self._net, name).dtype
        first = new.to(dtype)
        out = self._store(name, first)
        if self._net.exact:
            out = out + self._store(f"{name}_rest", (new - first.float()).to(dtype))
        return out

    def _store(self, name: str, new: torch.Tensor) -> torch.Tensor:
        return self._net.store(getattr(self._net, name), self._layer, new, self._start, self._end).float()


def rope_frequencies(base: float, head_dim: int) -> torch.Tensor:
    """Radians per position of each pair, (head_dim / 2,) float32, computed as transformers does."""
    return 1.0 / (base ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))


def checkpoint_name(name: str) -> tuple[str, int | None]:
    """The checkpoint's name for one of our parameters, and which key head's part of it it is."""
    outer = {
        "embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "head.weight": "lm_head.weight"
    }  # fmt: skip
    if name in outer:
        return outer[name], None
    _, layer, rest = name.split(".", 2)
    stem, part = rest.removesuffix(".weight"), None
    if stem[:2] in ("k.", "v."):
        stem, part = stem[0], int(stem[2:])
    theirs = {
        "before_attention": "input_layernorm",
        "after_attention": "post_attention_layernorm",
        "before_mlp": "pre_feedforward_layernorm",
        "after_mlp": "post_feedforward_layernorm",
        **{one: f"self_attn.{one}_proj" for one in "qkvo"},
        **{one: f"self_attn.{one}" for one in ("q_norm", "k_norm")},
        **{one: f"mlp.{one}_proj" for one in ("gate", "up", "down")},
    }[stem]
    return f"model.layers.{layer}.{theirs}.weight", part


def load_checkpoint(source: Checkpoint, capacity: int, *, exact: bool = True) -> Gemma3Stateful:
    """The network with `source`'s weights. Raises `UserError` for what this implementation does not cover."""
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for path in sorted(source.folder.glob("*.safetensors")):
        weights |= load_file(path)
    try:
        return Gemma3Stateful(source.config, capacity, exact=exact).load(weights)
    except (UserError, KeyError) as error:
        raise UserError(f"{source.folder}: {error}") from None


def _check(config: dict[str, Any]) -> None:
    """Everything that the network above leaves out must be absent."""
    expected = {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "rope_scaling": None,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }
    for key, value in expected.items():
        if key in config and config[key] != value:
            raise UserError(f"config.json: {key} is {config[key]!r}; the Core ML export covers {value!r} only")
