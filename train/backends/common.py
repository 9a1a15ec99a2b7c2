"""What the backends share: the base, the token ids, the adapter's folder and what is written beside its weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.atomic import staged, write_json
from export.checkpoint import name_of_base, open_checkpoint
from runtimes.errors import UserError
from train.claim import loop_settings
from train.journal import FILE as LOG
from train.plot import plot_loss

if TYPE_CHECKING:
    from router.cases import Case
    from router.tokenizer import RouterTokenizer
    from router.toolset import Toolset
    from train.lora import LoraConfig

Pair = tuple[list[int], list[int]]
"""Ids of one request and of its completion, behind the toolset's declarations."""


def pairs(tokenizer: RouterTokenizer, toolset: Toolset, cases: Sequence[Case]) -> list[Pair]:
    """The ids of every case, as the wire format has them."""
    return [
        (tokenizer.behind_prefix(toolset, c.user, c.context), tokenizer.completion_ids(list(c.calls))) for c in cases
    ]


def check_base(base: Path) -> None:
    """Raise `UserError` for a base that is not a Gemma 3 text model."""
    from transformers import AutoConfig

    kind = AutoConfig.from_pretrained(base, local_files_only=True).model_type
    if kind != "gemma3_text":
        raise UserError(f"{base}: model_type is {kind!r}, a Gemma 3 text model (gemma3_text) is expected")


def peft_config(config: LoraConfig) -> Any:
    """The adapter's shape in PEFT's terms."""
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )


def trainable(model: Any) -> dict[str, Any]:
    """A copy of the adapter's tensors, by their names in `model`."""
    return {k: v.detach().clone() for k, v in model.state_dict().items() if "lora_" in k}


def count_trainable(model: Any) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def recipe_of(
    config: LoraConfig, base: Path, toolset: Toolset, train: Sequence[Case], dev: Sequence[Case]
) -> dict[str, Any]:
    """What a run is made from, as `train.claim` keeps it; the steps follow from it."""
    loop = {name: value for name, value in loop_settings(config.loop).items() if name != "steps"}
    return {
        "config": {**asdict(config), "loop": loop},
        "toolset": toolset.sha256,
        "data": digest(train),
        "dev": digest(dev),
        "base": open_checkpoint(base).sha256,
    }


def write_adapter(
    save: Callable[[Path], None],
    config: LoraConfig,
    toolset: Toolset,
    train: Sequence[Case],
    dev: Sequence[Case],
    folder: Path,
    best: dict[str, Any],
) -> dict[str, Any]:
    """Write ``folder/adapter``: the weights by `save`, the loss picture, the log, ``training.json``; all or nothing.

    `config` has the loop as it ran (`steps`), `best` the `step` and `validation` of the state that is saved.
    """
    target, log = folder / "adapter", folder / "run" / LOG
    with staged(target) as staging:
        save(staging)
        plot_loss(log, staging / "loss.png", title=f"LoRA for {toolset.name}: loss per completion token")
        shutil.copyfile(log, staging / LOG)
        record = {
            "toolset": {"name": toolset.name, "sha256": toolset.sha256},
            "data": {"train": len(train), "dev": len(dev), "sha256": digest(train)},
            "config": asdict(config),
            "best": best,
        }
        write_json(staging / "training.json", record)
    return {**best, "adapter": str(target)}


def save_peft(model: Any, base: Path, folder: Path) -> None:
    """The adapter of a PEFT model as PEFT writes it, less its README."""
    model.peft_config["default"].base_model_name_or_path = name_of_base(base, folder)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def digest(cases: Sequence[Case]) -> str:
    """One sha256 over the cases, in their order."""
    text = "\n".join(json.dumps(c.to_dict(), sort_keys=True) for c in cases)
    return hashlib.sha256(text.encode()).hexdigest()
