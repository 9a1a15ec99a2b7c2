"""Operations that make tensors or change their shape and order."""

from __future__ import annotations

import math

import numpy as np

from runtimes.mil.program import NUMPY, Array
from runtimes.mil.table import move, operation, view


@view
def identity(x: Array) -> Array:
    """iOS15.tensor_operation.identity"""
    return x


@operation
def shape(x: Array) -> Array:
    """iOS15.tensor_operation.shape: int32."""
    return np.array(x.shape, np.int32)


@view
def reshape(x: Array, shape: Array) -> Array:
    """iOS17.tensor_transformation.reshape: 0 is x's size there, counted from the right; -1 is what is left."""
    wanted = [int(n) for n in shape]
    offset = x.ndim - len(wanted)
    sizes = [(x.shape[i + offset] if i + offset >= 0 else 1) if n == 0 else n for i, n in enumerate(wanted)]
    return x.reshape(sizes)


@view
def reshape_like(
    x: Array, ref_tensors: list[Array], begins: list[Array], ends: list[Array], end_masks: list[Array]
) -> Array:
    """iOS17.tensor_transformation.reshape_like: to sizes of the reference tensors, one after another."""
    sizes: list[int] = []
    for tensor, begin, end, open_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += tensor.shape[int(begin) : None if open_end else int(end)]
    return x.reshape(sizes)


@view
def flatten2d(x: Array, axis: Array | int = 1) -> Array:
    """iOS15.tensor_operation.flatten2d: the axes before `axis` into one, those from it on into another."""
    return x.reshape(math.prod(x.shape[: int(axis)]), -1)


@view
def transpose(x: Array, perm: Array) -> Array:
    """iOS17.tensor_transformation.transpose"""
    return x.transpose([int(n) for n in perm])


@view
def expand_dims(x: Array, axes: Array) -> Array:
    """iOS17.tensor_transformation.expand_dims: `axes` are places in the output."""
    return np.expand_dims(x, tuple(int(n) for n in axes))


@view
def squeeze(x: Array, axes: Array | None = None) -> Array:
    """iOS17.tensor_transformation.squeeze: of `axes` those whose size is 1; without them all such."""
    return np.squeeze(x, None if axes is None else tuple(int(n) for n in axes if x.shape[int(n)] == 1))


@view
def reverse(x: Array, axes: Array | None = None) -> Array:
    """iOS17.tensor_transformation.reverse"""
    return np.flip(x, None if axes is None else tuple(int(n) for n in axes))


@move
def concat(values: list[Array], axis: Array | int, interleave: Array | bool = False) -> Array:
    """iOS15.tensor_operation.concat: scalars give a vector; interleaved, the tensors take turns along the axis."""
    whole = [np.atleast_1d(value) for value in values]
    if not interleave:
        return np.concatenate(whole, axis=int(axis))
    at = int(axis) % whole[0].ndim
    sizes = list(whole[0].shape)
    sizes[at] *= len(whole)
    return np.stack(whole, axis=at + 1).reshape(sizes)


@move
def stack(values: list[Array], axis: Array | int) -> Array:
    """iOS15.tensor_operation.stack"""
    return np.stack(values, axis=int(axis))


@view
def split(
    x: Array, axis: Array | int, num_splits: Array | int | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    """iOS15.tensor_operation.split: into equal parts, or parts of the sizes given."""
    if split_sizes is not None:
        return tuple(np.split(x, np.cumsum(split_sizes)[:-1], axis=int(axis)))
    if num_splits is None:
        raise ValueError("split has neither num_splits nor split_sizes")
    return tuple(np.split(x, int(num_splits), axis=int(axis)))


@move
def tile(x: Array, reps: Array) -> Array:
    """iOS15.tensor_operation.tile: `reps` times along each axis."""
    return np.tile(x, tuple(int(n) for n in reps))


@operation
def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Array | float = 0.0) -> Array:
    """iOS15.tensor_operation.pad: before and after each of the last axes; constant, reflect or replicate."""
    pairs = [(int(before), int(after)) for before, after in pad.reshape(-1, 2)]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, widths, constant_values=np.asarray(constant_val, x.dtype))
    if mode not in ("reflect", "replicate"):
        raise ValueError(f"pad has no mode {mode!r}")
    return np.pad(x, widths, mode="edge" if mode == "replicate" else "reflect")


