"""``shape.json``: every run's time, memory and passes beside its predicted floor. Schema: ``shape.schema.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

from bench.peers_report import compare, contender
from bench.predict import Size
from bench.records import Run
from bench.report import Context, by_cause, check_schema, head, own_code
from bench.shape_making import Machine
from bench.shapes import Shape

SCHEMA: Final = "edgecall.shape/1"
SCHEMA_FILE: Final = Path(__file__).with_name("shape.schema.json")
DROPPED: Final = ("accuracy", "prefix_kept", "grammar", "baseline")
"""What a contender's entry in ``peers.json`` has and a run's here has not: calls are given, not found."""


@dataclass
class Told:
    """What was worked out before anything was measured."""

    machine: Machine = field(default_factory=Machine)
    passes: dict[str, dict[str, list[Size]]] = field(default_factory=dict)
    """Run -> case -> passes."""
    predicted: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Run -> `bench.predict.predicted`."""


def build(context: Context, runs: Sequence[Run], shape: Shape, told: Told, *, masked: bool) -> dict[str, Any]:
    """The whole report as plain data."""
    ours = [run for run in runs if getattr(run, "peer", None) is None]
    peers = [run for run in runs if run not in ours]
    return {
        "schema": SCHEMA,
        **head(context),
        "shape": asdict(shape) | {"parameters": shape.parameters},
        "request": request(runs),
        "masked": masked,
        "probe": told.machine.told(),
        "runs": [_entry(run, context, told) for run in runs],
        "ratios": [_ratio(one, other) for one in ours for other in peers],
        "blocks": context.blocks,
    }


def request(runs: Sequence[Run]) -> dict[str, Any] | None:
    """What is asked, in tokens: medians over the fixed calls, of the first run that took them; None where none did."""
    for run in runs:
        known = [answer for answer in run.answers["grammar"].values() if "request_tokens" in answer.stats]
        if known:
            stats = [answer.stats for answer in known]
            return {
                "calls": len(known),
                "prompt_tokens": median(one["prompt_tokens"] for one in stats),
                "cached_tokens": median(one["prompt_tokens"] - one["request_tokens"] for one in stats),
                "request_tokens": median(one["request_tokens"] for one in stats),
                "call_tokens": median(len(answer.token_ids) for answer in known),
                "forced_tokens": median(one["forced_tokens"] for one in stats),
                "decided_tokens": median(one["decided_tokens"] for one in stats),
                "passes": median(one["forward_passes"] for one in stats),
                "passes_by_cause": by_cause([one["pass_causes"] for one in stats if one.get("pass_causes")]),
                "pass_sizes": {answer.case: answer.stats["pass_sizes"] for answer in known},
            }
    return None


def validate(report: dict[str, Any]) -> bool:
    """Check against the committed schema; False where jsonschema is not installed. Raises ValueError."""
    return check_schema(report, SCHEMA_FILE)


def _entry(run: Run, context: Context, told: Told) -> dict[str, Any]:
    found = {key: value for key, value in contender(run, context, None).items() if key not in DROPPED}
    size = None if run.artifact is None else run.artifact.size_bytes / 1e6
    peak, latency = found["peak_rss_mb"], found["latency_ms"]
    forecast = told.predicted.get(run.name)
    if forecast is not None and found["device"] not in (None, "cpu"):
        forecast = None  # the probe measured the CPU
    floor = found["floor_ms"]
    same = None if forecast is None or floor is None else forecast["cases"].get(floor["case"])
    return found | {
        "tokens": getattr(run, "tokens", None),
        "size_mb": size,
        "over_size_mb": None if peak is None or size is None else peak - size,
        "predicted": forecast,
        "p50_over_predicted": latency["p50"] / forecast["p50"] if latency and forecast else None,
        "floor_over_predicted": floor["p50"] / same if same else None,
        "forcing_ms": _forcing(run),
        "own_code": own_code(run),
    }


def _forcing(run: Run) -> float | None:
    """Mean milliseconds of a request that the lifting took, which are in its time."""
    known = [answer.stats["forcing_ms"] for answer in run.answers["grammar"].values() if "forcing_ms" in answer.stats]
    return fmean(known) if known else None


def _ratio(one: Run, other: Run) -> dict[str, Any]:
    """A peer's time over ours; both took the same tokens, so there is no accuracy beside it."""
    found = compare(one, other)
    return {key: found[key] for key in ("contender", "baseline", "ratio", "ci95", "cases", "requests")}
