"""How large activations get, and what float16 makes of them: measured in PyTorch before a float16 package is believed.

The simulation rounds what the package rounds: weights, and the inputs and outputs of every module that is not kept in
float32 (`export.coreml_model.WIDE`). Sums inside a matrix product are not rounded; Core ML may do worse there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from export.coreml_model import MASKED, WIDE, Gate, Gemma3Stateful, Linear, Mix, Residual, Rope, Scale, Scores, Store

LARGEST = 65504.0
"""The largest float16."""

HEADROOM = 2.0
"""What float16 must have left above the largest activation seen, to be called safe: other requests reach further."""

HALF = (nn.Embedding, Linear, Rope, Store, Scores, Mix, Gate)
"""Modules that a float16 package computes in float16."""

_GROUPS: dict[type[nn.Module], str] = {
    Residual: "residual",
    Scale: "residual",
    Linear: "linear",
    Gate: "gate",
    Scores: "scores",
    Mix: "linear",
    Store: "cache",
}


def measure(net: Gemma3Stateful, sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Run `sequences`, each in one pass from an empty cache, in float32 and in simulated float16.

    Returns ``max_abs`` (group -> largest magnitude in float32; "residual" is kept wide, the others are not),
    ``headroom`` (65,504 over the largest of those), ``safe``, and what rounding does to the logits: ``max_abs_logit``,
    ``rms_logit``, ``top1_agreement``. An overflow shows as ``finite`` false and the logit figures None.
    """
    largest: dict[str, float] = {}
    with ExitStack() as hooks, torch.inference_mode():
        for name, module in net.named_modules():
            group = "logits" if name == "head" else _GROUPS.get(type(module))
            if group is not None:
                hooks.callback(module.register_forward_hook(_watcher(largest, group)).remove)
        exact = [run(net, tokens) for tokens in sequences]
    rounded = simulate(net, sequences)
    narrow = max(value for group, value in largest.items() if group != "residual")
    finite = all(bool(torch.isfinite(rows).all()) for rows in rounded)
    return {
        "max_abs": {group: float(f"{value:.4g}") for group, value in sorted(largest.items())},
        "headroom": round(LARGEST / narrow, 2),
        "finite": finite,
        "safe": finite and narrow * HEADROOM <= LARGEST,
        **(_compare(exact, rounded) if finite else dict.fromkeys(("max_abs_logit", "rms_logit", "top1_agreement"))),
        "tokens": sum(len(tokens) for tokens in sequences),
    }


def simulate(net: Gemma3Stateful, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits of every row of `sequences`, (n, vocab) each, with the rounding of a float16 package."""
    narrow = copy.deepcopy(net)
    with torch.inference_mode():
        for module in narrow.modules():
            if isinstance(module, HALF):
                for weight in module.parameters(recurse=False):
                    weight.copy_(_round(weight))
                module.register_forward_pre_hook(lambda _, inputs: _round(inputs))
                module.register_forward_hook(lambda _, inputs, output: _round(output))
        return [run(narrow, tokens) for tokens in sequences]


def run(net: Gemma3Stateful, tokens: Sequence[int], start: int = 0) -> torch.Tensor:
    """Logits of all rows of one pass over `tokens` behind `start` cached ones."""
    end = start + len(tokens)
    return net(
        torch.tensor([list(tokens)], dtype=torch.int32),
        torch.arange(end, dtype=torch.int32)[None],
        torch.arange(len(tokens), dtype=torch.int32),
    )


def _watcher(largest: dict[str, float], group: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen = output.float()
        if isinstance(module, Scores):
            seen = seen.masked_fill(seen == MASKED, 0.0)
        largest[group] = max(largest.get(group, 0.0), float(seen.abs().max()))

    return hook


def _round(value: Any) -> Any:
    """To float16 and back; integers, booleans and the cache (which is float16) as they are."""
    if isinstance(value, tuple):
        return tuple(_round(one) for one in value)
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        return value.half().float()
    return value


def _compare(exact: Sequence[torch.Tensor], rounded: Sequence[torch.Tensor]) -> dict[str, float]:
    want, got = torch.cat(list(exact)), torch.cat(list(rounded))
    error = got - want
    return {
        "max_abs_logit": float(f"{float(error.abs().max()):.4g}"),
        "rms_logit": float(f"{float(error.square().mean().sqrt()):.4g}"),
        "top1_agreement": round(float((got.argmax(-1) == want.argmax(-1)).float().mean()), 4),
    }


__all__ = ["HALF", "HEADROOM", "LARGEST", "WIDE", "measure", "run", "simulate"]
