"""One decoding as the passes that it asks for; `router.decode` makes them on a session, or those of many together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import accumulate, zip_longest
from math import isfinite
from time import perf_counter

import numpy as np

from router.decoded import MAX_NEW_TOKENS, Decision, Decoded, DecodeError, TieError
from router.grammar import Matcher
from router.guess import Guide, Prices, Step
from router.walk import GrammarError, Ids
from runtimes.base import Logits, Pass, Rows


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
        shortlist: int = 0,
        lane: bool = False,
    ) -> None:
        """`shortlist`: the logits of up to so many ids may be asked for alone. `lane`: others are computed beside
        it, and two best logits within `tie` are a `TieError`."""
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
        self.lane = lane
        self.prices = prices
        self.shortlist = 0 if record else shortlist
        self.guessed = self.right = 0
        self.decisions: list[Decision] | None = [] if record else None

    def took(self, one: Pass, seconds: float) -> None:
        """A pass was made."""
        self.model += seconds
        if self.prices is not None:
            rows = 1 if isinstance(one.rows, str) else len(one.rows)
            self.prices.record(len(one.tokens), rows if one.ids is None else 0, seconds)

    def constrained(self, request: Sequence[int], matcher: Matcher, limit: int) -> Generator[Pass, Logits, Decoded]:
        pending = list(request)
        error = None
        try:
            self.force(matcher, pending)
            while not matcher.finished:
                if len(self.ids) >= limit:
                    error = f"no end of the completion within {limit} tokens"
                    break
                few = self.few(matcher)
                steps = self.steps(matcher, pending, few)
                if steps:
                    pending = yield from self.guess(pending, steps, matcher, limit, few)
                else:
                    pending = yield from self.one(pending, matcher, few)
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

    def few(self, matcher: Matcher) -> Ids | None:
        """The ids that may come next, where their logits are asked for alone."""
        if not self.shortlist:
            return None
        clock = perf_counter()
        ids = matcher.few(self.shortlist)
        self.grammar += perf_counter() - clock
        return ids

    def one(self, pending: list[int], matcher: Matcher, few: Ids | None) -> Generator[Pass, Logits, list[int]]:
        """One pass over `pending` and the decision behind it. What is appended next."""
        if few is not None:
            begin = self.position
            logits = yield self.append(pending, ids=few)
            if not self.near(logits):
                return self.follow(self.choose(logits, matcher, few), matcher)
            self.position = begin
        logits = yield self.append(pending)
        return self.follow(self.choose(logits, matcher), matcher)

    def steps(self, matcher: Matcher, pending: list[int], few: Ids | None) -> list[Step]:
        if self.guide is None:
            return []
        clock = perf_counter()
        position, limit = self.position + len(pending), self.context_length
        room = MAX_NEW_TOKENS if limit is None else limit - position
        steps = self.guide.steps(matcher, room, self.shortlist if few is not None else 0)
        self.grammar += perf_counter() - clock
        return steps

    def guess(
        self, pending: list[int], steps: list[Step], matcher: Matcher, limit: int, few: Ids | None
    ) -> Generator[Pass, Logits, list[int]]:
        """One pass over `pending` and a guess behind it: as many decisions as it is right about and one more.

        What is appended next.
        """
        assert self.guide is not None
        begin, start = self.position, 0
        tokens = [*pending, *(token for step in steps for token in (step.token, *step.forced))]
        ends = list(accumulate((step.rows for step in steps), initial=len(pending)))
        lists = [ids for ids in (few, *(step.few for step in steps)) if ids is not None]
        union = None
        if len(lists) == len(ends):
            union = np.unique(np.concatenate(lists))
        else:
            lists = []  # one decision among many: the pass has whole rows
        rows = yield self.append(tokens, [end - 1 for end in ends], union)
        self.guessed += len(tokens) - len(pending)
        for row, end, step, ids in zip_longest(rows, ends, steps, lists):
            if union is not None:
                row = row[np.searchsorted(union, ids)]
            if self.near(row) or (union is None and not matcher.allows(int(row.argmax()))):
                self.position = begin + start
                logits = yield self.append(tokens[start:end])
                return self.follow(self.choose(logits, matcher), matcher)
            following = self.follow(self.choose(row, matcher, ids), matcher)
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

    def near(self, logits: Logits) -> bool:
        """Whether another rounding of these logits might decide otherwise: the two best are too near each other."""
        if not logits.flags.writeable:
            logits = logits.copy()
        best = int(logits.argmax())
        top = float(logits[best])
        logits[best] = -np.inf
        second = float(logits.max(initial=-np.inf))
        logits[best] = top
        return not top - second > self.tie

    def clear(self, logits: Logits) -> None:
        """Raise `TieError` where a lane's pass may decide otherwise than one of its own."""
        if self.lane and self.near(logits):
            raise TieError(f"the two best logits at position {self.position} are within {self.tie:g} of each other")

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

    def choose(self, logits: Logits, matcher: Matcher, among: Ids | None = None) -> int:
        """The allowed token with the highest logit, of equal ones the lowest id. `among`: whose logits they are.

        The best token of all is most often allowed, and asking that is much cheaper than the mask of a free string.
        """
        clock = perf_counter()
        copied = matcher.copied
        index = int(logits.argmax())
        best = index if among is None else int(among[index])
        self.check(float(logits[index]))
        if among is not None:
            best = self.settle(best, among, logits, matcher)
        elif self.decisions is not None or not matcher.take(best):
            ids = matcher.allowed(len(logits))
            if len(ids) == 0:
                raise GrammarError("the grammar cannot go on: it allows no token of the model's vocabulary")
            values = logits[ids]
            self.clear(values)
            index = int(values.argmax())
            best, top = int(ids[index]), float(values[index])
            if self.decisions is not None:
                values[index] = -np.inf
                margin = top - float(values.max())
                self.decisions.append(Decision(self.position, len(ids), best, margin))
            self.check(top)
            best = self.settle(best, ids, values, matcher)
        else:
            self.clear(logits)
        if self.guide is not None:
            self.guide.chosen(best, copied)
        self.grammar += perf_counter() - clock
        self.decide(best)
        return best

    def settle(self, best: int, ids: Ids, values: Logits, matcher: Matcher) -> int:
        """Walk past `best`, or past the next where that gives a key twice, which masks do not tell of all tokens."""
        if not matcher.take(best):
            order = (int(ids[index]) for index in np.argsort(-values, kind="stable"))
            found = next((token for token in order if matcher.take(token)), None)
            if found is None:
                raise GrammarError("the grammar cannot go on: every token that it allows would give a key twice")
            return found
        return best

    def free(self, request: Sequence[int], stop_ids: frozenset[int], limit: int) -> Generator[Pass, Logits, Decoded]:
        pending = list(request)
        error = None
        while True:
            logits = yield self.append(pending)
            best = int(logits.argmax())
            self.check(float(logits[best]))
            self.clear(logits)
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

    def append(self, tokens: list[int], rows: Rows = "last", ids: Ids | None = None) -> Pass:
        """One forward pass, to be yielded."""
        position, room = self.position, self.context_length
        if room is not None and position + len(tokens) > room:
            raise DecodeError(
                f"the context of {room} tokens is full: {self.start} before the request, {position - self.start} of it "
                f"and its completion, {len(tokens)} more to append; shorten the request or the toolset"
            )
        one = Pass(position, tokens, rows, ids)
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
