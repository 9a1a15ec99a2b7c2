"""How right every adapter of a model is, each on its own toolset. Figures alone; nothing is run here.

`build` makes the report of what was measured; its schema is ``accuracy.schema.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.accuracy_cases import ALL, CORPORA, CORPUS, Subject, in_order
from bench.metrics import call_shares, summarize
from bench.records import MODES, Run, described
from bench.report import check_schema, passes, stamp
from bench.stats import percentile
from router.cases import Case

SCHEMA: Final = "edgecall.accuracy/1"
SCHEMA_FILE: Final = Path(__file__).with_name("accuracy.schema.json")


@dataclass(frozen=True)
class Measured:
    """What came of one subject: the run with its verdicts, or the reason why there is none.

    `failed`: it was tried, rather than left out.
    """

    subject: Subject
    run: Run | None = None
    model: dict[str, Any] | None = None
    reason: str | None = None
    failed: bool = False


@dataclass(frozen=True)
class About:
    """What a report says beside its figures."""

    model: str
    """As it was given."""
    variant: str
    suite: str
    data: str | None
    limit: int | None
    machine: dict[str, Any]
    command: str


def build(about: About, measured: Sequence[Measured]) -> dict[str, Any]:
    """The whole report as plain data."""
    return {
        **stamp(SCHEMA, about.command),
        "machine": about.machine,
        "model": about.model,
        "variant": about.variant,
        "suite": about.suite,
        "data": about.data,
        "limit": about.limit,
        "toolsets": [_entry(one) for one in measured],
    }


def validate(report: dict[str, Any]) -> bool:
    """Check against the committed schema; False where jsonschema is not installed. Raises ValueError."""
    return check_schema(report, SCHEMA_FILE)


def figures(run: Run, subject: Subject) -> dict[str, Any]:
    """Set -> mode -> figures, in the order of reports; ``corpora`` and ``all`` are those sets together.

    A mode without answers is None.
    """
    assert subject.suite is not None and subject.sets is not None
    suite, sets = subject.suite, subject.sets
    groups: dict[str, list[Case]] = {}
    for case in suite.cases:
        groups.setdefault(sets[case.id], []).append(case)
    groups = {name: groups[name] for name in in_order(list(groups))}
    from_corpora = [case for case in suite.cases if sets[case.id].startswith(CORPUS)]
    if from_corpora:
        groups[CORPORA] = from_corpora
    groups[ALL] = list(suite.cases)
    out: dict[str, Any] = {}
    for name, cases in groups.items():
        out[name] = {}
        for mode in MODES:
            verdicts = run.verdicts[mode]
            known = any(case.id in verdicts for case in cases)
            both = summarize(cases, verdicts, suite.templates) | call_shares(cases, verdicts, suite.templates)
            out[name][mode] = both if known else None
    return {name: found for name, found in out.items() if any(found.values())}


def _entry(one: Measured) -> dict[str, Any]:
    subject, run = one.subject, one.run
    suite = subject.suite
    done = run is not None
    notes = [f"suite: {note}" for note in suite.notes] if suite else []
    return {
        "toolset": subject.name,
        "toolset_sha256": subject.toolset.sha256 if subject.toolset else None,
        "adapter": subject.adapter,
        "status": "measured" if done else "failed" if one.failed else "not measured",
        "reason": None if done else one.reason or subject.reason,
        "model": one.model,
        "run": described(run) if run else None,
        "suite": suite.describe() if suite else None,
        "sets": figures(run, subject) if run else {},
        "decoding": _decoding(run) if run else None,
        "notes": [*notes, *(run.warnings if run else ())],
    }


def _decoding(run: Run) -> dict[str, Any] | None:
    """Means of tokens and passes with the grammar, and the median of the router's own clock while it was judged."""
    found = passes(run)
    if found is None:
        return None
    spent = [a.stats["total_ms"] for a in run.answers["grammar"].values() if not a.checked and a.stats]
    return found | {"ms_p50": percentile(spent, 50)}
