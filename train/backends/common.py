"""What the backends share: what is written beside an adapter's weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.atomic import staged
from train.plot import plot_loss

if TYPE_CHECKING:
    from router.cases import Case
    from router.toolset import Toolset
    from train.lora import LoraConfig


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
    target, log = folder / "adapter", folder / "run" / "log.jsonl"
    with staged(target) as staging:
        save(staging)
        plot_loss(log, staging / "loss.png", title=f"LoRA for {toolset.name}: loss per completion token")
        shutil.copyfile(log, staging / "log.jsonl")
        record = {
            "toolset": {"name": toolset.name, "sha256": toolset.sha256},
            "data": {"train": len(train), "dev": len(dev), "sha256": digest(train)},
            "config": asdict(config),
            "best": best,
        }
        (staging / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return {**best, "adapter": str(target)}


def digest(cases: Sequence[Case]) -> str:
    """One sha256 over the cases, in their order."""
    text = "\n".join(json.dumps(c.to_dict(), sort_keys=True) for c in cases)
    return hashlib.sha256(text.encode()).hexdigest()
