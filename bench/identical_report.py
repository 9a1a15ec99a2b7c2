"""``identical.json``: what was compared on every artifact, and every answer that differs. Schema:
``identical.schema.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.machine import describe
from bench.records import Settings, described
from bench.report import check_schema, stamp

if TYPE_CHECKING:
    from bench.identical import Examined, Part

SCHEMA: Final = "edgecall.identical/1"
SCHEMA_FILE: Final = Path(__file__).with_name("identical.schema.json")


def build(settings: Settings, parts: Sequence[Part], started: datetime) -> dict[str, Any]:
    """The whole report as plain data."""
    toolsets = [_toolset(part) for part in parts]
    return {
        **stamp(SCHEMA, settings.command),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "machine": describe(),
        "identical": compared(toolsets) > 0 and all(_same(run) for toolset in toolsets for run in toolset["runs"]),
        "toolsets": toolsets,
    }


def validate(report: dict[str, Any]) -> bool:
    """Check against the committed schema; False where jsonschema is not installed. Raises ValueError."""
    return check_schema(report, SCHEMA_FILE)


def compared(toolsets: Sequence[dict[str, Any]]) -> int:
    """How many answers were compared with plain ones, in all ways on all artifacts."""
    return sum(one["n"] for toolset in toolsets for run in toolset["runs"] for one in run["comparisons"])


def _toolset(part: Part) -> dict[str, Any]:
    toolset = part.bench.toolset
    return {
        "toolset": toolset.name,
        "toolset_sha256": toolset.sha256,
        "model": part.model,
        "suite": part.bench.suite.describe(),
        "runs": [_run(one) for one in part.examined],
    }


def _run(one: Examined) -> dict[str, Any]:
    run, opened = one.run, one.run.opened
    margins = [c["largest_margin"] for c in one.comparisons if c["largest_margin"] is not None]
    return {
        "name": run.name,
        **described(run),
        "status": run.status,
        "reason": run.reason if not run.fix else f"{run.reason}; {run.fix}",
        "tie": opened.get("tie"),
        "rounding": one.rounding,
        "largest_margin": max(margins, default=None),
        "comparisons": one.comparisons,
        "warnings": run.warnings,
    }


def _same(run: dict[str, Any]) -> bool:
    """Whether nothing differs beyond ties, and nothing failed."""
    found = run["comparisons"]
    return run["status"] != "failed" and all(one["status"] != "failed" and not one["different"] for one in found)
