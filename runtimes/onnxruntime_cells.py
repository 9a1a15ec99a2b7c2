"""The caches of the graph of `export.onnx`, in memory that its passes update in place (`runtimes.onnxruntime`).

Keys and values lie in cells of buffers of our own, bound as input and as output of the same pass. Which cells a pass
writes and which it sees are inputs of the graph, so that forgetting costs nothing; local layers are bound to the part
of their buffers that the window reaches. All inputs of passes of one size lie in memory that is bound once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from runtimes.base import Ids, Logits

Floats = npt.NDArray[np.float32]
Views = dict[str, tuple[int, int]]
"""By kind of layer (global, local) the cells that are bound: the first, and the one behind the last."""

GRAPH: Final = "2"
"""The interface of the graph, as its file says it; 1 took and gave the caches whole."""
NEVER: Final = np.finfo(np.float32).min
"""Added to the score of a cell that a token does not see."""
_STEP: Final = 64
"""Views begin and end at multiples of it, so that most passes find theirs bound."""
_SLACK: Final = 2 * _STEP
"""Cells that a bound view may have too many before it is bound anew."""
_MOST: Final = 64
"""Tokens, and rows of logits, of passes whose memory is kept for the next."""
_SIZES: Final = 256
"""How many sizes of passes are kept, those used last; to bind one that was not seen before takes a tenth of a pass."""


@dataclass(frozen=True)
class Layout:
    """What a session's graph says about its caches."""

    names: tuple[tuple[str, str, str], ...]
    """Input, output and kind of each."""
    heads: int
    width: int
    vocab: int
    window: int
    """Tokens that a local layer sees, the newest among them."""
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, session: Any) -> Layout:
        """Raises ValueError for a graph of another interface than `GRAPH`."""
        said = session.get_modelmeta().custom_metadata_map
        if said.get("edgecall.graph") != GRAPH:
            raise ValueError(
                f"its graph is of version {said.get('edgecall.graph', 1)}, this edgecall runs version {GRAPH}"
            )
        inputs = {i.name: i.shape for i in session.get_inputs()}
        caches = [name for name in inputs if name.startswith("past_key_values.")]
        kinds = {name: "local" if str(inputs[name][2]).startswith("local") else "global" for name in caches}
        names = tuple((c, c.replace("past_key_values.", "present.", 1), kinds[c]) for c in caches)
        window = int(said["sliding_window"])
        vocab = {o.name: o.shape[-1] for o in session.get_outputs()}["logits"]
        _, heads, _, width = inputs[caches[0]]
        return cls(names, int(heads), int(width), int(vocab), window, tuple(sorted(set(kinds.values()))))


class Memory(Protocol):
    """The caches' buffers, (1, heads, cells, width) float32 each."""

    cells: int

    def grow(self, cells: int) -> None:
        """Have room for `cells`, what is cached kept."""
        ...

    def address(self, cache: int) -> int: ...

    def read(self, cache: int, cells: int) -> Floats:
        """The first `cells` of a cache."""
        ...

    def write(self, caches: Sequence[Floats]) -> None:
        """Have that in the first cells of the caches."""
        ...


class HostMemory:
    """In numpy arrays."""

    def __init__(self, layout: Layout) -> None:
        self.cells = 0
        self._arrays = [np.zeros((1, layout.heads, 0, layout.width), np.float32) for _ in layout.names]

    def grow(self, cells: int) -> None:
        for index, old in enumerate(self._arrays):
            new = np.zeros((*old.shape[:2], cells, old.shape[3]), np.float32)  # also what is not seen must be finite
            new[:, :, : self.cells] = old
            self._arrays[index] = new
        self.cells = cells

    def address(self, cache: int) -> int:
        return _address(self._arrays[cache])

    def read(self, cache: int, cells: int) -> Floats:
        return self._arrays[cache][:, :, :cells]

    def write(self, caches: Sequence[Floats]) -> None:
        for own, values in zip(self._arrays, caches, strict=True):
            own[:, :, : values.shape[2]] = values


class DeviceMemory:
    """In a device's memory; what is grown and restored comes by here."""

    def __init__(self, layout: Layout, device: str, index: int) -> None:
        self.cells = 0
        self._layout, self._place = layout, (device, index)
        self._values: list[Any] = []

    def grow(self, cells: int) -> None:
        host = HostMemory(self._layout)
        host.grow(cells)
        host.write([value.numpy() for value in self._values] or [host.read(c, 0) for c in range(self._count)])
        self.cells = cells
        self._put(host)

    def address(self, cache: int) -> int:
        return int(self._values[cache].data_ptr())

    def read(self, cache: int, cells: int) -> Floats:
        if not self._values:
            return np.zeros((1, self._layout.heads, 0, self._layout.width), np.float32)
        return np.ascontiguousarray(self._values[cache].numpy()[:, :, :cells])

    def write(self, caches: Sequence[Floats]) -> None:
        host = HostMemory(self._layout)
        host.grow(self.cells)
        host.write(caches)
        for cache, value in enumerate(self._values):
            value.update_inplace(host.read(cache, self.cells))

    @property
    def _count(self) -> int:
        return len(self._layout.names)

    def _put(self, host: HostMemory) -> None:
        from onnxruntime import OrtValue

        arrays = [np.array(host.read(cache, self.cells)) for cache in range(self._count)]
        self._values = [OrtValue.ortvalue_from_numpy(array, *self._place) for array in arrays]


