"""The palette of a matrix: so many numbers, and for each of its elements the nearest of them.

k-means in one dimension (Lloyd's iteration) over the matrix's distinct float16 numbers, of which there are at most
65,536 however large it is: a matrix takes milliseconds. There is nothing random in it, so the same matrix has the same
palette everywhere. (coremltools' own "kmeans" wants scikit-learn for matrices of fewer than 10,000 numbers.)
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

ROUNDS: Final = 100
"""Iterations at most. Matrices of a trained router settle in fewer, with 2 to 4% more error than their best palette."""

Half = npt.NDArray[np.float16]
Double = npt.NDArray[np.float64]


def palettize(matrix: Half, bits: int) -> tuple[Half, npt.NDArray[np.uint8]]:
    """The palette of `matrix`, (2**bits,) ascending, and the index of each element's entry, flat.

    A matrix of no more distinct numbers than there are entries is kept exactly; the last entry is repeated then.
    Raises `ValueError` for a number that is not finite.
    """
    patterns = (matrix.reshape(-1) + np.float16(0)).view(np.uint16)  # the sum has no -0
    counts = np.bincount(patterns, minlength=1 << 16)
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    (present,) = np.nonzero(counts)
    if not np.isfinite(numbers[present]).all():
        raise ValueError("a matrix with numbers that are not finite has no palette")
    present = present[np.argsort(numbers[present], kind="stable")]
    points = numbers[present].astype(np.float64)
    entries = 1 << bits
    if len(points) <= entries:
        palette: Half = np.pad(numbers[present], (0, entries - len(points)), mode="edge")
    else:
        palette = _cluster(points, counts[present].astype(np.float64), entries).astype(np.float16)
    nearest = np.zeros(1 << 16, np.uint8)
    nearest[present] = np.searchsorted(_between(palette.astype(np.float64)), points)
    return palette, nearest[patterns]


def _cluster(points: Double, weights: Double, entries: int) -> Double:
    """Centres of `entries` clusters of ascending `points`: each the mean of those that no other centre is nearer to."""
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * points)])
    centres = _start(points, weights, entries)
    for _ in range(ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(points, _between(centres)), [len(points)]])
        inside = np.diff(mass[edges])
        moved = np.divide(np.diff(moment[edges]), inside, out=centres.copy(), where=inside > 0)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _start(points: Double, weights: Double, entries: int) -> Double:
    """Centres as dense as the cube root of the points' density: the best spacing of many levels (Panter and Dite,
    "Quantization distortion in pulse-count modulation with nonuniform spacing of levels", 1951). A point's density is
    its weight over the width of its cell, which reaches half way to its neighbours."""
    edges = np.concatenate([points[:1], _between(points), points[-1:]])
    cells = np.diff(edges)
    share = np.concatenate([[0.0], np.cumsum(np.cbrt(weights / cells) * cells)])
    wanted = (np.arange(entries) + 0.5) / entries
    centres: Double = np.interp(wanted, share / share[-1], edges)
    return centres


def _between(centres: Double) -> Double:
    """The numbers half way between neighbours."""
    middle: Double = (centres[1:] + centres[:-1]) / 2
    return middle
