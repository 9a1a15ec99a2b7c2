"""Train the base model from scratch: tokenizer, Gemma 3 of any size, stage after stage (text, then tool calls)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint import TOKENIZER_FILES
from router.cases import Case
from router.tokenizer import RouterTokenizer
from runtimes.errors import UserError
from train.base_record import write_record
from train.base_rows import make_mixture, stage_rows, tokenizer_lines
from train.init import init_for_copying
from train.loop import LoopConfig, fit
from train.plot import plot_loss
from train.vectors import WordVectors, directions, embed, piece_vectors
from train.workers import is_first, join


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


def gemma3_config(shape: dict[str, Any], vocab_size: int) -> Any:
    """A `Gemma3TextConfig` with the widths of `shape` (keys as in ``config.json``), and FunctionGemma's context, window
    and layer pattern unless `shape` has others. Raises `UserError` for what the tokenizer settles."""
    from transformers import Gemma3TextConfig

    settled = {"vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    for key in sorted(settled.keys() & shape.keys()):
        raise UserError(f"the configuration's model: {key} follows from the tokenizer; leave it out")
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
    found = json.loads(path.read_text(encoding="utf-8"))
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

    `stages` names those to run, by default all; those before them must be there, or are left out of the pipeline if
    they are not named and have not been run. Raises `UserError` for an unknown stage.
    """
    names = [stage.name for stage in config.stages]
    for name in stages or ():
        if name not in names:
            raise UserError(f"stage {name!r}: the configuration has {', '.join(names)}")
    earlier = _earlier(config, Path(config.start)) if config.start is not None else None
    result: dict[str, Any] = {}
    for stage in config.stages:
        place = folder / stage.name
        if stages is None or stage.name in stages:
            result = _train_stage(config, stage, data, place, earlier, report, against)
            earlier = place / "base"
        elif (place / "base" / "config.json").is_file():
            earlier = place / "base"
    assert earlier is not None
    if is_first():
        _assemble(config, data, folder, earlier)
    return result


def _assemble(config: BaseConfig, data: Path, folder: Path, last: Path) -> None:
    """Write ``folder/base``: the checkpoint `last`, loss curves, and what it was made from."""
    target = folder / "base"
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(last.iterdir()):
        shutil.copyfile(file, target / file.name)
    for stage in config.stages:
        log = folder / stage.name / "run" / "log.jsonl"
        if log.is_file():
            kind = "token" if stage.text else "completion token"
            plot_loss(log, target / f"loss-{stage.name}.png", title=f"{config.name}, {stage.name}: loss per {kind}")
    write_record(config, data, folder)


def _train_stage(
    config: BaseConfig,
    stage: Stage,
    data: Path,
    folder: Path,
    earlier: Path | None,
    report: Callable[[dict[str, Any]], None],
    against: Sequence[Case],
) -> dict[str, Any]:
    """One stage, from the checkpoint `earlier` or from scratch; writes ``folder/base``."""
    import torch
    from transformers import Gemma3ForCausalLM

    target = folder / "base"
    done = target / "stage.json"
    if done.is_file():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    target.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    workers = join(stage.loop.device)
    if earlier is not None:
        for name in TOKENIZER_FILES:
            if workers.first and (earlier / name).is_file():
                shutil.copyfile(earlier / name, target / name)
        tokenizer = RouterTokenizer.load(earlier / "tokenizer.json")
        model = Gemma3ForCausalLM.from_pretrained(earlier, dtype=torch.float32, local_files_only=True)
    else:
        with workers.first_before_others():
            tokenizer = _tokenizer(config, data, target)
        model = Gemma3ForCausalLM(gemma3_config(config.model, tokenizer.vocab_size))
        meaning = (
            None
            if config.vectors is None
            else directions(config.vectors, model.config.hidden_size, free=model.config.head_dim // 2)
        )
        init_for_copying(model, meaning=meaning)
        if config.vectors is not None and meaning is not None:
            embed(model, piece_vectors(tokenizer, config.vectors), meaning)
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
    if workers.first:
        model.generation_config.do_sample = False
        model.generation_config.eos_token_id = list(tokenizer.stop_ids)
        model.to(torch.bfloat16).save_pretrained(target)
        done.write_text(json.dumps(result) + "\n", encoding="utf-8")
    workers.wait()
    return result


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
