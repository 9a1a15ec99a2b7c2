"""The report of `bench quantization`: every mix that was tried, the Pareto front, and what to take.

A mix is compared with the unquantized weights of its own format, on the same cases. The schema is
``quantization.schema.json``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.lift import figure
from bench.peers_report import paired_times
from bench.quantization_search import Method
from bench.records import Run
from bench.report import Context, check_schema, entry, head
from bench.stats import ALPHA, median_ratio, percentile_interval
from export.mixed import CLASSES, Mix

SCHEMA: Final = "edgecall.quantization/1"
SCHEMA_FILE: Final = Path(__file__).with_name("quantization.schema.json")
FIGURES: Final = (
    "runtime", "artifact", "quant", "precision", "status", "reason", "fix", "stage", "device", "threads", "dtype",
    "artifact_sha256", "versions", "size_mb", "load_ms", "peak_rss_mb", "accuracy", "latency_ms", "warnings",
)  # fmt: skip
"""What a candidate's entry has of a run's in ``report.json``."""


@dataclass(eq=False)
class Candidate:
    """One mix and what is known of it."""

    mix: Mix
    run: Run
    kept: bool = False
    """Its answers were there from an earlier run."""

    @property
    def size(self) -> int | None:
        """Bytes of the weights."""
        return self.run.artifact.size_bytes if self.run.artifact else None

    @property
    def answered(self) -> bool:
        return bool(self.run.exact())


@dataclass(eq=False)
class Search:
    """What was tried in one format; `path` are the mixes that a descent stood on, by name."""

    format: str
    method: Method
    types: tuple[str, ...]
    reference: Candidate
    candidates: list[Candidate] = field(default_factory=list)
    path: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[Candidate]:
        return [self.reference, *self.candidates]


def build(context: Context, searches: Sequence[Search], *, lose: float, limit: int | None) -> dict[str, Any]:
    """The whole report as plain data. `lose`: points of exact that may be lost."""
    return {
        "schema": SCHEMA,
        **head(context),
        "lose_points": lose,
        "limit": limit,
        "formats": [_format(search, context, lose) for search in searches],
        "blocks": context.blocks,
    }


def compare(reference: Run, other: Run, templates: Mapping[str, str]) -> dict[str, Any] | None:
    """`other` against the unquantized on the cases that both answered; `won` are those that only `other` got right."""
    before, after = reference.exact(), other.exact()
    common = [case for case in before if case in after]
    if not common:
        return None
    clusters: list[Hashable] = [("template", templates[i]) if i in templates else ("case", i) for i in common]
    found = figure([before[case] for case in common], [after[case] for case in common], clusters)
    keys = ("difference", "difference_ci95", "difference_ci_method", "won", "lost", "p")
    return {"n": len(common), **{key: found[key] for key in keys}}


def loses(test: Mapping[str, Any] | None, lose: float) -> tuple[bool, bool]:
    """Whether more than `lose` points are lost, and whether more is lost than chance explains (5%)."""
    if test is None:
        return False, False
    return -100 * test["difference"] > lose + 1e-9, test["lost"] > test["won"] and test["p"] < ALPHA


def front(candidates: Sequence[Candidate]) -> set[str]:
    """Names of those that no other beats: not larger, not less exact, not slower, and better in one of them.

    Times differ where the paired 95% interval of their ratio excludes 1. Only what was timed and answered counts.
    """
    known = [one for one in candidates if one.run.timed and one.answered and one.size is not None]
    return {one.run.name for one in known if not any(_beats(other, one) for other in known if other is not one)}


def recommend(entries: Sequence[Mapping[str, Any]], lose: float) -> str | None:
    """The smallest whose loss is within `lose` points and not significant; of one size the more exact, then faster."""
    fitting = [
        one for one in entries if one["status"] == "ok" and one["accuracy"] and not any(loses(one["test"], lose))
    ]
    best = min(
        fitting,
        key=lambda one: (
            one["size_mb"],
            -one["accuracy"]["exact"],
            one["latency_ms"]["p50"] if one["latency_ms"] else float("inf"),
        ),
        default=None,
    )
    return None if best is None else str(best["artifact"])


def validate(report: dict[str, Any]) -> bool:
    """Check against the committed schema; False where jsonschema is not installed. Raises ValueError."""
    return check_schema(report, SCHEMA_FILE)


def _format(search: Search, context: Context, lose: float) -> dict[str, Any]:
    best = front(search.all)
    entries = [_entry(one, search.reference, context) | {"front": one.run.name in best} for one in search.all]
    return {
        "format": search.format,
        "runtime": search.reference.run.variant.runtime,
        "reference": search.reference.run.name,
        "method": search.method,
        "types": list(search.types),
        "path": search.path,
        "candidates": entries,
        "recommended": recommend(entries, lose),
    }


def _entry(one: Candidate, reference: Candidate, context: Context) -> dict[str, Any]:
    found = entry(one.run, context, None)
    latency = found["latency_ms"]
    if latency is not None:
        interval = percentile_interval([timed.ms for timed in one.run.timed], 50)
        latency["p50_ci95"] = None if interval is None else list(interval)
    if found["accuracy"] is not None:
        found["accuracy"].pop("by_bucket")
    own = one is reference
    return {
        **{key: found[key] for key in FIGURES},
        "classes": {kind: one.mix.of(kind) for kind in CLASSES},
        "stored": None if one.run.artifact is None else one.run.artifact.manifest["details"].get("classes"),
        "kept": one.kept,
        "test": None if own else compare(reference.run, one.run, context.suite.templates),
        "times": None if own else _times(reference.run, one.run),
    }


def _times(reference: Run, other: Run) -> dict[str, Any] | None:
    """Median of `other` over that of the reference, on the cases that both were timed on in the same blocks."""
    before, after, pairs = paired_times(reference, other)
    found = median_ratio(before, after)
    return None if found is None else {"ratio": found[0], "ci95": list(found[1]), "cases": found[2], "requests": pairs}


def _beats(one: Candidate, other: Candidate) -> bool:
    saved, gained = (other.size or 0) - (one.size or 0), _right(one) - _right(other)
    if saved < 0 or gained < 0:
        return False
    found = _times(other.run, one.run)
    low, high = (1.0, 1.0) if found is None else found["ci95"]
    return low <= 1 and (saved > 0 or gained > 0 or high < 1)


def _right(one: Candidate) -> int:
    return sum(one.run.exact().values())
