"""TRL's SFTTrainer set up from the recipe: what the backends `trl` and `unsloth` share.

Importing this imports trl, transformers and peft, which Unsloth has to patch first: import it in functions.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoConfig, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from export.atomic import disk_errors
from router.tokenizer import RouterTokenizer
from train.backends import Report
from train.backends.common import Pair, count_trainable, save_peft, trainable, write_adapter
from train.backends.packed import packed_sets
from train.journal import FILE as LOG
from train.journal import Journal
from train.loop import LoopConfig, autocast, make_optimizer
from train.state import BEST, load_state, read_state, save_state
from train.workers import is_first, process_count

if TYPE_CHECKING:
    from router.cases import Case
    from router.toolset import Toolset
    from train.lora import LoraConfig


@dataclass(frozen=True)
class Plan:
    """How the trainer goes through the cases: each process `batch` requests at once, `accumulate` times a step, `steps`
    in all."""

    batch: int
    accumulate: int
    steps: int


def plan(config: LoraConfig, cases: int, packed_rows: int, processes: int = 1) -> Plan:
    """As many requests a step as the packed loop sees on average (its `packed_rows` hold an epoch), to within rounding,
    however many processes share them.

    Every pass over the cases ends with a step of its own, however few are left for it (so does transformers).
    """
    wanted = max(1, min(cases, round(cases / packed_rows * config.rows_per_step)))
    accumulate = math.ceil(wanted / (max(1, config.batch) * processes))
    batch = max(1, round(wanted / (accumulate * processes)))
    per_epoch = math.ceil(math.ceil(cases / (batch * processes)) / accumulate)
    return Plan(batch, accumulate, max(1, round(config.epochs * per_epoch)))


def rows(prefix: Sequence[int], requests: Sequence[Pair]) -> Dataset:
    """Rows as the trainer reads them already tokenized: the wire format's ids, and a mask of what carries loss.

    TRL leaves such rows as they are; to text it would add its own end token.
    """
    ids = [np.array([*prefix, *request, *completion], dtype=np.int32) for request, completion in requests]
    masks = [
        np.array([0] * (len(prefix) + len(request)) + [1] * len(completion), dtype=np.int8)
        for request, completion in requests
    ]
    return Dataset.from_dict({"input_ids": ids, "completion_mask": masks})


def run(
    model: Any,
    processing_class: Any,
    config: LoraConfig,
    base: Path,
    toolset: Toolset,
    train: Sequence[Case],
    dev: Sequence[Case],
    folder: Path,
    report: Report,
) -> dict[str, Any]:
    """Train the PEFT `model`, keep the best state by validation, write ``folder/adapter``; see `train.backends`."""
    packed, held = packed_sets(config, base, toolset, train, dev)
    way = plan(config, len(train), packed.rows_per_epoch, process_count())
    loop = replace(config.loop, steps=way.steps)
    config = replace(config, loop=loop)
    if loop.threads:
        torch.set_num_threads(loop.threads)
    report({"steps": loop.steps, "rows": len(train), "trainable": count_trainable(model)})
    state = folder / "run"
    with disk_errors(state):
        state.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(model, loop)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: loop.rate(step) / loop.learning_rate)
    last = last_checkpoint(state)
    start = _step(last) if last else 0
    with Journal(state / LOG, loop, start, report, silent=not is_first()) as journal:
        trainer = Trainer(
            model=model,
            args=settings(config, way, state),
            train_dataset=rows(packed.prefix, packed.pairs),
            eval_dataset=rows(held.prefix, held.pairs),
            processing_class=processing_class,
            optimizers=(optimizer, schedule),
            callbacks=[Watch(loop, state, journal)],
        )
        trainer.loop = loop
        trainer.remove_callback(PrinterCallback)
        if start < loop.steps:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        trainer.accelerator.wait_for_everyone()
    chosen = read_state(state / BEST)
    load_state(model, chosen["model"])
    best = {"step": chosen["step"], "validation": chosen["validation"]}
    if not is_first():
        return {**best, "adapter": str(folder / "adapter")}
    return write_adapter(lambda target: save_peft(model, base, target), config, toolset, train, dev, folder, best)


def settings(config: LoraConfig, way: Plan, folder: Path) -> SFTConfig:
    """The recipe in TRL's terms. Optimizer and schedule are handed over made, so that they are the packed loop's."""
    loop = config.loop
    made = SFTConfig(
        output_dir=str(folder),
        max_steps=loop.steps,
        per_device_train_batch_size=way.batch,
        per_device_eval_batch_size=way.batch,
        gradient_accumulation_steps=way.accumulate,
        completion_only_loss=True,
        max_length=None,  # `row_tokens` holds already; a cut completion would teach to stop early
        packing=False,
        padding_free=False,
        learning_rate=loop.learning_rate,
        warmup_steps=loop.warmup,
        weight_decay=loop.weight_decay,
        adam_beta1=loop.betas[0],
        adam_beta2=loop.betas[1],
        max_grad_norm=loop.clip,
        bf16=loop.precision == "bf16",
        gradient_checkpointing=config.gradient_checkpointing,
        use_cpu=loop.device == "cpu",
        dataloader_pin_memory=loop.device == "cuda",
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=loop.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=loop.validate_every,
        save_strategy="steps",
        save_steps=loop.save_every,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
    )
    if made.n_gpu > 1:
        made._n_gpu = 1  # or every GPU would add a batch of its own to the step
    return made


class Trainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that validates as the packed loop does: over completion tokens, not over batches. Of several processes
    each goes through all of them, since shares of equal size would repeat some."""

    loop: LoopConfig

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in self._batches():
                batch = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
                tokens = int((batch["labels"][:, 1:] != -100).sum())
                with autocast(self.loop):
                    total += float(self.model(**batch, use_cache=False).loss) * tokens
                count += tokens
        self.model.train()
        metrics = {"eval_loss": total / count}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _batches(self) -> DataLoader:
        return DataLoader(
            self.eval_dataset, batch_size=self.args.per_device_eval_batch_size, collate_fn=self.data_collator
        )

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: checkpoints are for resuming, and making a card looks for the base on the hub."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """Writes the run's `Journal` as the packed loop does, and keeps the best state by validation in ``best.pt``; of
    several processes the first one does."""

    def __init__(self, loop: LoopConfig, folder: Path, journal: Journal) -> None:
        self.loop, self.folder, self.journal = loop, folder, journal
        self.best = math.inf
        if (folder / BEST).is_file():
            self.best = read_state(folder / BEST, lazy=True)["validation"]

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.journal.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self.loop.steps:
            control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:  # the summary at the end
            return
        step, tokens = state.global_step, logs.get("num_tokens")
        self.journal.trained(step, loss=logs["loss"], lr=self.loop.rate(step - 1), tokens=tokens)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], model: Any = None, **_: Any
    ) -> None:
        value = metrics["eval_loss"]
        self.journal.event(step=state.global_step, validation=round(value, 4))
        if value < self.best and not self.journal.silent:
            self.best = value
            kept = {"step": state.global_step, "validation": value, "model": trainable(model)}
            save_state(self.folder / BEST, kept)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of the trainer: its ``trainer_state.json`` is written last, and may be half there."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    for path in sorted(found, key=_step, reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None


def processing_class(base: Path) -> PreTrainedTokenizerFast:
    """What the trainer asks for special tokens: the base's own, or it would change the base's configuration."""
    tokenizer, config = RouterTokenizer.load(base / "tokenizer.json"), AutoConfig.from_pretrained(base)
    special = {"pad_token": tokenizer.wire.bos}  # padding is masked, so where none is named any will do
    for name in ("bos_token", "eos_token", "pad_token"):
        ids = getattr(config, f"{name}_id", None)
        first = ids[0] if isinstance(ids, list) else ids
        piece = None if first is None else tokenizer.vocabulary.piece(first)
        if piece is not None:
            special[name] = piece
    return PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"), **special)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[-1])
