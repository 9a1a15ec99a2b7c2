"""One decoding as the passes that it asks for; `router.decode` makes them on a session, or those of many together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from math import isfinite
from time import perf_counter
from typing import Final

import numpy as np

from router.grammar import GrammarError, Matcher
from router.guess import Guide, Prices, Step
from runtimes.base import Logits, Pass, Rows
from runtimes.errors import UserError

MAX_NEW_TOKENS: Final = 512
"""Tokens of a completion, forced ones included: several long calls. What is not finished by then runs in circles."""


class DecodeError(UserError):
    """A model that cannot be decoded: its context is full, or its logits are no numbers."""


@dataclass(frozen=True)
class Decision:
    """One token that the model chose."""

    position: int
    """Of the chosen token in the whole sequence, from 0."""
    allowed: int
    """Among how many tokens."""
    chosen: int
    margin: float
    """Logit of the chosen token minus that of the next best allowed one; infinite where there is none."""


@dataclass(frozen=True)
class Decoded:
    """A completion as token ids, what it took, and why it is unfinished if it is."""

    token_ids: list[int]
    forced_tokens: int
    decided_tokens: int
    passes: list[Pass]
    """Every forward pass, in order."""
    first_decision_ms: float
    """From the start of decoding to the first token that the model chose; 0 where it chose none."""
    total_ms: float
    model_ms: float
    """Within `Session.append`."""
    grammar_ms: float
    """Within the grammar: forced tokens, masks, steps."""
    error: str | None = None
    decisions: list[Decision] | None = None
    """Every choice, where it was asked for."""
    guessed_tokens: int = 0
    """Tokens appended as guesses,"""
    guessed_right: int = 0
    """and those of them that stayed."""
    pass_starts: list[int] = field(default_factory=list)
    """For each pass the index in `token_ids` of the first token that it decided."""

    @property
    def forward_passes(self) -> int:
        return len(self.passes)

    @property
    def pass_sizes(self) -> list[int]:
        """Tokens appended in each forward pass."""
        return [len(one.tokens) for one in self.passes]


class Run:
    """One decoding: which passes it asks for, its counts and clocks. Whoever drives it makes the passes, rewinding to
    where each starts, and sends their logits."""

    def __init__(
        self,
        position: int,
        context_length: int | None,
        record: bool,
        guide: Guide | None = None,
        tie: float = 0.0,
        prices: Prices | None = None,
    ) -> None:
        self.start = self.position = position
        self.context_length = context_length
        self.begun = perf_counter()
        self.first: float | None = None
        self.model = 0.0
        self.grammar = 0.0
        self.ids: list[int] = []
        self.forced = 0
        self.passes: list[Pass] = []
        self.starts: list[int] = []
        self.guide = guide
        self.tie = tie
        self.prices = prices
        self.guessed = self.right = 0
        self.decisions: list[Decision] | None = [] if record else None

    def took(self, one: Pass, seconds: float) -> None:
        """A pass was made."""
        self.model += seconds
        if self.prices is not None:
            self.prices.record(len(one.tokens), 1 if isinstance(one.rows, str) else len(one.rows), seconds)

    def constrained(self, request: Sequence[int], matcher: Matcher, limit: int) -> Generator[Pass, Logits, Decoded]:
        pending = list(request)
        error = None
        try:
            self.force(matcher, pending)
            while not matcher.finished:
                if len(self.ids) >= limit:
                    error = f"no end of the completion within {limit} tokens"
                    break
                steps = self.steps(matcher, pending)
                if steps:
                    pending = yield from self.guess(pending, steps, matcher, limit)
                else:
                    logits = yield self.append(pending)
                    pending = self.follow(self.choose(logits, matcher), matcher)
            if self.guide is not None and error is None:
                self.guide.finish()
        except GrammarError as problem:
            error = str(problem)
        return self.result(error)

    def follow(self, token: int, matcher: Matcher) -> list[int]:
        """A chosen token and what the grammar forces behind it."""
        pending = [token]
        self.force(matcher, pending)
        return pending

    def steps(self, matcher: Matcher, pending: list[int]) -> list[Step]:
        if self.guide is None:
            return []
        clock = perf_counter()
        position, limit = self.position + len(pending), self.context_length
        steps = self.guide.steps(matcher, MAX_NEW_TOKENS if limit is None else limit - position)
        self.grammar += perf_counter() - clock
        return steps

    def guess(
        self, pending: list[int], steps: list[Step], matcher: Matcher, limit: int
    ) -> Generator[Pass, Logits, list[int]]:
        """One pass over `pending` and a guess behind it: as many decisions as it is right about and one more.

        What is appended next.
        """
        assert self.guide is not None
        begin, start = self.position, 0
        tokens = [*pending, *(token for step in steps for token in (step.token, *step.forced))]
        ends = list(accumulate((step.rows for step in steps), initial=len(pending)))
        rows = yield self.append(tokens, [end - 1 for end in ends])
        if not rows.flags.writeable:
            rows = rows.copy()
        self.guessed += len(tokens) - len(pending)
        for row, end, step in zip_longest(rows, ends, steps):
            if self.tied(row, matcher):
                self.position = begin + start
                logits = yield self.append(tokens[start:end])
                return self.follow(self.choose(logits, matcher), matcher)
            following = self.follow(self.choose(row, matcher), matcher)
            if step is None:
                break
            right = following[0] == step.token
            self.guide.checked(step, right)
            if not right or len(self.ids) >= limit:
                self.position = begin + end
                break
            self.right += step.rows
            start = end
        return following

    def tied(self, logits: Logits, matcher: Matcher) -> bool:
        """Whether another rounding of these logits might decide otherwise."""
        best = int(logits.argmax())
        top = float(logits[best])
        logits[best] = -np.inf
        second = float(logits.max(initial=-np.inf))
        logits[best] = top
        return not top - second > self.tie or not matcher.allows(best)

    def force(self, matcher: Matcher, pending: list[int]) -> None:
        """Add the tokens that the grammar forces to the result and to what is appended next."""
        clock = perf_counter()
        ids = matcher.forced()
        if self.guide is not None:
            self.guide.forced(ids)
        self.grammar += perf_counter() - clock
        self.ids += ids
        self.forced += len(ids)
        pending += ids

    def choose(self, logits: Logits, matcher: Matcher) -> int:
        """The allowed token with the highest logit, of equal ones the lowest id.

        The best token of all is most often allowed, and asking that is much cheaper than the mask of a free string.
        """
        clock = perf_counter()
        copied = matcher.copied
        best = int(logits.argmax())
        self.check(float(logits[best]))
        if self.decisions is not None or not matcher.take(best):
            ids = matcher.allowed(len(logits))
            if len(ids) == 0:
                raise GrammarError("the grammar cannot go on: it allows no token of the model's vocabulary")
            values = logits[ids]
            index = int(values.argmax())
            best, top = int(ids[index]), float(values[index])
            if self.decisions is not None:
                values[index] = -np.inf
                margin = top - float(values.max())
                self.decisions.append(Decision(self.position, len(ids), best, margin))
            self.check(top)
            matcher.accept(best)
        if self.guide is not None:
            self.guide.chosen(best, copied)
        self.grammar += perf_counter() - clock
        self.decide(best)
        return best

    def free(self, request: Sequence[int], stop_ids: frozenset[int], limit: int) -> Generator[Pass, Logits, Decoded]:
        pending = list(request)
        error = None
        while True:
            logits = yield self.append(pending)
            best = int(logits.argmax())
            self.check(float(logits[best]))
            if self.decisions is not None:
                others = np.delete(logits, best)
                margin = float(logits[best]) - float(others.max(initial=-np.inf))
                self.decisions.append(Decision(self.position, len(logits), best, margin))
            self.decide(best)
            if best in stop_ids:
                break
            if len(self.ids) >= limit:
                error = f"no end of the completion within {limit} tokens"
                break
            pending = [best]
        return self.result(error)

    def append(self, tokens: list[int], rows: Rows = "last") -> Pass:
        """One forward pass, to be yielded."""
        position, room = self.position, self.context_length
        if room is not None and position + len(tokens) > room:
            raise DecodeError(
                f"the context of {room} tokens is full: {self.start} before the request, {position - self.start} of it "
                f"and its completion, {len(tokens)} more to append; shorten the request or the toolset"
            )
        one = Pass(position, tokens, rows)
        self.passes.append(one)
        self.starts.append(len(self.ids))
        self.position += len(tokens)
        return one

    def check(self, logit: float) -> None:
        """NaN wins every comparison of `argmax`, so the best logit tells of any."""
        if not isfinite(logit):
            raise DecodeError(
                f"the model's logits at position {self.position} are not finite ({logit}); "
                "its weights or this variant's precision are broken; try another variant"
            )

    def decide(self, token: int) -> None:
        self.ids.append(token)
        if self.first is None:
            self.first = perf_counter()

    def result(self, error: str | None) -> Decoded:
        now = perf_counter()
        return Decoded(
            token_ids=self.ids,
            forced_tokens=self.forced,
            decided_tokens=len(self.ids) - self.forced,
            passes=self.passes,
            first_decision_ms=0.0 if self.first is None else (self.first - self.begun) * 1e3,
            total_ms=(now - self.begun) * 1e3,
            model_ms=self.model * 1e3,
            grammar_ms=self.grammar * 1e3,
            error=error,
            decisions=self.decisions,
            guessed_tokens=self.guessed,
            guessed_right=self.right,
            pass_starts=self.starts,
        )
