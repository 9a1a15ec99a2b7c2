"""A Session that runs ahead along a guess: the same decisions in one forward pass where the guess is right.

Decoding is written over Session alone, so it cannot tell: as long as what it appends follows the guess, the rows come
from one pass over the whole guess; at the first difference the wrapped session rewinds and goes on pass by pass. The
answer is that of ordinary greedy decoding (up to the rounding of a pass over more rows). Slow runtimes are judged on
whole suites this way; latency is never measured so.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtimes.base import Logits, Rows, Session, row_offsets


class GuessSession:
    """Wraps a session; `guess` says what is expected to be appended from the present position on."""

    def __init__(self, inner: Session) -> None:
        self._inner = inner
        self._position = inner.position
        self._guess: list[int] = []
        self._start = self._position
        self._rows: Logits | None = None
        self.passes = 0
        """Forward passes that were really run."""

    @property
    def position(self) -> int:
        return self._position

    def guess(self, tokens: Sequence[int]) -> None:
        """Expect `tokens` next. Replaces an earlier guess; the rows of the same one again are kept."""
        if self._position == self._start and self._guess == list(tokens):
            return
        self._settle()
        self._guess = list(tokens)

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        offset = self._position - self._start
        end = offset + len(tokens)
        if not tokens or not self._guess or self._guess[offset:end] != list(tokens):
            self._settle()
            self.passes += 1
            out = self._inner.append(tokens, rows=rows)
            self._position = self._start = self._inner.position
            return out
        if self._rows is None:
            self.passes += 1
            # A copy: the array belongs to the session from its next call on.
            self._rows = self._inner.append(self._guess, rows="all").copy()
        self._position += len(tokens)
        found = self._rows[offset:end]
        return found[-1] if rows == "last" else found[list(row_offsets(rows, len(tokens)))]

    def rewind(self, position: int) -> None:
        if self._rows is not None and self._start <= position <= self._position:
            self._position = position
            return
        self._settle()
        self._inner.rewind(position)
        self._position = self._start = position

    def _settle(self) -> None:
        """Drop the guess: the wrapped session stands where this one does."""
        if self._inner.position != self._position:
            self._inner.rewind(self._position)
        self._guess, self._rows, self._start = [], None, self._position
