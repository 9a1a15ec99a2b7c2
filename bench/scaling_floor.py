"""What the points of a sweep should cost, worked out from bytes and operations, and whether p50 keeps to it.

A line through measured points says how they grow, not whether they should. The floor of `bench.predict` does: its
cached keys and values are read by every pass, so it grows with what is cached as attention must, and with nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from bench.predict import Size, cache_bytes, floor_s, weights_of
from bench.records import Run
from bench.shape_making import Machine
from bench.shapes import Shape

MARGIN: Final = 1.10
"""p50 keeps to a floor where it is, or grows, no more than so many times as much."""
MOST_TOOLS: Final = 64
"""Tools up to which p50 is to stay within `MARGIN` of the floor at that cached length."""


def predicted_ms(run: Run, case: str, shape: Shape | None, machine: Machine | None) -> float | None:
    """The floor of a case's passes; None where shape or machine is not known, or it did not run on the CPU."""
    answer = run.answers["grammar"].get(case)
    if shape is None or machine is None or run.artifact is None or answer is None or run.opened.get("device") != "cpu":
        return None
    weights = weights_of(run.artifact, run.variant)
    own = replace(shape, vocab=run.artifact.output_rows)
    sizes = [Size(*one) for one in answer.stats["sizes"]]
    return 1e3 * floor_s(own, sizes, weights, cache_bytes(run.variant), machine.rates(run.variant, weights))


def growth(rows: Sequence[dict[str, Any]]) -> float | None:
    """By how much more p50 grows than the predicted floor from the first size to any other, at most: 1.05 is 5% more.

    None with fewer than two sizes that have both.
    """
    known = [one["over_predicted"] for one in rows if one["over_predicted"] is not None]
    return max(known[1:]) / known[0] if len(known) > 1 else None


def within(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of growing numbers of tools: whether p50 stays within `MARGIN` of the floor measured at that cached length.

    None where no size up to `MOST_TOOLS` has a floor.
    """
    known = [one for one in rows if one["size"] <= MOST_TOOLS and one["over_floor"] is not None]
    if not known:
        return None
    worst = max(known, key=lambda one: one["over_floor"])
    return {
        "from": known[0]["size"],
        "to": known[-1]["size"],
        "most_over_floor": worst["over_floor"],
        "at": worst["size"],
        "holds": worst["over_floor"] <= MARGIN,
    }
