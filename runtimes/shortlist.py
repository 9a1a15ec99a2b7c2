"""Logits of some ids alone, where a runtime has the last hidden states and the rows of its output matrix at hand.

Where the grammar leaves twelve tokens of 262,144, twelve rows of the output matrix decide as all of them do, and that
matrix is more than half of what a pass reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np

from runtimes.base import DROPPED, CountingSession, Ids, Logits, Model, Rows
from runtimes.errors import SessionError

_LARGEST: Final = 1024
_SHARE: Final = 16
_SMALLEST: Final = 8 << 20


@runtime_checkable
class Shortlists(Protocol):
    """What a session may offer besides: the logits of some ids alone. Callers work without it."""

    @property
    def shortlist_limit(self) -> int:
        """Of up to how many ids that is faster than of all; 0 where it never is."""
        ...

    def append_shortlist(self, tokens: Sequence[int], ids: Ids, *, rows: Rows = "last") -> Logits:
        """`Session.append`, with the columns `ids` (ascending) alone: shape ``(len(ids),)`` or ``(rows, len(ids))``.

        Their rounding may differ from `append`'s as that of passes over other numbers of tokens does. Raises
        `SessionError` as `append`, and for ids that are none, not ascending or outside the vocabulary.
        """
        ...


def shortlist_limit(rows: int, size: int) -> int:
    """Up to how many of an output matrix's `rows` are gathered and multiplied faster than all are multiplied.

    0 for a matrix whose `size` in bytes is such that finding out what is allowed takes longer (docs/performance.md).
    """
    return min(_LARGEST, rows // _SHARE) if size >= _SMALLEST else 0


def check_ids(ids: Ids, vocab_size: int) -> None:
    """The edges of `Shortlists.append_shortlist`, the same on every runtime."""
    if ids.ndim != 1 or len(ids) == 0 or ids[0] < 0 or ids[-1] >= vocab_size or (np.diff(ids) <= 0).any():
        raise SessionError(f"append_shortlist: give ids below {vocab_size}, ascending, at least one; these are {ids}")


class ShortlistSession(CountingSession):
    """A `CountingSession` that is a `runtimes.base.Shortlists` too."""

    def __init__(self, model: Model, size: int) -> None:
        """`size`: of the model's output matrix, in bytes."""
        super().__init__(model)
        self._kept: Ids | None = getattr(model, "output_ids", None)
        self.shortlist_limit = shortlist_limit(model.vocab_size if self._kept is None else len(self._kept), size)

    def append_shortlist(self, tokens: Sequence[int], ids: Ids, *, rows: Rows = "last") -> Logits:
        check_ids(ids, self._model.vocab_size)
        if self._kept is None:
            return self._pass(tokens, rows, lambda tokens, rows: self._forward_shortlist(tokens, rows, ids))
        at = np.minimum(np.searchsorted(self._kept, ids), len(self._kept) - 1)
        found = self._kept[at] == ids
        asked = at[found] if found.any() else at[:1]  # a product with no rows at all ends MLX's process
        some = self._pass(tokens, rows, lambda tokens, rows: self._forward_shortlist(tokens, rows, asked))
        logits = np.full((*some.shape[:-1], len(ids)), DROPPED, dtype=np.float32)
        logits[..., found] = some[..., : int(found.sum())]
        return logits

    @abstractmethod
    def _forward_shortlist(self, tokens: Sequence[int], rows: Rows, at: Ids) -> Logits:
        """One pass behind `position`: the logits of the rows `at` of the output matrix, at least one, shape
        ``(len(at),)`` for "last" and ``(rows, len(at))`` otherwise."""
