"""Forward passes of an ONNX graph behind a cache, in numpy arrays or in a device's memory (`runtimes.onnxruntime`).

The graph takes the cached keys and values and gives them back with the new ones behind. They are handed on as views
of what the last pass returned, cut at the position asked for, so that forgetting tokens costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtimes.base import Logits

Ids = npt.NDArray[np.int64]

ALL_ROWS: Final[Ids] = np.array([0], np.int64)
LAST_ROW: Final[Ids] = np.array([-1], np.int64)
"""What `first_row` may be: the graph computes logits from that row of the pass on."""


class HostSequence:
    """Passes whose cache lies in numpy arrays, (1, kv_heads, tokens, head_dim) each.

    Called with ids (1, n), the first row asked for and how many cached tokens count; gives logits (rows, vocab). Where
    a pass raises, the cache is as it was.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names, self._outputs, self._cache = _layout(session)

    def arrays(self, past: int) -> list[npt.NDArray[np.float32]]:
        """The first `past` cached tokens."""
        return [array[:, :, :past] for array in self._cache]

    def load(self, arrays: Sequence[npt.NDArray[np.float32]]) -> None:
        """Have what `arrays` gave. Raises ValueError for another model's."""
        _check(arrays, _layout(self._session)[2])
        self._cache = list(arrays)

    def __call__(self, ids: Ids, first_row: Ids, past: int) -> Logits:
        feed: dict[str, Any] = {name: array[:, :, :past] for name, array in zip(self._names, self._cache, strict=True)}
        feed["input_ids"], feed["first_row"] = ids, first_row
        logits, *cache = self._session.run(self._outputs, feed)
        self._cache = cache
        found: Logits = logits[0]
        return found


class BoundSequence:
    """The same with a cache that stays in the device's memory; only ids go there, only logits come back."""

    def __init__(self, session: Any, device: str, index: int = 0) -> None:
        self._session, self._place = session, (device, index)
        self._names, self._outputs, self._empty = _layout(session)
        self._cache: list[Any] = []

    def arrays(self, past: int) -> list[npt.NDArray[np.float32]]:
        """The first `past` cached tokens."""
        return [np.ascontiguousarray(value.numpy()[:, :, :past]) for value in self._cache] if past else self._empty

    def load(self, arrays: Sequence[npt.NDArray[np.float32]]) -> None:
        """Have what `arrays` gave. Raises ValueError for another model's."""
        from onnxruntime import OrtValue

        _check(arrays, self._empty)
        self._cache = [OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a), *self._place) for a in arrays]

    def __call__(self, ids: Ids, first_row: Ids, past: int) -> Logits:
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("first_row", first_row)
        kept = [self._bind(binding, i, name, past) for i, name in enumerate(self._names)]
        binding.bind_output("logits", "cpu")
        for name in self._outputs[1:]:
            binding.bind_output(name, *self._place)
        self._session.run_with_iobinding(binding)
        logits, *self._cache = binding.get_outputs()
        del kept  # what the pass read must live until it has run
        found: Logits = logits.numpy()[0]
        return found

    def _bind(self, binding: Any, i: int, name: str, past: int) -> Any:
        """Bind the first `past` tokens of the i-th cached tensor; returns what must be kept alive meanwhile."""
        from onnxruntime import OrtValue

        if past == 0:
            binding.bind_cpu_input(name, self._empty[i])
            return self._empty[i]
        value = self._cache[i]
        batch, heads, length, width = value.shape()
        if length == past:
            binding.bind_ortvalue_input(name, value)
        elif heads == 1:  # a prefix of the tokens is a prefix of the memory
            binding.bind_input(name, *self._place, np.float32, (batch, heads, past, width), value.data_ptr())
        else:
            cut = np.ascontiguousarray(value.numpy()[:, :, :past])
            value = OrtValue.ortvalue_from_numpy(cut, *self._place)
            binding.bind_ortvalue_input(name, value)
        return value


def _check(arrays: Sequence[npt.NDArray[np.float32]], empty: Sequence[npt.NDArray[np.float32]]) -> None:
    tokens = {array.shape[2] for array in arrays if array.ndim == 4}
    if len(tokens) != 1 or [(*a.shape[:2], a.shape[3], a.dtype) for a in arrays] != [
        (*e.shape[:2], e.shape[3], e.dtype) for e in empty
    ]:
        raise ValueError("arrays of another shape")


def _layout(session: Any) -> tuple[list[str], list[str], list[npt.NDArray[np.float32]]]:
    """Names of the cached inputs, of the outputs in their order (logits first), and empty arrays to begin with."""
    cached = [i for i in session.get_inputs() if i.name.startswith("past_key_values.")]
    outputs = ["logits", *(i.name.replace("past_key_values.", "present.", 1) for i in cached)]
    empty = [np.zeros((1, int(i.shape[1]), 0, int(i.shape[3])), np.float32) for i in cached]
    return [i.name for i in cached], outputs, empty
