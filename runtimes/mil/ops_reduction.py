"""Reductions. `axes` not given are all axes."""

from __future__ import annotations

import numpy as np

from runtimes.mil.program import NUMPY, Array
from runtimes.mil.table import operation


@operation
def reduce_mean(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_mean"""
    return np.asarray(np.mean(x, axis=_axes(axes), keepdims=bool(keep_dims)))


@operation
def reduce_sum(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_sum"""
    return np.asarray(np.sum(x, axis=_axes(axes), keepdims=bool(keep_dims)))


@operation
def reduce_max(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_max"""
    return np.asarray(np.max(x, axis=_axes(axes), keepdims=bool(keep_dims)))


@operation
def reduce_min(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_min"""
    return np.asarray(np.min(x, axis=_axes(axes), keepdims=bool(keep_dims)))


@operation
def reduce_prod(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_prod"""
    return np.asarray(np.prod(x, axis=_axes(axes), keepdims=bool(keep_dims)))


@operation
def reduce_l1_norm(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_l1_norm: the sum of magnitudes."""
    return reduce_sum(np.abs(x), axes, keep_dims)


@operation
def reduce_l2_norm(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_l2_norm: the root of the sum of squares."""
    return np.sqrt(reduce_sum_square(x, axes, keep_dims))


@operation
def reduce_sum_square(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_sum_square"""
    return reduce_sum(np.square(x), axes, keep_dims)


@operation
def reduce_log_sum(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_log_sum: the logarithm of the sum."""
    return np.log(reduce_sum(x, axes, keep_dims))


@operation
def reduce_log_sum_exp(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
    """iOS15.reduction.reduce_log_sum_exp: the logarithm of the sum of exponentials."""
    peak = np.max(x, axis=_axes(axes), keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)  # inf - inf is not a number
    out = np.log(np.sum(np.exp(x - peak), axis=_axes(axes), keepdims=True)) + peak
    return out if keep_dims else np.squeeze(out, axis=_axes(axes))


@operation
def reduce_argmax(
    x: Array, axis: Array | int = -1, keep_dims: Array | bool = False, output_dtype: str = "int32"
) -> Array:
    """iOS17.reduction.reduce_argmax: of equal ones the first; the reference leaves it open."""
    return np.asarray(np.argmax(x, axis=int(axis), keepdims=bool(keep_dims)), dtype=NUMPY[output_dtype])


@operation
def reduce_argmin(
    x: Array, axis: Array | int = -1, keep_dims: Array | bool = False, output_dtype: str = "int32"
) -> Array:
    """iOS17.reduction.reduce_argmin: of equal ones the first; the reference leaves it open."""
    return np.asarray(np.argmin(x, axis=int(axis), keepdims=bool(keep_dims)), dtype=NUMPY[output_dtype])


def _axes(axes: Array | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(n) for n in axes)
