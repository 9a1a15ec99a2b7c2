"""Requests a second, one by one and at once, over a model that computes as told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench.routing import Routed
from router.cases import Case
from router.core import LANES, Router
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from runtimes.base import Logits, Rows
from tests.fake import BatchModel, FakeBatch, FakeModel, random_rule

SEED = Path(__file__).parents[2] / "models" / "seed" / "base" / "tokenizer.json"
CASES = [Case(f"c{n}", f"{verb} the {noun}", {}, "easy") for n, (verb, noun) in enumerate(
    [("find", "notes"), ("run", "backup"), ("load", "page"), ("open", "script"), ("list", "agents"), ("stop", "job")]
)]  # fmt: skip


class OffBatch(FakeBatch):
    """Lanes that compute something else than the model's sessions do."""

    def append(self, passes: Sequence[tuple[int, Sequence[int], Rows]]) -> list[Logits]:
        return [-rows for rows in super().append(passes)]


@dataclass
class OffModel(BatchModel):
    def batch(self, lanes: int, prefix: Sequence[int]) -> FakeBatch:
        return OffBatch(super().batch(lanes, prefix).sessions, ())


@pytest.fixture(scope="module")
def tokenizer() -> RouterTokenizer:
    return RouterTokenizer.load(SEED)


def routed(kind: type[FakeModel], tokenizer: RouterTokenizer, toolset: Toolset) -> Routed:
    model = kind(random_rule(tokenizer.vocab_size), tokenizer.vocab_size, 2048)
    out = Routed(model, Router(model, tokenizer, toolset))
    out.limit = 40
    return out


def test_the_same_requests_both_ways(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    ticks: list[int] = []
    refused = Case("empty", " ", {}, "easy")
    found = routed(BatchModel, tokenizer, kiwi).throughput([CASES[0], refused, *CASES[1:]], 60, ticks.append)
    assert found["requests"] == len(CASES) and found["lanes"] == LANES and found["same_calls"] == 1.0
    assert found["alone_per_s"] > 0 and found["together_per_s"] > 0
    assert ticks == [*range(1, len(CASES) + 1)] * 2, "one by one before and behind"


def test_other_answers_are_told(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    found = routed(OffModel, tokenizer, kiwi).throughput(CASES, 60, lambda done: None)
    assert found["same_calls"] < 1.0


def test_time_ends_it_but_not_before_one(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    assert routed(BatchModel, tokenizer, kiwi).throughput(CASES, 0, lambda done: None)["requests"] == 1


@pytest.mark.parametrize("placed", [True, False])
def test_one_by_one_where_nothing_else_is(tokenizer: RouterTokenizer, kiwi: Toolset, placed: bool) -> None:
    toolset = replace(kiwi, instruction="It is {date}.", shown=("date",)) if placed else kiwi
    cases = [replace(case, context={"date": "2026-03-11"}) for case in CASES]
    found = routed(BatchModel if placed else FakeModel, tokenizer, toolset).throughput(cases, 60, lambda done: None)
    assert found["lanes"] == 1 and found["together_per_s"] is None and found["same_calls"] is None
    assert found["requests"] == len(CASES) and found["alone_per_s"] > 0
