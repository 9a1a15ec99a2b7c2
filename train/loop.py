"""One training loop for the base model and for adapters: seeded, checkpointed, resumable, best by validation.

The data of step `n` is a function of the seed and `n`, so a resumed run sees what an uninterrupted one would have.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from runtimes.errors import UserError
from train.packing import IGNORED, Batch, Row, collate, use_packed_attention
from train.pointing import forget, taught_loss, teach
from train.workers import join

if TYPE_CHECKING:
    import torch

Rows = Callable[[int], Sequence[Row]]


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
    precision: str = "bf16"
    """`bf16` (autocast; the weights stay fp32) or `fp32`."""
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
        if self.precision not in ("bf16", "fp32"):
            raise UserError(f"loop: precision is {self.precision!r}; there are bf16 and fp32")
        if not 0 <= self.average < 1:
            raise UserError(f"loop: average is {self.average}; a decay of at least 0 and below 1 is expected")

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (from 0)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        low = self.final_fraction
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def batch_loss(model: Any, batch: Batch) -> tuple[torch.Tensor, int]:
    """Mean cross-entropy over the batch's loss positions (logits are computed there alone), and their number."""
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

    `rows(step)` gives the packed rows of a step; `trainable(model)` the tensors to save. Every event goes to
    ``folder/log.jsonl``. An interrupted run goes on from ``folder/last.pt``. Processes that were started together share
    the rows of a step (`train.workers`); the first writes.
    """
    import torch

    workers = join(config.device)
    config = replace(config, device=workers.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    window = int(model.config.sliding_window)
    before = model.config._attn_implementation
    use_packed_attention(model)
    model.to(config.device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(model, config)
    averaged = average_of(model, config)
    taught = teach(model, pointing=config.pointing, copying=config.copying)
    start, best = 0, math.inf
    last = folder / "last.pt"
    if last.is_file():
        state = torch.load(last, weights_only=False)
        if _UNSAID | state["config"] != _recipe(config):
            raise other_configuration(last)
        load_state(model, state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if averaged is not None:
            load_state(averaged.module, state["average"])
            averaged.n_averaged.fill_(state["step"])
        start, best = state["step"], state["best"]
    batches = [collate(v, window=window, device=config.device) for v in validation]
    with (folder / "log.jsonl").open("a") as log:

        def event(**fields: Any) -> None:
            if not workers.first:
                return
            log.write(json.dumps(fields) + "\n")
            log.flush()
            report(fields)

        began, seen, running, counted, looked = time.monotonic(), 0, 0.0, 0, [0.0] * len(taught)
        for step in range(start, config.steps):
            model.train()
            batch = collate(workers.share(rows(step)), window=window, device=config.device)
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step) * group.get("lr_scale", 1.0)
            with autocast(config):
                loss, scored = batch_loss(model, batch)
            everyone, whole = workers.sum(scored, scored * float(loss.detach()))
            total = loss * (scored / everyone)
            for i, (module, weight) in enumerate(taught):
                second, hits = taught_loss(module)
                total = total + second * (weight / workers.count)
                looked[i] += hits
            total.backward()
            workers.sum_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if averaged is not None:
                averaged.update_parameters(model)
            seen += batch.ids.numel() * workers.count
            running += whole / everyone
            counted += 1
            done = step + 1
            if done % config.log_every == 0 or done == start + 1:
                speed = seen / (time.monotonic() - began)
                heads = {"heads": [round(hits / counted, 3) for hits in looked]} if taught else {}
                event(
                    step=done,
                    loss=round(running / counted, 4),
                    lr=config.rate(step),
                    tokens_per_s=round(speed),
                    **heads,
                )
                running, counted, looked = 0.0, 0, [0.0] * len(taught)
                give_back_memory()
            if workers.first and (done % config.validate_every == 0 or done == config.steps):
                kept = model if averaged is None else averaged.module
                value = validate(kept, batches, config)
                last_weights = {} if averaged is None else {"last": round(validate(model, batches, config), 4)}
                event(step=done, validation=round(value, 4), **last_weights)
                if value < best:
                    best = value
                    save_state(folder / "best.pt", {"step": done, "validation": value, "model": trainable(kept)})
            if workers.first and (done % config.save_every == 0 or done == config.steps):
                save_state(
                    last,
                    {
                        "step": done,
                        "best": best,
                        "config": _recipe(config),
                        "model": trainable(model),
                        "average": None if averaged is None else trainable(averaged.module),
                        "optimizer": optimizer.state_dict(),
                    },
                )
    workers.wait()
    forget(taught)
    chosen = torch.load(folder / "best.pt", weights_only=False)
    load_state(model, chosen["model"])
    model.config._attn_implementation = before
    return {"step": chosen["step"], "validation": chosen["validation"]}


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


def load_state(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Put saved tensors into `model`; those that it lacks are a bug."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected:
        raise RuntimeError(f"checkpoint holds tensors that the model lacks: {unexpected[:3]}")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write through a temporary sibling, so that a kill leaves the old file or the new one.

    Raises `OSError` naming `path` where it cannot be written (a full disk); then the old file is as it was.
    """
    import torch

    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            written = _Told(file)
            try:
                torch.save(state, written)
            except RuntimeError:
                if written.fault is not None:  # torch only says that its archive is not as long as expected
                    raise written.fault from None
                raise
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


class _Told:
    """A file for `torch.save` that remembers what went wrong."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.fault: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        self._file.flush()


def other_configuration(path: Path) -> UserError:
    """What a run says that finds another run's state at `path`."""
    return UserError(f"{path}: made with another configuration; resume with that one, or choose another folder")


_UNSAID = {"precision": "bf16", "average": 0.0, "embedding_rate": 1.0, "pointing": 0.0, "copying": 0.0}
"""What states saved before a setting existed were trained with."""


def _recipe(config: LoopConfig) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on: all but where it runs and what it tells."""
    return {k: v for k, v in asdict(config).items() if k not in ("device", "threads", "log_every")}
