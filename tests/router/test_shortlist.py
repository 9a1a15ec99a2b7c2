"""Asking for the logits of few ids changes what a pass costs, never what a request is answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.base import Checkpoint
from router.core import Router
from router.decode import Decoded, decode
from router.grammar import Grammar
from router.guess import Guesser
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.toolset_load import from_dict
from router.wire_format import wire_format
from runtimes import open_model
from runtimes.base import Logits
from runtimes.shortlist import shortlist_limit
from tests.exports import Maker
from tests.fake import FakeModel, FakeSession, Rule, random_rule, scripted_rule
from tests.router.decodable import REQUEST, toolsets
from tests.tiny import LIGHTS

slow = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))

LIMIT = 64

NOTES = from_dict(
    {
        "name": "notes",
        "tools": [
            {
                "name": "write",
                "description": "Write a note.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string", "maxLength": 60},
                        "color": {"type": "string", "enum": ["red", "green", "blue"]},
                        "copies": {"type": "integer", "minimum": 1, "maximum": 99},
                        "topic": {"type": "string", "copy": True, "minLength": 1},
                    },
                    "required": ["text", "color", "copies", "topic"],
                },
            }
        ],
    }
)
CALL = Call("write", {"text": "water them", "color": "green", "copies": 12, "topic": "ferns"})
USER = "twelve notes on ferns: water them"


def run(
    rule: Rule,
    toolset: Toolset,
    tokenizer: RouterTokenizer,
    user: str,
    shortlist: int,
    guesser: Guesser | None = None,
    *,
    limit: int = 300,
    tie: float = 0.0,
    record: bool = False,
) -> tuple[Decoded, FakeSession]:
    session = FakeModel(rule, tokenizer.vocab_size, 8192, shortlist_limit=shortlist).session()
    session.append(tokenizer.prefix_ids(toolset))
    request = tokenizer.request_ids(user)
    guide = guesser.begin(user, request) if guesser is not None else None
    matcher = Grammar.compile(toolset, tokenizer).matcher(user)
    return decode(session, request, matcher, max_new_tokens=limit, guide=guide, tie=tie, record=record), session


def scripted(tokenizer: RouterTokenizer) -> Rule:
    return scripted_rule(
        tokenizer.vocab_size, tokenizer.prompt_ids(NOTES, USER), tokenizer.completion_ids([CALL])
    )  # fmt: skip


def guessing(tokenizer: RouterTokenizer) -> Guesser:
    """One for whom passes are dear and rows cost nothing."""
    guesser = Guesser(tokenizer)
    guesser.prices.fixed = 1.0
    return guesser


@slow
@given(toolset=toolsets(), seed=st.integers(0, 1000), tie=st.sampled_from([0.0, 0.3]), most=st.sampled_from([1, 9, 64]))
def test_any_model_answers_the_same(
    tokenizer: RouterTokenizer, toolset: Toolset, seed: int, tie: float, most: int
) -> None:
    """With guesses and without, at every limit, and where many logits lie near each other."""
    rule = random_rule(tokenizer.vocab_size, seed=seed, bias={tokenizer.control_id("escape"): 4.0})
    guesser = guessing(tokenizer)
    for limit in (300, 300, 300, 300, 20):
        user = f"{REQUEST} {limit}"
        plain, _ = run(rule, toolset, tokenizer, user, 0, limit=limit)
        for guess in (None, guesser):
            few, _ = run(rule, toolset, tokenizer, user, most, guess, limit=limit, tie=tie)
            assert (few.token_ids, few.error) == (plain.token_ids, plain.error)
            assert (few.forced_tokens, few.decided_tokens) == (plain.forced_tokens, plain.decided_tokens)


def test_whole_rows_where_much_is_allowed(tokenizer: RouterTokenizer) -> None:
    """Every decision among few is made by them alone, in as many passes; the free string's take whole rows."""
    plain, _ = run(scripted(tokenizer), NOTES, tokenizer, USER, 0, record=True)
    few, session = run(scripted(tokenizer), NOTES, tokenizer, USER, LIMIT)
    assert few.token_ids == plain.token_ids == tokenizer.completion_ids([CALL])
    assert plain.decisions is not None
    want = [d.allowed if d.allowed <= LIMIT else None for d in plain.decisions]
    assert [None if one.ids is None else len(one.ids) for one in few.passes] == want
    assert None in want and len(session.shortlists) >= 5
    assert [len(ids) for ids in session.shortlists] == [n for n in want if n is not None]


