"""Several sequences in one pass of mlx-lm's network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from runtimes import mlx_net
from runtimes.base import Ids, Logits
from runtimes.lanes import CellBatch, Seen

if TYPE_CHECKING:
    from runtimes.mlx import Cache, MlxModel

CHUNK: Final = 64
"""Tokens of one native pass: attention may lay the keys out anew for each of them."""


class MlxBatch(CellBatch):
    """Lanes of one model; the pass goes through `mlx_net.lanes` and is never compiled."""

    def __init__(self, model: MlxModel, cache: Cache, lanes: int, prefix: Sequence[int]) -> None:
        """`cache`: a new one of the model's; its cells are the lanes'."""
        self._mlx = model
        self._cache = cache
        super().__init__(model, lanes, prefix, int(model.net.args.sliding_window))

    def _check_model(self) -> None:
        self._mlx.net  # noqa: B018 - raises when the model is closed

    def _forward(
        self, ids: list[int], places: Ids, cells: Ids, used: int, seen: tuple[Seen, Seen], wanted: list[int]
    ) -> Logits:
        import mlx.core as mx

        net, cache = self._mlx.net, self._cache
        self._mlx.make_room(cache, used)
        out: list[Logits] = []
        with self._mlx.stream():
            for begin in range(0, len(ids), CHUNK):
                part = slice(begin, begin + CHUNK)
                rows = [row - begin for row in wanted if begin <= row < begin + CHUNK]
                masks = {local: mx.array(mask[part]) for local, mask in zip((False, True), seen, strict=True)}
                where = mx.array(places[part]), mx.array(cells[part])
                states, keys, values = mlx_net.lanes(net, mx.array(ids[part]), *where, masks, *cache.buffers)
                cache.buffers = keys, values
                if rows:
                    logits = mlx_net.head(net, net.model.norm(states[mx.array(rows)]))
                    out.append(np.asarray(logits.astype(mx.float32)))  # asking for the numbers evaluates
                else:
                    mx.eval(keys, values)
        return np.concatenate(out)
