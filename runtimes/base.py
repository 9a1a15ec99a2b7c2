"""Contract 1: what a runtime must offer. Everything above is written once, over these two protocols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from runtimes.errors import SessionError

Logits = npt.NDArray[np.float32]
Rows = Literal["last", "all"] | Sequence[int]
"""Which rows of a pass are asked for: by name, or as offsets into its tokens, ascending."""
Ids = npt.NDArray[np.int64]

DROPPED: Final = np.finfo(np.float32).min
"""The logit of an id without a row: never the best, and finite, so that differences of logits are numbers."""


class Session(Protocol):
    """One sequence in the KV cache of a model. Not thread-safe; sessions of one model are independent."""

    @property
    def position(self) -> int:
        """Number of tokens now in the KV cache."""
        ...

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        """Run one forward pass over `tokens` behind what is cached.

        Returns float32 logits: shape ``(vocab,)`` for "last", ``(len(tokens), vocab)`` for "all" and
        ``(len(rows), vocab)`` for offsets. The array belongs to the caller until the next append on this session; an id
        that the output matrix has no row for has `DROPPED`. Raises `SessionError` on an empty append, an id outside the
        vocabulary, rows that the pass does not have, a full context or a closed model; `position` is then as it was.
        """
        ...

    def rewind(self, position: int) -> None:
        """Forget every cached token from `position` on. Raises `SessionError` outside 0..position."""
        ...


@runtime_checkable
class Snapshots(Protocol):
    """What a session may offer besides; callers work without it."""

    def snapshot(self) -> bytes:
        """What the KV cache holds. For `restore` of a session of the same weights, runtime, version and settings."""
        ...

    def restore(self, data: bytes) -> None:
        """Have the cache of a snapshot instead of the own. Raises `SessionError` for what is none; it is then empty."""
        ...


@runtime_checkable
class Functions(Protocol):
    """What a session may offer besides, where several functions of a model compute the same."""

    def disagreement(self, tokens: Sequence[int]) -> float | None:
        """How far apart the logits are that they give behind `tokens`, with which each is filled as far as they go; NaN
        where one is, None where there is one function. For an empty session, which it leaves empty."""
        ...


class Batch(Protocol):
    """Sequences of one model that are computed together, numbered from 0; all begin with the same tokens."""

    @property
    def lanes(self) -> int: ...

    def position(self, lane: int) -> int:
        """Number of tokens now in the KV cache of a sequence."""
        ...

    def append(self, passes: Sequence[tuple[int, Sequence[int], Rows]]) -> list[Logits]:
        """Run one forward pass over the tokens of several lanes (each at most once), with the rows asked for of each.

        Returns logits as `Session.append` does, in the order of `passes`. Raises `SessionError` as it does, and
        `RoomError` where these lanes together have no room; positions are then as they were.
        """
        ...

    def rewind(self, lane: int, position: int) -> None:
        """Forget every cached token of a lane from `position` on."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Batches(Protocol):
    """What a model may offer besides; callers work without it."""

    def batch(self, lanes: int, prefix: Sequence[int]) -> Batch:
        """New sequences, all holding `prefix`, which is computed once."""
        ...


class Model(Protocol):
    """Loaded weights. `device`, `dtype` and `threads` are what is really used, not what was asked for."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def threads(self) -> int: ...

    def session(self) -> Session:
        """A new, empty sequence; sessions share the weights."""
        ...

    def close(self) -> None:
        """Free the weights; every later use of the model or its sessions raises `SessionError`."""
        ...


@dataclass(frozen=True)
class DeviceStatus:
    """Whether one device of a runtime can be used here, and if not, why and how to get it."""

    available: bool
    detail: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Availability:
    """Whether a runtime (or exporter, or training backend) can be used here."""

    available: bool
    version: str | None = None
    reason: str = ""
    fix: str = ""
    devices: dict[str, DeviceStatus] = field(default_factory=dict)

    def with_package(self, name: str, fix: str) -> Availability:
        """The same where the distribution `name` is installed, which is needed besides; else not available."""
        from importlib.metadata import PackageNotFoundError, version

        if not self.available:
            return self
        try:
            version(name)
        except PackageNotFoundError:
            return Availability(False, self.version, f"{name} is not installed", fix)
        return self


class Pass(NamedTuple):
    """One forward pass: over which tokens, behind how many cached ones, and which rows are asked for."""

    start: int
    tokens: Sequence[int]
    rows: Rows = "last"
    ids: Ids | None = None
    """Of which ids the logits are asked for (`runtimes.shortlist`); None for all."""


BareLoop = Callable[[], None]
"""Runs a fixed sequence of passes through a runtime's own API, without Session; the bench times it."""


