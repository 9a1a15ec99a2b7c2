"""Guesses of what a completion says next, so that one forward pass decides more than one token.

A guess rides along with the tokens that have to be appended anyway; the rows of the same pass tell how far it is right,
and the rest is taken back (`router.decode`). So a guess changes what a request costs, never what it is answered.

What is guessed: that a string goes on as the request does (strings are mostly copied), or as one that the toolset
lists, and what was decided most often at the same place of other requests: whether an optional argument follows,
whether a copied string ends after so many tokens, which of the enumerated values. Counted are requests, each once, so
that one asked a hundred times is no habit, beginning with those that the artifact was proved with (`router.known`).

Whether it pays is arithmetic: a guess that is right with probability `p` saves the pass that would have decided it, and
costs its rows in this one. Both are taken from the passes themselves (`Prices`), on the machine and with the model at
hand. Where a pass costs what its rows cost, nothing is guessed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from router.grammar import Matcher
from router.tokenizer import RouterTokenizer
from router.walk import GrammarError, Ids

MAX_ROWS: Final = 24
"""Tokens of one guess."""
_CONTINUES: Final = -1
"""A decision: the string goes on, with whatever token."""
_TAIL: Final = 6
"""Tokens outside strings by which a place in a completion is known."""
_KEYS: Final = 4096
_REQUESTS: Final = 4096
"""How many places and requests are remembered."""
_SEEN: Final = 3
"""Requests that a habit takes."""
_BOOKKEEPING: Final = 0.6e-3
"""Seconds: a pass that costs less by itself is made sooner than guesses are thought up and followed."""

Guessing = bool | Literal["always"]
"""Whether passes check guesses: where it pays, never, or whenever there is one, paying or not (which tests want)."""
Key = tuple[tuple[int, ...], tuple[int, ...] | int | None]
"""A place in a completion: the last tokens outside strings, and within one what it begins with, or of a copied string
how long it is."""


class Odds:
    """How often one kind of guess is right; the latest count more."""

    def __init__(self) -> None:
        self._right, self._tried = 2, 4

    @property
    def share(self) -> float:
        return self._right / self._tried

    def record(self, right: bool) -> None:
        self._right += right
        self._tried += 1
        if self._tried > 256:
            self._right, self._tried = self._right // 2, self._tried // 2


Example = tuple[Matcher, str, Sequence[int]]
"""A walk that stands at the beginning, a request, and the completion that it got."""


@dataclass(frozen=True)
class Step:
    """One guessed decision, and what the grammar forces behind it."""

    token: int
    forced: list[int]
    odds: Odds | None = None
    """Of guesses of its kind, where it says that a free string goes on as another does."""
    few: Ids | None = None
    """The ids that may come behind it, where their logits are asked for alone."""

    @property
    def rows(self) -> int:
        return 1 + len(self.forced)


class Prices:
    """What a forward pass costs, in seconds: so much for itself, so much for a token, so much for a row of logits.

    Least squares over the latest passes (outliers cut), leaning to a row that costs what a token does as long as no
    pass with several rows was seen.
    """

    _LARGEST: Final = 16
    """Tokens of the passes that count: longer ones belong to another regime of matrix products."""
    _LATEST: Final = 192
    _REFIT: Final = 24

    def __init__(self) -> None:
        self.fixed = self.token = self.row = 0.0
        self._seen: deque[tuple[int, int, float]] = deque(maxlen=self._LATEST)
        self._fresh = 0

    def record(self, tokens: int, rows: int, seconds: float) -> None:
        if tokens > self._LARGEST:
            return
        self._seen.append((tokens, rows, seconds))
        self._fresh += 1
        if self._fresh == self._REFIT:
            self._fresh = 0
            self._fit()

    @property
    def worth_it(self) -> bool:
        """Whether saving a pass can pay for the bookkeeping of guesses."""
        return self.fixed > _BOOKKEEPING

    def gain(self, chance: float, tokens: int, rows: int = 1) -> float:
        """Seconds that a guess of `tokens` with one decision and so many rows is expected to save."""
        more = self.token * tokens
        return chance * (self.fixed + more + self.row * min(rows, 1)) - more - self.row * rows

    def _fit(self) -> None:
        seen = np.array(self._seen)
        tokens, rows, seconds = seen[:, 0], seen[:, 1], seen[:, 2]
        if np.ptp(tokens) == 0:
            return
        seconds = np.minimum(seconds, 3 * np.median(seconds))
        terms = np.stack([np.ones(len(seen)), tokens, rows], axis=1)
        # One made-up observation with the weight of four: a row costs what a token does.
        terms, seconds = np.vstack([terms, [0.0, 2.0, -2.0]]), np.append(seconds, 0.0)
        fixed, token, row = np.linalg.lstsq(terms, seconds, rcond=None)[0]
        self.token, self.row = max(0.0, float(token)), max(0.0, float(row))
        self.fixed = max(0.0, float(fixed))


class Eager(Prices):
    """Prices by which every guess that may be right is made, whatever it costs."""

    @property
    def worth_it(self) -> bool:
        return True

    def gain(self, chance: float, tokens: int, rows: int = 1) -> float:
        return chance


@dataclass
class Trail:
    """Where a completion stands: its tokens outside strings, and those of the string that is open."""

    escape: int
    outside: list[int] = field(default_factory=list)
    inside: list[int] | None = None

    def add(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if token == self.escape:
                self.outside.append(token)
                self.inside = [] if self.inside is None else None
            elif self.inside is not None:
                self.inside.append(token)
            else:
                self.outside.append(token)

    def key(self, *, copied: bool) -> Key:
        tail = tuple(self.outside[-_TAIL:])
        if self.inside is None:
            return tail, None
        return tail, len(self.inside) if copied else tuple(self.inside)

    def copy(self) -> Trail:
        return Trail(self.escape, self.outside[-_TAIL:], None if self.inside is None else list(self.inside))


class Guesser:
    """What is known about the completions of one toolset on one model. Not thread-safe."""

    def __init__(self, tokenizer: RouterTokenizer, *, strings: Sequence[str] = (), always: bool = False) -> None:
        """`strings`: what free strings may well be. `always`: guess whether it pays or not."""
        self.prices = Eager() if always else Prices()
        self.copying, self.listing = Odds(), Odds()
        """Of guesses that a free string goes on as the request does, and as one of `strings`."""
        self._strings = [tokenizer.encode_text(text) for text in strings]
        self.examples: Iterable[Example] = ()
        """Completions of other requests; looked at when guesses first pay."""
        self._tokenizer = tokenizer
        self._habits: OrderedDict[Key, dict[int, int]] = OrderedDict()
        self._requests: OrderedDict[int, None] = OrderedDict()

    def begin(self, user: str, request: Sequence[int]) -> Guide | None:
        """The guesses for one request, of its text and its ids; None while guessing does not pay."""
        if not self.prices.worth_it:
            return None
        examples, self.examples = self.examples, ()
        for example in examples:
            with suppress(GrammarError):
                self.study(*example)
        new = hash(tuple(request))
        known = new in self._requests
        if not known:
            self._requests[new] = None
            if len(self._requests) > _REQUESTS:
                self._requests.popitem(last=False)
        return Guide(self, self._tokenizer, user, learns=not known)

    def habit(self, key: Key) -> tuple[int, float] | None:
        """What is most often decided at a place, and how likely it is there; None where too little is known."""
        counts = self._habits.get(key)
        if counts is None:
            return None
        total = sum(counts.values())
        choice = max(counts, key=counts.__getitem__)
        return (choice, counts[choice] / (total + 1)) if total >= _SEEN and counts[choice] >= 2 else None

    def learn(self, decided: Sequence[tuple[Key, int]]) -> None:
        for key, choice in decided:
            counts = self._habits.setdefault(key, {})
            self._habits.move_to_end(key)
            counts[choice] = counts.get(choice, 0) + 1
            if len(counts) > 64:
                del counts[min(counts, key=counts.__getitem__)]
        while len(self._habits) > _KEYS:
            self._habits.popitem(last=False)

    def study(self, matcher: Matcher, user: str, completion: Sequence[int]) -> None:
        """Learn what was decided in a completion, as far as the grammar allows it."""
        guide = Guide(self, self._tokenizer, user, learns=True)
        at = 0
        while True:
            forced = matcher.forced()
            if list(completion[at : at + len(forced)]) != forced:
                break
            guide.forced(forced)
            at += len(forced)
            copied = matcher.copied
            if matcher.finished or at >= len(completion) or not matcher.take(completion[at]):
                break
            guide.chosen(completion[at], copied)
            at += 1
        guide.finish()

    def listed(self, inside: Sequence[int], escape: int) -> int | None:
        """The token with which the first listed string that begins so goes on, `escape` where it ends; None if none."""
        known = list(inside)
        found = next((ids for ids in self._strings if ids[: len(known)] == known), None)
        if found is None:
            return None
        return found[len(known)] if len(found) > len(known) else escape


class Guide:
    """The guesses for one request; follows its completion."""

    def __init__(self, guesser: Guesser, tokenizer: RouterTokenizer, user: str, *, learns: bool) -> None:
        self.prices = guesser.prices
        self._guesser = guesser
        self._tokenizer = tokenizer
        self._user = user
        self._learns = learns
        self._trail = Trail(tokenizer.control_id("escape"))
        self._decided: list[tuple[Key, int]] = []

    def forced(self, tokens: Sequence[int]) -> None:
        """Follow tokens that the grammar forced."""
        self._trail.add(tokens)

    def chosen(self, token: int, copied: int | None) -> None:
        """Follow a token that the model chose; `copied` as `Matcher.copied` was before it."""
        if self._learns:
            for key, choice in self._places(self._trail, token, copied):
                self._decided.append((key, choice))
        self._trail.add((token,))

    def checked(self, step: Step, right: bool) -> None:
        """A step was compared with what the model chose."""
        if step.odds is not None:
            step.odds.record(right)

    def finish(self) -> None:
        """Remember what was decided."""
        self._guesser.learn(self._decided)

    def steps(self, matcher: Matcher, room: int, shortlist: int = 0) -> list[Step]:
        """What to guess behind what is appended now, in `room` tokens at most; often nothing.

        `shortlist`: of up to so many ids the logits are asked for alone, as long as all decisions are among so few; 0
        where the first is not.
        """
        if matcher.finished:
            return []
        walk: Matcher | None = None
        trail = self._trail
        steps: list[Step] = []
        rows, likely = 0, 1.0
        while True:
            at = walk or matcher
            token, chance, odds = self._next(at, trail)
            likely *= chance
            if token is None or self.prices.gain(likely, 1, 0 if shortlist else 1) <= 0:
                break
            if walk is None:
                walk, trail = matcher.copy(), trail.copy()
            try:
                if not walk.take(token):
                    break
                forced = walk.forced()
                few = walk.few(shortlist) if shortlist and not walk.finished else None
            except GrammarError:
                break
            step = Step(token, forced, odds, few)
            rows += step.rows
            if walk.finished or rows > min(room, MAX_ROWS):
                break
            if shortlist and few is None:
                shortlist, full = 0, len(steps) + 2  # all rows of the pass become full ones
            else:
                full = 0 if shortlist else 1
            if self.prices.gain(likely, step.rows, full) <= 0:
                break
            steps.append(step)
            trail.add((token, *step.forced))
        return steps

    def _next(self, matcher: Matcher, trail: Trail) -> tuple[int | None, float, Odds | None]:
        """The likeliest next decision, how likely it is, and the odds of its kind where a free string goes on."""
        free = matcher.copied is None
        found = self._guesser.habit(trail.key(copied=False)) if free else None
        if not trail.inside or (found is not None and found[1] >= self._guesser.copying.share):
            return (*found, None) if found is not None else (None, 0.0, None)
        ends = self._guesser.habit(trail.key(copied=True))
        if ends is not None and ends[0] == trail.escape:
            return (*ends, None)
        guesser = self._guesser
        odds = guesser.copying
        onward = self._onward(trail.inside) if free else matcher.likely_copy()
        if onward is None and free:
            onward, odds = guesser.listed(trail.inside, trail.escape), guesser.listing
        if onward is None:
            return None, 0.0, None
        return onward, ends[1] if ends is not None else odds.share, odds if free else None

    def _places(self, trail: Trail, token: int, copied: int | None) -> list[tuple[Key, int]]:
        """The keys under which a decision is remembered."""
        if trail.inside is None:
            return [(trail.key(copied=False), token)]
        ends = (trail.key(copied=True), token if token == trail.escape else _CONTINUES)
        return [ends] if copied is not None else [ends, (trail.key(copied=False), token)]

    def _onward(self, inside: Sequence[int]) -> int | None:
        """The token with which a free string goes on where the request does; None where it is not of the request."""
        if not inside:
            return None
        text = self._tokenizer.decode(inside)
        at = self._user.find(text)
        if at < 0:
            return None
        ids = self._tokenizer.encode_text(self._user[at : at + len(text) + 32])
        known = len(inside)
        return ids[known] if ids[:known] == list(inside) and len(ids) > known else None
