"""mlx-lm's Gemma 3 with LoRA layers: loading and adapting it, its loss on packed rows, its adapter in PEFT's form.

The loss is that of `train.loop.batch_loss`: a step's declaration block is read once, and its requests, batched by
length and right-padded, attend to the block's keys and values through a cache; gradients flow into both. The pass over
mlx-lm's layers is `runtimes.mlx_net.hidden`, which has the exact embedding scale.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes import mlx_net
from runtimes.errors import UserError
from train.packing import Row

PAD_TO = 32
"""Requests are padded to a multiple of this many tokens (mlx-lm's own choice), so that few shapes occur."""

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Group:
    """Requests of similar length as MLX arrays: ids of shape (requests, tokens), zeros behind a request's end."""

    ids: Any
    where: Any
    """Flat indices (into requests * tokens) of the positions that carry loss."""
    targets: Any


@dataclass(frozen=True)
class Batch:
    """One step's requests behind their block, whose ids have shape (1, tokens)."""

    block: Any
    groups: tuple[Group, ...]
    targets: int
    """Completion tokens in all groups."""
    tokens: int
    """Tokens computed, padding included."""


class LayerCache:
    """What one layer's attention sees: its own keys and values, behind those of the block where `block` is given.

    Has the cache interface of mlx-lm's layers. A local layer gets no key that lies before all its queries' windows.
    """

    def __init__(self, window: int | None, block: LayerCache | None = None) -> None:
        self.offset = 0 if block is None else int(block.keys.shape[2])
        self.first = 0 if window is None else max(0, self.offset - window + 1)
        self.window, self.block = window, block
        self.keys: Any = None
        self.values: Any = None

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Keys and values of shape (rows, heads, tokens, dim) in, the same with the block's before them out."""
        if self.block is not None:
            keys, values = self._behind(self.block.keys, keys), self._behind(self.block.values, values)
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, count: int) -> Any:
        """Booleans of shape (count, keys): causal, and within the window. Padding lies behind all that is read."""
        import mlx.core as mx

        query = mx.arange(self.offset, self.offset + count)[:, None]
        key = mx.arange(self.first, self.offset + count)[None]
        mask = key <= query
        return mask if self.window is None else mask & (key > query - self.window)

    def _behind(self, before: Any, new: Any) -> Any:
        import mlx.core as mx

        before = before[:, :, self.first :]
        return mx.concatenate([mx.broadcast_to(before, (new.shape[0], *before.shape[1:])), new], axis=2)


def load(base: Path) -> Any:
    """mlx-lm's network in float32. Raises `UserError` where `base` is no whole checkpoint of Gemma 3 text."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from export.checkpoint import open_checkpoint
    from export.mlx import sliding_window_pattern

    config = open_checkpoint(base).config
    if config.get("quantization"):
        raise UserError(f"{base}: the checkpoint is quantized; give the unquantized one")
    pattern = sliding_window_pattern(config)
    try:
        net, _ = load_model(base, lazy=True, model_config={**config, "sliding_window_pattern": pattern})
        net.set_dtype(mx.float32)
        mx.eval(net.parameters())
    except (OSError, ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{base}: mlx-lm cannot read this checkpoint ({line}); fetch it again") from error
    return net


def adapt(net: Any, *, rank: int, alpha: float, dropout: float, targets: Sequence[str]) -> None:
    """Freeze `net` and put LoRA layers around the linear layers that `targets` names, as PEFT matches names.

    Both libraries start A uniformly in ±1/sqrt(inputs) and B at zero. Raises `UserError` for a name that fits nothing.
    """
    import mlx.nn as nn
    from mlx_lm.tuner.utils import linear_to_lora_layers

    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(_fits(name, target) for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            near = difflib.get_close_matches(str(target), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"targets: the base has no linear layer {target!r}; {hint}")
    keys = {name for name in linear if any(_fits(name, target) for target in targets)}
    net.freeze()
    linear_to_lora_layers(net, 0, {"rank": rank, "scale": alpha / rank, "dropout": dropout, "keys": keys})


def batch(rows: Sequence[Row]) -> Batch:
    """The requests of packed rows with one and the same block, grouped by length."""
    import mlx.core as mx

    block = rows[0].ids[rows[0].segments == 0]
    sizes: dict[int, list[tuple[Any, Any]]] = defaultdict(list)
    for row in rows:
        for number in range(1, int(row.segments.max()) + 1):
            own = row.segments == number
            ids, loss = row.ids[own], row.loss[own]
            sizes[-(-(len(ids) - 1) // PAD_TO) * PAD_TO].append((ids, np.flatnonzero(loss)))
    groups = []
    for width, requests in sorted(sizes.items()):
        padded = np.zeros((len(requests), width), dtype=np.int32)
        for i, (ids, _) in enumerate(requests):
            padded[i, : len(ids) - 1] = ids[:-1]  # nothing is predicted from the last token
        where = np.concatenate([at + i * width for i, (_, at) in enumerate(requests)])
        targets = np.concatenate([ids[at + 1] for ids, at in requests])
        groups.append(Group(mx.array(padded), mx.array(where.astype(np.int32)), mx.array(targets.astype(np.int32))))
    return Batch(
        mx.array(block.astype(np.int32))[None],
        tuple(groups),
        sum(int(g.targets.size) for g in groups),
        len(block) + sum(int(g.ids.size) for g in groups),
    )


def read_block(net: Any, block: Any) -> list[LayerCache]:
    """Every layer's keys and values of the block, ids of shape (1, tokens), not yet evaluated."""
    caches = [LayerCache(_window(net, layer)) for layer in net.layers]
    mlx_net.hidden(net, block, caches, [block.shape[1] - 1])
    return caches


def batch_loss(net: Any, data: Batch, block: Sequence[LayerCache] | None = None) -> Any:
    """Mean cross-entropy over the completion tokens, a scalar array; `block` is what `read_block` gave, if it did."""
    import mlx.core as mx
    import mlx.nn as nn

    before = read_block(net, data.block) if block is None else block
    total = mx.array(0.0)
    for group in data.groups:
        caches = [LayerCache(_window(net, layer), own) for layer, own in zip(net.layers, before, strict=True)]
        states = mlx_net.hidden(net, group.ids, caches, None)
        picked = states.reshape(-1, states.shape[-1])[group.where]
        logits = mlx_net.head(net, picked).astype(mx.float32)
        total = total + nn.losses.cross_entropy(logits, group.targets, reduction="sum")
    return total / data.targets


def peft_weights(net: Any) -> dict[str, Any]:
    """The adapter under PEFT's names: lora_A.weight of shape (rank, inputs), lora_B.weight (outputs, rank)."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    out = {}
    for name, weight in tree_flatten(net.trainable_parameters()):
        layer, _, kind = name.rpartition(".")
        out[f"{_PEFT_PREFIX}{layer}.{kind[:-1]}{kind[-1].upper()}.weight"] = mx.contiguous(weight.T)
    return dict(sorted(out.items()))


def peft_config(*, base: str, rank: int, alpha: float, dropout: float, targets: Sequence[str]) -> dict[str, Any]:
    """``adapter_config.json``: what is not PEFT's default, and what other readers of adapters insist on."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _window(net: Any, layer: Any) -> int | None:
    return int(net.args.sliding_window) if layer.self_attn.is_sliding else None


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
