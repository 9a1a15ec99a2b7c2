"""What the backends share: the base, the token ids, the adapter's folder and what is written beside its weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.atomic import staged
from export.checkpoint import name_of_base
from runtimes.errors import UserError
from train.loop import other_configuration
from train.plot import plot_loss

if TYPE_CHECKING:
    from router.cases import Case
    from router.tokenizer import RouterTokenizer
    from router.toolset import Toolset
    from train.lora import LoraConfig

Pair = tuple[list[int], list[int]]
"""Ids of one request and of its completion, behind the toolset's declarations."""

RECIPE = "recipe.json"
"""In ``folder/run``: what the run in it is made from."""


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


_LATER = {"quantize": "none", "train_files": (), "dev_files": ()}
"""Settings that there have not always been, and what runs from before had."""


def settings_of(config: LoraConfig) -> dict[str, Any]:
    """All settings, less those at their usual value that earlier runs could not say: so that such a run goes on."""
    return {k: v for k, v in asdict(config).items() if k not in _LATER or v != _LATER[k]}


def claim(run: Path, config: LoraConfig, toolset: Toolset, train: Sequence[Case]) -> None:
    """Make `run` the folder of this run. Raises `UserError` where one with another recipe or other data has begun."""
    settings = settings_of(config)
    for name in ("device", "threads", "log_every", "steps"):
        del settings["loop"][name]
    recipe = {"config": settings, "toolset": toolset.sha256, "data": digest(train)}
    text = json.dumps(recipe, indent=1) + "\n"
    path = run / RECIPE
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise other_configuration(path)
        return
    if config.backend != "packed" and (run / "last.pt").is_file():
        raise other_configuration(run / "last.pt")
    run.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")  # processes that train together all come by here
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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


def save_peft(model: Any, base: Path, folder: Path) -> None:
    """The adapter of a PEFT model as PEFT writes it, less its README."""
    model.peft_config["default"].base_model_name_or_path = name_of_base(base, folder)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def digest(cases: Sequence[Case]) -> str:
    """One sha256 over the cases, in their order."""
    text = "\n".join(json.dumps(c.to_dict(), sort_keys=True) for c in cases)
    return hashlib.sha256(text.encode()).hexdigest()
