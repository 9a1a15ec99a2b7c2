"""Statistics against values worked out by hand or found in tables."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import (
    mcnemar,
    median_ratio,
    paired,
    percentile,
    percentile_interval,
    proportion_interval,
    ratio_interval,
    summary,
    wilson,
)


def test_percentile_by_hand() -> None:
    values = [40.0, 10.0, 30.0, 20.0]  # ranks 0..3 of 10, 20, 30, 40
    assert percentile(values, 0) == 10
    assert percentile(values, 100) == 40
    assert percentile(values, 50) == 25  # rank 1.5
    assert percentile(values, 95) == pytest.approx(38.5)  # rank 2.85: 30 + 0.85 * 10
    assert percentile([7.0], 95) == 7


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_is_numpys(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-9)


def test_percentile_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)
    with pytest.raises(ValueError, match="101"):
        percentile([1.0], 101)


def test_percentile_interval_by_hand() -> None:
    # n = 10, median: P(Bin(10, 1/2) <= 1) = 11/1024 < 2.5% <= P(<= 2) = 56/1024, so the lower rank is 2;
    # by symmetry the quantile at 97.5% is 8 and the upper rank 9: the textbook's interval for n = 10.
    values = [float(i) for i in range(1, 11)]
    assert percentile_interval(values, 50) == (2.0, 9.0)


def test_percentile_interval_needs_enough_samples() -> None:
    # The largest of n lies above p95 with probability 1 - 0.95^n: 0.95^50 = 7.7% leaves too much.
    assert percentile_interval([float(i) for i in range(50)], 95) is None
    low, high = percentile_interval([float(i) for i in range(500)], 95) or (0, 0)
    assert low < 475 < high
    assert percentile_interval([], 50) is None


def test_summary_leaves_out_p99_under_300() -> None:
    assert summary([1.0] * 299)["p99"] is None
    full = summary([float(i) for i in range(1, 301)])
    assert full["n"] == 300
    assert full["mean"] == 150.5
    assert full["p99"] == pytest.approx(297.01)  # rank 0.99 * 299 = 296.01
    assert (full["min"], full["max"]) == (1, 300)


def test_wilson_by_hand() -> None:
    # 8 of 10: centre (0.8 + z2/20) / (1 + z2/10), z2 = 3.8415 -> 0.71672; half width 0.22659.
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.49016, abs=1e-5)
    assert high == pytest.approx(0.94331, abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(10, 10)[1] == 1.0
    assert wilson(10, 10)[0] == pytest.approx(10 / (10 + 3.841459), abs=1e-6)


def test_interval_without_templates_is_wilson() -> None:
    outcomes = [True, True, False, True]
    assert proportion_interval(outcomes) == (wilson(3, 4), "wilson")
    assert proportion_interval(outcomes, ["a", "b", "c", "d"]) == (wilson(3, 4), "wilson")


def test_shared_templates_widen_the_interval() -> None:
    # Ten templates of ten cases each that succeed or fail as one: ten observations, not a hundred.
    outcomes = [i % 2 == 0 for i in range(10) for _ in range(10)]
    clusters = [i for i in range(10) for _ in range(10)]
    (low, high), method = proportion_interval(outcomes, clusters)
    narrow = wilson(50, 100)
    assert method == "bootstrap by template"
    assert high - low > 1.5 * (narrow[1] - narrow[0])
    assert proportion_interval(outcomes, clusters) == ((low, high), method), "seeded"


def test_equal_templates_fall_back_to_wilson_over_them() -> None:
    (low, high), method = proportion_interval([True] * 20, [i // 4 for i in range(20)])
    assert method == "wilson over templates"
    assert (low, high) == wilson(5, 5)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 0) == 1.0
    # 1 against 9 of 10 tosses: 2 * (1 + 10) / 1024.
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert mcnemar(6, 0) == pytest.approx(2 / 64)
    assert mcnemar(5, 5) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial(a: int, b: int) -> None:
    n = a + b
    exact = min(Fraction(1), 2 * Fraction(sum(math.comb(n, k) for k in range(min(a, b) + 1)), 2**n))
    assert mcnemar(a, b) == pytest.approx(float(exact))


def test_paired_counts_only_common_cases() -> None:
    a = {"1": True, "2": True, "3": False, "4": True, "only a": True}
    b = {"1": True, "2": False, "3": True, "4": False, "only b": False}
    result = paired(a, b)
    assert (result.n, result.a_only, result.b_only) == (4, 2, 1)
    assert not result.b_is_worse


def test_paired_tells_a_real_loss_from_chance() -> None:
    best = dict.fromkeys(range(100), True)
    assert paired(best, {i: i >= 6 for i in range(100)}).b_is_worse  # 6 to 0: p = 0.031
    assert not paired(best, {i: i >= 5 for i in range(100)}).b_is_worse  # 5 to 0: p = 0.0625
    assert not paired({i: i >= 6 for i in range(100)}, best).b_is_worse, "better is not worse"


def test_ratio_interval() -> None:
    a = {i: 10.0 + i for i in range(40)}
    found = ratio_interval(a, {i: 2 * value for i, value in a.items()})
    assert found is not None
    median, (low, high), n = found
    assert n == 40
    assert median == pytest.approx(2)
    assert low == pytest.approx(2) and high == pytest.approx(2)
    assert ratio_interval({1: 1.0}, {1: 2.0}) is None


def test_ratio_of_medians_by_hand() -> None:
    a = dict(zip("abcde", (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    b = dict(zip("abcdx", (10.0, 20.0, 30.0, 40.0, 1e9), strict=True)) | {"e": 0.5}
    # Medians 3 and 20; `x` is not common. Case by case the ratio is 10 but for `e`: where `e` is not drawn, so it is of
    # the medians (33% of draws), and where it makes up three of five they are 5 and 0.5 (5.8%).
    ratio, (low, high), n = median_ratio(a, b) or (0, (0, 0), 0)
    assert (ratio, low, high, n) == (pytest.approx(20 / 3), 0.1, 10.0, 5)
    back = median_ratio(b, a)
    assert back is not None and back[0] == pytest.approx(3 / 20) and back[1] == pytest.approx((0.1, 10.0))


def test_ratio_of_medians_needs_five_pairs() -> None:
    four = dict.fromkeys("abcd", 1.0)
    assert median_ratio(four, four) is None
    assert median_ratio(four | {"e": 1.0}, four | {"f": 1.0}) is None


def test_ratio_of_medians_is_paired() -> None:
    """Cases of very different lengths, each three times as long for the other: no interval over the lengths."""
    a = {i: 1.5**i for i in range(30)}
    ratio, (low, high), _ = median_ratio(a, {i: 3 * ms for i, ms in a.items()}) or (0, (0, 0), 0)
    assert ratio == low == high == pytest.approx(3.0)
