"""``scaling.json``: p50, floor and passes of every point, and the law of every sweep. The schema is
``scaling.schema.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.laws import fit
from bench.records import Run, described
from bench.report import Context, check_schema, head
from bench.scaling_floor import MARGIN, growth, within
from bench.scaling_points import Point, Sweep
from bench.shape_making import Machine
from bench.stats import percentile, percentile_interval

SCHEMA: Final = "edgecall.scaling/1"
SCHEMA_FILE: Final = Path(__file__).with_name("scaling.schema.json")

GROWS_WITH: Final[dict[Sweep, str]] = {
    "tools": "cached_tokens",
    "prompt": "cached_tokens",
    "argument": "argument_tokens",
    "vocabulary": "rows",
}
"""What p50 and the floor grow in proportion with: a line `a + b * it` is drawn through the points."""
PASSES: Final[dict[Sweep, str]] = {
    "tools": "as with one tool, and one more for each place at which the names part, at most",
    "prompt": "the same at every length",
    "argument": "one for each token of the argument, and the same besides",
    "vocabulary": "the same at every size",
}
"""What the number of passes should do."""


@dataclass(eq=False)
class Measured:
    """A sweep on one variant: its points and the runs that took them (one, or for vocabularies one each)."""

    sweep: Sweep
    variant: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)


def build(
    context: Context,
    measured: Sequence[Measured],
    *,
    masked: bool,
    notes: Sequence[str],
    machine: Machine | None = None,
) -> dict[str, Any]:
    """The whole report as plain data. `machine` is what the predicted floors were made of."""
    sweeps: dict[str, list[Measured]] = {}
    for one in measured:
        sweeps.setdefault(one.sweep, []).append(one)
    return {
        "schema": SCHEMA,
        **{key: value for key, value in head(context).items() if key not in ("suite", "toolset", "toolset_sha256")},
        "masked": masked,
        "notes": list(notes),
        "probe": None if machine is None else machine.told(),
        "sweeps": [
            {
                "sweep": name,
                "grows_with": GROWS_WITH[members[0].sweep],
                "passes": PASSES[members[0].sweep],
                "variants": [_variant(one) for one in members],
                "blocks": members[0].blocks,
            }
            for name, members in sweeps.items()
        ],
    }


def row(
    point: Point, index: int, run: Run, *, size: int, rows: int, argument: int, parts: int,
    predicted: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The entry of one point, the `index`-th of its run. `rows`: of the vocabulary; `argument`: its tokens; `parts`:
    at how many places the called tool's name parts from others; `predicted`: its floor worked out, in milliseconds.
    """
    answer = run.answers["grammar"].get(point.id)
    stats = answer.stats if answer is not None else {}
    times = [timed.ms for timed in run.timed if timed.case == point.id]
    floors = [ms for at, ms in run.floor.get("ms", ()) if at == index]
    interval = percentile_interval(times, 50) if times else None
    p50, floor = (percentile(values, 50) if values else None for values in (times, floors))
    appended = sum(stats["pass_sizes"]) if stats else None
    return {
        "size": size,
        "rows": rows,
        "cached_tokens": stats.get("cached_tokens"),
        "request_tokens": stats.get("request_tokens"),
        "call_tokens": len(answer.token_ids) if answer is not None else None,
        "argument_tokens": argument,
        "passes": stats.get("forward_passes"),
        "decided_tokens": stats.get("decided_tokens"),
        "names_part_at": parts,
        "appended_tokens": appended,
        "prefilled": None if not stats else stats["first_position"] < stats["cached_tokens"],
        "n": len(times),
        "p50": p50,
        "p50_ci95": None if interval is None else list(interval),
        "p95": percentile(times, 95) if times else None,
        "floor_p50": floor,
        "over_floor": p50 / floor if p50 is not None and floor else None,
        "predicted": predicted,
        "over_predicted": p50 / predicted if p50 is not None and predicted else None,
    }


def passes_hold(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> bool | None:
    """Whether the number of passes does what `PASSES` says; None where too few points have any."""
    known = [one for one in rows if one["passes"] is not None]
    if len(known) < 2:
        return None
    first = known[0]

    def allowed(one: dict[str, Any]) -> range:
        more = 0
        if sweep == "tools":
            return range(first["passes"], first["passes"] + one["names_part_at"] - first["names_part_at"] + 1)
        if sweep == "argument":
            more = one["argument_tokens"] - first["argument_tokens"]
        return range(first["passes"] + more, first["passes"] + more + 1)

    return all(one["passes"] in allowed(one) for one in known)


def validate(report: dict[str, Any]) -> bool:
    """Check against the committed schema; False where jsonschema is not installed. Raises ValueError."""
    return check_schema(report, SCHEMA_FILE)


def _variant(one: Measured) -> dict[str, Any]:
    law, grown = GROWS_WITH[one.sweep], growth(one.rows)
    return {
        "variant": one.variant,
        "status": _worst(run.status for run in one.runs),
        "reasons": [f"{run.name}: {run.reason}" for run in one.runs if run.reason],
        "runs": [described(run) for run in one.runs],
        "points": one.rows,
        "p50_law": _law(one.rows, law, "p50"),
        "floor_law": _law(one.rows, law, "floor_p50"),
        "passes_hold": passes_hold(one.sweep, one.rows),
        "growth_over_predicted": grown,
        "p50_holds": None if grown is None else grown <= MARGIN,
        "within_floor": within(one.rows) if one.sweep == "tools" else None,
        "prefilled": any(row["prefilled"] for row in one.rows),
        "most_over_floor": max((row["over_floor"] for row in one.rows if row["over_floor"]), default=None),
        "warnings": [f"{run.name}: {warning}" for run in one.runs for warning in run.warnings],
    }


def _law(rows: Iterable[dict[str, Any]], x: str, y: str) -> dict[str, Any] | None:
    known = [(row[x], row[y]) for row in rows if row[x] is not None and row[y] is not None]
    line = fit([x for x, _ in known], [y for _, y in known])
    return None if line is None else line.to_dict()


def _worst(statuses: Iterable[str]) -> str:
    found = set(statuses)
    return next((status for status in ("failed", "skipped") if status in found), "ok")
