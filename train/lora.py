"""LoRA: an adapter that makes a base good at one toolset; one recipe, several backends (`train.backends`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.cases import Case
from router.toolset import Toolset
from runtimes.errors import UserError
from train.backends import backend
from train.backends.availability import check
from train.backends.common import claim
from train.loop import LoopConfig


@dataclass(frozen=True)
class LoraConfig:
    """``configs/train/lora-*.yaml``: the adapter's shape, the data, the loop (`loop.steps` follows from `epochs`)."""

    toolset: str
    recipe: str
    """The data recipe, relative to the configuration file."""
    rank: int
    alpha: int
    targets: Sequence[str]
    epochs: float
    loop: LoopConfig
    dropout: float = 0.0
    rows_per_step: int = 2
    row_tokens: int = 1280
    seed: int = 0
    backend: str = "packed"
    """What trains: a name in `train.backends.BACKENDS`."""
    batch: int = 8
    """Requests in memory at once where they are not packed (trl, unsloth); a step accumulates as many as it needs."""
    gradient_checkpointing: bool = False
    """Compute activations again instead of keeping them (trl, unsloth)."""
    load_in_4bit: bool = False
    """Train over the base's weights in 4 bits (trl, unsloth; CUDA)."""


def train_lora(
    config: LoraConfig,
    base: Path,
    toolset: Toolset,
    train: Sequence[Case],
    dev: Sequence[Case],
    folder: Path,
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train and write a PEFT adapter into ``folder/adapter``, with loss curve and what it was made from. Resumable.

    The result holds `step` and `validation` of the state that was kept, and `adapter`, its folder. Raises
    `UnavailableError` where the backend cannot be used, `UserError` for settings that it does not know and for a
    folder with another run in it.
    """
    train_with = backend(config.backend)
    check(config)
    for name, cases in (("train", train), ("dev", dev)):
        if not cases:
            raise UserError(f"{config.recipe}: no {name} cases for {toolset.name}; nothing to train with")
    claim(folder / "run", config, toolset, train)
    return train_with(config, base, toolset, train, dev, folder, report)