class Bound:
    """Inputs and outputs of passes over `tokens` tokens with `rows` rows of logits, bound to memory."""

    def __init__(self, session: Any, layout: Layout, place: tuple[str, int], tokens: int, rows: int) -> None:
        self._session, self._layout, self._place = session, layout, place
        self._io = session.io_binding()
        self._cells = -1
        self._views: Views = {}
        self._kept: Any = None
        self._masks: dict[str, Floats] = {}
        self.logits: Logits = np.empty((0, layout.vocab), np.float32)
        names = ["input_ids", "positions", *(f"cells.{kind}" for kind in layout.kinds)]
        self._ids, self._positions, *self._writes = (np.zeros((1, tokens), np.int64) for _ in names)
        self._rows = np.zeros(rows, np.int64)
        self._wanted: Sequence[int] = ()
        for name, array in zip(names, (self._ids, self._positions, *self._writes), strict=True):
            self._io.bind_cpu_input(name, array)
        self._io.bind_cpu_input("rows", self._rows)

    def bind(self, memory: Memory, views: Views, logits: Logits) -> None:
        """To these cells, and to where the logits go, (at least `rows`, vocab)."""
        if self._cells != memory.cells or self._views != views:
            layout = self._layout
            for cache, (read, written, kind) in enumerate(layout.names):
                first, last = views[kind]
                shape = (1, layout.heads, last - first, layout.width)
                address = memory.address(cache) + 4 * layout.width * first
                self._io.bind_input(read, *self._place, np.float32, shape, address)
                self._io.bind_output(written, *self._place, np.float32, shape, address)
            for kind, (first, last) in views.items():
                self._masks[kind] = np.empty((self._ids.shape[1], last - first), np.float32)
                self._io.bind_cpu_input(f"mask.{kind}", self._masks[kind])
            self._cells, self._views, self._kept = memory.cells, dict(views), memory
        if self.logits.base is not logits:
            self.logits = logits[: len(self._rows)]
            self._io.bind_output("logits", "cpu", 0, np.float32, self.logits.shape, _address(logits))

    def fill(
        self, ids: Sequence[int], positions: Ids, cells: Ids, masks: dict[str, Floats], rows: Sequence[int]
    ) -> None:
        """Ids, positions and cells (tokens,), what is seen of the bound cells (tokens, cells), offsets of the rows."""
        self._ids[0] = ids
        self._positions[0] = positions
        if self._wanted != rows:
            self._rows[:] = self._wanted = rows
        for write, (kind, (first, _)) in zip(self._writes, self._views.items(), strict=True):
            np.subtract(cells, first, out=write[0])
            np.copyto(self._masks[kind], masks[kind])

    def run(self) -> None:
        """One pass; `logits` (rows, vocab) are valid until the next that is bound to the same memory."""
        self._session.run_with_iobinding(self._io)


class Caches:
    """The caches of one model's layers, by cell, and what passes over them are bound to."""

    def __init__(self, session: Any, layout: Layout, place: tuple[str, int]) -> None:
        self.layout = layout
        self._session, self._place = session, place
        self.memory: Memory = HostMemory(layout) if place[0] == "cpu" else DeviceMemory(layout, *place)
        self._views: Views = {}
        self._known: dict[tuple[int, int], Bound] = {}
        self._logits: Logits = np.empty((1, layout.vocab), np.float32)

    def bound(self, views: Views, tokens: int, rows: int) -> Bound:
        """What a pass is bound to: such as were used before, where they are small."""
        found = self._known.pop((tokens, rows), None) or Bound(self._session, self.layout, self._place, tokens, rows)
        logits = self._logits
        if rows > len(logits):
            logits = np.empty((rows, self.layout.vocab), np.float32)
        if max(tokens, rows) <= _MOST:
            if len(self._known) == _SIZES:
                del self._known[next(iter(self._known))]
            self._known[tokens, rows], self._logits = found, logits
        found.bind(self.memory, views, logits)
        return found

    def single(self, views: Views, tokens: int, rows: int) -> Bound:
        """The same for one pass alone, with memory of its own."""
        made = Bound(self._session, self.layout, self._place, tokens, rows)
        made.bind(self.memory, views, np.empty((rows, self.layout.vocab), np.float32))
        return made

    def views(self, cells: int, seen: int) -> Views:
        """The cells to bind so that the first `cells` are there, where local layers see none before `seen`. Makes room
        for them."""
        memory, one = self.memory, self.layout.heads == 1
        if cells > memory.cells:
            # The heads of a buffer lie one behind the other: only one head's cells can be bound in part.
            memory.grow(_up(max(cells, 2 * memory.cells), 4 * _STEP) if one else _up(cells, _SLACK))
        if not one:
            return dict.fromkeys(self.layout.kinds, (0, memory.cells))
        for kind in self.layout.kinds:
            least = seen if kind == "local" else 0
            first, last = self._views.get(kind, (0, 0))
            if not (first <= least < first + _SLACK and cells <= last < cells + _SLACK):
                self._views[kind] = (least - least % _STEP, min(_up(cells, _STEP), memory.cells))
        return self._views


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _up(count: int, step: int) -> int:
    return -(-count // step) * step
