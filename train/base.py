"""Train the base model from scratch: tokenizer, Gemma 3 of any size, stage after stage (text, then tool calls)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from export.atomic import recover, staged, write_json
from export.checkpoint import TOKENIZER_FILES, read_json
from router.cases import Case
from router.tokenizer import RouterTokenizer
from runtimes.errors import UserError
from train.base_record import source_digests, stage_recipe, write_record
from train.base_rows import make_mixture, stage_rows, tokenizer_lines
from train.claim import claim, settled
from train.data.sources import read_all
from train.held_out import HELD_OUT, VALIDATION
from train.init import init_for_copying
from train.journal import FILE as LOG
from train.loop import LoopConfig, fit
from train.plot import plot_loss
from train.settings import at_least
from train.vectors import WordVectors, directions, embed, piece_vectors
from train.workers import is_first, join

if TYPE_CHECKING:
    from accelerate import PartialState

DONE: Final = "stage.json"
"""In a stage's ``base``: which state was kept. A stage that has it is finished."""


@dataclass(frozen=True)
class Stage:
    """One stage of a base: what it is trained on (text of some kinds, or blocks by weight) and how long."""

    name: str
    loop: LoopConfig
    text: Sequence[str] = ()
    """Kinds of `train.data.texts`; loss on every token."""
    weights: dict[str, float] | None = None
    """Sources of blocks (see `Mixture`); loss on the completions alone."""
    recipes: Sequence[str] = ()
    """Data recipes that the source ``recipes`` draws on, relative to the configuration file."""
    swap: float = 0.5
    rows_per_step: int = 2
    row_tokens: int = 1280
    requests: int = 32
    """Drawn for each row of blocks; those that fit into `row_tokens` are packed."""
    seed: int = 0
    validation: str = HELD_OUT
    """Which rows choose the checkpoint: `held_out`, withheld from the training side (`train.held_out`), or
    `development`, the corpora's development rows, which benchmarks are measured on as well."""

    def __post_init__(self) -> None:
        if self.name in ("", "base") or Path(self.name).name != self.name:
            raise UserError(f"name is {self.name!r}; a folder's name other than base is expected")
        if bool(self.text) == bool(self.weights):
            raise UserError(f"stage {self.name}: one of text and weights is expected")
        if self.validation not in VALIDATION:
            raise UserError(f"validation is {self.validation!r}; there are {', '.join(VALIDATION)}")
        if not 0 <= self.swap <= 1:
            raise UserError(f"swap is {self.swap}; a share from 0 to 1 is expected")
        at_least(self, 1, "rows_per_step", "row_tokens", "requests")
        at_least(self.loop, 1, "steps")


@dataclass(frozen=True)
class BaseConfig:
    """``configs/train/base-*.yaml``: the model's shape and the stages, one after another."""

    name: str
    vocab_size: int
    model: dict[str, Any]
    stages: Sequence[Stage]
    words: Sequence[str]
    folder: Path
    """Where the configuration lies."""
    seed: int = 0
    vectors: WordVectors | None = None
    """Word vectors that the embedding starts from, and whose frequent words the tokenizer keeps whole."""
    start: str | None = None
    """A base to go on from (shape and tokenizer are its), a folder relative to the working directory; None: none."""

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names:
            raise UserError("stages: at least one is expected")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"stages: {name!r} is the name of two")
        at_least(self, 1, "vocab_size")


SHAPE: Final = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
)  # fmt: skip
"""What a model's shape must say; transformers' defaults are those of a model of billions of parameters."""


def gemma3_config(shape: dict[str, Any], vocab_size: int) -> Any:
    """A `Gemma3TextConfig` with the widths of `shape` (keys as in ``config.json``), and FunctionGemma's context, window
    and layer pattern unless `shape` has others. Raises `UserError` for what the tokenizer settles, and for a width that
    is missing."""
    from transformers import Gemma3TextConfig

    settled = {"vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    for key in sorted(settled.keys() & shape.keys()):
        raise UserError(f"the configuration's model: {key} follows from the tokenizer; leave it out")
    for key in SHAPE:
        if not isinstance(shape.get(key), int) or shape[key] < 1:
            raise UserError(f"the configuration's model: {key} is {shape.get(key)}; a whole number is expected")
    layers, pattern = int(shape["num_hidden_layers"]), int(shape.get("sliding_window_pattern", 6))
    usual = {
        "max_position_embeddings": 32768,
        "sliding_window": 512,
        "layer_types": ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)],
        "query_pre_attn_scalar": shape["head_dim"],
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "tie_word_embeddings": True,
    }
    return Gemma3TextConfig(**usual | shape | settled)


