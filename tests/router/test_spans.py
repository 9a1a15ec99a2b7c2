"""Copy-bound strings: only spans of the request come out, every span can, and no choice is asked that there is not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.request import Request, SpanKind, chunks
from router.spans import SpanWalk
from router.tokenizer import RouterTokenizer
from tests.router.decodable import REQUEST, names, of_words, some_words, spans

quick = settings(deadline=None, max_examples=80)
REQUESTS = [
    REQUEST,
    "hello",
    "the the  theme of the the",
    "find <escape> and <end_of_turn>now",
    "e\u0301te\u0301, \u65e5\u672c\u8a9e \U0001f468\u200d\U0001f469 ok",
    "a\u2581b \x00 c",
    "one\ntwo\tthree",
    'sync_directives v2.1 "quoted" (x)',
    "Load Balancer primer - the c++ note, Kim's",
]
requests = st.one_of(
    st.sampled_from(REQUESTS),
    st.text("ab <>_.\u00e9\U0001f600\n", min_size=1).map(str.strip).filter(bool),
    st.lists(st.sampled_from(["email", "scripts", "the", "<escape>", "-", "\u2581"]), min_size=1).map(" ".join),
)


def walk(tokenizer: RouterTokenizer, text: str, kind: SpanKind, choose: random.Random) -> str:
    """A string that random choices make, forced tokens taken as the decoder takes them."""
    state = SpanWalk(Request(text, tokenizer.wire), kind, tokenizer)
    ids: list[int] = []
    for _ in range(500):
        forced = state.forced()
        options = state.options()
        assert options
        assert {t for t in range(tokenizer.vocab_size) if state.allows(t)} == set(options)
        if not forced:
            assert len(options) > 1
        for token in forced or [choose.choice(sorted(options))]:
            assert token in state.options()
            assert state.accept(token)
            ids.append(token)
        if state.finished:
            assert ids[-1] == tokenizer.control_id("escape")
            return tokenizer.decode(ids[:-1])
    raise AssertionError("no end")


@quick
@given(text=requests, seed=st.integers(0, 99))
def test_only_spans_come_out(tokenizer: RouterTokenizer, text: str, seed: int) -> None:
    allowed = spans(text)
    starts = Request(text, tokenizer.wire).starts(SpanKind())
    assert bool(starts) == bool(allowed)
    if allowed:
        assert walk(tokenizer, text, SpanKind(), random.Random(seed)) in allowed


@quick
@given(text=requests, low=st.integers(0, 9), more=st.none() | st.integers(0, 9), seed=st.integers(0, 99))
def test_only_words_in_their_order_come_out(
    tokenizer: RouterTokenizer, text: str, low: int, more: int | None, seed: int
) -> None:
    kind = SpanKind(low, None if more is None else low + more, "words")
    if Request(text, tokenizer.wire).starts(kind):
        found = walk(tokenizer, text, kind, random.Random(seed))
        assert of_words(found, text)
        assert low <= len(found) and (kind.high is None or len(found) <= kind.high)


@quick
@given(text=requests, data=st.data())
def test_all_words_in_their_order_can_come_out(tokenizer: RouterTokenizer, text: str, data: st.DataObject) -> None:
    """Walking towards words as the tokenizer spells them is never refused, and what is forced is spelled so."""
    allowed = some_words(text)
    if not allowed:
        return
    want = [*tokenizer.encode_text(data.draw(st.sampled_from(allowed))), tokenizer.control_id("escape")]
    state = SpanWalk(Request(text, tokenizer.wire), SpanKind(copying="words"), tokenizer)
    done = 0
    while not state.finished:
        for token in state.forced() or [want[done]]:
            assert token == want[done]
            assert state.accept(token)
            done += 1
    assert done == len(want)


def test_words_between_may_be_left_out_but_none_changed_or_moved(tokenizer: RouterTokenizer) -> None:
    text = "put a call on friday with Jonas in my calendar"

    def takes(string: str) -> bool:
        state = SpanWalk(Request(text, tokenizer.wire), SpanKind(copying="words"), tokenizer)
        return all(state.accept(t) for t in (*tokenizer.encode_text(string), tokenizer.control_id("escape")))

    assert all(takes(string) for string in ("call with Jonas", "a call", "put in my calendar", "call calendar"))
    assert not any(takes(string) for string in ("Jonas call", "call with Jon", "cal Jonas", "call  with", "a friend"))


@quick
@given(text=requests, seed=st.integers(0, 99))
def test_only_names_and_what_may_stand_besides_come_out(tokenizer: RouterTokenizer, text: str, seed: int) -> None:
    kind = SpanKind(copying="snake_case", also=("hello_there", "the"))
    assert walk(tokenizer, text, kind, random.Random(seed)) in {*names(text), *kind.also}


@pytest.mark.parametrize(
    "name", ["load_balancer", "load_balancer_primer", "Balancer", "balancer", "load", "the_c++_note", "c++", "Kim's"]
)
def test_a_name_is_one_word_or_several_in_snake_case(tokenizer: RouterTokenizer, name: str) -> None:
    text = REQUESTS[-1]
    state = SpanWalk(Request(text, tokenizer.wire), SpanKind(copying="snake_case"), tokenizer)
    for token in (*tokenizer.encode_text(name), tokenizer.control_id("escape")):
        assert state.accept(token)
    assert state.finished


@pytest.mark.parametrize("name", ["kim's", "Load_Balancer", "primer_the", "primer_-_the", "note,_kim's"])
def test_no_name_goes_across_marks_or_is_capitalised(tokenizer: RouterTokenizer, name: str) -> None:
    state = SpanWalk(Request(REQUESTS[-1], tokenizer.wire), SpanKind(copying="snake_case"), tokenizer)
    assert not all(state.accept(t) for t in (*tokenizer.encode_text(name), tokenizer.control_id("escape")))


@quick
@given(text=requests, low=st.integers(0, 12), more=st.none() | st.integers(0, 12), seed=st.integers(0, 99))
def test_lengths_are_kept(tokenizer: RouterTokenizer, text: str, low: int, more: int | None, seed: int) -> None:
    kind = SpanKind(low, None if more is None else low + more)
    fits = [s for s in spans(text) if low <= len(s) and (kind.high is None or len(s) <= kind.high)]
    assert bool(Request(text, tokenizer.wire).starts(kind)) == bool(fits)
    if fits:
        assert walk(tokenizer, text, kind, random.Random(seed)) in fits


@quick
@given(text=requests, data=st.data())
def test_every_span_is_spelled_as_in_training(tokenizer: RouterTokenizer, text: str, data: st.DataObject) -> None:
    """Walking towards a span as the tokenizer spells it is never refused, and what is forced is spelled so."""
    allowed = spans(text)
    if not allowed:
        return
    span = data.draw(st.sampled_from(allowed))
    want = [*tokenizer.encode_text(span), tokenizer.control_id("escape")]
    state = SpanWalk(Request(text, tokenizer.wire), SpanKind(), tokenizer)
    done = 0
    while not state.finished:
        forced = state.forced()
        for token in forced or [want[done]]:
            assert token == want[done]
            assert state.accept(token)
            done += 1
    assert done == len(want)


def test_a_request_of_one_word_leaves_no_choice(tokenizer: RouterTokenizer) -> None:
    state = SpanWalk(Request("hello", tokenizer.wire), SpanKind(), tokenizer)
    forced = state.forced()
    assert tokenizer.decode(forced) == "hello"
    for token in forced:
        assert state.accept(token)
    assert state.forced() == [tokenizer.control_id("escape")]


def test_the_rest_of_a_word_is_forced(tokenizer: RouterTokenizer) -> None:
    word = "unforeseeable_12"
    state = SpanWalk(Request(f"open {word} now", tokenizer.wire), SpanKind(), tokenizer)
    ids = tokenizer.encode_text(word)
    assert len(ids) > 2
    assert state.forced() == []
    assert state.accept(ids[0])
    assert state.forced() == ids[1:]
    assert not state.accept(tokenizer.control_id("end_call"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("foo bar. baz", ["foo", " ", "bar", ".", " ", "baz"]),
        ("sync_directives v2.1", ["sync_directives", " ", "v2", ".", "1"]),
        ("don't  stop", ["don", "'", "t", "  ", "stop"]),
        ("e\u0301a \U0001f468\u200d\U0001f469", ["e\u0301a", " ", "\U0001f468\u200d", "\U0001f469"]),
        ("to jo.b@kite.org, ok", ["to", " ", "jo.b@kite.org", ",", " ", "ok"]),
        ("caf\u00e9 see https://a.b/c?d=1.", ["caf\u00e9", " ", "see", " ", "https://a.b/c?d=1", "."]),
        ("a @ b, @jo", ["a", " ", "@", " ", "b", ",", " ", "@", "jo"]),
        ("", []),
    ],
)
def test_chunks(text: str, expected: list[str]) -> None:
    assert list(chunks(text)) == expected


@quick
@given(text=st.text())
def test_chunks_make_up_the_text(text: str) -> None:
    assert "".join(chunks(text)) == text
    assert all(chunks(text))
