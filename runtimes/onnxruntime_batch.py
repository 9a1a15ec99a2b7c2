"""Several sequences in one pass of the ONNX graph, over one set of caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtimes.base import Ids, Logits
from runtimes.lanes import CellBatch, Seen
from runtimes.onnxruntime_cells import NEVER, Caches, Floats
from runtimes.onnxruntime_sequence import chunks

if TYPE_CHECKING:
    from runtimes.onnxruntime import OnnxModel


class OnnxBatch(CellBatch):
    """Lanes of one model, whose session they share with its other sequences."""

    def __init__(self, model: OnnxModel, lanes: int, prefix: Sequence[int]) -> None:
        self._onnx = model
        self._caches: Caches | None = Caches(model.native, model.layout, model.place)
        super().__init__(model, lanes, prefix, model.layout.window)

    def close(self) -> None:
        super().close()
        self._caches = None

    def _check_model(self) -> None:
        self._onnx.native  # noqa: B018 - raises when the model is closed

    def _forward(
        self, ids: list[int], places: Ids, cells: Ids, used: int, seen: tuple[Seen, Seen], wanted: list[int]
    ) -> Logits:
        caches = self._caches
        assert caches is not None
        out = np.empty((len(wanted), caches.layout.vocab), np.float32)
        views = caches.views(used, int(np.flatnonzero(seen[1].any(axis=0))[0]))
        for begin, end, slots, rows in chunks(len(ids), wanted):
            bound = caches.bound(views, end - begin, len(rows))
            masks = {
                kind: _scores(mask[begin:end], *views[kind])
                for kind, mask in zip(("global", "local"), seen, strict=True)
                if kind in views
            }
            bound.fill(ids[begin:end], places[begin:end], cells[begin:end], masks, rows)
            bound.run()
            out[slots] = bound.logits[: slots.stop - slots.start]
        return out


def _scores(seen: Seen, first: int, last: int) -> Floats:
    """What is added to the scores of the cells from `first` to `last`; those behind the ones in use are nobody's."""
    out = np.full((len(seen), last - first), NEVER, np.float32)
    part = seen[:, first:last]
    out[:, : part.shape[1]][part] = 0
    return out
