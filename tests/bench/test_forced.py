"""Decoding along given calls: which rows are lifted, and that passes and tokens are those of a real request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.forced import LIFTED, BlankModel, ForcedRouted, ForcedSession
from bench.predict import sizes_of
from configs import path as config
from router.cases import Case, load_cases
from router.core import Router
from router.grammar import Matcher
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from runtimes.base import Logits
from runtimes.errors import UserError
from tests.fake import FakeModel, random_rule, scripted_rule

CASES = load_cases(config("bench", "shape.jsonl"))
VOCAB = 8


@pytest.fixture(scope="module")
def tokenizer() -> RouterTokenizer:
    return RouterTokenizer.load(Path(__file__).parents[2] / "models" / "seed" / "base" / "tokenizer.json")


def session(barred: int | None = None) -> ForcedSession:
    return ForcedSession(FakeModel(random_rule(VOCAB), VOCAB).session(), barred)


def test_rows_of_the_completion_are_lifted_and_no_others() -> None:
    plain = FakeModel(random_rule(VOCAB), VOCAB).session()
    one = session()
    one.expect(3, [5, 6, 7])
    # Behind 1, 2 stands position 2; the completion begins at 3.
    assert np.array_equal(one.append([1, 2]), plain.append([1, 2]))
    row = one.append([3])
    assert row.argmax() == 5 and row[5] == LIFTED
    rest = np.delete(row, 5)
    assert np.array_equal(rest, np.delete(plain.append([3]), 5))
    rows = one.append([5, 6, 7], rows="all")
    assert [int(r.argmax()) for r in rows[:2]] == [6, 7]
    assert np.array_equal(rows[2], plain.append([5, 6, 7], rows="all")[2]), "behind the completion nothing is lifted"
    one.rewind(3)
    assert one.position == 3
    rows = one.append([5, 6, 7], rows=[0, 1])
    assert [int(r.argmax()) for r in rows] == [6, 7]
    assert one.spent > 0


def test_a_barred_token_stands_above_the_gold_one() -> None:
    one = session(barred=0)
    one.expect(1, [4])
    row = one.append([1])
    assert [int(i) for i in row.argsort()[:-3:-1]] == [0, 4] and np.isfinite(row).all()


def test_a_row_that_belongs_to_somebody_else_is_copied() -> None:
    shared = np.zeros(VOCAB, np.float32)
    shared.flags.writeable = False

    def rule(tokens: tuple[int, ...]) -> Logits:
        return shared

    one = ForcedSession(FakeModel(rule, VOCAB).session())
    one.expect(1, [2])
    assert one.append([0]).argmax() == 2 and not shared.any()


def test_tokens_and_passes_are_those_of_a_real_request(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    """Against a model that wants the gold calls by itself, decoded as ever."""
    vocab = tokenizer.vocab_size
    forced = ForcedRouted(FakeModel(random_rule(vocab), vocab), tokenizer, kiwi)
    dry = ForcedRouted(BlankModel(vocab, 4096), tokenizer, kiwi)
    sizes = set()
    for case in CASES:
        gold = forced.gold_ids(case)
        event = forced.route(case)
        assert event["token_ids"] == gold and event["error"] is None
        assert [Call(c["name"], c["arguments"]) for c in event["calls"]] == [
            Call(c.name, {**c.arguments, "project_path": "/p"}) for c in case.calls
        ]
        prompt = [*forced.prefix_ids, *forced.request_ids(case)]
        wants = FakeModel(scripted_rule(vocab, prompt, gold), vocab)
        real = Router.from_model(wants, tokenizer, kiwi, guess=False).route(case.user, case.context)
        assert real.token_ids == gold
        assert forced.passes_of(case) == dry.passes_of(case) == (forced.prefix_ids, real.passes)
        assert event["stats"]["pass_sizes"] == real.stats.pass_sizes
        assert real.passes[0].start == len(forced.prefix_ids), "nothing of the prompt is computed again"
        assert sum(real.stats.pass_sizes) <= len(forced.request_ids(case)) + len(gold)
        sizes.add(len(gold))
        assert forced.timed(case)["calls"] == event["calls"] and event["stats"]["forcing_ms"] > 0
    assert max(sizes) <= 26, "calls of about 22 tokens"


def test_dry_passes_ask_for_few_ids_as_a_runtime_does(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    vocab = tokenizer.vocab_size
    forced = ForcedRouted(FakeModel(random_rule(vocab), vocab, shortlist_limit=64), tokenizer, kiwi)
    dry = ForcedRouted(BlankModel(vocab, 4096, 64), tokenizer, kiwi)
    whole = ForcedRouted(BlankModel(vocab, 4096), tokenizer, kiwi)
    few = 0
    for case in CASES:
        found, same = sizes_of(dry.passes_of(case)[1]), sizes_of(forced.passes_of(case)[1])
        assert found == same and all(size.ids is None or 0 < size.ids <= 64 for size in found)
        assert [replace(size, ids=None) for size in found] == sizes_of(whole.passes_of(case)[1])
        few += sum(size.ids is not None for size in found)
    assert few > len(CASES), "names and enums leave few"


@pytest.mark.parametrize("masked", [False, True])
def test_masks_are_computed_as_in_decoding_or_always(
    masked: bool, tokenizer: RouterTokenizer, kiwi: Toolset, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab = tokenizer.vocab_size
    forced = ForcedRouted(FakeModel(random_rule(vocab), vocab), tokenizer, kiwi, masked=masked)
    asked = []
    allowed = Matcher.allowed
    monkeypatch.setattr(Matcher, "allowed", lambda self, width: asked.append(width) or allowed(self, width))
    stats = forced.route(CASES[0])["stats"]
    masks = [width for width in asked if width == vocab]
    assert len(masks) >= stats["decided_tokens"] if masked else len(masks) < stats["decided_tokens"]
    assert forced.route(CASES[0])["token_ids"] == forced.gold_ids(CASES[0])


def test_calls_that_the_grammar_does_not_allow_are_an_error(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    vocab = tokenizer.vocab_size
    forced = ForcedRouted(FakeModel(random_rule(vocab), vocab), tokenizer, kiwi)
    case = Case("c7", "find email scripts", {"project_path": "/p"}, calls=(Call("search", {"item_type": "poem"}),))
    forced.limit_to([case])
    with pytest.raises(UserError, match="case c7: its calls cannot be forced on this tokenizer") as caught:
        forced.route(case)
    assert "\n" not in str(caught.value)
