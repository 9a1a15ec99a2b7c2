"""Holding a float as its declared type does: rounded to it, but in a float32 array, in which numpy computes fast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Single = npt.NDArray[np.float32]

LARGEST = 65504.0
"""The largest finite float16."""
_FEW = 256
"""Elements from which on numpy's own conversion, which is exact too, is the slower one (20 times for many)."""
_SMALLEST_NORMAL = np.float32(2.0**-14)
_HALF_UNIT = np.uint32(0x0FFF)
_KEPT = np.uint32(0xFFFFE000)


def to_half(x: Single) -> Single:
    """`x` rounded to the nearest float16, ties to even, as float32; too large becomes infinite (IEEE 754).

    The bits that float16 lacks are rounded off in the integers; below its smallest normal number, where its steps are
    2^-24, adding and taking away a half rounds to those.
    """
    if x.size < _FEW:
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    magnitude = np.abs(x)
    if not magnitude.max() <= LARGEST:  # infinite, too large, or not a number
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    bits = magnitude.view(np.uint32)
    normal = ((bits + (_HALF_UNIT + ((bits >> 13) & 1))) & _KEPT).view(np.float32)
    subnormal = (magnitude + np.float32(0.5)) - np.float32(0.5)
    return np.copysign(np.where(magnitude < _SMALLEST_NORMAL, subnormal, normal), x)
