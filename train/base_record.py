"""What the stages of a base are made from: ``stages.json`` beside its weights, with which loss each reached.

    {"vectors": {"file", "sha256", "words", "dimensions"}, or null where the embedding began at random,
     "sources": {corpus: training requests, or null where recipes or dialogues draw on it},
     "stages": [{"name", "steps", "learning_rate", "text", "weights", "recipes", "rows_per_step", "row_tokens",
                 "requests", "swap", "seed", "pointing", "copying", "embedding_rate", "average", "precision",
                 "validation_rows", "step", "validation"}]}

``validation_rows`` says which rows chose the checkpoint (`train.held_out`); ``step`` and ``validation`` are that
checkpoint's, null where no run has left them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from export.atomic import disk_errors
from export.checkpoint import open_checkpoint, read_json
from router.cases import Case
from runtimes.artifact import sha256_file
from train.base_rows import training_side
from train.claim import loop_settings, settled
from train.data.corpus import Corpus
from train.data.importers.files import replacing
from train.data.recipe import load_recipe
from train.data.sources import read_all

if TYPE_CHECKING:
    from train.base import BaseConfig, Stage

FILE: Final = "stages.json"


def write_record(config: BaseConfig, data: Path, folder: Path, target: Path) -> None:
    """Write ``target/stages.json`` from the stages of `folder` that were finished, behind those of the base that
    `config` starts from. The run is not repeated: a finished one gets its record when the same command is given again.
    """
    earlier: dict[str, Any] = {"vectors": None, "sources": {}, "stages": []}
    if config.start is not None and (Path(config.start) / FILE).is_file():
        earlier = read_json(Path(config.start) / FILE)
    sources: dict[str, int | None] = dict(earlier["sources"])
    stages = list(earlier["stages"])
    corpora = read_all(data)
    for stage in config.stages:
        done = folder / stage.name / "base" / "stage.json"
        if not done.is_file():
            continue
        counts = {corpus.name: len(corpus.requests) for corpus in training_side(stage, corpora)}
        used = set(counts) if "utterances" in stage.text else counts.keys() & (stage.weights or {}).keys()
        sources |= {name: counts[name] for name in counts if name in used}
        for recipe in stage.recipes:
            for corpus in load_recipe(config.folder / recipe, data).corpora:
                sources.setdefault(corpus.source, None)
        result = read_json(done)
        loop = settled(stage.loop, folder / stage.name / "run")
        stages.append(_stage(replace(stage, loop=loop)) | {key: result.get(key) for key in ("step", "validation")})
    known = config.vectors
    vectors = (
        {"file": known.name, "sha256": known.sha256, "words": len(known.words), "dimensions": known.dimensions}
        if known is not None
        else earlier.get("vectors")
    )
    with disk_errors(target / FILE), replacing(target / FILE) as file:
        file.write(json.dumps({"vectors": vectors, "sources": sources, "stages": stages}, indent=1) + "\n")


def stage_recipe(
    config: BaseConfig,
    stage: Stage,
    sources: Mapping[str, str],
    data: Path,
    against: Sequence[Case],
    earlier: Path | None,
) -> dict[str, Any]:
    """What a stage is made from, as `train.claim` keeps it; `sources` are the digests of the corpora under `data`,
    `earlier` the checkpoint that it starts from."""
    return {
        "config": {**asdict(stage), "loop": loop_settings(stage.loop)},
        "model": dict(config.model),
        "vocab_size": config.vocab_size,
        "base_seed": config.seed,
        "sources": dict(sources) if stage.weights or "utterances" in stage.text else {},
        "recipe_files": {name: _recipe_digest(config.folder / name, data) for name in stage.recipes},
        "words": _digest(config.words),
        "vectors": None if config.vectors is None else config.vectors.sha256,
        "against": _digest(sorted({case.user for case in against})),
        "earlier": None if earlier is None else open_checkpoint(earlier).sha256,
    }


def source_digests(corpora: Iterable[Corpus]) -> dict[str, str]:
    """A digest of every corpus, by its name."""
    return {corpus.name: _digest([request.text for request in corpus.requests]) for corpus in corpora}


def _recipe_digest(path: Path, data: Path) -> str:
    return _digest([load_recipe(path, data).toolset.sha256, sha256_file(path)])


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "steps": stage.loop.steps,
        "learning_rate": stage.loop.learning_rate,
        "text": list(stage.text),
        "weights": dict(stage.weights or {}),
        "recipes": [Path(path).name for path in stage.recipes],
        "rows_per_step": stage.rows_per_step,
        "row_tokens": stage.row_tokens,
        "requests": stage.requests,
        "swap": stage.swap,
        "seed": stage.seed,
        "pointing": stage.loop.pointing,
        "copying": stage.loop.copying,
        "embedding_rate": stage.loop.embedding_rate,
        "average": stage.loop.average,
        "precision": stage.loop.precision,
        "validation_rows": stage.validation,
    }
