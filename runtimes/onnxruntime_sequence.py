"""One sequence in the caches of `runtimes.onnxruntime_cells`: the cells of its tokens are their positions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from runtimes.base import Logits
from runtimes.onnxruntime_cells import NEVER, Bound, Caches, Floats, Layout, Views
from runtimes.snapshots import check_arrays

CHUNK: Final = 256
"""Tokens of one native pass; a longer append is cut, which bounds the masks and the scores."""


def chunks(count: int, rows: Sequence[int]) -> Iterator[tuple[int, int, slice, Sequence[int]]]:
    """The native passes of an append of `count` tokens of which `rows` (ascending) are wanted.

    Of each from which token to which it goes, which of the wanted rows are among them, and their offsets there; where
    none are, the offset of the last, because a pass has at least one.
    """
    for begin in range(0, count, CHUNK):
        end = min(begin + CHUNK, count)
        first, last = bisect_left(rows, begin), bisect_left(rows, end)
        yield begin, end, slice(first, last), [row - begin for row in rows[first:last]] or [end - begin - 1]


class TokenSequence:
    """Called with tokens, the offsets of the wanted rows, ascending, and how many cached tokens count; gives logits
    (rows, vocab), valid until the next call. Where a pass raises, what is cached before those tokens is as it was."""

    def __init__(self, session: Any, layout: Layout, place: tuple[str, int] = ("cpu", 0)) -> None:
        self._caches = Caches(session, layout, place)
        self._layout = layout
        self._bands: dict[str, Floats] = {}
        self._reach = 0

    def __call__(self, tokens: Sequence[int], rows: Sequence[int], past: int) -> Logits:
        if len(tokens) <= CHUNK:
            return self._run(tokens, rows, past)
        out = np.empty((len(rows), self._layout.vocab), np.float32)
        for begin, end, slots, here in chunks(len(tokens), rows):
            out[slots] = self._run(tokens[begin:end], here, past + begin)[: slots.stop - slots.start]
        return out

    def prepared(self, passes: Sequence[tuple[Sequence[int], Sequence[int], int]]) -> Callable[[], None]:
        """Runs those passes, of up to `CHUNK` tokens each, with everything bound beforehand."""
        self._caches.views(max(past + len(tokens) for tokens, _, past in passes), 0)  # buffers stay where they are
        bound = []
        for tokens, rows, past in passes:
            views = self._views(len(tokens), past)
            bound.append(self._caches.single(views, len(tokens), len(rows)))
            self._fill(bound[-1], views, tokens, rows, past)

        def run() -> None:
            for each in bound:
                each.run()

        return run

    def arrays(self, past: int) -> list[Floats]:
        """The first `past` cached tokens, (1, kv_heads, past, head_dim) each."""
        return [self._caches.memory.read(cache, past) for cache in range(len(self._layout.names))]

    def load(self, arrays: Sequence[Floats]) -> None:
        """Have what `arrays` gave. Raises ValueError for another model's."""
        layout = self._layout
        tokens = check_arrays(arrays, [(layout.heads, layout.width)] * len(layout.names), np.float32)
        self._caches.views(max(1, tokens), 0)
        self._caches.memory.write(arrays)

    def _run(self, tokens: Sequence[int], rows: Sequence[int], past: int) -> Logits:
        views = self._views(len(tokens), past)
        bound = self._caches.bound(views, len(tokens), len(rows))
        self._fill(bound, views, tokens, rows, past)
        bound.run()
        return bound.logits

    def _views(self, count: int, past: int) -> Views:
        return self._caches.views(past + count, max(0, past - self._layout.window + 1))

    def _fill(self, bound: Bound, views: Views, tokens: Sequence[int], rows: Sequence[int], past: int) -> None:
        count = len(tokens)
        positions = np.arange(past, past + count)
        masks = {kind: self._mask(kind, past - first, count, last - first) for kind, (first, last) in views.items()}
        bound.fill(tokens, positions, positions, masks, rows)

    def _mask(self, kind: str, past: int, count: int, cells: int) -> Floats:
        """What `count` tokens behind `past` of `cells` cells see of them: cut from a band that is made once."""
        if cells > self._reach:
            self._reach = reach = 2 * cells
            for name, width in (("global", reach), ("local", min(reach, self._layout.window))):
                strip = np.full(reach + width + reach, NEVER, np.float32)
                strip[reach : reach + width] = 0
                shape = (reach + width, reach)
                self._bands[name] = np.lib.stride_tricks.as_strided(strip, shape, (4, 4), writeable=False)
        band = self._bands[kind]
        newest = len(band) - 1 - past  # the row whose last zero lies in the first token's cell
        stop = newest - count
        return band[newest : stop if stop >= 0 else None : -1, :cells]
