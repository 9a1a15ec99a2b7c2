"""Greedy decoding over a Session's two verbs. Forward passes are the cost, so none is spent on what is already known.

Under a grammar the tokens that it forces are appended together with the decision before them, in one pass; a row of
logits is only asked for where there is a choice; and when the grammar is finished, so is decoding, without a pass.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from math import isfinite
from time import perf_counter
from typing import Final

import numpy as np

from router.grammar import GrammarError, Matcher
from router.guess import Guide, Prices, Step
from runtimes.base import Logits, Pass, Rows, Session
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


def decode(
    session: Session,
    request: Sequence[int],
    matcher: Matcher,
    *,
    context_length: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    record: bool = False,
    guide: Guide | None = None,
    tie: float = 0.0,
    prices: Prices | None = None,
) -> Decoded:
    """The best completion that the grammar allows behind what `session` holds and `request` (ids, at least one).

    With a `guide`, passes also check what it guesses; the completion is the same. Where the two best logits of such a
    pass lie within `tie` of each other the pass is made again without the guess, because a pass over more tokens rounds
    otherwise. Nothing is guessed while decisions are recorded. `prices` learns what the passes cost.

    A grammar that cannot go on, or no end within `max_new_tokens`, is the result's `error`. Raises `DecodeError` for a
    full context (known beforehand where `context_length` is given) or logits that are not numbers, and whatever the
    session raises; then the session is as it was. After success it holds the request and part of the completion.
    """
    run = _Run(session, context_length, record, None if record else guide, tie, prices)
    try:
        return run.constrained(request, matcher, max_new_tokens)
    except BaseException:
        run.undo()
        raise


def decode_free(
    session: Session,
    request: Sequence[int],
    stop_ids: Collection[int],
    *,
    context_length: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    record: bool = False,
) -> Decoded:
    """The greedy completion without a grammar, up to and including the first of `stop_ids`. Errors as `decode`."""
    run = _Run(session, context_length, record)
    try:
        return run.free(request, frozenset(stop_ids), max_new_tokens)
    except BaseException:
        run.undo()
        raise


class _Run:
    """One decoding: its counts and clocks."""

    def __init__(
        self,
        session: Session,
        context_length: int | None,
        record: bool,
        guide: Guide | None = None,
        tie: float = 0.0,
        prices: Prices | None = None,
    ) -> None:
        self.session = session
        self.context_length = context_length
        self.start = session.position
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

    def undo(self) -> None:
        with suppress(UserError):  # a closed session cannot rewind; why it failed is what is told
            if self.session.position > self.start:
                self.session.rewind(self.start)

    def constrained(self, request: Sequence[int], matcher: Matcher, limit: int) -> Decoded:
        pending = list(request)
        error = None
        try:
            self.force(matcher, pending)
            while not matcher.finished:
                if len(self.ids) >= limit:
                    error = f"no end of the completion within {limit} tokens"
                    break
                steps = self.steps(matcher, pending)
                pending = self.guess(pending, steps, matcher, limit) if steps else self.step(pending, matcher)
            if self.guide is not None and error is None:
                self.guide.finish()
        except GrammarError as problem:
            error = str(problem)
        return self.result(error)

    def step(self, pending: list[int], matcher: Matcher) -> list[int]:
        """One pass, one decision; what is to be appended next."""
        return self.follow(self.choose(self.append(pending), matcher), matcher)

    def follow(self, token: int, matcher: Matcher) -> list[int]:
        """A chosen token and what the grammar forces behind it."""
        pending = [token]
        self.force(matcher, pending)
        return pending

    def steps(self, matcher: Matcher, pending: list[int]) -> list[Step]:
        if self.guide is None:
            return []
        clock = perf_counter()
        position, limit = self.session.position + len(pending), self.context_length
        steps = self.guide.steps(matcher, MAX_NEW_TOKENS if limit is None else limit - position)
        self.grammar += perf_counter() - clock
        return steps

    def guess(self, pending: list[int], steps: list[Step], matcher: Matcher, limit: int) -> list[int]:
        """One pass over `pending` and a guess behind it: as many decisions as it is right about and one more.

        What is appended next.
        """
        assert self.guide is not None
        begin, start = self.session.position, 0
        tokens = [*pending, *(token for step in steps for token in (step.token, *step.forced))]
        ends = list(accumulate((step.rows for step in steps), initial=len(pending)))
        rows = self.append(tokens, [end - 1 for end in ends])
        if not rows.flags.writeable:
            rows = rows.copy()
        self.guessed += len(tokens) - len(pending)
        for row, end, step in zip_longest(rows, ends, steps):
            if self.tied(row, matcher):
                self.session.rewind(begin + start)
                return self.step(tokens[start:end], matcher)
            following = self.follow(self.choose(row, matcher), matcher)
            if step is None:
                break
            right = following[0] == step.token
            self.guide.checked(step, right)
            if not right or len(self.ids) >= limit:
                self.session.rewind(begin + end)
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
                self.decisions.append(Decision(self.session.position, len(ids), best, margin))
            self.check(top)
            matcher.accept(best)
        if self.guide is not None:
            self.guide.chosen(best, copied)
        self.grammar += perf_counter() - clock
        self.decide(best)
        return best

    def free(self, request: Sequence[int], stop_ids: frozenset[int], limit: int) -> Decoded:
        pending = list(request)
        error = None
        while True:
            logits = self.append(pending)
            best = int(logits.argmax())
            self.check(float(logits[best]))
            if self.decisions is not None:
                others = np.delete(logits, best)
                margin = float(logits[best]) - float(others.max(initial=-np.inf))
                self.decisions.append(Decision(self.session.position, len(logits), best, margin))
            self.decide(best)
            if best in stop_ids:
                break
            if len(self.ids) >= limit:
                error = f"no end of the completion within {limit} tokens"
                break
            pending = [best]
        return self.result(error)

    def append(self, tokens: list[int], rows: Rows = "last") -> Logits:
        """One forward pass."""
        position, room = self.session.position, self.context_length
        if room is not None and position + len(tokens) > room:
            raise DecodeError(
                f"the context of {room} tokens is full: {self.start} before the request, {position - self.start} of it "
                f"and its completion, {len(tokens)} more to append; shorten the request or the toolset"
            )
        clock = perf_counter()
        logits = self.session.append(tokens, rows=rows)
        elapsed = perf_counter() - clock
        self.model += elapsed
        self.passes.append(Pass(position, tokens, rows))
        self.starts.append(len(self.ids))
        if self.prices is not None:
            self.prices.record(len(tokens), 1 if rows == "last" else len(rows), elapsed)
        return logits

    def check(self, logit: float) -> None:
        """NaN wins every comparison of `argmax`, so the best logit tells of any."""
        if not isfinite(logit):
            raise DecodeError(
                f"the model's logits at position {self.session.position} are not finite ({logit}); "
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
