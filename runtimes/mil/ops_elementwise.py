"""Elementwise operations: of one tensor, of two (which are broadcast), conversion and choice."""

from __future__ import annotations

import math

import numpy as np

from runtimes.mil.program import FLOATS, NUMPY, Array
from runtimes.mil.table import move, operation, view


@operation
def add(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.add"""
    return x + y


@operation
def sub(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.sub"""
    return x - y


@operation
def mul(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.mul"""
    return x * y


@operation
def real_div(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.real_div: of integers too (the output's type truncates)."""
    _check_divisor(y)
    return np.true_divide(x, y)


@operation
def floor_div(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.floor_div: the largest whole number that is no larger than x / y."""
    _check_divisor(y)
    return np.floor_divide(x, y)


@operation
def mod(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.mod: x - y * floor(x / y), with y's sign."""
    _check_divisor(y)
    return np.mod(x, y)


def _check_divisor(y: Array) -> None:
    """A whole number divided by zero has no defined result: an error here."""
    if np.issubdtype(y.dtype, np.integer) and not y.all():
        raise ZeroDivisionError("an integer is divided by zero")


@operation
def pow_(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.pow"""
    return np.power(x, y)


@operation
def maximum(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.maximum"""
    return np.maximum(x, y)


@operation
def minimum(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.minimum"""
    return np.minimum(x, y)


@operation
def equal(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.equal"""
    return np.equal(x, y)


@operation
def not_equal(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.not_equal"""
    return np.not_equal(x, y)


@operation
def greater(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.greater"""
    return np.greater(x, y)


@operation
def greater_equal(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.greater_equal"""
    return np.greater_equal(x, y)


@operation
def less(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.less"""
    return np.less(x, y)


@operation
def less_equal(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.less_equal"""
    return np.less_equal(x, y)


@operation
def logical_and(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.logical_and"""
    return np.logical_and(x, y)


@operation
def logical_or(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.logical_or"""
    return np.logical_or(x, y)


@operation
def logical_xor(x: Array, y: Array) -> Array:
    """iOS15.elementwise_binary.logical_xor"""
    return np.logical_xor(x, y)


@operation
def logical_not(x: Array) -> Array:
    """iOS15.elementwise_unary.logical_not"""
    return np.logical_not(x)


@move
def select(cond: Array, a: Array, b: Array) -> Array:
    """iOS15.control_flow.select: a where cond, else b; all broadcast."""
    return np.where(cond, a, b)


@view
def cast(x: Array, dtype: str) -> Array:
    """iOS17.elementwise_unary.cast: to integers towards zero, to bool whether it is not zero.

    What an integer type cannot hold has no defined result in Core ML and is an error here.
    """
    if dtype in FLOATS:
        return x.astype(np.float32, copy=False)
    target = NUMPY[dtype]
    if issubclass(target, np.integer) and x.size and x.dtype != np.bool_:
        limits = np.iinfo(target)
        # As Python's integers: in float32 the largest int32 is 2**31.
        if not (np.isfinite(x).all() and limits.min <= int(x.min()) and int(x.max()) <= limits.max):
            raise OverflowError(f"cast to {dtype}: a value lies outside {limits.min}..{limits.max}")
    return x.astype(target, copy=False)


@operation
def abs_(x: Array) -> Array:
    """iOS15.elementwise_unary.abs"""
    return np.abs(x)


@operation
def acos(x: Array) -> Array:
    """iOS15.elementwise_unary.acos"""
    return np.arccos(x)


@operation
def asin(x: Array) -> Array:
    """iOS15.elementwise_unary.asin"""
    return np.arcsin(x)


@operation
def atan(x: Array) -> Array:
    """iOS15.elementwise_unary.atan"""
    return np.arctan(x)


@operation
def atanh(x: Array) -> Array:
    """iOS15.elementwise_unary.atanh"""
    return np.arctanh(x)


@operation
def ceil(x: Array) -> Array:
    """iOS15.elementwise_unary.ceil"""
    return np.ceil(x)


@operation
def clip(x: Array, alpha: Array, beta: Array) -> Array:
    """iOS17.elementwise_unary.clip: into alpha..beta."""
    return np.minimum(np.maximum(x, alpha), beta)


@operation
def cos(x: Array) -> Array:
    """iOS15.elementwise_unary.cos"""
    return np.cos(x)


@operation
def cosh(x: Array) -> Array:
    """iOS15.elementwise_unary.cosh"""
    return np.cosh(x)


@operation
def erf(x: Array) -> Array:
    """iOS15.elementwise_unary.erf: the Gauss error function."""
    return np.vectorize(math.erf, otypes=[np.float32])(x)


@operation
def exp(x: Array) -> Array:
    """iOS15.elementwise_unary.exp"""
    return np.exp(x)


@operation
def exp2(x: Array) -> Array:
    """iOS15.elementwise_unary.exp2"""
    return np.exp2(x)


@operation
def floor(x: Array) -> Array:
    """iOS15.elementwise_unary.floor"""
    return np.floor(x)


@operation
def inverse(x: Array, epsilon: Array | float = 1e-4) -> Array:
    """iOS17.elementwise_unary.inverse: 1 / (x + epsilon)."""
    return np.reciprocal(x + np.float32(epsilon))


@operation
def log(x: Array, epsilon: Array | float = 1e-45) -> Array:
    """iOS17.elementwise_unary.log: natural, of x + epsilon."""
    return np.log(x + np.float32(epsilon))


@operation
def round_(x: Array) -> Array:
    """iOS15.elementwise_unary.round: ties to even."""
    return np.round(x)


@operation
def rsqrt(x: Array, epsilon: Array | float = 1e-12) -> Array:
    """iOS17.elementwise_unary.rsqrt: 1 / sqrt(x + epsilon)."""
    return 1 / np.sqrt(x + np.float32(epsilon))


@operation
def sign(x: Array) -> Array:
    """iOS15.elementwise_unary.sign"""
    return np.sign(x)


@operation
def sin(x: Array) -> Array:
    """iOS15.elementwise_unary.sin"""
    return np.sin(x)


@operation
def sinh(x: Array) -> Array:
    """iOS15.elementwise_unary.sinh"""
    return np.sinh(x)


@operation
def sqrt(x: Array) -> Array:
    """iOS15.elementwise_unary.sqrt"""
    return np.sqrt(x)


@operation
def square(x: Array) -> Array:
    """iOS15.elementwise_unary.square"""
    return np.square(x)


@operation
def tan(x: Array) -> Array:
    """iOS15.elementwise_unary.tan"""
    return np.tan(x)


@operation
def tanh(x: Array) -> Array:
    """iOS15.elementwise_unary.tanh"""
    return np.tanh(x)


@operation
def threshold(x: Array, alpha: Array) -> Array:
    """iOS15.elementwise_unary.threshold: max(x, alpha)."""
    return np.maximum(x, alpha)
