"""LoRA: an adapter that makes a base good at one toolset; one recipe, several backends (`train.backends`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.explain import near
from router.toolset import Toolset
from runtimes.errors import UserError
from train.backends import backend
from train.backends.availability import NEEDS, check
from train.backends.common import recipe_of
from train.claim import RECIPE, claim, other_configuration, settled
from train.loop import LoopConfig
from train.settings import above, at_least
from train.state import LAST

LOOP: Final[dict[str, Any]] = {
    "steps": 0, "learning_rate": 0.003, "warmup": 40, "weight_decay": 0.0, "validate_every": 200, "save_every": 100,
}  # fmt: skip
"""What a configuration's ``loop`` need not say. The rate is for a base of a few million parameters, on which it was
measured (docs/experiments.md); one of 270 million wants about 2e-4."""

LINEAR: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Gemma 3 block."""
QUANTIZE: Final = ("none", "q8_0", "q4_0")
"""What `LoraConfig.quantize` knows: nothing, or GGUF's name of the blocks that the export will have."""


@dataclass(frozen=True)
class LoraConfig:
    """``configs/train/lora-*.yaml``: the adapter's shape, the data, the loop (`loop.steps` follows from `epochs`)."""

    toolset: str
    loop: LoopConfig
    recipe: str = ""
    """The data recipe, relative to the configuration file; may be left out where there are `train_files`."""
    train_files: Sequence[str] = ()
    """JSON-lines files of cases to train on (beside the recipe's rows), relative to the configuration file."""
    dev_files: Sequence[str] = ()
    """The same to validate with; without them and a recipe, every twentieth row of `train_files`."""
    rank: int = 32
    alpha: int = 64
    targets: Sequence[str] = LINEAR
    epochs: float = 1.0
    dropout: float = 0.0
    rows_per_step: int = 1
    row_tokens: int = 2400
    """Tokens of a packed row; the declarations and the longest request must fit."""
    seed: int = 0
    backend: str = "packed"
    """What trains: a name in `train.backends.BACKENDS`."""
    batch: int = 8
    """Requests in memory at once where they are not packed (trl, unsloth); a step accumulates as many as it needs."""
    gradient_checkpointing: bool = False
    """Compute activations again instead of keeping them (trl, unsloth)."""
    load_in_4bit: bool = False
    """Train over the base's weights in 4 bits (trl, unsloth; CUDA)."""
    quantize: str = "none"
    """Train under the rounding of a GGUF export, q8_0 or q4_0 (packed; see `train.backends.quantized`)."""

    def __post_init__(self) -> None:
        for name in ("train_files", "dev_files", "targets"):
            if isinstance(getattr(self, name), str):
                raise UserError(f"{name} is one name; a list of names is expected")
        for target in self.targets:
            if target.rpartition(".")[2] not in (*LINEAR, "embed_tokens", "lm_head"):
                there = f"{', '.join(sorted(LINEAR))}{near(target, LINEAR)}"
                raise UserError(f"targets: the base has no linear layer {target!r}; there are {there}")
        if self.quantize not in QUANTIZE:
            raise UserError(f"quantize is {self.quantize!r}; there are {', '.join(QUANTIZE)}")
        if self.quantize != "none" and self.dropout:
            raise UserError(f"quantize: {self.quantize} leaves no place for dropout; set dropout: 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; a share of at least 0 and below 1 is expected")
        at_least(self, 1, "rank", "rows_per_step", "row_tokens", "batch")
        above(self, 0, "epochs", "alpha")


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
    `UnavailableError` where the backend cannot be used, `UserError` for settings that it does not know, and for a
    folder with a run of other settings, rows or another base in it, naming them.
    """
    train_with = backend(config.backend)
    check(config)
    for name, cases in (("train", train), ("dev", dev)):
        if not cases:
            raise UserError(f"no {name} cases for {toolset.name}; there is nothing to train with")
    run = folder / "run"
    if config.backend != "packed" and (run / LAST).is_file() and not (run / RECIPE).is_file():
        raise other_configuration(run / LAST, [f"backend packed, now {config.backend}"])
    config = replace(config, loop=settled(config.loop, run, NEEDS[config.backend].precision))
    claim(run, recipe_of(config, base, toolset, train, dev))
    return train_with(config, base, toolset, train, dev, folder, report)
