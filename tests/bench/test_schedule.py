"""Turns and blocks: everybody's share, the same mixture of cases, an order that is shuffled and repeatable."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.schedule import allocate, plan, request_counts


def test_allocate_gives_what_fits() -> None:
    assert allocate({"a": 1, "b": 2}, 10) == {"a": 1, "b": 2}


def test_allocate_leaves_the_rest_to_the_slow() -> None:
    # 30 in three parts of 10; `fast` leaves 8, which the two others share.
    assert allocate({"fast": 2, "slow": 100, "slower": 200}, 30) == {"fast": 2, "slow": 14, "slower": 14}


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1e4), max_size=6), st.floats(0, 1e4))
def test_allocate_never_overspends(wants: dict[str, float], total: float) -> None:
    shares = allocate(wants, total)
    assert shares.keys() == wants.keys()
    assert sum(shares.values()) <= total + 1e-6
    assert all(0 <= shares[name] <= wants[name] + 1e-9 for name in wants)


def test_slow_runtimes_make_fewer_requests() -> None:
    counts = request_counts({"fast": 0.01, "slow": 1.0}, requests=1000, budget=140, blocks=20)
    assert counts["fast"] == 1000
    assert 20 <= counts["slow"] < 130
    assert counts["slow"] % 20 == 0


def test_everybody_makes_a_few_requests_even_without_time() -> None:
    counts = request_counts({"a": 5.0, "b": 5.0}, requests=1000, budget=0.0, blocks=4)
    assert counts == {"a": 20, "b": 20}
    assert request_counts({"a": 5.0}, requests=7, budget=0.0, blocks=4) == {"a": 7}


def test_untimed_requests_are_counted_by_name() -> None:
    # 60 s for 200 requests of 1 s in 4 blocks: with one untimed in each block 56 are left, with 11 of them 16.
    few = request_counts({"a": 1.0}, requests=200, budget=60, blocks=4, least=1, untimed=1)
    assert few == request_counts({"a": 1.0}, requests=200, budget=60, blocks=4, least=1, untimed={"a": 1}) == {"a": 56}
    by_name = request_counts(
        {"a": 1.0, "b": 1.0}, requests=200, budget=120, blocks=4, least=1, untimed={"a": 1, "b": 11}
    )
    assert by_name == {"a": 56, "b": 16}


def test_every_worker_has_one_turn_a_block() -> None:
    blocks = plan({"a": 100, "b": 40, "c": 20}, cases=30, blocks=10, seed=0)
    assert [block.index for block in blocks] == list(range(10))
    for block in blocks:
        assert sorted(turn.worker for turn in block.turns) == ["a", "b", "c"]
        assert {turn.worker: len(turn.cases) for turn in block.turns} == {"a": 10, "b": 4, "c": 2}


def test_slow_workers_do_the_beginning_of_what_the_others_do() -> None:
    for block in plan({"a": 100, "b": 30}, cases=17, blocks=10, seed=3):
        lists = {turn.worker: turn.cases for turn in block.turns}
        assert lists["a"][: len(lists["b"])] == lists["b"]


def test_cases_are_covered_evenly() -> None:
    blocks = plan({"a": 120}, cases=40, blocks=6, seed=0)
    seen = Counter(case for block in blocks for turn in block.turns for case in turn.cases)
    assert set(seen) == set(range(40))
    assert set(seen.values()) == {3}


def test_counts_that_do_not_divide_are_kept() -> None:
    blocks = plan({"a": 7, "b": 3}, cases=5, blocks=4, seed=0)
    total = Counter[str]()
    for block in blocks:
        for turn in block.turns:
            total[turn.worker] += len(turn.cases)
    assert total == {"a": 7, "b": 3}


def test_the_order_is_shuffled_and_seeded() -> None:
    workers = dict.fromkeys("abcdef", 40)
    first = plan(workers, cases=9, blocks=20, seed=1)
    assert first == plan(workers, cases=9, blocks=20, seed=1)
    assert first != plan(workers, cases=9, blocks=20, seed=2)
    assert len({tuple(turn.worker for turn in block.turns) for block in first}) > 10
    starts = Counter(block.turns[0].worker for block in first)
    assert max(starts.values()) < 15, "nobody always begins"


def test_no_cases_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no cases"):
        plan({"a": 1}, cases=0, blocks=1, seed=0)
