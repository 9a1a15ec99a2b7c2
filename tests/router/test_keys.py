"""No free-form object has a key twice, and every other key can still be written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.grammar import Grammar
from router.keys import Keys
from router.tokenizer import RouterTokenizer
from router.toolset import Call
from router.toolset_load import from_dict
from router.wire import render_completion

USER = "run it with alpha 2, learning rate 3, learning steps 4 and the alphabet"
PAIRS = "color red, color_temp 3000, CO 1 and Co 2, \u5927 1"
PROPERTIES = {"name": {"type": "string"}, "o": {"type": "object"}, "naming": {"type": "integer"}}


@pytest.fixture(scope="module")
def grammar(tokenizer: RouterTokenizer) -> Grammar:
    parameters = {"type": "object", "properties": PROPERTIES}
    tool = {"name": "f", "description": "", "parameters": parameters}
    return Grammar.compile(from_dict({"name": "t", "tools": [tool]}), tokenizer)


def walked(grammar: Grammar, text: str, user: str = USER) -> int:
    """How many tokens of a completion are taken, each of them also among those that are allowed."""
    ids = grammar.tokenizer.encode(text)
    matcher = grammar.matcher(user)
    done = 0
    while done < len(ids):
        forced = matcher.forced()
        assert ids[done : done + len(forced)] == forced
        done += len(forced)
        if done == len(ids):
            break
        allowed = ids[done] in matcher.allowed(grammar.tokenizer.vocab_size)
        assert allowed == matcher.allows(ids[done])
        if not matcher.copy().take(ids[done]):
            assert not allowed
            break
        matcher.accept(ids[done])
        done += 1
    return done


def accepts(grammar: Grammar, text: str, user: str = USER) -> bool:
    return walked(grammar, text, user) == len(grammar.tokenizer.encode(text))


def call(inner: str) -> str:
    return f"<start_function_call>call:f{{o:{inner}}}<end_function_call><start_function_response>"


@pytest.mark.parametrize(
    "inner",
    [
        "{alpha:2,alphabet:3}",
        "{alpha:2,alp:3,bet:1}",
        "{learning_rate:3,learning_steps:4}",
        "{k1:1,k2:2,k:3}",
        "{a:{alpha:1},b:{alpha:2},alpha:[{alpha:3},{alpha:4}]}",
        "{name:1,naming:2}",
        "{alpha:<escape>{alpha:1,alpha:2}<escape>}",
    ],
)
def test_different_keys_can_be_written(grammar: Grammar, inner: str) -> None:
    assert accepts(grammar, call(inner))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("{alpha:2,", "alpha:2}"),
        ("{k1:1,k2:2,k1", ":3}"),
        ("{alpha:2,alphabet:1,alpha", ":3}"),
        ("{b:[1,{x:1,x", ":2}]}"),
        ("{alpha:{alpha:1},", "alpha:2}"),
    ],
)
def test_no_key_is_written_twice(grammar: Grammar, good: str, bad: str) -> None:
    begun = len(grammar.tokenizer.encode(call(good).partition("}<end")[0]))
    whole = call(good + bad)
    assert walked(grammar, whole) < len(grammar.tokenizer.encode(whole))
    assert walked(grammar, whole) >= begun - 1


@pytest.mark.parametrize(
    "inner", ["{color:1,color_temp:2}", "{CO:1,Co:2}", "{\u5927:1,\u5c0f:2}", "{start:1,start_time:2}"]
)
def test_keys_that_begin_alike_are_not_one(grammar: Grammar, inner: str) -> None:
    assert accepts(grammar, call(inner), PAIRS)
    assert not accepts(grammar, call(inner.replace("}", f",{inner[1:].partition(':')[0]}:3}}")), PAIRS)


def test_what_begins_a_said_key_again_is_barred_at_once(grammar: Grammar) -> None:
    ids = grammar.tokenizer.encode(call("{alpha:2,")[: -len("}<end_function_call><start_function_response>")])
    for user, allowed in ((USER.partition(" and")[0], False), (USER, True), ("run it", True)):
        matcher = grammar.matcher(user)
        done = 0
        while done < len(ids):
            done += len(matcher.forced())
            if done < len(ids):
                matcher.accept(ids[done])
                done += 1
        token = grammar.tokenizer.vocabulary.find("a")
        assert token is not None
        assert matcher.allows(token) == allowed
        assert (token in matcher.allowed(grammar.tokenizer.vocab_size)) == allowed


_KEY = st.text("abk1_ ", min_size=1, max_size=4).filter(lambda key: key == key.strip())
_VALUES = st.recursive(
    st.integers(-9, 9) | st.text("ab,:{}", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_KEY, _VALUES, max_size=5))
def test_any_object_goes_past(grammar: Grammar, inner: dict[str, Any]) -> None:
    """Behind a request that says none of its keys."""
    keys = Keys(grammar.spellings, "")
    for token in grammar.tokenizer.encode(render_completion([Call("f", {"o": inner})])):
        assert keys.allows(token)
        assert token not in keys.barred()
        assert keys.take(token)