def test_recorded_decisions_have_whole_rows(tokenizer: RouterTokenizer) -> None:
    plain, _ = run(scripted(tokenizer), NOTES, tokenizer, USER, 0, record=True)
    few, session = run(scripted(tokenizer), NOTES, tokenizer, USER, LIMIT, record=True)
    assert session.shortlists == [] and few.decisions == plain.decisions


def test_a_guess_among_few_asks_for_what_all_its_decisions_need(tokenizer: RouterTokenizer) -> None:
    rule, guesser = scripted(tokenizer), guessing(tokenizer)
    found = [run(rule, NOTES, tokenizer, f"{USER}{'!' * turn}", LIMIT, guesser)[0] for turn in range(6)]
    for turn in range(6):
        other = f"{USER}{'!' * turn}"
        rule = scripted_rule(
            tokenizer.vocab_size, tokenizer.prompt_ids(NOTES, other), tokenizer.completion_ids([CALL])
        )  # fmt: skip
        found.append(run(rule, NOTES, tokenizer, other, LIMIT, guesser)[0])
    assert found[-1].token_ids == tokenizer.completion_ids([CALL])
    several = [one for result in found for one in result.passes if not isinstance(one.rows, str)]
    assert any(one.ids is not None for one in several)
    assert any(one.ids is None for one in several)


@pytest.mark.parametrize(("fmt", "quant"), [("safetensors", "fp32"), ("safetensors", "bf16"), ("mlx", "8bit")])
def test_real_runtimes_answer_the_same(exported: Maker, tiny: Checkpoint, fmt: str, quant: str) -> None:
    model = open_model(exported(fmt, quant), device="cpu", threads=1)
    tokenizer = RouterTokenizer.load(tiny.folder / "tokenizer.json", wire_format("functiongemma"))
    router = Router.from_model(model, tokenizer, LIGHTS)
    session: Any = router._session
    for user in ("light in the hall", "what is on in the bath?", "kitchen at 40"):
        plain = router.route(user)
        session.shortlist_limit = LIMIT
        few = router.route(user)
        session.shortlist_limit = 0
        assert few.token_ids == plain.token_ids
        assert any(one.ids is not None for one in few.passes) and all(one.ids is None for one in plain.passes)
    model.close()


def test_small_matrices_are_not_worth_it() -> None:
    assert shortlist_limit(262_144, 262_144 * 640) == 1024
    assert shortlist_limit(8192, 8192 * 2048) == 512
    assert shortlist_limit(3072, 3072 * 256 * 4) == 0


@pytest.mark.parametrize("tie", [0.0, 0.5])
def test_what_lies_near_is_asked_again(tokenizer: RouterTokenizer, tie: float) -> None:
    """As a runtime whose rounding differs: the shortlist's logits are a little off, and only whole rows are right."""
    rule = random_rule(tokenizer.vocab_size, seed=5)

    class Rounded(FakeSession):
        def append_shortlist(self, tokens, ids, *, rows="last"):  # type: ignore[no-untyped-def]
            logits: Logits = super().append_shortlist(tokens, ids, rows=rows)
            return logits + np.random.default_rng(1).uniform(-0.24, 0.24, logits.shape).astype(np.float32)

    plain, _ = run(rule, NOTES, tokenizer, USER, 0)
    session = Rounded(FakeModel(rule, tokenizer.vocab_size, 8192, shortlist_limit=LIMIT))
    session.append(tokenizer.prefix_ids(NOTES))
    matcher = Grammar.compile(NOTES, tokenizer).matcher(USER)
    few = decode(session, tokenizer.request_ids(USER), matcher, tie=tie)
    again = few.forward_passes - few.decided_tokens
    assert (again > 0) == (tie > 0)
    if tie:
        assert few.token_ids == plain.token_ids
    assert session.position <= len(tokenizer.prompt_ids(NOTES, USER)) + len(few.token_ids)