@operation
def fill(shape: Array, value: Array | float = 0.0) -> Array:
    """iOS15.tensor_operation.fill"""
    return np.full([int(n) for n in shape], value)


@operation
def fill_like(ref_tensor: Array, value: Array | float = 0.0) -> Array:
    """iOS16.tensor_operation.fill_like"""
    return np.full(ref_tensor.shape, value)


@operation
def range_1d(end: Array, start: Array, step: Array) -> Array:
    """iOS15.tensor_operation.range_1d: from start to before end."""
    return np.arange(start, end, step)


@operation
def one_hot(
    indices: Array,
    one_hot_vector_size: Array,
    axis: Array | int = -1,
    on_value: Array | int = 1,
    off_value: Array | int = 0,
) -> Array:
    """iOS15.tensor_operation.one_hot: a new axis, `on_value` at the index along it."""
    found = np.expand_dims(indices, int(axis)) == _along(np.arange(int(one_hot_vector_size)), int(axis), indices.ndim)
    return np.where(found, on_value, off_value)


@move
def band_part(x: Array, lower: Array | int = -1, upper: Array | int = -1) -> Array:
    """iOS15.tensor_operation.band_part: zero outside a band about the diagonal of the last two axes; -1 is all."""
    row, column = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])
    below, above = int(lower), int(upper)
    kept = ((below < 0) | (row - column <= below)) & ((above < 0) | (column - row <= above))
    return np.where(kept, x, np.zeros((), x.dtype))


@operation
def cumsum(x: Array, axis: Array | int = 0, exclusive: Array | bool = False, reverse: Array | bool = False) -> Array:
    """iOS15.tensor_operation.cumsum: without the element itself where exclusive, from the end where reversed."""
    at = int(axis)
    turned = np.flip(x, at) if reverse else x
    total = np.cumsum(turned, axis=at, dtype=x.dtype)
    if exclusive:
        before = total.take(range(total.shape[at] - 1), axis=at)
        total = np.insert(before, 0, 0, axis=at)
    return np.flip(total, at).copy() if reverse else total


@operation
def argsort(x: Array, axis: Array | int = -1, ascending: Array | bool = False) -> Array:
    """iOS15.tensor_operation.argsort: int32; equal ones keep their order."""
    return _order(x, int(axis), bool(ascending)).astype(np.int32)


@operation
def topk(
    x: Array,
    k: Array | int = 1,
    axis: Array | int = -1,
    ascending: Array | bool = False,
    sort: Array | bool = True,
    return_indices: Array | bool = True,
    output_indices_dtype: str = "int32",
) -> Array | tuple[Array, Array]:
    """iOS17.tensor_operation.topk: the k largest (smallest where ascending), sorted, and where they were; -1 is all."""
    order = _order(x, int(axis), bool(ascending))
    count = order.shape[int(axis)] if int(k) == -1 else int(k)
    chosen = np.take(order, np.arange(count), axis=int(axis))
    values = np.take_along_axis(x, chosen, axis=int(axis))
    return (values, chosen.astype(NUMPY[output_indices_dtype])) if return_indices else values


@operation
def non_zero(x: Array) -> Array:
    """iOS15.tensor_operation.non_zero: the places, (n, rank) int32."""
    return np.argwhere(x).astype(np.int32)


def _order(x: Array, axis: int, ascending: bool) -> Array:
    """Indices that sort; of equal ones the first first, either way."""
    if ascending:
        return np.argsort(x, axis=axis, kind="stable")
    back = np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    return x.shape[axis] - 1 - back


def _along(values: Array, axis: int, rank: int) -> Array:
    """A vector along a new axis of a tensor of that rank."""
    at = axis % (rank + 1)
    return values.reshape([-1 if i == at else 1 for i in range(rank + 1)])
