"""One training loop for the base model and for adapters: seeded, checkpointed, resumable, best by validation.

The data of step `n` and its dropout are functions of the seed and `n`, so a resumed run does what an uninterrupted one
would have done.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.atomic import disk_errors
from runtimes.errors import UserError
from train.claim import loop_settings, refuse_others, settled
from train.journal import FILE, Journal
from train.packing import IGNORED, Batch, Row, collate, use_packed_attention
from train.pointing import asked, forget, taught_loss, teach
from train.precision import PRECISIONS
from train.settings import above, at_least
from train.state import BEST, LAST, load_state, read_state, save_state
from train.workers import join, own_device, share, total

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

Rows = Callable[[int], Sequence[Row]]
"""Step (from 0) -> the rows of that step, packed: see `train.packing.Row`."""


@dataclass(frozen=True)
class LoopConfig:
    """`steps` optimizer steps; a linear warm-up, then a cosine down to a tenth of `learning_rate`."""

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    validate_every: int = 250
    save_every: int = 100
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    final_fraction: float = 0.1
    precision: str = "auto"
    """`bf16` (autocast; the weights stay fp32), `fp32`, or `auto`: bf16 where the device has instructions for it; a
    resumed run goes on as it began."""
    accumulate: int = 1
    """Forward and backward passes that the rows of a step are spread over: the same step in less memory."""
    average: float = 0.0
    """Decay per step of an exponential average of the weights, which is validated and kept in place of the last weights
    (0.999: the last thousand steps or so); 0: none."""
    embedding_rate: float = 1.0
    """What the learning rate of the embedding is multiplied by; below 1 it keeps more of what it started with."""
    pointing: float = 0.0
    """Weight of a second loss, by which two attention heads learn to look at the right tool (`train.pointing`); 0:
    none."""
    copying: float = 0.0
    """The same for two heads that learn to look at what is copied."""
    log_every: int = 25
    """Steps per line of training loss in ``log.jsonl``; the first step has one too."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is {self.precision!r}; there are {', '.join(PRECISIONS)}")
        if not 0 <= self.average < 1:
            raise UserError(f"average is {self.average}; a decay of at least 0 and below 1 is expected")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas are {self.betas}; two decays of at least 0 and below 1 are expected")
        at_least(self, 0, "steps", "warmup", "weight_decay", "final_fraction", "pointing", "copying")
        at_least(self, 1, "validate_every", "save_every", "log_every", "accumulate")
        above(self, 0, "learning_rate", "clip", "embedding_rate")

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (from 0)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        low = self.final_fraction
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def batch_loss(model: Any, batch: Batch) -> tuple[torch.Tensor, int]:
    """Mean cross-entropy over the batch's loss positions (logits are computed there alone), a scalar, and how many
    there are."""
    import torch

    masks = {"full_attention": batch.full, "sliding_attention": batch.sliding}
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = core.model(input_ids=batch.ids, attention_mask=masks, position_ids=batch.positions, use_cache=False)
    picked = hidden.last_hidden_state.reshape(-1, hidden.last_hidden_state.shape[-1])[batch.where]
    logits = core.lm_head(picked)
    return torch.nn.functional.cross_entropy(logits.float(), batch.targets, ignore_index=IGNORED), batch.scored


