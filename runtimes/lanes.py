"""Several sequences in one pass over one buffer of cells: who owns which cell, and who sees it.

Every cell belongs to a sequence, to all of them (what they begin with) or to none; masks made from owners and positions
let each token see its own. So the prefix is computed and kept once, sequences need not be of one length, and a pass
multiplies each weight once for all of their tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from runtimes.base import DROPPED, Ids, Logits, Model, Rows, check_append, check_rewind, check_rows, row_offsets
from runtimes.errors import SessionError

Seen = npt.NDArray[np.bool_]

_FREE: Final = -1
_SHARED: Final = -2
_LEAST: Final = 256


class CellBatch(ABC):
    """Lanes of one model: a `Batch` of which a runtime says only how a pass over cells is computed."""

    def __init__(self, model: Model, lanes: int, prefix: Sequence[int], window: int) -> None:
        """`window`: how many tokens a local layer sees, the newest among them."""
        if lanes < 1:
            raise SessionError(f"batch: {lanes} lanes; give 1 or more")
        self._model: Model | None = model
        self._output_ids: Ids | None = getattr(model, "output_ids", None)
        self._window = window
        self._owners = np.full(_LEAST, _FREE, dtype=np.int64)
        self._places = np.zeros(_LEAST, dtype=np.int64)
        self._positions = [0] * lanes
        self._shared = [len(prefix)] * lanes
        """How many of the common cells each lane still holds."""
        if prefix:
            check_append(prefix, position=0, vocab_size=model.vocab_size, context_length=model.context_length)
            owners = np.full(len(prefix), _SHARED)
            self._run(list(prefix), owners, np.arange(len(prefix)), [len(prefix) - 1])
            self._positions = [len(prefix)] * lanes

    @abstractmethod
    def _check_model(self) -> None:
        """Raise `SessionError` where the model is closed."""

    @abstractmethod
    def _forward(
        self, ids: list[int], places: Ids, cells: Ids, used: int, seen: tuple[Seen, Seen], wanted: list[int]
    ) -> Logits:
        """One pass over tokens at the positions `places`, into `cells`, over the first `used` cells in all.

        `seen` (tokens, used): which of them each token attends to in global and in local layers. Logits of the `wanted`
        tokens, (wanted, output rows), in memory that may be used again by the next pass.
        """

    @property
    def lanes(self) -> int:
        return len(self._positions)

    def position(self, lane: int) -> int:
        return self._positions[lane]

    def append(self, passes: Sequence[tuple[int, Sequence[int], Rows]]) -> list[Logits]:
        model = self._open("append")
        if len({lane for lane, *_ in passes}) != len(passes):
            raise SessionError("append: a lane is given twice; a pass goes over each once")
        ids: list[int] = []
        owners: list[int] = []
        places: list[int] = []
        wanted: list[int] = []
        for lane, tokens, rows in passes:
            position, length = self._positions[lane], model.context_length
            check_append(tokens, position=position, vocab_size=model.vocab_size, context_length=length)
            check_rows(rows, len(tokens))
            wanted += [len(ids) + offset for offset in row_offsets(rows, len(tokens))]
            ids += tokens
            owners += [lane] * len(tokens)
            places += range(position, position + len(tokens))
        logits = self._run(ids, np.array(owners), np.array(places), wanted)
        out, begin = [], 0
        for lane, tokens, rows in passes:
            count = len(row_offsets(rows, len(tokens)))
            part = logits[begin : begin + count]
            out.append(part[0] if rows == "last" else part)
            begin += count
            self._positions[lane] += len(tokens)
        return out

    def rewind(self, lane: int, position: int) -> None:
        self._open("rewind")
        check_rewind(position, position=self._positions[lane])
        self._owners[(self._owners == lane) & (self._places >= position)] = _FREE
        self._shared[lane] = min(self._shared[lane], position)
        self._positions[lane] = position

    def close(self) -> None:
        """Free the cells; the model stays open."""
        self._model = None

    def _open(self, what: str) -> Model:
        if self._model is None:
            raise SessionError(f"{what}: the batch is closed")
        self._check_model()
        return self._model

    def _run(self, ids: list[int], owners: Ids, places: Ids, wanted: list[int]) -> Logits:
        """One pass; logits (wanted, vocab). Where it raises, the cells are free again."""
        assert self._model is not None
        free = np.flatnonzero(self._owners == _FREE)
        if len(free) < len(ids):
            room = max(2 * len(self._owners), len(self._owners) + len(ids))
            self._owners = np.append(self._owners, np.full(room - len(self._owners), _FREE))
            self._places = np.append(self._places, np.zeros(room - len(self._places), dtype=np.int64))
            free = np.flatnonzero(self._owners == _FREE)
        cells = free[: len(ids)]
        self._owners[cells], self._places[cells] = owners, places
        used = int(np.flatnonzero(self._owners != _FREE)[-1]) + 1
        try:
            logits = self._forward(ids, places, cells, used, self._seen(owners, places, used), wanted)
        except BaseException:
            self._owners[cells] = _FREE
            raise
        if self._output_ids is None:
            return logits
        spread = np.full((len(wanted), self._model.vocab_size), DROPPED, dtype=np.float32)
        spread[:, self._output_ids] = logits
        return spread

    def _seen(self, owners: Ids, places: Ids, used: int) -> tuple[Seen, Seen]:
        """Which cells each token may attend to, in global and in local layers, (tokens, used) each."""
        theirs, at = self._owners[None, :used], self._places[None, :used]
        # While the prefix is computed its tokens are everybody's; afterwards a lane sees what it still holds of it.
        held = np.array([places[-1] + 1 if o == _SHARED else self._shared[o] for o in owners])
        full = (theirs == owners[:, None]) | ((theirs == _SHARED) & (at < held[:, None]))
        full &= at <= places[:, None]
        return full, full & (at > places[:, None] - self._window)
