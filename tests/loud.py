"""Routers whose activations are too large for float16, as those of large Gemmas are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.base import Checkpoint
from export.checkpoint import open_checkpoint

if TYPE_CHECKING:
    import torch

PEAK = 100_000.0
"""What the residual stream of `loud_stream` reaches, about; float16 ends at 65,504."""
LAYER = 1
"""The layer that `loud_mlp` and `loud_scores` change."""

Weights = dict[str, "torch.Tensor"]


def changed(source: Checkpoint, folder: Path, *changes: Callable[[Weights], None]) -> Checkpoint:
    """A copy of a checkpoint in `folder`, its weights changed in place."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source.folder, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    for change in changes:
        change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return open_checkpoint(folder, name=folder.name)


def loud_stream(weights: Weights) -> None:
    """One channel of the residual stream is nearly constant and huge, and nobody reads it, as in trained Gemmas.

    The embedding brings most of it, the norms behind attention and MLP the rest. It dominates what the norms divide by,
    so those that read the stream have weights that make up for it, and zero ("1 +" -1) for the channel itself.
    """
    embedding = weights["model.embed_tokens.weight"]
    width = embedding.shape[1]
    embedding[:, 0] = 0.9 * PEAK / width**0.5
    last = PEAK / width**0.5 / 5  # the stream's other channels are of that size at the end, and 2 before
    for name, weight in weights.items():
        if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            weight[0] = 0.02 * PEAK
        elif name.endswith(("input_layernorm.weight", "pre_feedforward_layernorm.weight", "model.norm.weight")):
            factor = last if name == "model.norm.weight" else last * 2.5
            weight.copy_((weight + 1) * factor - 1)
            weight[0] = -1


def loud_mlp(weights: Weights) -> None:
    """Gate times up is too large in one layer. What comes behind is the same, up to the norm's epsilon."""
    weights[f"model.layers.{LAYER}.mlp.up_proj.weight"] *= 30_000


def loud_scores(weights: Weights) -> None:
    """Attention scores are too large in one layer, which no rescaling mends."""
    for name in ("q_norm", "k_norm"):
        weights[f"model.layers.{LAYER}.self_attn.{name}.weight"] += 400
