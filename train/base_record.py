"""``stages.json`` beside a base's weights: what every stage was trained on and which loss it reached.

    {"vectors": {"file", "sha256", "words", "dimensions"}, or null where the embedding began at random,
     "sources": {corpus: training requests, or null where recipes or dialogues draw on it},
     "stages": [{"name", "steps", "learning_rate", "text", "weights", "recipes", "rows_per_step", "row_tokens",
                 "requests", "swap", "seed", "pointing", "embedding_rate", "average", "step", "validation"}]}

``step`` and ``validation`` are the chosen checkpoint's; null where no run has left them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from train.data.recipe import load_recipe
from train.data.sources import read_all

if TYPE_CHECKING:
    from train.base import BaseConfig, Stage

FILE: Final = "stages.json"


def write_record(config: BaseConfig, data: Path, folder: Path) -> None:
    """Write ``folder/base/stages.json`` from the stages that were run, behind those of the base that `config` starts
    from. The run is not repeated: a finished one gets its record when the same command is given again."""
    earlier: dict[str, Any] = {"vectors": None, "sources": {}, "stages": []}
    if config.start is not None and (Path(config.start) / FILE).is_file():
        earlier = json.loads((Path(config.start) / FILE).read_text(encoding="utf-8"))
    sources: dict[str, int | None] = dict(earlier["sources"])
    stages = list(earlier["stages"])
    corpora = {corpus.name: len(corpus.requests) for corpus in read_all(data)}
    for stage in config.stages:
        done = folder / stage.name / "base" / "stage.json"
        if not done.is_file():
            continue
        used = set(corpora) if "utterances" in stage.text else corpora.keys() & (stage.weights or {}).keys()
        sources |= {name: corpora[name] for name in corpora if name in used}
        for recipe in stage.recipes:
            for corpus in load_recipe(config.folder / recipe, data).corpora:
                sources.setdefault(corpus.source, None)
        result = json.loads(done.read_text(encoding="utf-8"))
        stages.append(_stage(stage) | {key: result.get(key) for key in ("step", "validation")})
    path = folder / "base" / FILE
    temporary = path.with_name(f".tmp-{path.name}")
    known = config.vectors
    vectors = (
        {"file": known.name, "sha256": known.sha256, "words": len(known.words), "dimensions": known.dimensions}
        if known is not None
        else earlier.get("vectors")
    )
    record = {"vectors": vectors, "sources": sources, "stages": stages}
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


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
        "embedding_rate": stage.loop.embedding_rate,
        "average": stage.loop.average,
    }
