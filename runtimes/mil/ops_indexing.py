"""Slices, gathering and scattering, and the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from runtimes.mil.program import Array
from runtimes.mil.table import move, operation, view

Mask = Array | None


@view
def read_state(input: Array) -> Array:
    """iOS18.states.read_state: what the state holds now."""
    return input


@operation
def write_state(input: Array, data: Array) -> tuple[()]:
    """coreml_dialect.ops.coreml_update_state: as it is saved; the interpreter puts `data` into the state `input`."""
    return ()


@view
def coreml_update_state(state: Array, value: Array) -> Array:
    """coreml_dialect.ops.coreml_update_state: the interpreter puts `value` into the state; it is the output too."""
    return value


STATE_WRITES: Final = {"write_state": ("input", "data"), "coreml_update_state": ("state", "value")}
"""Operations that change a state: which parameter names it, and which is the new value."""


@view
def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Mask = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Array:
    """iOS17.tensor_transformation.slice_by_index: x[begin:end:stride, …]; masked ends are open, squeezed axes go."""
    return x[_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


@view
def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """iOS17.tensor_transformation.slice_by_size: `size` elements from `begin` on; -1 is all that is left."""
    cut = []
    for at, count, length in zip(begin, size, x.shape, strict=True):
        first = int(at) % length if at < 0 else int(at)
        cut.append(slice(first, None if count == -1 else first + int(count)))
    return x[tuple(cut)]


@move
def slice_update(
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Mask = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Array:
    """iOS18.tensor_transformation.slice_update: x with `update` in the place of the slice."""
    return slice_assign(x.copy(), update, begin, end, stride, begin_mask, end_mask, squeeze_mask)


def slice_assign(
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Mask = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Array:
    """`slice_update` in x's own memory: for an x that nobody reads any more."""
    target = x[_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)]
    if target.shape != update.shape:
        raise ValueError(f"an update of shape {update.shape} does not fit a slice of shape {target.shape}")
    target[...] = update
    return x


@move
def gather(
    x: Array,
    indices: Array,
    axis: Array | int = 0,
    batch_dims: Array | int = 0,
    validate_indices: Array | bool = False,
) -> Array:
    """iOS17.scatter_gather.gather: slices of x at `indices` along `axis`; the first `batch_dims` axes go together."""
    _check(indices, x.shape[int(axis)])
    batches, at = int(batch_dims), int(axis) % x.ndim
    if batches == 0:
        return np.take(x, indices, axis=at)
    lead = x.shape[:batches]
    tables, wanted = x.reshape(-1, *x.shape[batches:]), indices.reshape(-1, *indices.shape[batches:])
    rows = [np.take(table, each, axis=at - batches) for table, each in zip(tables, wanted, strict=True)]
    return np.stack(rows).reshape(*lead, *rows[0].shape)


@move
def gather_along_axis(x: Array, indices: Array, axis: Array | int = 0, validate_indices: Array | bool = False) -> Array:
    """iOS17.scatter_gather.gather_along_axis: as many elements as indices, each from its own line along `axis`."""
    _check(indices, x.shape[int(axis)])
    return np.take_along_axis(x, indices.astype(np.int64), axis=int(axis))


@move
def gather_nd(x: Array, indices: Array, batch_dims: Array | int = 0, validate_indices: Array | bool = False) -> Array:
    """iOS17.scatter_gather.gather_nd: the last axis of `indices` holds places in x's axes behind the batch axes."""
    batches = int(batch_dims)
    _check_places(indices, x.shape[batches:])
    lead = np.indices(indices.shape[:-1])[:batches]
    return x[(*lead, *np.moveaxis(indices, -1, 0))]


@operation
def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Array | int = 0,
    mode: str = "add",
    validate_indices: Array | bool = False,
) -> Array:
    """iOS17.scatter_gather.scatter: slices of `updates` into the slices of `data` at `indices` along `axis`."""
    at = int(axis) % data.ndim
    _check(indices, data.shape[at])
    return _scattered(data, (slice(None),) * at + (indices,), updates, mode)


@operation
def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Array | int = 0,
    mode: str = "add",
    validate_indices: Array | bool = False,
) -> Array:
    """iOS17.scatter_gather.scatter_along_axis: each update into its own line along `axis`."""
    at = int(axis) % data.ndim
    _check(indices, data.shape[at])
    places = list(np.indices(indices.shape))
    places[at] = indices
    return _scattered(data, tuple(places), updates, mode)


@operation
def scatter_nd(
    data: Array, indices: Array, updates: Array, mode: str = "add", validate_indices: Array | bool = False
) -> Array:
    """iOS17.scatter_gather.scatter_nd: the last axis of `indices` holds the places of the updates."""
    _check_places(indices, data.shape)
    return _scattered(data, tuple(np.moveaxis(indices, -1, 0)), updates, mode)


_MODES: Final[dict[str, Callable[..., Any]]] = {
    "add": np.add.at, "sub": np.subtract.at, "mul": np.multiply.at, "div": np.divide.at,
    "max": np.maximum.at, "min": np.minimum.at,
}  # fmt: skip


def _scattered(data: Array, places: tuple[Any, ...], updates: Array, mode: str) -> Array:
    """A copy of `data` with the updates; one place named twice is updated twice."""
    out = data.copy()
    if mode == "update":
        out[places] = updates
    elif mode in _MODES:
        _MODES[mode](out, places, updates)
    else:
        raise ValueError(f"scatter has no mode {mode!r}")
    return out


def _slices(
    x: Array, begin: Array, end: Array, stride: Mask, begin_mask: Mask, end_mask: Mask, squeeze_mask: Mask
) -> tuple[slice | int, ...]:
    """Python's index for MIL's begin, end, stride and masks."""
    out: list[slice | int] = []
    for axis in range(x.ndim):
        if squeeze_mask is not None and squeeze_mask[axis]:
            out.append(0 if begin_mask is not None and begin_mask[axis] else int(begin[axis]))
            continue
        first = None if begin_mask is not None and begin_mask[axis] else int(begin[axis])
        last = None if end_mask is not None and end_mask[axis] else int(end[axis])
        out.append(slice(first, last, None if stride is None else int(stride[axis])))
    return tuple(out)


def _check(indices: Array, size: int) -> None:
    """An index outside has no defined result in Core ML, a negative one neither (iOS 17): an error here."""
    if indices.size and not 0 <= indices.min() <= indices.max() < size:
        raise IndexError(f"an index lies outside 0..{size - 1}")


def _check_places(indices: Array, sizes: tuple[int, ...]) -> None:
    for axis in range(indices.shape[-1]):
        _check(indices[..., axis], sizes[axis])