class CountingSession(ABC):
    """A `Session` over a cache that is a buffer and a count: what lies behind `position` is overwritten."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._position = 0
        ids = getattr(model, "output_ids", None)  # only models that may lack output rows have it
        self._spread = None if ids is None else Spread(ids, model.vocab_size)

    @property
    def position(self) -> int:
        return self._position

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        logits = self._pass(tokens, rows, self._forward)
        return logits if self._spread is None else self._spread(logits)

    def _pass(self, tokens: Sequence[int], rows: Rows, forward: Callable[[Sequence[int], Rows], Logits]) -> Logits:
        """What `forward` computes behind `position`, which then counts; checked before, and undone where it raises."""
        model, start = self._model, self._position
        self._check_open()
        check_append(tokens, position=start, vocab_size=model.vocab_size, context_length=model.context_length)
        check_rows(rows, len(tokens))
        try:
            logits = forward(tokens, rows)
        except BaseException:
            self._truncate(start)
            raise
        # Only now: a pass that failed half-way leaves keys behind `position`, which the next one overwrites.
        self._position = start + len(tokens)
        return logits

    def rewind(self, position: int) -> None:
        self._check_open()
        check_rewind(position, position=self._position)
        self._truncate(position)
        self._position = position

    @abstractmethod
    def _check_open(self) -> None:
        """Raise `SessionError` where the model is closed."""

    @abstractmethod
    def _forward(self, tokens: Sequence[int], rows: Rows) -> Logits:
        """One pass behind `position`: logits as `Session.append` returns them, or of the output matrix's rows alone."""

    def _truncate(self, position: int) -> None:  # noqa: B027 - most caches need no telling
        """Make the cache count `position` tokens."""


class Spread:
    """Logits of some ids -> logits of the whole vocabulary, the others `DROPPED`, in a buffer that is used again."""

    MOST = 64
    """Rows that are kept for the next pass; as many as a guess that is checked at once is long."""

    def __init__(self, ids: Ids, vocab_size: int) -> None:
        self._ids = ids
        self._buffer = np.full((1, vocab_size), DROPPED, dtype=np.float32)

    def __call__(self, logits: Logits) -> Logits:
        """(ids,) or (rows, ids) -> (vocab,) or (rows, vocab): read-only, and valid until the next call."""
        rows = np.atleast_2d(logits)
        buffer = self._buffer
        if len(rows) > len(buffer):
            buffer = np.full((len(rows), buffer.shape[1]), DROPPED, dtype=np.float32)
            if len(rows) <= self.MOST:
                self._buffer = buffer
        out = buffer[: len(rows)]
        out[:, self._ids] = rows
        out.flags.writeable = False  # what a caller wrote to a dropped id would stay there
        return out[0] if logits.ndim == 1 else out


def check_append(tokens: Sequence[int], *, position: int, vocab_size: int, context_length: int) -> None:
    """The edges of `Session.append`, the same on every runtime."""
    if len(tokens) == 0:
        raise SessionError("append: no tokens given; a forward pass needs at least one")
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise SessionError(f"append: token id {token} is outside the vocabulary (0..{vocab_size - 1})")
    if position + len(tokens) > context_length:
        raise SessionError(
            f"append: {position} cached + {len(tokens)} new tokens exceed the context of {context_length}"
        )


def check_rows(rows: Rows, count: int) -> None:
    """The edges of what `Session.append` may be asked for, of a pass over `count` tokens."""
    if rows in ("last", "all"):
        return
    if isinstance(rows, str) or len(rows) == 0 or rows[0] < 0 or rows[-1] >= count or not _ascending(rows):
        raise SessionError(
            f"append: rows {rows!r} of {count} tokens; give 'last', 'all' or offsets below {count}, ascending"
        )


def row_offsets(rows: Rows, count: int) -> Sequence[int]:
    """The offsets that `rows` stands for in a pass over `count` tokens."""
    if isinstance(rows, str):
        return range(count) if rows == "all" else (count - 1,)
    return rows


def _ascending(rows: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise(rows))


def check_rewind(target: int, *, position: int) -> None:
    """The edges of `Session.rewind`, the same on every runtime."""
    if not 0 <= target <= position:
        raise SessionError(f"rewind: position {target} is outside 0..{position}")


def available_cores() -> int:
    """The number of cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Half the cores that this process may use, 1 to 8.

    Half, because a thread that must wait for a core (another program's, or a virtual core whose core also serves
    somebody else) holds up all the others at every operation, which costs a small model far more than the other half
    of the cores can give.
    """
    return max(1, min(available_cores() // 2, 8))


def check_threads(threads: int | None, what: str = "threads") -> int:
    """The number of threads to use: what was asked for, or `default_threads`.

    Raises `SessionError`, which `what` begins, for none and for more than the cores could ever use.
    """
    if threads is None:
        return default_threads()
    if threads < 1:
        raise SessionError(f"{what}: {threads} is not a number of threads; give 1 or more")
    most = max(64, 4 * available_cores())
    if threads > most:
        raise SessionError(f"{what}: {threads} is more than {available_cores()} cores can use; give {most} at most")
    return threads