def _earlier(config: BaseConfig, folder: Path) -> Path:
    """The checkpoint that `start` names. Raises `UserError` where it is none, or of another shape."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json here; `start` names a base's folder, train that first")
    found = read_json(path)
    for key, value in config.model.items():
        if found.get(key) != value:
            raise UserError(f"{path}: {key} is {found.get(key)}, the configuration says {value}; they must agree")
    return folder


def train_base(
    config: BaseConfig,
    data: Path,
    folder: Path,
    report: Callable[[dict[str, Any]], None],
    *,
    stages: Sequence[str] | None = None,
    against: Sequence[Case] = (),
) -> dict[str, Any]:
    """Train stage after stage, each from what the one before left in ``folder/<stage>/base``; the last one's
    checkpoint is copied to ``folder/base`` (bf16, with tokenizer, loss curves and ``stages.json``). Resumable at any
    point.

    `stages` names those to run, by default all; one before them that is not named takes part if it has been finished,
    and is left out otherwise. Raises `UserError` for an unknown stage, for a folder in which a stage was begun with
    other settings or data (naming them), and for files that cannot be read or written.
    """
    names = [stage.name for stage in config.stages]
    for name in stages or ():
        if name not in names:
            raise UserError(f"stage {name!r}: the configuration has {', '.join(names)}")
    earlier = _earlier(config, Path(config.start)) if config.start is not None else None
    sources = source_digests(read_all(data))
    result: dict[str, Any] = {}
    for stage in config.stages:
        place = folder / stage.name
        if is_first():
            recover(place / "base")
        if stage.name in (stages or names):
            stage = replace(stage, loop=settled(stage.loop, place / "run"))
            claim(place / "run", stage_recipe(config, stage, sources, data, against, earlier))
            result = _finished(place) or _train_stage(config, stage, data, place, earlier, report, against)
        elif _finished(place) is None:
            continue
        earlier = place / "base"
    if is_first() and earlier is not None:
        _assemble(config, data, folder, earlier)
    return result


def _finished(folder: Path) -> dict[str, Any] | None:
    """What the stage in `folder` came to, if it has been finished."""
    done = folder / "base" / DONE
    return read_json(done) if done.is_file() else None


def _assemble(config: BaseConfig, data: Path, folder: Path, last: Path) -> None:
    """Write ``folder/base``: the checkpoint `last`, loss curves, and what it was made from; all or nothing."""
    with staged(folder / "base") as target:
        for file in sorted(last.iterdir()):
            shutil.copyfile(file, target / file.name)
        for stage in config.stages:
            log = folder / stage.name / "run" / LOG
            if log.is_file() and _finished(folder / stage.name) is not None:
                kind = "token" if stage.text else "completion token"
                plot_loss(log, target / f"loss-{stage.name}.png", title=f"{config.name}, {stage.name}: loss per {kind}")
        write_record(config, data, folder, target)


def _train_stage(
    config: BaseConfig,
    stage: Stage,
    data: Path,
    folder: Path,
    earlier: Path | None,
    report: Callable[[dict[str, Any]], None],
    against: Sequence[Case],
) -> dict[str, Any]:
    """One stage, from the checkpoint `earlier` or from scratch; writes ``folder/base``, all or nothing (until then
    nothing or a tokenizer is there)."""
    import torch

    torch.manual_seed(config.seed)
    workers = join(stage.loop.device)
    model, tokenizer = _beginning(config, data, folder / "base", earlier, workers)
    rows, validation = stage_rows(config, stage, data, tokenizer, against)
    report(
        {
            "stage": stage.name,
            "steps": stage.loop.steps,
            "parameters": sum(p.numel() for p in model.parameters()),
            "vocab_size": tokenizer.vocab_size,
        }
    )
    result = fit(
        model,
        rows,
        validation,
        folder / "run",
        stage.loop,
        trainable=lambda m: {k: v for k, v in m.state_dict().items() if k != "lm_head.weight"},
        report=report,
    )
    result = {"stage": stage.name, **result}
    if workers.is_main_process:
        model.generation_config.do_sample = False
        model.generation_config.eos_token_id = list(tokenizer.stop_ids)
        with staged(folder / "base") as target:
            source = earlier or folder / "base"
            for name in (n for n in TOKENIZER_FILES if (source / n).is_file()):
                shutil.copyfile(source / name, target / name)
            model.to(torch.bfloat16).save_pretrained(target)
            write_json(target / DONE, result, indent=None)
    workers.wait_for_everyone()
    return result


def _beginning(
    config: BaseConfig, data: Path, target: Path, earlier: Path | None, workers: PartialState
) -> tuple[Any, RouterTokenizer]:
    """The model that a stage begins with, in fp32, and its tokenizer: those of `earlier`, or new ones."""
    import torch
    from transformers import Gemma3ForCausalLM

    if earlier is not None:
        model = Gemma3ForCausalLM.from_pretrained(earlier, dtype=torch.float32, local_files_only=True)
        return model, RouterTokenizer.load(earlier / "tokenizer.json")
    with workers.main_process_first():
        tokenizer = _tokenizer(config, data, target)
    model = Gemma3ForCausalLM(gemma3_config(config.model, tokenizer.vocab_size))
    known = config.vectors
    free = model.config.head_dim // 2
    meaning = None if known is None else directions(known, model.config.hidden_size, free=free)
    init_for_copying(model, meaning=meaning)
    if known is not None and meaning is not None:
        embed(model, piece_vectors(tokenizer, known), meaning)
    return model, tokenizer


def _tokenizer(config: BaseConfig, data: Path, target: Path) -> RouterTokenizer:
    """The tokenizer in `target`, trained on the last stage that has blocks if it is not there yet."""
    from train.tokenizer import train_tokenizer

    if not (target / "tokenizer.json").is_file():
        blocks = next((s for s in reversed(config.stages) if s.weights), None)
        if blocks is None:
            raise UserError(
                f"{config.name}: no stage with `weights`; the tokenizer is trained on blocks of such a stage"
            )
        mixture = make_mixture(config, blocks, data)
        train_tokenizer(
            tokenizer_lines(mixture, config.vectors), target, vocab_size=config.vocab_size, seed=config.seed
        )
    return RouterTokenizer.load(target / "tokenizer.json")
