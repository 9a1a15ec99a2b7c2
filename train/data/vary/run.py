"""Varying a file of cases: which cases can be varied, by what, in which order the results are written."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from router.cases import Case
from router.toolset import Toolset
from train.data.leakage import normalised
from train.data.vary.asking import Asker
from train.data.vary.llm import Asking, Outcome, vary_case
from train.data.vary.rules import vary
from train.data.vary.values import Said, said_in, values_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to make of every case."""

    rules: tuple[str, ...] = ()
    per_case: int = 3
    """Variations by rules, and as many by a model."""
    seed: int = 0
    originals: bool = False
    """Whether the cases themselves are written as well, each before its variations."""
    asking: Asking | None = None
    threads: int = 4


@dataclass(frozen=True)
class Subject:
    """A case, and where its request says its values."""

    case: Case
    said: Said

    @property
    def sure(self) -> bool:
        """Whether every copied value was found, so that it can be seen to survive."""
        return not self.said.missing


def vary_cases(
    cases: Sequence[Case],
    toolset: Toolset,
    plan: Plan,
    *,
    asker: Asker | None = None,
    against: Iterable[Case] = (),
    say: Say = lambda line: None,
) -> tuple[list[Case], dict[str, Any]]:
    """The variations in the order of the cases, and a report. No variation repeats a case of `against`.

    Cases whose values are not found in their request are left as they are and counted, unless a model checks every
    variation. What is made does not depend on the number of threads, as long as the budget lasts.
    """
    subjects = [Subject(case, said_in(case.user, values_of(case, toolset))) for case in cases]
    forbidden = {normalised(case.user) for case in against}
    taken = forbidden | {normalised(case.user) for case in cases}
    outcomes = _ask_all(subjects, toolset, plan, asker, taken, say)
    writer = _Writer(plan, forbidden, cases)
    for subject, outcome in zip(subjects, outcomes, strict=True):
        writer.add(subject, outcome)
    return writer.cases, writer.report(subjects, outcomes)


def write_cases(cases: Iterable[Case], path: Path) -> None:
    """Write JSON lines, by way of a temporary file beside `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for case in cases:
                file.write(json.dumps(case.to_dict(), ensure_ascii=False) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _ask_all(
    subjects: Sequence[Subject], toolset: Toolset, plan: Plan, asker: Asker | None, taken: set[str], say: Say
) -> list[Outcome | None]:
    """What the model said to every case that it may vary; None for the others."""
    asking = plan.asking
    if asker is None or asking is None:
        return [None] * len(subjects)

    def ask(subject: Subject) -> Outcome:
        return vary_case(subject.case, subject.said, toolset, plan.per_case, asker, asking, taken)

    outcomes: list[Outcome | None] = []
    pool = ThreadPoolExecutor(plan.threads)
    try:
        futures: list[Future[Outcome] | None] = [
            pool.submit(ask, subject) if subject.sure or asking.check else None for subject in subjects
        ]
        for number, future in enumerate(futures, start=1):
            outcomes.append(future.result() if future else None)
            if number % max(len(futures) // 20, 1) == 0 or number == len(futures):
                say(f"{number} of {len(futures)} cases{_cost(asker)}")
    except BaseException:  # an interruption, or an endpoint that answers nothing: what was bought is in the cache
        asker.stop()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
    return outcomes


def _cost(asker: Asker) -> str:
    purse = asker.purse
    if purse.price is None:
        return ""
    return f", ${purse.spent:.4f}" + (f" of ${purse.cap:g}" if purse.cap is not None else "")


class _Writer:
    """Gathers what is written. Of two cases that came upon the same variation, the earlier has it."""

    def __init__(self, plan: Plan, forbidden: set[str], originals: Sequence[Case]) -> None:
        self.plan = plan
        self.cases: list[Case] = []
        self.made: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.varied = 0
        self._forbidden = forbidden
        self._texts = {case.user for case in originals}
        self._ids = {case.id for case in originals}

    def add(self, subject: Subject, outcome: Outcome | None) -> None:
        # Variations of one case are no independent draws: they are resampled together.
        case = replace(subject.case, template=subject.case.template or f"case {subject.case.id}")
        if self.plan.originals:
            self.cases.append(case)
        before = len(self.cases)
        if self.plan.rules and subject.sure:
            seed = f"{self.plan.seed}/{case.id}"
            for variation in vary(case.user, subject.said, self.plan.rules, self.plan.per_case, seed):
                self._put(case, variation.text, "+".join(variation.rules))
        for text in outcome.texts if outcome else ():
            self._put(case, text, "llm")
        if outcome:
            self.rejected.update(outcome.rejected)
        self.varied += len(self.cases) > before

    def _put(self, case: Case, text: str, made_by: str) -> None:
        if normalised(text) in self._forbidden:
            self.rejected["against"] += 1
            return
        if text in self._texts:
            self.rejected["duplicate"] += 1
            return
        self._texts.add(text)
        number = 1
        while (name := f"{case.id}~{made_by}.{number}") in self._ids:
            number += 1
        self._ids.add(name)
        self.cases.append(replace(case, id=name, user=text))
        self.made.update(made_by.split("+"))

    def report(self, subjects: Sequence[Subject], outcomes: Sequence[Outcome | None]) -> dict[str, Any]:
        unsure = [subject for subject in subjects if not subject.sure]
        return {
            "cases": len(subjects),
            "varied": self.varied,
            "written": len(self.cases),
            "made_by": dict(sorted(self.made.items())),
            "rejected": dict(sorted(self.rejected.items())),
            "values_not_in_request": {
                "cases": len(unsure),
                "first": [{"id": s.case.id, "missing": list(s.said.missing)} for s in unsure[:3]],
            },
            "cut_short": sum(1 for outcome in outcomes if outcome and outcome.cut_short),
        }
