"""What counts as right: the verdict on one answer, and the figures over many.

Per case, against the gold calls: `syntax_valid` (it parses), `schema_valid` (tool exists, required parameters present,
types, enums and bounds hold, nothing unknown), `tool` (names and their order), `exact` (names and arguments equal after
normalisation, or equal to an accepted alternative), `no_call` (none made where none is right, and the reverse).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.stats import proportion_interval
from router.cases import Case, correct
from router.toolset import Call, Toolset
from router.validate import schema_errors

FIGURES = ("exact", "tool", "schema_valid", "syntax_valid", "no_call")


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer; `problems` says what the schema does not allow."""

    syntax_valid: bool
    schema_valid: bool
    tool: bool
    exact: bool
    no_call: bool
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        out = asdict(self)
        out["problems"] = list(self.problems)
        return out


def judge(case: Case, calls: Sequence[Call] | None, toolset: Toolset) -> Verdict:
    """The verdict on what was answered to a case; `calls` is None where the answer could not be parsed."""
    if calls is None:
        return Verdict(False, False, False, False, False, ("not parseable",))
    answers = [list(case.calls), *(list(accepted) for accepted in case.accept)]
    names = [call.name for call in calls]
    problems = tuple(problem for call in calls for problem in schema_errors(call, toolset))
    return Verdict(
        syntax_valid=True,
        schema_valid=not problems,
        tool=any(names == [call.name for call in answer] for answer in answers),
        exact=correct(case, list(calls), toolset),
        no_call=any(bool(names) == bool(answer) for answer in answers),
        problems=problems,
    )


def summarize(
    cases: Iterable[Case], verdicts: Mapping[str, Verdict], templates: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The `accuracy` entry of the report over the cases that have a verdict, whole and by bucket."""
    judged = [case for case in cases if case.id in verdicts]
    out = _figures(judged, verdicts, templates or {})
    if not judged:
        return out | {"by_bucket": {}}
    wrongly = [case for case in judged if not verdicts[case.id].no_call]
    out["missed_calls"] = sum(bool(case.calls) for case in wrongly)
    out["false_calls"] = sum(not case.calls for case in wrongly)
    names = sorted({case.bucket for case in judged})
    out["by_bucket"] = {
        name: _figures([case for case in judged if case.bucket == name], verdicts, templates or {}) for name in names
    }
    return out


def call_shares(
    cases: Iterable[Case], verdicts: Mapping[str, Verdict], templates: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """No-call in both directions: `declined`, of the requests that no tool serves the share answered with no call, and
    `called`, of those that a tool serves the share answered with a call. None where there are no such requests.

    What a case accepts beside its gold calls counts as right; an answer that cannot be parsed is wrong in both.
    """
    judged = [case for case in cases if case.id in verdicts]
    out: dict[str, Any] = {}
    for name, chosen in (
        ("declined", [case for case in judged if not case.calls]),
        ("called", [case for case in judged if case.calls]),
    ):
        outcomes = [verdicts[case.id].no_call for case in chosen]
        out[name] = None
        if outcomes:
            interval, method = proportion_interval(outcomes, _clusters(chosen, templates or {}))
            share = sum(outcomes) / len(outcomes)
            out[name] = {"n": len(outcomes), "share": share, "ci95": list(interval), "ci_method": method}
    return out


def _clusters(cases: Sequence[Case], templates: Mapping[str, str]) -> list[tuple[str, str]]:
    return [("template", templates[c.id]) if c.id in templates else ("case", c.id) for c in cases]


def _figures(cases: Sequence[Case], verdicts: Mapping[str, Verdict], templates: Mapping[str, str]) -> dict[str, Any]:
    n = len(cases)
    if n == 0:
        return {"n": 0} | dict.fromkeys(FIGURES)
    out: dict[str, Any] = {"n": n}
    clusters = _clusters(cases, templates)
    for figure in FIGURES:
        outcomes = [bool(getattr(verdicts[case.id], figure)) for case in cases]
        out[figure] = sum(outcomes) / n
        if figure in ("exact", "tool"):
            interval, method = proportion_interval(outcomes, clusters)
            out[f"{figure}_ci95"] = list(interval)
            out[f"{figure}_ci_method"] = method
    return out
