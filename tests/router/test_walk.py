"""A walk goes the same way whether others went it before or not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from router import walk as walks
from router.grammar import Grammar, Matcher
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.toolset_load import from_dict

REQUESTS = ("find email scripts", "run the backup of the notes", "load invoice_parser from registry", "stop")
FORMS = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "copy": "span"},
        "note": {"type": "string", "maxLength": 12},
        "kind": {"type": "string", "enum": ["a", "ab", "abc"]},
        "count": {"type": "integer", "minimum": -3, "maximum": 120},
    },
    "required": ["kind"],
}


@pytest.fixture(scope="module")
def mixed() -> Toolset:
    """Strings that are copied, strings that are free, and what is neither; up to two calls."""
    tools: list[dict[str, Any]] = [{"name": name, "description": "", "parameters": FORMS} for name in ("send", "seek")]
    return from_dict({"name": "mixed", "max_calls": 2, "tools": tools})


def steps(matcher: Matcher, rng: random.Random, vocab: int, most: int = 60) -> list[tuple[list[int], bool, list[int]]]:
    """A walk at random: what is forced, whether that is the end, and what is allowed then, time after time."""
    out = []
    for _ in range(most):
        forced = matcher.forced()
        ids = [] if matcher.finished else matcher.allowed(vocab).tolist()
        out.append((forced, matcher.finished, ids))
        if not ids:
            break
        refused = next(token for token in range(vocab) if token not in ids)
        assert not matcher.allows(refused) and not matcher.take(refused) and not matcher.take(vocab + 5)
        token = rng.choice(ids)
        assert matcher.allows(token)
        matcher.accept(token)
    return out


@pytest.mark.parametrize("most", [8192, 7])
def test_where_others_went_before_it_is_as_where_none_did(
    tokenizer: RouterTokenizer, mixed: Toolset, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the places are forgotten in between."""
    monkeypatch.setattr(walks, "_MOST", most)
    shared, vocab = Grammar.compile(mixed, tokenizer), tokenizer.vocab_size
    for seed in range(24):
        user = REQUESTS[seed % len(REQUESTS)]
        fresh = Grammar.compile(mixed, tokenizer).matcher(user)
        wanted = steps(fresh, random.Random(seed), vocab)
        assert len(wanted) > 1
        for _ in range(2):
            assert steps(shared.matcher(user), random.Random(seed), vocab) == wanted


def test_a_known_way_asks_nothing_of_llguidance(tokenizer: RouterTokenizer, mixed: Toolset) -> None:
    """That takes longer than all the rest of a step."""
    grammar = Grammar.compile(mixed, tokenizer)
    rng = random.Random(4)
    matcher = grammar.matcher(REQUESTS[0])
    way: list[tuple[list[int], int, list[int]]] = []
    while True:
        forced = matcher.forced()
        if matcher.finished:
            break
        ids = matcher.allowed(tokenizer.vocab_size).tolist()
        way.append((forced, tokenizer.control_id("start_call") if not way else rng.choice(ids), ids))
        matcher.accept(way[-1][1])
    assert len(way) > 5 and any(1 < len(ids) <= walks._FEW for _, _, ids in way)
    next(iter(grammar._compiled.values())).compiled = None  # type: ignore[assignment]
    again = grammar.matcher(REQUESTS[0])
    for told, token, ids in way:
        assert again.forced() == told
        if len(ids) <= walks._FEW:
            assert again.allowed(tokenizer.vocab_size).tolist() == ids
        assert again.allows(token) and again.take(token)
    assert again.forced() == forced and again.finished
    other = grammar.matcher(REQUESTS[0])
    assert other.forced() == way[0][0]
    with pytest.raises(AttributeError, match="deep_copy"):  # where none has been
        other.allows(tokenizer.control_id("escape"))


def test_a_copy_goes_its_own_way(tokenizer: RouterTokenizer, mixed: Toolset) -> None:
    grammar, vocab = Grammar.compile(mixed, tokenizer), tokenizer.vocab_size

    def begun() -> Matcher:
        matcher = grammar.matcher(REQUESTS[0])
        matcher.forced()
        matcher.accept(tokenizer.control_id("start_call"))
        return matcher

    wanted = steps(begun(), random.Random(1), vocab)
    one = begun()
    other = one.copy()
    assert steps(other, random.Random(2), vocab) != wanted
    assert steps(one, random.Random(1), vocab) == wanted
