"""The model card: front matter as the hub reads it, and sections made from the runs and from ``card.yaml``.

Front matter: huggingface.co/docs/hub/model-cards, and `huggingface_hub.ModelCardData` for the fields. ``base_model``
is the id of a model on the hub, so a base that lies in the folder itself is not named there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from train.card import tables
from train.card.accuracy import Accuracy
from train.card.facts import Adapter, Base, Facts, read_facts
from train.card.measured import percent, where
from train.data.texts import LICENCES

MARK: Final = "<!-- Made by `edgecall train card` from what the runs left and from card.yaml: do not edit. -->"
CHOSEN: Final = {
    "held_out": "rows that were withheld from training",
    "development": "the corpora's development rows, of which figures are given as well",
}
"""What a stage's ``validation_rows`` mean (`train.held_out`)."""


def write_card(
    model: Path, reports: Sequence[Path], lifts: Sequence[Path], out: Path, accuracy: Path | None = None
) -> Path:  # fmt: skip
    """Write the card of `model` to `out`. Raises `UserError` naming all that is missing; then `out` stays as it was."""
    text = card(read_facts(model, reports, lifts, accuracy), out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(out)
    return out


def card(facts: Facts, place: Path) -> str:
    """The whole card; `place` is the folder it will lie in, which pictures are relative to."""
    title = facts.prose.about.startswith("# ")
    parts = [front_matter(facts) + "\n" + MARK, "" if title else f"# {facts.name}", facts.prose.about, _parts(facts)]
    if facts.base.stages is not None:
        parts += _base(facts.base, place)
    for adapter in facts.adapters:
        parts += _adapter(adapter, place, alone=facts.alone)
    parts += [
        "## Never trained on",
        _bullets(_held_out(facts)),
        "## Limits",
        facts.prose.limits,
        _bullets(_limits(facts)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(facts: Facts) -> str:
    """The YAML block between its two lines of dashes."""
    prose, base = facts.prose, facts.base
    data: dict[str, Any] = {
        "license": prose.license,
        "language": list(prose.language),
        "library_name": "peft" if facts.adapters else "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base.hub or "",
        "tags": list(dict.fromkeys([*prose.tags, *(["lora"] if facts.adapters else [])])),
    }
    said = {key: value for key, value in data.items() if value}
    return f"---\n{yaml.safe_dump(said, sort_keys=False, allow_unicode=True, default_flow_style=None)}---"


def _parts(facts: Facts) -> str:
    base = facts.base
    what = tables.shape(base.config, base.parameters) if base.config else "on the hub"
    where = "base" if base.folder is None or facts.alone or not facts.adapters else f"`{base.folder.name}/`"
    rows = [(where, f"`{base.name}`: {what}" if base.hub or facts.alone else what)]
    for a in facts.adapters:
        config, toolset = a.training["config"], a.training["toolset"]["name"]
        name = "adapter" if facts.alone else f"`{a.name}/`"
        lora = f"rank {config['rank']}, alpha {config['alpha']}, {a.weights:,} weights"
        rows.append((name, f"PEFT LoRA for toolset `{toolset}`: {lora}"))
    return tables.table(("part", "what"), rows)


def _base(base: Base, place: Path) -> list[str]:
    assert base.stages is not None
    kinds = [k for k in LICENCES if any(k in stage["text"] for stage in base.stages["stages"])]
    found = base.stages["sources"]
    return [
        "## How the base was trained",
        tables.stages(base),
        _vectors(base.stages.get("vectors")),
        _chosen(base.stages["stages"]),
        "Blocks are tool declarations with requests; `synthetic`, `invented` and `matching` ones are made up, tools "
        "and all. Losses of text are per token, of blocks per completion token.",
        tables.sources(list(found), found, kinds) if found or kinds else "",
        _pictures(base.pictures, "Loss of the base", place),
    ]


def _chosen(stages: Sequence[dict[str, Any]]) -> str:
    """Which rows chose the checkpoints, where the stages say it."""
    found: dict[str, list[str]] = {}
    for stage in stages:
        if (rows := stage.get("validation_rows")) in CHOSEN:
            found.setdefault(CHOSEN[rows], []).append(f"`{stage['name']}`")
    parts = [f"{rows} (in {', '.join(names)})" if len(found) > 1 else rows for rows, names in found.items()]
    return f"Checkpoints were chosen by {'; by '.join(parts)}." if parts else ""


def _vectors(vectors: dict[str, Any] | None) -> str:
    """Where the embedding began, if not at random."""
    if vectors is None:
        return ""
    return (
        f"The embedding started from the {vectors['dimensions']}-dimensional vectors of {vectors['words']:,} words in "
        f"`{vectors['file']}` (sha256 `{vectors['sha256']}`)."
    )


def _sources(adapter: Adapter) -> list[str]:
    if adapter.data["corpora"]:
        return ["Sources of the rows, beside what the recipe makes:", tables.sources(adapter.data["corpora"], {})]
    return [] if adapter.data.get("files") else ["All rows are made by the recipe."]


def _adapter(adapter: Adapter, place: Path, *, alone: bool) -> list[str]:
    name = "" if alone else f" of {adapter.name}"
    parts = [f"## {adapter.name}", adapter.prose.about] if not alone else []
    parts += [
        f"### Training{name}",
        tables.settings(adapter),
        tables.rows_by_tool(adapter),
        *_sources(adapter),
        tables.losses(adapter),
        _pictures((adapter.folder / "loss.png",), f"Loss of {adapter.name}", place),
    ]
    if adapter.report is not None:
        parts += [f"### Scores{name}", *_scores(adapter)]
    if adapter.accuracy is not None:
        parts += [f"### Accuracy{name}", *_accuracy(adapter.accuracy)]
    if adapter.lift is not None:
        parts += [f"### Against the base{name}", tables.lift(adapter)]
    return [*parts, adapter.prose.limits]


def _scores(adapter: Adapter) -> list[str]:
    run = tables.shown(adapter)
    return [
        tables.measured(adapter),
        f"{run['artifact']} on {run['runtime']} by bucket, with 95% intervals. Exact: all calls and arguments as the "
        "gold; tool: the right tools; grammar: decoded under the toolset's grammar; free: without.",
        tables.buckets(adapter),
        "By runtime and quantization (exact and tool with the grammar; times from the request to the parsed calls):",
        tables.runs(adapter),
        _bullets(_remarks(adapter)),
    ]


def _accuracy(found: Accuracy) -> list[str]:
    suite = found.entry["suite"]
    return [
        f"{suite['cases']:,} cases (sha256 `{suite['sha256'][:12]}`); {where(found.report)}; model sha256 "
        f"`{found.entry['model']['sha256'][:12]}`.",
        "By set of cases, with 95% intervals: `hard` are held-out templates too, `corpus` rows are upstream's "
        "development rows, `corpora` and `all` are sums.",
        tables.sets(found),
        tables.calls(found),
        _bullets(found.entry["notes"]),
    ]


def _remarks(adapter: Adapter) -> list[str]:
    """How some of the figures came about, and what has none."""
    assert adapter.report is not None
    done = [run for run in adapter.report["runs"] if run["accuracy"]]
    checked = [(r["artifact"], r["accuracy"].get("checked", 0), r["accuracy"]["n"]) for r in done]
    checked = [entry for entry in checked if entry[1]]
    timed = [run["latency_ms"] for run in done if run["latency_ms"]]
    total, busy = (sum(latency.get(key, 0) for latency in timed) for key in ("n", "in_busy_blocks"))
    remarks = [f"{line}." for line in tables.not_run(adapter)]
    if checked:
        named = ", ".join(f"{name} {n:,} of {of:,}" for name, n, of in checked)
        remarks.append(f"Answers checked along the reference's completion instead of decoded freely: {named}.")
    if busy:
        remarks.append(f"{busy:,} of {total:,} timed requests fell in blocks in which the machine was busy otherwise.")
    versions = sorted({f"{name} {version}" for run in done for name, version in run["versions"].items()})
    remarks.append(f"Versions: {', '.join(versions)}.")
    return remarks


def _held_out(facts: Facts) -> list[str]:
    lines = []
    for adapter in facts.adapters:
        toolset, kept = adapter.training["toolset"]["name"], adapter.data["against"]
        named = ", ".join(f"`{entry['file']}` ({entry['rows']:,})" for entry in kept)
        lines.append(
            f"{toolset}: requests of {named}, compared by their words without case and marks."
            if kept
            else f"{toolset}: no test file was compared with the training rows."
        )
        suites = [adapter.report["suite"]] if adapter.report else []
        suites += [adapter.accuracy.entry["suite"]] if adapter.accuracy else []
        files = dict.fromkeys(name for suite in suites for name in suite.get("files", ()))
        absent = [name for name in files if name not in {entry["file"] for entry in kept}]
        if absent and kept:
            lines.append(f"{toolset}: the scores rest on {', '.join(absent)} too, not compared with the training rows.")
        lines.append(
            f"{toolset}: the {adapter.training['data']['dev']:,} validation requests, which chose the checkpoint."
        )
    if facts.base.stages is not None and facts.base.stages["sources"]:
        lines.append("base: what the table of its sources says.")
    return lines


def _limits(facts: Facts) -> list[str]:
    """Limits that the figures show by themselves."""
    lines = []
    for adapter in facts.adapters:
        toolset, best = adapter.training["toolset"]["name"], adapter.training["best"]
        by_tool = adapter.data["train"]["by_tool"]
        if not any("+" in name for name in by_tool):
            lines.append(f"{toolset}: no request that needs several calls was trained on.")
        if "no call" not in by_tool:
            lines.append(f"{toolset}: no request that no tool serves was trained on.")
        if best["step"] == adapter.training["config"]["loop"]["steps"]:
            lines.append(f"{toolset}: the last step has the lowest validation loss: it was still falling.")
        found = tables.by_bucket(adapter)
        worst = min(found, key=lambda name: (found[name]["exact"], name))
        share, n = percent(found[worst]["exact"]), found[worst]["n"]
        lines.append(f"{toolset}: weakest on bucket {worst}, {share} exact (n {n:,}).")
    return lines


def _pictures(paths: Sequence[Path], what: str, place: Path) -> str:
    """Those of the pictures that exist."""
    found = [Path(os.path.relpath(path, place)).as_posix() for path in paths if path.is_file()]
    return "\n".join(f"![{what}]({path})" for path in found)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
