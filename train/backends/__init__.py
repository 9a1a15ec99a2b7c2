"""What trains a LoRA adapter. Adding a backend is one file here, a line in `BACKENDS` and one in `availability.NEEDS`.

A backend module offers ``train(config, base, toolset, train, dev, folder, report) -> dict``, with exactly the
arguments, the result and the files of `train.lora.train_lora`: ``folder/adapter`` holds a PEFT adapter
(adapter_config.json, adapter_model.safetensors) that `export.merge` takes, ``loss.png``, ``log.jsonl`` and
``training.json`` (`common.write_adapter` writes the folder). Same recipe, same cases, same loss (the mean over a step's
completion tokens), same schedule; ``folder/run`` resumes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from runtimes.errors import UserError

if TYPE_CHECKING:
    from router.cases import Case
    from router.toolset import Toolset
    from train.lora import LoraConfig

Report: TypeAlias = Callable[[dict[str, Any]], None]

BACKENDS: dict[str, str] = {
    "packed": "train.backends.packed",
    "trl": "train.backends.trl",
    "unsloth": "train.backends.unsloth",
    "mlx": "train.backends.mlx",
}


def backend(
    name: str,
) -> Callable[[LoraConfig, Path, Toolset, Sequence[Case], Sequence[Case], Path, Report], dict[str, Any]]:
    """The training function of the backend `name`, imported when it is called. `UserError` for an unknown name."""
    if name not in BACKENDS:
        import difflib

        near = difflib.get_close_matches(name, BACKENDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown training backend {name!r}; there are {', '.join(BACKENDS)}{hint}")

    def train(*args: Any) -> dict[str, Any]:
        result: dict[str, Any] = importlib.import_module(BACKENDS[name]).train(*args)
        return result

    return train


__all__ = ["BACKENDS", "Report", "backend"]
