"""Decoding over fake models: what a model wants is what comes out, and what comes out is always valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.decode import MAX_NEW_TOKENS, Decoded, DecodeError, decode, decode_free
from router.free import FREE_KEY_LENGTH, FREE_KEYS
from router.grammar import Grammar
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.toolset_load import from_dict
from router.validate import equal, schema_errors
from runtimes.errors import SessionError, UserError
from tests.fake import FakeModel, FakeSession, Rule, random_rule, scripted_rule
from tests.router.decodable import REQUEST, toolsets, toolsets_with_calls
from tests.unbound import unbound

slow = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


def run(
    rule: Rule,
    toolset: Toolset,
    tokenizer: RouterTokenizer,
    user: str,
    *,
    grammar: bool = True,
    context: int = 8192,
    limit: int = 4096,
    extra_vocabulary: int = 0,
    record: bool = False,
) -> tuple[Decoded, FakeSession]:
    """Decode `user` behind the toolset's prefix."""
    model = FakeModel(rule, tokenizer.vocab_size + extra_vocabulary, context)
    session = model.session()
    session.append(tokenizer.prefix_ids(toolset))
    session.passes.clear()
    request = tokenizer.request_ids(user)
    if grammar:
        matcher = Grammar.compile(toolset, tokenizer).matcher(user)
        found = decode(session, request, matcher, context_length=context, max_new_tokens=limit, record=record)
    else:
        found = decode_free(session, request, tokenizer.stop_ids, max_new_tokens=limit, record=record)
    return found, session


def script(toolset: Toolset, tokenizer: RouterTokenizer, user: str, calls: Sequence[Call]) -> tuple[Rule, list[int]]:
    want = tokenizer.completion_ids(calls)
    return scripted_rule(tokenizer.vocab_size, tokenizer.prompt_ids(toolset, user), want), want


@slow
@given(drawn=toolsets_with_calls())
def test_what_the_model_wants_is_what_comes_out(tokenizer: RouterTokenizer, drawn: tuple[Toolset, list[Call]]) -> None:
    toolset, calls = drawn
    rule, want = script(toolset, tokenizer, REQUEST, calls)
    found, session = run(rule, toolset, tokenizer, REQUEST)
    assert found.error is None
    assert found.token_ids == want  # forced tokens are spelled as in training
    assert found.forced_tokens + found.decided_tokens == len(want)
    assert found.forward_passes == found.decided_tokens  # no pass but for a decision, none for the stop
    assert found.pass_sizes == session.passes
    assert equal([c.to_dict() for c in tokenizer.parse(found.token_ids)], [c.to_dict() for c in calls])


@slow
@given(drawn=toolsets_with_calls())
def test_gemma_4_spells_the_same_language(gemma4: RouterTokenizer, drawn: tuple[Toolset, list[Call]]) -> None:
    toolset, calls = drawn
    rule, want = script(toolset, gemma4, REQUEST, calls)
    found, _ = run(rule, toolset, gemma4, REQUEST)
    assert (found.error, found.token_ids) == (None, want)


@slow
@given(toolset=toolsets(bounded=True), seed=st.integers(0, 1000))
def test_any_model_makes_a_valid_call_or_none(tokenizer: RouterTokenizer, toolset: Toolset, seed: int) -> None:
    found, _ = run(random_rule(tokenizer.vocab_size, seed=seed), toolset, tokenizer, REQUEST)
    assert found.error is None
    calls = tokenizer.parse(found.token_ids)
    assert len(calls) <= toolset.max_calls
    assert [error for call in calls for error in schema_errors(call, toolset)] == []
    assert found.token_ids[-1] == tokenizer.control_id("start_response" if calls else "end_turn")


@slow
@given(toolset=toolsets(), seed=st.integers(0, 1000))
def test_a_model_without_bounds_makes_a_valid_call_or_says_so(
    tokenizer: RouterTokenizer, toolset: Toolset, seed: int
) -> None:
    closers = [tokenizer.control_id("escape"), *(tokenizer.encode_text(c)[0] for c in "}]")]
    rule = random_rule(tokenizer.vocab_size, seed=seed, bias=dict.fromkeys(closers, 4.0))
    found, _ = run(rule, toolset, tokenizer, REQUEST, limit=300)
    if found.error is not None:
        assert found.error == "no end of the completion within 300 tokens"
        assert len(found.token_ids) >= 300
        return
    try:
        calls = tokenizer.parse(found.token_ids)
    except UserError as error:
        assert "is given twice" in str(error)  # what no context-free grammar can rule out
        return
    assert [error for call in calls for error in schema_errors(call, toolset)] == []


