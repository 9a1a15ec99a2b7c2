"""The stages that judge: every case on every worker, and logits and calls against the reference's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.fleet import Member
from bench.metrics import judge
from bench.records import MODES, Answer, Mode
from router.cases import Case, same_calls

if TYPE_CHECKING:
    from bench.run import Bench

CUT = 4.0
"""A worker may take this many times its share of the time for accuracy before it is cut short."""


def answers(bench: Bench, members: Sequence[Member], reference: Member | None, deadline: float) -> None:
    """Every case on every worker, with the grammar and without; the reference first, its answers guide slow ones."""
    order = sorted(members, key=lambda m: (m is not reference, m.run.opened["request_ms"]))
    jobs = [(mode, member) for mode in MODES for member in order]
    with bench.screen.progress() as bars:
        for index, (mode, member) in enumerate(jobs):
            share = max(1.0, deadline - time.monotonic()) / (len(jobs) - index)
            guesses = _guesses(bench.scratch / f"guesses-{mode}.json", reference, member, mode)
            label = f"{member.run.name} {mode}"
            bars.start(label, len(bench.suite.cases))
            member.attempt(
                "accuracy",
                partial(_answer, bench, member, mode, guesses, share, partial(bars.update, label)),
                bench.screen.failed,
            )
            bars.end(label)
            if member.alive:
                _tell(bench, member, mode)


def _answer(
    bench: Bench, member: Member, mode: Mode, guesses: Path | None, share: float, tick: Callable[[int], None]
) -> None:
    """One mode on one worker. Answers are kept as they come, so a crash keeps those before it."""
    run, cases = member.run, {case.id: case for case in bench.suite.cases}

    def keep(event: dict[str, Any]) -> None:
        answer = Answer.from_event(event)
        run.answers[mode][answer.case] = answer
        run.verdicts[mode][answer.case] = judge(cases[answer.case], answer.calls, bench.toolset)
        tick(len(run.answers[mode]))

    result = member.call(
        "answer",
        on_event=keep,
        grammar=mode == "grammar",
        guesses=None if guesses is None else str(guesses),
        always_route=run is bench.reference and mode == "grammar",
        seconds=share,
        cut=max(CUT * share, 60.0),
    )
    missing = len(cases) - len(run.answers[mode])
    if missing:
        run.warnings.append(f"{mode}: {missing} cases were not reached in {result['seconds']:.0f} s")
    if mode == "grammar":  # routing as a user does; later stages need memory of their own
        run.opened |= {key: result[key] for key in ("peak_rss_mb", "device_memory_mb")}


def _guesses(path: Path, reference: Member | None, member: Member, mode: Mode) -> Path | None:
    """The reference's completions by case, for workers too slow to decode pass by pass."""
    if reference is None or member is reference:
        return None
    known = reference.run.answers[mode] or reference.run.answers["grammar"]
    path.write_text(json.dumps({case: answer.token_ids for case, answer in known.items()}))
    return path


def _tell(bench: Bench, member: Member, mode: Mode) -> None:
    verdicts = member.run.verdicts[mode].values()
    if verdicts:
        exact, tool = sum(v.exact for v in verdicts), sum(v.tool for v in verdicts)
        n = len(verdicts)
        checked = sum(answer.checked for answer in member.run.answers[mode].values())
        how = f"  ({checked} decoded along a guess)" if checked else ""
        bench.screen.done(member.run.name, f"{mode:<14} exact {exact / n:6.1%}  tool {tool / n:6.1%}  of {n}{how}")


def parity(bench: Bench, members: Sequence[Member], reference: Member, deadline: float) -> None:
    """Teacher-forced logits of every worker against the reference's."""
    path = bench.scratch / "reference.npz"
    own = {case: answer.token_ids for case, answer in reference.run.answers["grammar"].items()}
    guesses = bench.scratch / "own.json"
    guesses.write_text(json.dumps(own))
    with bench.screen.progress() as bars:

        def ask(member: Member, command: str, seconds: float, **arguments: Any) -> Any:
            bars.start(member.run.name, None)
            try:
                return member.attempt(
                    "parity",
                    lambda: member.call(
                        command, path=str(path), seconds=seconds,
                        on_event=lambda event: bars.update(member.run.name, event["done"]), **arguments,
                    ),
                    bench.screen.failed,
                )  # fmt: skip
            finally:
                bars.end(member.run.name)

        share = max(1.0, deadline - time.monotonic()) / len(members)
        if ask(reference, "record", share, own=str(guesses), window=bench.window) is None:
            return
        others = [member for member in members if member is not reference]
        for index, member in enumerate(sorted(others, key=lambda m: m.run.opened["request_ms"])):
            share = max(1.0, deadline - time.monotonic()) / (len(others) - index)
            member.run.parity = ask(member, "compare", share)
            found = member.run.parity
            if found is not None:
                bench.screen.done(
                    member.run.name,
                    f"max |logit difference| {found['max_abs_logit']:.2g}, mean KL {found['mean_kl'] or 0:.2g}, "
                    f"top-1 {found['top1_agreement'] or 0:.3%} of {found['top1_rows']} rows",
                )
                if found["sequences"] < found["of_sequences"] - 1:
                    member.run.warnings.append(
                        f"parity: {found['sequences']} of {found['of_sequences']} sequences in the time given"
                    )


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
        at = _first_difference(here.token_ids, there.token_ids)
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


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first index at which both have a token and the tokens differ; None where one begins the other."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)


def _plain(answer: Answer) -> list[dict[str, Any]] | None:
    return None if answer.calls is None else [call.to_dict() for call in answer.calls]
