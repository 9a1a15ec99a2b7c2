"""What training gained: two models on the same cases, bucket by bucket. Figures alone; nothing is run here.

`build` makes the report of two sides (`bench.lift_sides`); its schema is ``lift.schema.json``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.lift_sides import Side, right
from bench.metrics import FIGURES
from bench.records import MODES, Mode
from bench.report import check_schema, stamp
from bench.stats import Interval, paired, proportion_interval, wilson
from bench.suites import Suite
from runtimes.errors import UserError

SCHEMA: Final = "edgecall.lift/1"
SCHEMA_FILE: Final = Path(__file__).with_name("lift.schema.json")
LISTED: Final = ("exact", "tool")
"""The metrics whose won and lost cases are listed; figures there are of all of `bench.metrics.FIGURES`."""
RESAMPLES: Final = 2000


def build(base: Side, tuned: Side, suite: Suite | None, *, mode: Mode, command: str = "") -> dict[str, Any]:
    """The report as plain data; `mode` is the one asked for, the other stands beside it where both sides have it.

    `suite` gives the requests, the gold calls and the templates; without it they are left out. Raises `UserError` where
    the sides were asked different cases or used different toolsets, or have no case of `mode` in common.
    """
    _check_comparable(base, tuned)
    modes = {name: compare(base, tuned, suite, name) for name in MODES}
    if modes[mode] is None:
        raise UserError(f"{base.source} and {tuned.source}: no case was answered by both ({mode}); run the bench again")
    return {
        **stamp(SCHEMA, command),
        "toolset": base.toolset,
        "toolset_sha256": base.toolset_sha256,
        "suite": base.suite,
        "mode": mode,
        "base": base.describe(),
        "tuned": tuned.describe(),
        "modes": modes,
        "notes": _notes(base, tuned, suite, modes),
    }


def compare(base: Side, tuned: Side, suite: Suite | None, mode: Mode) -> dict[str, Any] | None:
    """One mode's entry: figures over all cases and by bucket, and the cases won and lost. None without common cases."""
    one, two = base.answers[mode], tuned.answers[mode]
    cases = {case.id: case for case in suite.cases} if suite else {}
    common = [case for case in (cases or one) if case in one and case in two]
    if not common:
        return None
    templates = suite.templates if suite else {}

    def figures(ids: Sequence[str]) -> dict[str, Any]:
        clusters = [("template", templates[i]) if i in templates else ("case", i) for i in ids]
        out: dict[str, Any] = {"n": len(ids)}
        for metric in FIGURES:
            out[metric] = figure([right(one[i], metric) for i in ids], [right(two[i], metric) for i in ids], clusters)
        return out

    def entry(case: str) -> dict[str, Any]:
        known = cases.get(case)
        return {
            "case": case,
            "bucket": one[case]["bucket"],
            "user": known.user if known else None,
            "gold": [call.to_dict() for call in known.calls] if known else None,
            "base": one[case]["calls"],
            "tuned": two[case]["calls"],
        }

    buckets = sorted({one[case]["bucket"] for case in common})
    return {
        "overall": figures(common),
        "by_bucket": {name: figures([case for case in common if one[case]["bucket"] == name]) for name in buckets},
        **{
            metric: {
                "won": [entry(case) for case in common if right(two[case], metric) and not right(one[case], metric)],
                "lost": [entry(case) for case in common if right(one[case], metric) and not right(two[case], metric)],
            }
            for metric in LISTED
        },
    }


def difference_interval(
    base: Sequence[bool], tuned: Sequence[bool], clusters: Sequence[Hashable], *, seed: int = 0
) -> tuple[Interval, str]:
    """95% interval of tuned's share minus base's on the same cases, and the method used.

    "newcombe" where every case stands for itself. Cases of one template are won and lost together: there templates are
    resampled whole ("bootstrap by template", percentiles, seeded). Where every template's difference is the same there
    is nothing to resample, and Newcombe's interval counts templates ("newcombe over templates").
    """
    n, groups = len(base), dict[Hashable, list[int]]()
    for before, after, cluster in zip(base, tuned, clusters, strict=True):
        entry = groups.setdefault(cluster, [0, 0])
        entry[0] += int(after) - int(before)
        entry[1] += 1
    won, lost = _gains(base, tuned), _gains(tuned, base)
    both = sum(a and b for a, b in zip(base, tuned, strict=True))
    if len(groups) == n:
        return newcombe(both, won, lost, n - both - won - lost), "newcombe"
    sums = list(groups.values())
    if all(gain * sums[0][1] == sums[0][0] * size for gain, size in sums):
        scale = len(sums) / n
        counts = (count * scale for count in (both, won, lost, n - both - won - lost))
        return newcombe(*counts), "newcombe over templates"
    import numpy as np

    table = np.asarray(sums, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(sums), size=(RESAMPLES, len(sums)))
    drawn = table[picks].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return (float(low), float(high)), "bootstrap by template"