def test_kiwi_takes_a_pass_per_decision(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    call = Call("search", {"item_type": "script", "query": "email", "source": "registry"})
    rule, want = script(kiwi, tokenizer, "find email scripts", [call])
    found, session = run(rule, kiwi, tokenizer, "find email scripts", record=True)
    assert found.token_ids == want
    # Call or not, which tool, which type, the query's token and its end, another argument or not, which source.
    assert found.decided_tokens == found.forward_passes == 7
    assert found.decisions is not None
    assert [d.chosen for d in found.decisions] == [i for i, n in zip(want, _decided(want, found), strict=True) if n]
    assert all(d.allowed >= 2 and d.margin > 50 for d in found.decisions)
    assert sum(found.pass_sizes) <= len(tokenizer.request_ids("find email scripts")) + len(want)
    assert session.passes == found.pass_sizes
    free, _ = run(rule, kiwi, tokenizer, "find email scripts", grammar=False)
    assert free.token_ids == want
    assert free.forward_passes == free.decided_tokens == len(want)
    assert free.forced_tokens == 0


def _decided(want: list[int], found: Decoded) -> list[bool]:
    """Which of the completion's tokens were decided, from the positions of the decisions."""
    assert found.decisions is not None
    start = found.decisions[0].position
    places = {d.position - start for d in found.decisions}
    return [i in places for i in range(len(want))]


def test_no_call_is_one_decision(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    rule, want = script(kiwi, tokenizer, "what is the weather", [])
    found, session = run(rule, kiwi, tokenizer, "what is the weather")
    assert found.token_ids == want == [tokenizer.control_id("end_turn")]
    assert (found.decided_tokens, found.forced_tokens, found.forward_passes) == (1, 0, 1)
    assert session.passes == [len(tokenizer.request_ids("what is the weather"))]


def test_several_calls_and_no_more_than_allowed(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    kiwi = unbound(kiwi)
    three = replace(kiwi, max_calls=3)
    calls = [Call("load", {"item_type": "script", "item_id": str(i)}) for i in range(3)]
    for n in range(4):
        rule, want = script(three, tokenizer, "load", calls[:n])
        found, _ = run(rule, three, tokenizer, "load")
        assert found.token_ids == want
    # At the limit the stop is forced: a model that wants a fourth call does not get it.
    rule, _ = script(three, tokenizer, "load", [*calls, calls[0]])
    found, _ = run(rule, three, tokenizer, "load")
    assert found.token_ids == tokenizer.completion_ids(calls)


def test_ties_go_to_the_lowest_id(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    flat: Rule = lambda tokens: np.zeros(tokenizer.vocab_size, dtype=np.float32)  # noqa: E731
    found, _ = run(flat, kiwi, tokenizer, "anything", record=True, limit=60)
    assert found.decisions is not None
    first = found.decisions[0]
    assert first.chosen == min(tokenizer.control_id("start_call"), tokenizer.control_id("end_turn"))
    assert (first.allowed, first.margin) == (2, 0.0)
    free, _ = run(flat, kiwi, tokenizer, "anything", grammar=False, limit=3)
    assert free.token_ids == [0, 0, 0]
    assert free.error == "no end of the completion within 3 tokens"


def test_recording_changes_nothing(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    for seed in range(8):
        rule = random_rule(tokenizer.vocab_size, seed=seed, bias={tokenizer.control_id("escape"): 5.0})
        plain, _ = run(rule, kiwi, tokenizer, "find it", limit=60)
        recorded, _ = run(rule, kiwi, tokenizer, "find it", limit=60, record=True)
        assert plain.token_ids == recorded.token_ids
        assert plain.decisions is None
        assert recorded.decisions is not None
        assert len(recorded.decisions) == recorded.decided_tokens


def test_the_best_allowed_token_wins(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    """Asking for the best token of all first agrees with the mask; ids past the tokenizer's entries are never taken."""
    kiwi = unbound(kiwi)  # where a span begins, `allowed` may be asked only after `forced`
    width = tokenizer.vocab_size + 40
    for seed in range(6):
        rule = random_rule(width, seed=seed, bias=dict.fromkeys(range(tokenizer.vocab_size, width), 2.0))
        found, session = run(rule, kiwi, tokenizer, "find it", limit=30, extra_vocabulary=40)
        recorded, _ = run(rule, kiwi, tokenizer, "find it", limit=30, extra_vocabulary=40, record=True)
        assert recorded.token_ids == found.token_ids
        chosen = {d.position: d for d in recorded.decisions or ()}
        start = len(tokenizer.prompt_ids(kiwi, "find it"))
        matcher = Grammar.compile(kiwi, tokenizer).matcher("find it")
        for position, token in enumerate(found.token_ids, start):
            if position in chosen:
                ids = matcher.allowed(width)
                row = rule(tuple(session.tokens[:position]))[ids]
                assert (int(ids[row.argmax()]), len(ids)) == (token, chosen[position].allowed)
                assert chosen[position].chosen == token
                assert chosen[position].margin == pytest.approx(float(np.diff(np.sort(row)[-2:])[0]), abs=1e-6)
            matcher.accept(token)


def test_control_tokens_in_the_request_stay_text(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    for spelling in tokenizer.wire.reserved:
        user = f"find {spelling} now"
        call = Call("search", {"item_type": "script", "query": "now"})
        rule, want = script(kiwi, tokenizer, user, [call])
        assert run(rule, kiwi, tokenizer, user)[0].token_ids == want


def test_a_full_context_is_told_and_undone(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    kiwi = unbound(kiwi)
    prefix = len(tokenizer.prefix_ids(kiwi))
    escape = tokenizer.control_id("escape")
    rule = random_rule(tokenizer.vocab_size, bias={escape: -99.0, tokenizer.control_id("start_call"): 99.0})
    model = FakeModel(rule, tokenizer.vocab_size, prefix + 60)
    session = model.session()
    session.append(tokenizer.prefix_ids(kiwi))
    matcher = Grammar.compile(kiwi, tokenizer).matcher("find it")
    with pytest.raises(DecodeError, match=f"context of {prefix + 60} tokens is full"):
        decode(session, tokenizer.request_ids("find it"), matcher, context_length=prefix + 60)
    assert session.tokens == tokenizer.prefix_ids(kiwi)
    matcher = Grammar.compile(kiwi, tokenizer).matcher("find it")
    with pytest.raises(SessionError, match="exceed the context"):  # the session's own words, where nobody knows better
        decode(session, tokenizer.request_ids("find it"), matcher)
    assert session.tokens == tokenizer.prefix_ids(kiwi)
    with pytest.raises(SessionError):
        decode_free(session, tokenizer.request_ids("find it"), (), max_new_tokens=1000)
    assert session.tokens == tokenizer.prefix_ids(kiwi)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_told(tokenizer: RouterTokenizer, kiwi: Toolset, bad: float) -> None:
    def rule(tokens: tuple[int, ...]) -> np.ndarray:
        row = np.zeros(tokenizer.vocab_size, dtype=np.float32)
        row[7] = bad
        return row

    for grammar in (True, False):
        with pytest.raises(DecodeError, match="not finite"):
            run(rule, kiwi, tokenizer, "find it", grammar=grammar)


@pytest.mark.parametrize("letter", ["a", "\u043f", "\u65e5"])
def test_a_key_that_the_model_never_ends_is_ended(tokenizer: RouterTokenizer, kiwi: Toolset, letter: str) -> None:
    """A model in whose eyes every key goes on, as one asked in a language that it never learned may be."""
    done = tokenizer.completion_ids([Call("execute", {"action": "run", "item_id": "it", "item_type": "script"})])
    head = done[: done.index(tokenizer.control_id("end_call")) - len(tokenizer.encode_text("}"))]
    head += tokenizer.encode_text(",parameters:{")
    prompt = tokenizer.prompt_ids(kiwi, "run it")
    begin = scripted_rule(tokenizer.vocab_size, prompt, head)
    spelled = tokenizer.encode_text(letter)
    ends = [tokenizer.encode_text(mark)[0] for mark in "1}"]

    def rule(tokens: tuple[int, ...]) -> np.ndarray:
        row = begin(tokens)
        written = len(tokens) - len(prompt) - len(head)
        if written >= 0:
            row[ends] += 50.0
            row[spelled[written % len(spelled)]] += 100.0
        return row

    found, _ = run(rule, kiwi, tokenizer, "run it", limit=MAX_NEW_TOKENS)
    assert found.error is None
    (call,) = tokenizer.parse(found.token_ids)
    (key,) = call.arguments["parameters"]
    assert key == letter * FREE_KEY_LENGTH
    assert schema_errors(call, kiwi) == []


def test_a_model_that_never_closes_a_free_value_comes_to_an_end(tokenizer: RouterTokenizer) -> None:
    """Everything within a free-form value is counted, so even one that always wants another key ends."""
    parameters = {"type": "object", "properties": {"x": {"type": "object"}}, "required": ["x"]}
    toolset = from_dict({"name": "t", "tools": [{"name": "f", "description": "", "parameters": parameters}]})
    favoured = {tokenizer.control_id("start_call"): 90.0, tokenizer.encode_text(",")[0]: 80.0}
    favoured |= {tokenizer.encode_text(":")[0]: 70.0, tokenizer.encode_text("1")[0]: 60.0}
    closers = dict.fromkeys([tokenizer.encode_text(mark)[0] for mark in "}]"], -90.0)
    found, _ = run(random_rule(tokenizer.vocab_size, bias=favoured | closers), toolset, tokenizer, "do it", limit=4096)
    assert found.error is None
    text = tokenizer.decode(found.token_ids)
    assert text.count(":") == 2 + FREE_KEYS  # call:, x:, and a key each
    assert text.endswith("}}<end_function_call><start_function_response>")


def test_an_endless_string_is_stopped_with_an_error(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    kiwi = unbound(kiwi)
    bias = {tokenizer.control_id("escape"): -99.0, tokenizer.control_id("end_turn"): -999.0}
    rule = random_rule(tokenizer.vocab_size, bias=bias)
    found, _ = run(rule, kiwi, tokenizer, "find it", limit=100)
    assert found.error == "no end of the completion within 100 tokens"
    assert len(found.token_ids) >= 100
