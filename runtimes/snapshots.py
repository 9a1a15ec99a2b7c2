"""Snapshots of sessions whose cache is arrays, one for the keys and one for the values of each layer."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from runtimes.base import CountingSession
from runtimes.errors import SessionError

Array = npt.NDArray[Any]


class ArraySession(CountingSession):
    """A `CountingSession` that is a `runtimes.base.Snapshots` too: its arrays in numpy's ``.npz`` form."""

    def snapshot(self) -> bytes:
        self._check_open()
        out = io.BytesIO()
        np.savez(out, *self._arrays(self._position))
        return out.getvalue()

    def restore(self, data: bytes) -> None:
        self._check_open()
        self._position = 0
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                arrays = [found[f"arr_{n}"] for n in range(len(found.files))]
            if arrays and arrays[0].ndim == 4 and arrays[0].shape[2] > self._model.context_length:
                raise ValueError("more tokens than the context has room for")
            self._load(arrays)
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SessionError(f"restore: not a snapshot of this model's cache ({line})") from None
        self._position = int(arrays[0].shape[2])

    @abstractmethod
    def _arrays(self, tokens: int) -> Sequence[Array]:
        """The first cached tokens, (1, key heads, tokens, width) each."""

    @abstractmethod
    def _load(self, arrays: Sequence[Array]) -> None:
        """Have what `_arrays` gave. Raises `ValueError` for another model's."""


def check_arrays(arrays: Sequence[Array], shapes: Sequence[tuple[int, int]], dtype: npt.DTypeLike) -> int:
    """Of how many tokens `arrays` are. Raises `ValueError` unless there is one of each (key heads, width)."""
    tokens = {array.shape[2] for array in arrays if array.ndim == 4}
    found = [(*a.shape[:2], a.shape[3], a.dtype) if a.ndim == 4 else None for a in arrays]
    if len(tokens) != 1 or found != [(1, heads, width, np.dtype(dtype)) for heads, width in shapes]:
        raise ValueError("arrays of another shape")
    return int(tokens.pop())
