"""Models without a runtime, for tests of what stands above one: logits are a function of the tokens in the cache."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtimes.base import Ids, Logits, Rows, check_append, check_rewind, check_rows, row_offsets
from runtimes.errors import RoomError, SessionError
from runtimes.shortlist import check_ids

Rule = Callable[[tuple[int, ...]], Logits]
"""The logits behind a sequence."""


def random_rule(vocab_size: int, *, seed: int = 0, bias: Mapping[int, float] | None = None) -> Rule:
    """Normal noise, another for every sequence and the same for an equal one; `bias` favours some tokens."""

    def logits(tokens: tuple[int, ...]) -> Logits:
        key = zlib.crc32(np.asarray(tokens, dtype=np.int64).tobytes())
        row = np.random.default_rng((seed, key)).standard_normal(vocab_size, dtype=np.float32)
        for token, value in (bias or {}).items():
            row[token] += value
        return row

    return logits


def scripted_rule(vocab_size: int, prompt: Sequence[int], completion: Sequence[int]) -> Rule:
    """A model that wants `completion` behind `prompt` and is noise everywhere else."""
    noise = random_rule(vocab_size, seed=1)
    whole = (*prompt, *completion)

    def logits(tokens: tuple[int, ...]) -> Logits:
        row = noise(tokens)
        if len(prompt) <= len(tokens) < len(whole) and tokens == whole[: len(tokens)]:
            row[whole[len(tokens)]] = 100.0
        return row

    return logits


@dataclass
class FakeModel:
    """A `runtimes.base.Model` over a rule."""

    rule: Rule
    vocab_size: int
    context_length: int = 4096
    device: str = "fake"
    dtype: str = "fp32"
    threads: int = 1
    shortlist_limit: int = 0
    closed: bool = False
    sessions: list[FakeSession] = field(default_factory=list)

    def session(self) -> FakeSession:
        self.sessions.append(FakeSession(self))
        return self.sessions[-1]

    def close(self) -> None:
        self.closed = True


class FakeSession:
    """A `runtimes.base.Session` that keeps its tokens, and the sizes of its passes. `fail_at` breaks that append."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.tokens: list[int] = []
        self.passes: list[int] = []
        self.fail_at: int | None = None
        self.busy = False
        self.shortlists: list[Ids] = []
        """What was asked for alone, pass by pass."""

    @property
    def shortlist_limit(self) -> int:
        return self.model.shortlist_limit

    def append_shortlist(self, tokens: Sequence[int], ids: Ids, *, rows: Rows = "last") -> Logits:
        check_ids(ids, self.model.vocab_size)
        assert len(ids) <= self.shortlist_limit * len(row_offsets(rows, len(tokens)))
        self.shortlists.append(ids)
        return self.append(tokens, rows=rows)[..., ids]

    @property
    def position(self) -> int:
        return len(self.tokens)

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        if self.model.closed:
            raise SessionError("append: the model is closed")
        check_append(
            tokens, position=self.position, vocab_size=self.model.vocab_size, context_length=self.model.context_length
        )
        assert not self.busy, "two threads in one session"
        self.busy = True
        try:
            if self.fail_at is not None and len(self.passes) >= self.fail_at:
                raise RuntimeError("the runtime broke")
            self.passes.append(len(tokens))
            check_rows(rows, len(tokens))
            start = len(self.tokens)
            self.tokens += tokens
            out = [self.model.rule(tuple(self.tokens[: start + o + 1])) for o in row_offsets(rows, len(tokens))]
            return out[0] if rows == "last" else np.stack(out)
        finally:
            self.busy = False

    def rewind(self, position: int) -> None:
        if self.model.closed:
            raise SessionError("rewind: the model is closed")
        check_rewind(position, position=self.position)
        del self.tokens[position:]


class FakeBatch:
    """Lanes as fake sessions; `sizes` tells how many lanes each pass went over.

    With a `room` they may hold only so many tokens together besides what all begin with.
    """

    room: int | None = None

    def __init__(self, sessions: Sequence[Any], prefix: Sequence[int]) -> None:
        self.sessions = list(sessions)
        self.sizes: list[int] = []
        self.closed = False
        self.prefix = len(prefix)
        for session in self.sessions:
            session.tokens += prefix

    @property
    def lanes(self) -> int:
        return len(self.sessions)

    def position(self, lane: int) -> int:
        return self.sessions[lane].position

    def append(self, passes: Sequence[tuple[int, Sequence[int], Rows]]) -> list[Logits]:
        held = sum(session.position - self.prefix for session in self.sessions)
        if self.room is not None and held + sum(len(tokens) for _, tokens, _ in passes) > self.room:
            raise RoomError("append: no room; use fewer lanes")
        self.sizes.append(len(passes))
        return [self.sessions[lane].append(tokens, rows=rows) for lane, tokens, rows in passes]

    def rewind(self, lane: int, position: int) -> None:
        self.sessions[lane].rewind(position)

    def close(self) -> None:
        self.closed = True


@dataclass
class BatchModel(FakeModel):
    """A `FakeModel` that is a `runtimes.base.Batches` too; `made` is its latest batch."""

    made: FakeBatch | None = None

    def batch(self, lanes: int, prefix: Sequence[int]) -> FakeBatch:
        self.made = FakeBatch([FakeSession(self) for _ in range(lanes)], prefix)
        return self.made
