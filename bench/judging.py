"""The stages that judge: every case on every worker, and logits and calls against the reference's."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.fleet import Member
from bench.metrics import judge
from bench.records import MODES, Answer, Mode
from bench.screen import Bars
from router.cases import Case, same_calls

if TYPE_CHECKING:
    from bench.run import Bench

CUT, LEAST_CUT_S = 4.0, 120.0
"""A worker may take this many times its share of the time for accuracy before it is cut short."""


def answers(bench: Bench, members: Sequence[Member], reference: Member | None, deadline: float) -> None:
    """Every case on every worker, with the grammar and without, and its logits against the reference's.

    The reference goes first: its completions guide slow workers, its rows are what the others' are compared with.
    """
    recorded: Path | None = None
    guesses: dict[str, str] = {}
    order = sorted(members, key=lambda m: (m is not reference, m.run.opened["request_ms"]))
    with bench.screen.progress() as bars:
        for index, member in enumerate(order):
            share = max(1.0, deadline - time.monotonic()) / (len(order) - index)
            work = partial(_answer, bench, member, member is reference, guesses, recorded, share, bars)
            member.attempt("accuracy", work, bench.screen.failed)
            if member is reference and member.alive:
                guesses = _guesses(bench, member)
                recorded = member.attempt("parity", partial(_record, bench, member, bars), bench.screen.failed)
            bars.end(member.run.name)
            if member.alive:
                _tell(bench, member)


def _answer(
    bench: Bench, member: Member, first: bool, guesses: dict[str, str], recorded: Path | None, share: float, bars: Bars
) -> None:
    """All cases on one worker. Answers are kept as they come, so a crash keeps those before it."""
    run, cases = member.run, {case.id: case for case in bench.suite.cases}
    bars.start(run.name, len(bench.settings.modes) * len(cases))

    def keep(event: dict[str, Any]) -> None:
        mode: Mode = event["mode"]
        answer = Answer.from_event(event)
        run.answers[mode][answer.case] = answer
        run.verdicts[mode][answer.case] = judge(cases[answer.case], answer.calls, bench.toolset)
        bars.update(run.name, sum(len(run.answers[mode]) for mode in MODES))

    result = member.call(
        "answer",
        on_event=keep,
        guesses=guesses,
        always_route=first,
        reference=None if recorded is None else str(recorded),
        seconds=share,
        cut=max(CUT * share, LEAST_CUT_S),
        modes=list(bench.settings.modes),
    )
    run.opened |= {key: result[key] for key in ("peak_rss_mb", "device_memory_mb")}
    run.parity = result["parity"]
    missing = len(cases) - len(run.answers["grammar"])
    if missing:
        run.warnings.append(f"accuracy: {missing} cases were not reached in {result['seconds']:.0f} s")
    if run.parity is not None and run.parity["sequences"] < run.parity["of_sequences"] - 1:
        run.warnings.append(
            f"parity: {run.parity['sequences']} of {run.parity['of_sequences'] - 1} sequences in the time given"
        )


def _guesses(bench: Bench, reference: Member) -> dict[str, str]:
    """The reference's completions by case, a file for each mode, for workers too slow to decode pass by pass."""
    paths: dict[str, str] = {}
    for mode in MODES:
        path = bench.scratch / f"guesses-{mode}.json"
        known = reference.run.answers[mode].values()
        path.write_text(json.dumps({answer.case: answer.token_ids for answer in known}), encoding="utf-8")
        paths[mode] = str(path)
    return paths


def _record(bench: Bench, reference: Member, bars: Bars) -> Path:
    """The reference's teacher-forced rows, in a file."""
    path = bench.scratch / "reference.npz"
    reference.call(
        "record",
        on_event=lambda event: bars.describe(reference.run.name, f"logits of {event['done']} sequences"),
        path=str(path),
        own=str(bench.scratch / "guesses-grammar.json"),
        window=bench.window,
    )
    return path


def _tell(bench: Bench, member: Member) -> None:
    run, parts = member.run, []
    for mode, name in zip(MODES, ("exact", "without grammar"), strict=True):
        verdicts = run.verdicts[mode].values()
        if verdicts:
            parts.append(f"{name} {sum(v.exact for v in verdicts) / len(verdicts):6.1%}")
    parts.append(f"of {len(run.verdicts['grammar'])}")
    if run.parity is not None and run.parity["max_abs_logit"] is not None:
        parts.append(f"  logits within {run.parity['max_abs_logit']:.2g} of the reference's")
    checked = sum(answer.checked for answer in run.answers["grammar"].values())
    if checked:
        parts.append(f"  ({checked} along a guess)")
    bench.screen.done(run.name, " ".join(parts))


def agreement(bench: Bench, members: Sequence[Member], reference: Member) -> None:
    """`same_calls` of every run, and each disagreement with the margins of its first differing decision."""
    cases = {case.id: case for case in bench.suite.cases}
    theirs = reference.run.answers["grammar"]
    for member in members:
        if member is reference:
            continue
        own = member.run.answers["grammar"]
        common = [case for case in cases if case in own and case in theirs]
        same = {case: _same(bench, own[case], theirs[case]) for case in common}
        member.run.same_calls = same
        differing = [case for case in common if not same[case]]
        if differing:
            member.run.disagreements = _explain(bench, member, reference, [cases[case] for case in differing])


def _same(bench: Bench, a: Answer, b: Answer) -> bool:
    if a.calls is None or b.calls is None:
        return a.calls is None and b.calls is None
    return same_calls(a.calls, b.calls, bench.toolset)


def _explain(bench: Bench, member: Member, reference: Member, cases: list[Case]) -> list[dict[str, Any]]:
    own, theirs = member.run.answers["grammar"], reference.run.answers["grammar"]
    items, entries = [], []
    for case in cases:
        here, there = own[case.id], theirs[case.id]
        at = first_difference(here.token_ids, there.token_ids)
        entries.append(
            {
                "case": case.id,
                "user": case.user,
                "calls": _plain(here),
                "reference_calls": _plain(there),
                "reference_margin": None,
                "margin": None,
                "at_token": at,
                "tokens": None,
            }
        )
        if at is not None:
            items.append(
                {"case": case.id, "before": there.token_ids[:at], "a": there.token_ids[at], "b": here.token_ids[at]}
            )
    by_case = {entry["case"]: entry for entry in entries}
    for key, asked in (("reference_margin", reference), ("margin", member)):
        found = asked.attempt("parity", partial(asked.call, "margins", items=items), bench.screen.failed)
        for row in (found or {}).get("margins", []):
            by_case[row["case"]][key] = row["margin"]
            by_case[row["case"]]["tokens"] = row["tokens"]
    return entries


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first index at which both have a token and the tokens differ; None where one begins the other."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)


def _plain(answer: Answer) -> list[dict[str, Any]] | None:
    return None if answer.calls is None else [call.to_dict() for call in answer.calls]
