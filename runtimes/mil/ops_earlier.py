"""Operations as iOS 15 and iOS 16 had them, where iOS 17 means something else.

Up to iOS 16 an index may be negative and then counts from the end: -D <= v < D. From iOS 17 on it may not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtimes.mil import ops_indexing, ops_tensor
from runtimes.mil.program import Array
from runtimes.mil.table import before_ios17


@before_ios17
def reshape(x: Array, shape: Array) -> Array:
    """iOS15.tensor_transformation.reshape: 0 is x's size there, and needs a shape of x's rank; -1 is what is left."""
    if not shape.all() and len(shape) != x.ndim:
        raise ValueError(f"a shape with a 0 has {len(shape)} sizes, its input {x.ndim}; before iOS 17 as many")
    return ops_tensor.reshape(x, shape)


@before_ios17
def gather(x: Array, indices: Array, axis: Array | int = 0, batch_dims: Array | int = 0) -> Array:
    """iOS16.scatter_gather.gather: also from the end."""
    return ops_indexing.gather(x, _from_end(indices, x.shape[int(axis)]), axis, batch_dims)


@before_ios17
def gather_along_axis(x: Array, indices: Array, axis: Array | int = 0) -> Array:
    """iOS16.scatter_gather.gather_along_axis: also from the end."""
    return ops_indexing.gather_along_axis(x, _from_end(indices, x.shape[int(axis)]), axis)


@before_ios17
def gather_nd(x: Array, indices: Array, batch_dims: Array | int = 0) -> Array:
    """iOS16.scatter_gather.gather_nd: also from the end."""
    return ops_indexing.gather_nd(x, _places_from_end(indices, x.shape[int(batch_dims) :]), batch_dims)


@before_ios17
def scatter(data: Array, indices: Array, updates: Array, axis: Array | int = 0, mode: str = "add") -> Array:
    """iOS15.scatter_gather.scatter: also from the end."""
    return ops_indexing.scatter(data, _from_end(indices, data.shape[int(axis)]), updates, axis, mode)


@before_ios17
def scatter_along_axis(data: Array, indices: Array, updates: Array, axis: Array | int = 0, mode: str = "add") -> Array:
    """iOS15.scatter_gather.scatter_along_axis: also from the end."""
    return ops_indexing.scatter_along_axis(data, _from_end(indices, data.shape[int(axis)]), updates, axis, mode)


@before_ios17
def scatter_nd(data: Array, indices: Array, updates: Array, mode: str = "add") -> Array:
    """iOS15.scatter_gather.scatter_nd: also from the end."""
    return ops_indexing.scatter_nd(data, _places_from_end(indices, data.shape), updates, mode)


def _from_end(indices: Array, size: int | Array) -> Array:
    """Negative indices of an axis of that size as those that they mean."""
    whole = indices.astype(np.int64)
    return np.where(whole < 0, whole + size, whole)


def _places_from_end(indices: Array, sizes: Sequence[int]) -> Array:
    """The same for places: the last axis goes through the first axes of those sizes."""
    return _from_end(indices, np.array(sizes[: indices.shape[-1]], np.int64))