def fit(
    model: Any,
    rows: Rows,
    validation: Sequence[Sequence[Row]],
    folder: Path,
    config: LoopConfig,
    *,
    trainable: Callable[[Any], dict[str, torch.Tensor]],
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Train `model` in place; leave the best state (by validation loss) in it and in ``folder/best.pt``.

    `rows(step)` gives the packed rows of a step, `validation` the batches of rows that validate; `trainable(model)` the
    tensors to save. Every event goes to ``folder/log.jsonl`` (`train.journal`). An interrupted run goes on from
    ``folder/last.pt``. Processes that were started together share the rows of a step (`train.workers`); the first
    writes. Returns the `step` and the `validation` loss of the best state.

    Raises `UserError`, naming the file, where the folder holds a run of other settings, a damaged state, or cannot be
    written; where processes cannot share a step's rows; and where no validation loss was a number. `OSError`, naming
    the file, where a state cannot be written: the one before it stays.
    """
    import torch

    workers = join(config.device)
    config = replace(settled(config, folder), device=own_device(workers, config.device))
    if config.threads:
        torch.set_num_threads(config.threads)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    window, before = int(model.config.sliding_window), model.config._attn_implementation
    use_packed_attention(model)
    model.to(config.device)
    learner = Learner(model, config, workers, window)
    start, best = learner.resume(folder / LAST)
    first, steps = workers.is_main_process, config.steps
    batches = [collate(v, window=window, device=config.device) for v in validation]
    with Journal(folder / FILE, config, start, report, silent=not first) as journal:
        for step in range(start, steps):
            learner.step(step, rows(step))
            done = step + 1
            if done % config.log_every == 0 or done == start + 1:
                journal.trained(done, **learner.told())
                give_back_memory()
            if first and (done % config.validate_every == 0 or done == steps):
                value, others = learner.validate(batches)
                journal.event(step=done, validation=round(value, 4), **others)
                if value < best:
                    best = value
                    kept = {"step": done, "validation": value, "model": trainable(learner.kept)}
                    save_state(folder / BEST, kept)
            if first and (done % config.save_every == 0 or done == steps):
                save_state(folder / LAST, learner.state(done, best, trainable))
    workers.wait_for_everyone()
    forget(learner.taught)
    if not (folder / BEST).is_file():
        raise UserError(f"{folder}: no validation loss was a number; lower loop.learning_rate and begin anew")
    chosen = read_state(folder / BEST)
    load_state(model, chosen["model"])
    model.config._attn_implementation = before
    return {"step": chosen["step"], "validation": chosen["validation"]}


class Learner:
    """A model in training: its optimizer, its average, what its heads are taught, and sums since they were told."""

    def __init__(self, model: Any, config: LoopConfig, workers: PartialState, window: int) -> None:
        self.model, self.config, self.workers, self.window = model, config, workers, window
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(model, config)
        self.averaged = average_of(model, config)
        self.taught = teach(model, pointing=config.pointing, copying=config.copying)
        self.losses = losses_of(model, config, self.taught, workers)
        self._lr, self._tokens, self._counted = 0.0, 0, 0
        self._sums = [0.0] * (1 + len(self.taught))
        """The loss and, for each taught head, the share that looked right; this process's part."""

    @property
    def kept(self) -> Any:
        """The model that is validated and kept."""
        return self.model if self.averaged is None else self.averaged.module

    def step(self, number: int, rows: Sequence[Row]) -> None:
        """One step of the optimizer, from the gradient over `rows`, everyone's."""
        import torch

        config, workers = self.config, self.workers
        self.model.train()
        torch.manual_seed((config.seed << 40 | workers.process_index << 32 | number) % 2**63)
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(number) * group.get("lr_scale", 1.0)
        own = share(workers, rows)
        counts = [sum(int(row.loss.sum()) for row in own), *(asked(module, own) for module, _ in self.taught)]
        among = total(workers, counts)
        parts = min(config.accumulate, len(own))
        for part in range(parts):
            some = own[part * len(own) // parts : (part + 1) * len(own) // parts]
            batch = collate(some, window=self.window, device=config.device)
            exchanges = part == parts - 1 or workers.num_processes == 1
            with nullcontext() if exchanges else self.losses.no_sync():
                loss, found = self.losses(batch, among)
                (loss * workers.num_processes).backward()  # of everyone's gradients the mean is taken
            self._sums = [a + b for a, b in zip(self._sums, found, strict=True)]
            self._tokens += batch.ids.numel() * workers.num_processes
        torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self._lr, self._counted = config.rate(number), self._counted + 1

    def told(self) -> dict[str, Any]:
        """What the steps since the last call came to: mean loss, rate, tokens since the beginning, heads."""
        loss, *looked = (value / self._counted for value in total(self.workers, self._sums))
        self._sums, self._counted = [0.0] * len(self._sums), 0
        heads = {"heads": [round(share, 3) for share in looked]} if looked else {}
        return {"loss": loss, "lr": self._lr, "tokens": self._tokens, **heads}

    def validate(self, batches: Sequence[Batch]) -> tuple[float, dict[str, float]]:
        """The validation loss of what is kept; as `last` that of the last weights, where those are others."""
        value = validate(self.kept, batches, self.config)
        return value, {} if self.averaged is None else {"last": round(validate(self.model, batches, self.config), 4)}

    def state(self, step: int, best: float, trainable: Callable[[Any], dict[str, torch.Tensor]]) -> dict[str, Any]:
        """All that `resume` needs behind `step` steps."""
        return {
            "step": step,
            "best": best,
            "config": loop_settings(self.config),
            "model": trainable(self.model),
            "average": None if self.averaged is None else trainable(self.averaged.module),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self, path: Path) -> tuple[int, float]:
        """Go on from a state at `path`, if there is one: the steps behind it, and its best validation loss."""
        if not path.is_file():
            return 0, math.inf
        state = read_state(path)
        refuse_others(path, {"loop": state["config"]}, {"loop": loop_settings(self.config)})
        load_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged is not None:
            load_state(self.averaged.module, state["average"])
            self.averaged.n_averaged.fill_(state["step"])
        return int(state["step"]), float(state["best"])


def losses_of(model: Any, config: LoopConfig, taught: Sequence[tuple[Any, float]], workers: PartialState) -> Any:
    """A module whose forward pass is this process's part of a step's loss; among several it shares gradients.

    ``losses(batch, among)`` returns a scalar to go backward from, and as numbers the part of the step's mean loss and
    of each taught head's hits. `among` are the step's places that carry loss, and those where each head is asked.
    """
    import torch

    class Losses(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Batch, among: Sequence[float]) -> tuple[torch.Tensor, list[float]]:
            with autocast(config):
                mean, scored = batch_loss(self.model, batch)
            loss = mean * (scored / among[0])
            found = [float(loss.detach())]
            for (module, weight), places in zip(taught, among[1:], strict=True):
                second, hits = taught_loss(module, places)
                loss = loss + second * weight
                found.append(hits)
            return loss, found

    if workers.num_processes == 1:
        return Losses()
    device = torch.device(config.device)
    return torch.nn.parallel.DistributedDataParallel(
        Losses(), device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
    )


def give_back_memory() -> None:
    """Return to the system what glibc's heap keeps between tensors of ever other sizes: with rows of 3,072 tokens a run
    grew by 250 MB a minute until it was killed. Elsewhere nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def validate(model: Any, batches: Sequence[Batch], config: LoopConfig) -> float:
    """Mean cross-entropy per completion token."""
    import torch

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            with autocast(config):
                loss, n = batch_loss(model, batch)
            total += float(loss) * n
            count += n
    return total / count


def make_optimizer(model: Any, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW over what is trainable; vectors (norms) are not decayed, nor is an embedding with a rate of its own."""
    import torch

    slow = [] if config.embedding_rate == 1 else [model.get_input_embeddings().weight]
    parameters = [p for p in model.parameters() if p.requires_grad and all(p is not s for s in slow)]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    if slow:
        groups.append({"params": slow, "weight_decay": 0.0, "lr_scale": config.embedding_rate})
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
    )


def average_of(model: Any, config: LoopConfig) -> Any:
    """The running average of `model`'s weights (`torch.optim.swa_utils.AveragedModel`), or None without `average`."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    if not config.average:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.average))


def autocast(config: LoopConfig) -> torch.autocast:
    """The precision of the forward pass."""
    import torch

    return torch.autocast(torch.device(config.device).type, dtype=torch.bfloat16, enabled=config.precision == "bf16")
