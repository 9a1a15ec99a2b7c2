"""``peers.json``: the contenders' figures, and the ratios of their medians. The schema is ``peers.schema.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.peer import kind_of
from bench.ranking import paired_dict
from bench.records import Run
from bench.report import Context, check_schema, entry, head
from bench.stats import median_ratio, paired, percentile_interval

SCHEMA: Final = "edgecall.peers/1"
SCHEMA_FILE: Final = Path(__file__).with_name("peers.schema.json")
FIGURES: Final = (
    "precision", "status", "reason", "fix", "stage", "machine", "device", "threads", "dtype", "artifact_sha256",
    "max_new_tokens", "versions", "load_ms", "cold_start_ms", "peak_rss_mb", "accuracy", "latency_ms", "floor_ms",
    "overhead", "overhead_same_request", "warnings",
)  # fmt: skip
"""What a contender's entry has of a run's in ``report.json``."""


def build(context: Context, runs: Sequence[Run], baseline: str | None) -> dict[str, Any]:
    """The whole report as plain data. `baseline`: a contender that all are compared with, None for ours of the same
    precision.
    """
    ours = [run for run in runs if _peer(run) is None]
    yardsticks = [*ours, *(run for run in runs if run.name == baseline and run not in ours)]
    return {
        "schema": SCHEMA,
        **head(context),
        "baseline": baseline,
        "contenders": [contender(run, context, _yardstick(run, ours, baseline)) for run in runs],
        "ratios": [compare(one, other) for one in yardsticks for other in runs if one is not other],
        "blocks": context.blocks,
    }


def compare(one: Run, other: Run) -> dict[str, Any]:
    """How `other` compares with the yardstick `one`: the ratio of medians, and who was right on the same cases."""
    before, after, requests = paired_times(one, other)
    found = median_ratio(before, after)
    both = one.exact().keys() & other.exact().keys()
    return {
        "contender": other.name,
        "baseline": one.name,
        "ratio": None if found is None else found[0],
        "ci95": None if found is None else list(found[1]),
        "cases": len(before),
        "requests": requests,
        "accuracy": paired_dict(paired(one.exact(), other.exact())) if both else None,
    }


def paired_times(one: Run, other: Run) -> tuple[dict[str, float], dict[str, float], int]:
    """Each one's median time of every case that both were timed on in the same block, and the number of pairs.

    A pair is a case in a block: both met the machine as it was then, whatever else either did.
    """
    first, second = _by_block(one), _by_block(other)
    pairs = [key for key in first if key in second]
    cases: dict[str, list[tuple[int, str]]] = {}
    for key in pairs:
        cases.setdefault(key[1], []).append(key)
    medians = [
        {case: median(median(times[key]) for key in keys) for case, keys in cases.items()} for times in (first, second)
    ]
    return medians[0], medians[1], len(pairs)


def validate(report: dict[str, Any]) -> bool:
    """Check against the committed schema; False where jsonschema is not installed. Raises ValueError."""
    return check_schema(report, SCHEMA_FILE)


def _by_block(run: Run) -> dict[tuple[int, str], list[float]]:
    out: dict[tuple[int, str], list[float]] = {}
    for timed in run.timed:
        out.setdefault((timed.block, timed.case), []).append(timed.ms)
    return out


def contender(run: Run, context: Context, yardstick: str | None) -> dict[str, Any]:
    """The entry of one run, ours or a peer's; `yardstick` is the name of whom it is compared with."""
    found = entry(run, context, None)
    latency = found["latency_ms"]
    if latency is not None:
        interval = percentile_interval([timed.ms for timed in run.timed], 50)
        latency["p50_ci95"] = None if interval is None else list(interval)
    if found["accuracy"] is not None:
        found["accuracy"].pop("by_bucket")
    peer = _peer(run)
    kind = None if peer is None else kind_of(peer)
    return {
        "name": run.name,
        "side": "ours" if kind is None else "peer",
        "runtime": run.variant.runtime,
        "artifact": run.variant.artifact if kind is None else f"{kind.format}-{run.variant.quant}",
        "call": "edgecall Router.route" if kind is None else kind.call,
        "grammar": kind is None or kind.grammar,
        "prefix_kept": kind is None or kind.kept,
        "baseline": yardstick,
        **{key: found[key] for key in FIGURES},
        "forward_passes": _passes(run),
    }


def _passes(run: Run) -> float | None:
    """Mean over the answers that tell; none of those that were decoded along a guess."""
    known = [a.stats["forward_passes"] for a in run.answers["grammar"].values() if a.stats and not a.checked]
    return math.fsum(known) / len(known) if known else None


def _yardstick(run: Run, ours: Sequence[Run], baseline: str | None) -> str | None:
    """Whom a contender is compared with: the baseline, or ours of the same format and precision, of the same precision,
    the first of ours. None for what would be compared with itself.
    """
    if baseline is None:
        if run in ours:
            return None
        same = [one for one in ours if one.variant.precision == run.variant.precision]
        near = [one for one in same if one.variant.format == run.variant.format]
        baseline = next((one.name for one in [*near, *same, *ours]), None)
    return baseline if baseline != run.name else None


def _peer(run: Run) -> str | None:
    """The peer's name; None for a run of ours."""
    return getattr(run, "peer", None)
