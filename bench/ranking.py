"""Which run is better, and whether the difference is more than chance: accuracy first, then p95."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from bench.records import Run
from bench.stats import Paired, paired, percentile, ratio_interval


def rank(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One entry per precision and device, finest precision first.

    `best` is the most accurate run of a group; `order` ranks by p95 those that are not significantly less accurate
    (exact McNemar test on the same cases), the others are listed in `less_accurate`. Runs without latency or accuracy,
    and emulated ones, are left out.
    """
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        if run.timed and run.exact() and not run.emulated:
            groups.setdefault((run.variant.precision, str(run.opened.get("device"))), []).append(run)
    return [_rank(precision, device, members) for (precision, device), members in sorted(groups.items(), key=_finest)]


def compare(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every pair of runs that measured something: accuracy (McNemar) and the ratio of latencies, case by case."""
    out = []
    for a, b in combinations([run for run in runs if run.exact()], 2):
        timed = not (a.emulated or b.emulated)
        ratio = ratio_interval(case_medians(a), case_medians(b)) if timed else None
        out.append(
            {
                "a": a.name,
                "b": b.name,
                "accuracy": paired_dict(paired(a.exact(), b.exact())),
                "latency_ratio": None if ratio is None else {"n": ratio[2], "median": ratio[0], "ci95": list(ratio[1])},
            }
        )
    return out


def paired_dict(result: Paired) -> dict[str, Any]:
    """A paired test as the report writes it; "loss" is the second run's."""
    return {
        "n": result.n,
        "a_only": result.a_only,
        "b_only": result.b_only,
        "p": result.p,
        "significant_loss": result.b_is_worse,
    }


def case_medians(run: Run) -> dict[Hashable, float]:
    """Median latency of each case that was timed."""
    by_case: dict[Hashable, list[float]] = {}
    for timed in run.timed:
        by_case.setdefault(timed.case, []).append(timed.ms)
    return {case: median(values) for case, values in by_case.items()}


def p95(run: Run) -> float:
    return percentile([timed.ms for timed in run.timed], 95)


def _rank(precision: int, device: str, runs: list[Run]) -> dict[str, Any]:
    # The more accurate first; of equals the faster, so that the choice of the yardstick is not the list's order.
    best = min(runs, key=lambda run: (-_share(run), p95(run), run.name))
    tests = {run.name: paired(best.exact(), run.exact()) for run in runs}
    level = [run for run in runs if not tests[run.name].b_is_worse]
    return {
        "precision": precision,
        "device": device,
        "best": best.name,
        "order": [run.name for run in sorted(level, key=p95)],
        "less_accurate": [
            {"run": run.name, "p": tests[run.name].p} for run in sorted(runs, key=p95) if tests[run.name].b_is_worse
        ],
    }


def _share(run: Run) -> float:
    outcomes = run.exact()
    return sum(outcomes.values()) / len(outcomes)


def _finest(item: tuple[tuple[int, str], list[Run]]) -> tuple[int, str]:
    (precision, device), _ = item
    return -precision, device