def newcombe(both: float, first: float, second: float, neither: float) -> Interval:
    """95% interval of p1 - p2 of paired shares (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    `first`: cases that only the first got right, `second`: only the second. Counts may be fractions, their sum
    is a whole number; ``(-1, 1)`` where it is 0.
    """
    n = both + first + second + neither
    if n == 0:
        return -1.0, 1.0
    p1, p2 = (both + first) / n, (both + second) / n
    (low1, high1), (low2, high2) = wilson(both + first, round(n)), wilson(both + second, round(n))
    phi = _phi(both, first, second, neither)
    below = (p1 - low1) ** 2 - 2 * phi * (p1 - low1) * (high2 - p2) + (high2 - p2) ** 2
    above = (high1 - p1) ** 2 - 2 * phi * (high1 - p1) * (p2 - low2) + (p2 - low2) ** 2
    difference = p1 - p2
    return difference - math.sqrt(max(0.0, below)), difference + math.sqrt(max(0.0, above))


def validate(report: dict[str, Any]) -> bool:
    """Check against the committed schema; False where jsonschema is not installed. Raises ValueError."""
    return check_schema(report, SCHEMA_FILE)


def figure(base: Sequence[bool], tuned: Sequence[bool], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """One metric of two sides on the same cases: both shares, the difference, intervals, McNemar's exact test."""
    test = paired(dict(enumerate(base)), dict(enumerate(tuned)))
    interval, method = difference_interval(base, tuned, clusters)
    out: dict[str, Any] = {}
    for label, outcomes in (("base", base), ("tuned", tuned)):
        share_interval, share_method = proportion_interval(outcomes, clusters)
        out[label] = {"share": sum(outcomes) / len(outcomes), "ci95": list(share_interval), "ci_method": share_method}
    return out | {
        "difference": (sum(tuned) - sum(base)) / len(base),
        "difference_ci95": list(interval),
        "difference_ci_method": method,
        "won": test.b_only,
        "lost": test.a_only,
        "p": test.p,
    }


def _check_comparable(base: Side, tuned: Side) -> None:
    if base.toolset_sha256 != tuned.toolset_sha256:
        raise UserError(
            f"{base.source} and {tuned.source}: judged with different toolsets ({base.toolset} "
            f"{base.toolset_sha256[:8]}, {tuned.toolset} {tuned.toolset_sha256[:8]}); run both with the same"
        )
    if base.suite["sha256"] != tuned.suite["sha256"]:
        raise UserError(
            f"{base.source} and {tuned.source}: answered different cases ({base.suite['name']} "
            f"{base.suite['sha256'][:8]}, {tuned.suite['name']} {tuned.suite['sha256'][:8]}); run both on the same"
        )


def _notes(base: Side, tuned: Side, suite: Suite | None, modes: dict[Mode, dict[str, Any] | None]) -> list[str]:
    """What a reader must know before believing the figures."""
    notes = [f"suite: {note}" for note in base.suite.get("notes", [])]
    notes += [f"{side.label}: {warning}" for side in (base, tuned) for warning in side.warnings]
    if base.model["sha256"] == tuned.model["sha256"]:
        notes.append("base and tuned are the same weights before quantization; what differs is not training")
    for key, what in (("artifact", "artifacts"), ("runtime", "runtimes"), ("dtype", "number formats")):
        if base.run[key] != tuned.run[key]:
            notes.append(f"the {what} differ ({base.run[key]}, {tuned.run[key]}): the difference includes theirs")
    for mode, found in modes.items():
        if found is None:
            notes.append(f"{mode}: not answered by both, so not compared")
        elif found["overall"]["n"] != base.suite["cases"]:
            notes.append(f"{mode}: {found['overall']['n']} of {base.suite['cases']} cases, those that both answered")
    if suite is None:
        notes.append("the cases are not at hand: no requests are shown, and intervals take every case as independent")
    return notes


def _gains(before: Sequence[bool], after: Sequence[bool]) -> int:
    return sum(b and not a for a, b in zip(before, after, strict=True))


def _phi(both: float, first: float, second: float, neither: float) -> float:
    """Correlation of the pairs; where positive, n/2 is taken off the cross product first (Newcombe 1998)."""
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    if product == 0:
        return 0.0
    cross = both * neither - first * second
    if cross > 0:
        cross = max(0.0, cross - (both + first + second + neither) / 2)
    return cross / math.sqrt(product)
