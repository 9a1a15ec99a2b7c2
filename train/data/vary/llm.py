"""Variation by a language model: every answer is read, compared with what there is, and held to the case's values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from router.cases import Case, correct
from router.toolset import Toolset
from router.validate import schema_errors
from train.data.leakage import normalised
from train.data.vary.asking import Asker, StoppedError
from train.data.vary.clients import RefusedError
from train.data.vary.prompts import check_question, read_calls, read_requests, vary_question
from train.data.vary.spending import BudgetError
from train.data.vary.values import Said, keeps

ROUNDS: Final = 3
"""Questions for one case until it has the variations that were wanted."""
_REMARKS: Final = {
    "unreadable": "the last answer was no JSON of the form that was asked for",
    "duplicate": "said already: {text}",
    "value": "loses a value that must be kept: {text}",
    "length": "too long: {text}",
    "call": "asks for something else: {text}",
}
"""Why a variation is not taken -> what the model is told."""


@dataclass(frozen=True)
class Asking:
    """How to ask: a hint for the model in the user's words, and whether each variation's calls are derived again."""

    hint: str = ""
    check: bool = False
    max_tokens: int = 2048
    temperature: float | None = None


@dataclass
class Outcome:
    """What asking for one case gave."""

    texts: list[str] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    cut_short: bool = False
    """The budget ended, or the run was stopped, before the case had its variations."""


def vary_case(
    case: Case, said: Said, toolset: Toolset, count: int, asker: Asker, asking: Asking, taken: Container[str]
) -> Outcome:
    """Up to `count` variations of a case; `taken` holds requests (`normalised`) that there are already."""
    outcome = Outcome()
    own: set[str] = {normalised(case.user)}
    remarks: list[str] = []  # they add up, so that no question is put twice: its answer would come from the cache
    try:
        for _ in range(ROUNDS):
            missing = count - len(outcome.texts)
            question = vary_question(
                case, toolset, said, missing, known=outcome.texts, remarks=remarks, hint=asking.hint,
                max_tokens=asking.max_tokens, temperature=asking.temperature,
            )  # fmt: skip
            try:
                texts = read_requests(asker.ask(question))
            except ValueError:
                _reject(outcome, remarks, "unreadable")
                continue
            for text in texts:
                if len(outcome.texts) == count:
                    break
                reason = _fault(text, case, said, own, taken)
                if reason is None and asking.check and not _same_calls(text, case, toolset, asker, asking):
                    reason = "call"
                if reason is not None:
                    _reject(outcome, remarks, reason, text)
                    continue
                own.add(normalised(text))
                outcome.texts.append(text)
            if len(outcome.texts) == count:
                break
    except (BudgetError, StoppedError):
        outcome.cut_short = True
    except RefusedError:
        outcome.rejected["refused"] += 1
    return outcome


def _fault(text: str, case: Case, said: Said, own: set[str], taken: Container[str]) -> str | None:
    """Why a variation cannot be taken, by its words alone."""
    plain = normalised(text)
    if not plain or plain in own or plain in taken:
        return "duplicate"
    if len(text) > 4 * len(case.user) + 200:
        return "length"
    return "value" if keeps(text, said) is not None else None


def _same_calls(text: str, case: Case, toolset: Toolset, asker: Asker, asking: Asking) -> bool:
    """Whether the model, shown the variation alone, makes the calls of the case."""
    try:
        calls = read_calls(asker.ask(check_question(text, toolset, max_tokens=asking.max_tokens)))
    except (ValueError, RefusedError):
        return False
    valid = not any(schema_errors(call, toolset) for call in calls)
    return valid and correct(case, calls, toolset)


def _reject(outcome: Outcome, remarks: list[str], reason: str, text: str = "") -> None:
    outcome.rejected[reason] += 1
    remarks.append(_REMARKS[reason].format(text=text))
