"""The statistics of the reports: percentiles, intervals and paired tests. Pure functions over plain numbers.

Percentiles interpolate linearly between closest ranks (Hyndman and Fan 1996, type 7; numpy's default).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)

Interval = tuple[float, float]

Z95 = 1.959963984540054
"""The standard normal's 97.5% point."""
P99_NEEDS = 300
"""Under this many samples fewer than three lie beyond p99: it is not reported."""
ALPHA = 0.05


def percentile(values: Sequence[float], q: float) -> float:
    """The `q`-th percentile (0..100), type 7: rank ``q/100 * (n-1)``, interpolated. Raises ValueError if empty."""
    if not values:
        raise ValueError("percentile of nothing")
    if not 0 <= q <= 100:
        raise ValueError(f"percentile {q} is outside 0..100")
    ordered = sorted(values)
    rank = q / 100 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def percentile_interval(values: Sequence[float], q: float) -> Interval | None:
    """Distribution-free 95% interval of a percentile, from order statistics (Hahn and Meeker 1991, section 5.2).

    The number of samples below the true percentile is Binomial(n, q): the interval runs between the order statistics
    at that distribution's 2.5% and 97.5% points. None where n is too small for the upper rank to exist.
    """
    n, p = len(values), q / 100
    if n == 0:
        return None
    ordered = sorted(values)
    low = _binomial_quantile(n, p, ALPHA / 2)
    high = _binomial_quantile(n, p, 1 - ALPHA / 2) + 1
    if low < 1 or high > n:
        return None
    return ordered[low - 1], ordered[high - 1]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """`latency_ms` of the report: n, mean, p50, p90, p95, p99 (None under 300 samples), min, max; `p95_ci95`."""
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "min", "max", "p95_ci95")) | {"n": 0}
    interval = percentile_interval(values, 95)
    return {
        "n": len(values),
        "mean": math.fsum(values) / len(values),
        "p50": percentile(values, 50),
        "p90": percentile(values, 90),
        "p95": percentile(values, 95),
        "p99": percentile(values, 99) if len(values) >= P99_NEEDS else None,
        "min": min(values),
        "max": max(values),
        "p95_ci95": None if interval is None else list(interval),
    }


def wilson(successes: float, n: int) -> Interval:
    """95% score interval of a proportion (Wilson 1927). ``(0, 1)`` for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    # At the ends the bounds are exactly 0 and 1; the formula misses them by a rounding.
    low = 0.0 if successes <= 0 else max(0.0, (centre - half) / scale)
    return low, 1.0 if successes >= n else min(1.0, (centre + half) / scale)


def proportion_interval(
    outcomes: Sequence[bool], clusters: Sequence[Hashable] | None = None, *, resamples: int = 2000, seed: int = 0
) -> tuple[Interval, str]:
    """95% interval of a share and the method used: "wilson", or "bootstrap by template" where cases share one.

    Cases of one template succeed and fail together, so Wilson's interval over cases would be too narrow: whole
    clusters are resampled instead (percentile bootstrap, seeded). Where every cluster has the same share there is
    nothing to resample, and Wilson over the number of clusters is given ("wilson over templates").
    """
    n = len(outcomes)
    if clusters is None or len(set(clusters)) == n:
        return wilson(sum(outcomes), n), "wilson"
    totals: dict[Hashable, list[int]] = {}
    for outcome, cluster in zip(outcomes, clusters, strict=True):
        entry = totals.setdefault(cluster, [0, 0])
        entry[0] += int(outcome)
        entry[1] += 1
    groups = list(totals.values())
    share = sum(outcomes) / n
    if all(right / size == groups[0][0] / groups[0][1] for right, size in groups):
        return wilson(share * len(groups), len(groups)), "wilson over templates"
    import numpy as np

    table = np.asarray(groups, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(groups), size=(resamples, len(groups)))
    sums = table[picks].sum(axis=1)
    low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    return (float(low), float(high)), "bootstrap by template"


@dataclass(frozen=True)
class Paired:
    """Two runs on the same cases. `a_only`: cases that only the first got right. `p`: exact McNemar, two-sided."""

    n: int
    a_only: int
    b_only: int
    p: float

    @property
    def b_is_worse(self) -> bool:
        """Whether the second run is significantly worse than the first (5%)."""
        return self.a_only > self.b_only and self.p < ALPHA


def mcnemar(a_only: int, b_only: int) -> float:
    """Two-sided p of the exact McNemar test: the discordant cases as tosses of a fair coin (McNemar 1947)."""
    n = a_only + b_only
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(a_only, b_only) + 1))
    return min(1.0, float(2 * tail / 2**n))


def paired(a: Mapping[Key, bool], b: Mapping[Key, bool]) -> Paired:
    """Compare two runs on the cases that both have."""
    common = a.keys() & b.keys()
    a_only = sum(a[key] and not b[key] for key in common)
    b_only = sum(b[key] and not a[key] for key in common)
    return Paired(len(common), a_only, b_only, mcnemar(a_only, b_only))


def ratio_interval(
    a: Mapping[Key, float], b: Mapping[Key, float], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, Interval, int] | None:
    """Median of ``b/a`` over the cases that both have, with its bootstrap interval and their number.

    None with fewer than five common cases, where the interval would say nothing.
    """
    import numpy as np

    common = sorted(a.keys() & b.keys(), key=repr)
    if len(common) < 5:
        return None
    logs = np.log(np.asarray([b[k] / a[k] for k in common], dtype=np.float64))
    picks = np.random.default_rng(seed).integers(0, len(logs), size=(resamples, len(logs)))
    low, high = np.percentile(np.median(logs[picks], axis=1), [2.5, 97.5])
    return float(np.exp(np.median(logs))), (float(np.exp(low)), float(np.exp(high))), len(common)


def median_ratio(
    a: Mapping[Key, float], b: Mapping[Key, float], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, Interval, int] | None:
    """``median(b) / median(a)`` over the keys that both have, its 95% interval and their number.

    Keys are resampled in pairs (percentile bootstrap, seeded): what makes a case long makes it long for both. None with
    fewer than five common keys, where the interval would say nothing.
    """
    import numpy as np

    common = sorted(a.keys() & b.keys(), key=repr)
    if len(common) < 5:
        return None
    pairs = np.asarray([[a[k], b[k]] for k in common], dtype=np.float64)
    below, above = np.median(pairs, axis=0)
    picks = np.random.default_rng(seed).integers(0, len(pairs), size=(resamples, len(pairs)))
    drawn = np.median(pairs[picks], axis=1)
    low, high = np.percentile(drawn[:, 1] / drawn[:, 0], [2.5, 97.5])
    return float(above / below), (float(low), float(high)), len(common)


def _binomial_quantile(n: int, p: float, level: float) -> int:
    """Smallest k with P(Binomial(n, p) <= k) >= level, summed in log space."""
    if p <= 0:
        return 0
    if p >= 1:
        return n
    total = 0.0
    log_p, log_q, log_n = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    for k in range(n + 1):
        total += math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q)
        if total >= level:
            return k
    return n
