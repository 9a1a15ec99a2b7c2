"""Guesses change how many passes a request takes, never what it is answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.core import Router
from router.decode import Decoded, DecodeError, decode
from router.grammar import Grammar
from router.guess import Guesser, Prices, Trail
from router.known import listed_strings, proved
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset, to_dict
from router.toolset_load import from_dict
from runtimes.artifact import Artifact
from tests.fake import FakeModel, FakeSession, Rule, random_rule, scripted_rule
from tests.router.decodable import REQUEST, toolsets, toolsets_with_calls
from tests.unbound import unbound

slow = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


def cheap_rows(tokenizer: RouterTokenizer) -> Guesser:
    """One for whom passes are dear and rows cost nothing."""
    guesser = Guesser(tokenizer)
    guesser.prices.fixed = 1.0
    return guesser


def run(
    rule: Rule,
    toolset: Toolset,
    tokenizer: RouterTokenizer,
    user: str,
    guesser: Guesser | None,
    *,
    limit: int = 300,
    context: int = 8192,
    tie: float = 0.0,
) -> tuple[Decoded, FakeSession]:
    session = FakeModel(rule, tokenizer.vocab_size, context).session()
    session.append(tokenizer.prefix_ids(toolset))
    request = tokenizer.request_ids(user)
    guide = guesser.begin(user, request) if guesser is not None else None
    matcher = Grammar.compile(toolset, tokenizer).matcher(user)
    found = decode(
        session, request, matcher, context_length=context, max_new_tokens=limit, guide=guide, tie=tie
    )  # fmt: skip
    return found, session


def wants(toolset: Toolset, tokenizer: RouterTokenizer, user: str, calls: Sequence[Call]) -> Rule:
    return scripted_rule(tokenizer.vocab_size, tokenizer.prompt_ids(toolset, user), tokenizer.completion_ids(calls))


@slow
@given(drawn=toolsets_with_calls())
def test_the_same_calls_in_no_more_passes(tokenizer: RouterTokenizer, drawn: tuple[Toolset, list[Call]]) -> None:
    toolset, calls = drawn
    guesser = cheap_rows(tokenizer)
    for turn in range(5):
        user = f"{REQUEST} {turn}"
        rule = wants(toolset, tokenizer, user, calls)
        plain, _ = run(rule, toolset, tokenizer, user, None, limit=4096)
        guessed, session = run(rule, toolset, tokenizer, user, guesser, limit=4096)
        assert (guessed.token_ids, guessed.error) == (plain.token_ids, plain.error)
        assert (guessed.forced_tokens, guessed.decided_tokens) == (plain.forced_tokens, plain.decided_tokens)
        assert guessed.forward_passes <= plain.forward_passes
        assert 0 <= guessed.guessed_right <= guessed.guessed_tokens
        assert sum(guessed.pass_sizes) == sum(plain.pass_sizes) + guessed.guessed_tokens - guessed.guessed_right
        prompt = len(tokenizer.prompt_ids(toolset, user))
        assert session.tokens[prompt:] == plain.token_ids[: session.position - prompt]  # no guess is left behind


@slow
@given(toolset=toolsets(), seed=st.integers(0, 1000), tie=st.sampled_from([0.0, 0.3]))
def test_any_model_answers_the_same(tokenizer: RouterTokenizer, toolset: Toolset, seed: int, tie: float) -> None:
    """Also one that talks nonsense, at every limit, and where many logits lie near each other."""
    guesser = cheap_rows(tokenizer)
    rule = random_rule(tokenizer.vocab_size, seed=seed, bias={tokenizer.control_id("escape"): 4.0})
    for limit in (300, 300, 300, 300, 7, 20):
        user = f"{REQUEST} {limit}"
        plain, _ = run(rule, toolset, tokenizer, user, None, limit=limit)
        guessed, _ = run(rule, toolset, tokenizer, user, guesser, limit=limit, tie=tie)
        assert (guessed.token_ids, guessed.error) == (plain.token_ids, plain.error)


FREE = from_dict(
    {
        "name": "notes",
        "tools": [
            {
                "name": "write",
                "description": "Write a note.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string"},
                        "color": {"type": "string", "enum": ["red", "green", "blue"]},
                        "pinned": {"type": "boolean"},
                    },
                    "required": ["text"],
                },
            }
        ],
    }
)


def test_a_free_string_goes_on_as_the_request_does(tokenizer: RouterTokenizer) -> None:
    text = "water the ferns behind the greenhouse before the sun comes out"
    user = f"please note: {text} tomorrow"
    rule = wants(FREE, tokenizer, user, [Call("write", {"text": text})])
    plain, _ = run(rule, FREE, tokenizer, user, None)
    guessed, _ = run(rule, FREE, tokenizer, user, cheap_rows(tokenizer))
    assert guessed.token_ids == plain.token_ids
    assert guessed.guessed_right > 8
    assert guessed.forward_passes <= plain.forward_passes - 8


def test_guesses_can_be_forced(tokenizer: RouterTokenizer) -> None:
    """Also from the first request on, and on a model whose passes cost nothing."""
    text = "water the ferns behind the greenhouse"
    rule = wants(FREE, tokenizer, f"please note: {text}", [Call("write", {"text": text})])
    answers = []
    for guess in (False, True, "always"):
        router = Router(FakeModel(rule, tokenizer.vocab_size), tokenizer, FREE, guess=guess)
        answers.append(router.route(f"please note: {text}"))
    assert answers[0].token_ids == answers[1].token_ids == answers[2].token_ids
    assert [answer.stats.guessed_tokens > 0 for answer in answers] == [False, False, True]
    assert answers[2].stats.forward_passes < answers[0].stats.forward_passes


def test_a_free_string_goes_on_as_one_that_the_toolset_lists(tokenizer: RouterTokenizer) -> None:
    """Whose words the request does not have; it ends where the listed one does, and may also go another way."""
    listed = "the weekly report of the northern branch"
    toolset = from_dict(to_dict(FREE) | {"tools": [*to_dict(FREE)["tools"], {
        "name": "open", "description": "Open it.", "parameters": {"type": "object", "properties": {
            "what": {"type": "string", "enum": [listed, "everything"]},
            "of": {"type": "array", "items": {"type": "string", "enum": ["all"]}},
            "by": {"type": "string", "default": "me"}}, "required": ["what"]},
    }]})  # fmt: skip
    strings = listed_strings(toolset)
    assert strings == ("red", "green", "blue", listed, "everything", "all", "me")
    for text, fewer in ((listed, 8), (f"{listed} and more", 6), ("xylophone", 0)):
        rule = wants(toolset, tokenizer, "please note it", [Call("write", {"text": text})])
        plain, _ = run(rule, toolset, tokenizer, "please note it", None)
        guesser = Guesser(tokenizer, strings=strings)
        guesser.prices.fixed = 1.0
        guessed, _ = run(rule, toolset, tokenizer, "please note it", guesser)
        assert guessed.token_ids == plain.token_ids
        assert guessed.forward_passes <= plain.forward_passes - fewer
        assert guesser.copying.share == 0.5 and (guesser.listing.share > 0.5) == (fewer > 0)


def test_what_was_proved_is_known_to_the_first_request(tokenizer: RouterTokenizer, tmp_path: Path) -> None:
    call = Call("write", {"text": "fern", "color": "green", "pinned": True})
    completion = tokenizer.completion_ids([call])
    rows = [{"request": f"a fern, the {turn}th", "completion": completion} for turn in range(6)]
    rows += [{"request": "of another grammar", "completion": completion[:2] + completion[:9]}, {"probe": {}}, {}]
    grammar = Grammar.compile(FREE, tokenizer)
    artifact = Artifact(tmp_path, {"toolset": {"sha256": FREE.sha256}})
    guesser = cheap_rows(tokenizer)
    guesser.examples = proved(artifact, grammar)  # the file is read when guesses first pay
    artifact.proof.write_text("\n".join(map(json.dumps, [{"schema": "a header"}, *rows])))
    user = "a fern please"
    rule = wants(FREE, tokenizer, user, [call])
    plain, _ = run(rule, FREE, tokenizer, user, None)
    found, _ = run(rule, FREE, tokenizer, user, guesser)
    assert found.token_ids == plain.token_ids
    assert found.forward_passes <= 2 < plain.forward_passes
    artifact.proof.write_text('[]\n["no", "object"]\n')
    assert list(proved(artifact, grammar)) == []
    artifact.proof.unlink()
    assert list(proved(artifact, grammar)) == []
    assert list(proved(Artifact(tmp_path, {}), grammar)) == []


def test_habits_are_counted_in_requests(tokenizer: RouterTokenizer) -> None:
    """What one request decided is no habit however often it is asked; what several decided is."""
    again, others = cheap_rows(tokenizer), cheap_rows(tokenizer)
    call = Call("write", {"text": "fern", "color": "green", "pinned": True})
    for turn in range(6):
        run(wants(FREE, tokenizer, "a fern", [call]), FREE, tokenizer, "a fern", again)
        user = f"a fern, the {turn}th"
        run(wants(FREE, tokenizer, user, [call]), FREE, tokenizer, user, others)
    rule = wants(FREE, tokenizer, "a fern please", [call])
    plain, _ = run(rule, FREE, tokenizer, "a fern please", None)
    same, _ = run(rule, FREE, tokenizer, "a fern please", again)
    habit, _ = run(rule, FREE, tokenizer, "a fern please", others)
    assert plain.token_ids == same.token_ids == habit.token_ids
    assert habit.forward_passes <= 2  # every decision is a habit by now
    assert same.forward_passes > 4


def test_a_copied_string_ends_where_strings_do(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    kiwi = unbound(kiwi)
    guesser = cheap_rows(tokenizer)
    passes = []
    for turn, word in enumerate(["email", "backup", "deploy", "rename", "resize", "archive", "report"]):
        user = f"find {word} scripts {turn}"
        call = Call("search", {"item_type": "script", "query": word})
        found, _ = run(wants(kiwi, tokenizer, user, [call]), kiwi, tokenizer, user, guesser)
        passes.append(found.forward_passes)
    assert passes[-1] < passes[0]


def test_a_tie_is_decided_without_the_guess(tokenizer: RouterTokenizer) -> None:
    """Rows of a pass with a guess may be rounded otherwise; where that could matter they are not believed."""
    guesser = cheap_rows(tokenizer)
    call = Call("write", {"text": "fern", "color": "green"})
    for turn in range(6):
        user = f"a fern, the {turn}th"
        run(wants(FREE, tokenizer, user, [call]), FREE, tokenizer, user, guesser)
    user = "a fern please"
    prompt, want = tokenizer.prompt_ids(FREE, user), tokenizer.completion_ids([call])
    ids = [tokenizer.encode_text(color)[0] for color in ("green", "red")]
    rule = scripted_rule(tokenizer.vocab_size, prompt, want)

    def rounding(tokens: tuple[int, ...]) -> np.ndarray:
        """Two colours alike, but for a hair that a pass over several rows loses."""
        row = rule(tokens)
        at = len(tokens) - len(prompt)
        if 0 < at < len(want) and want[at] == ids[0]:
            row[ids[1]] = row[ids[0]] + (1e-3 if session.wide else -1e-3)
        return row

    class Session(FakeSession):
        wide = False

        def append(self, tokens: Sequence[int], *, rows: object = "last") -> np.ndarray:
            self.wide = rows != "last"
            return super().append(tokens, rows=rows)  # type: ignore[arg-type]

    found = {}
    for tie in (0.0, 0.02):
        session = Session(FakeModel(rounding, tokenizer.vocab_size))
        session.append(tokenizer.prefix_ids(FREE))
        request = tokenizer.request_ids(user)
        matcher = Grammar.compile(FREE, tokenizer).matcher(user)
        found[tie] = decode(session, request, matcher, guide=guesser.begin(user, request), tie=tie).token_ids
    assert found[0.02] == want
    assert found[0.0] != want  # so the test does see the tie


def test_a_guess_does_not_overflow_the_context(tokenizer: RouterTokenizer) -> None:
    guesser = cheap_rows(tokenizer)
    call = Call("write", {"text": "fern", "color": "green", "pinned": True})
    for turn in range(6):
        user = f"a fern, the {turn}th"
        run(wants(FREE, tokenizer, user, [call]), FREE, tokenizer, user, guesser)
    user = "a fern please"
    rule = wants(FREE, tokenizer, user, [call])
    whole = len(tokenizer.prompt_ids(FREE, user)) + len(tokenizer.completion_ids([call]))
    for context in range(whole - 12, whole + 1):
        outcomes = []
        for one in (None, guesser):
            try:
                outcomes.append(run(rule, FREE, tokenizer, user, one, context=context)[0].token_ids)
            except DecodeError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]


def test_prices_are_those_of_the_passes() -> None:
    prices, rng = Prices(), np.random.default_rng(0)
    assert not prices.worth_it
    for _ in range(200):
        tokens = int(rng.integers(1, 12))
        rows = int(rng.integers(1, tokens + 1))
        late = 0.5 if rng.random() < 0.03 else 0.0
        prices.record(tokens, rows, 5e-3 + 2e-4 * tokens + 1e-4 * rows + late)
    assert prices.worth_it
    assert prices.fixed == pytest.approx(5e-3, rel=0.2)
    assert prices.token == pytest.approx(2e-4, rel=0.5)
    assert prices.gain(0.9, 2) > 0 > prices.gain(0.02, 4)


def test_one_row_passes_alone_say_what_tokens_cost() -> None:
    prices = Prices()
    for number in range(96):
        tokens = 1 + number % 5
        prices.record(tokens, 1, 8e-3 + 1e-3 * tokens)
    assert prices.token == pytest.approx(1e-3, rel=0.05)
    assert prices.row == pytest.approx(1e-3, rel=0.2)
    assert prices.fixed == pytest.approx(7e-3, rel=0.1)


def test_where_passes_are_cheap_nothing_is_guessed(tokenizer: RouterTokenizer) -> None:
    guesser = Guesser(tokenizer)
    for number in range(96):
        guesser.prices.record(1 + number % 5, 1, 1e-4 * (1 + number % 5))
    assert guesser.begin("a fern", [1, 2, 3]) is None


def test_a_router_guesses_unless_told_not_to(tokenizer: RouterTokenizer) -> None:
    call = Call("write", {"text": "fern", "color": "green", "pinned": True})
    requests = [f"a fern, the {turn}th" for turn in range(8)]
    rules = {user: wants(FREE, tokenizer, user, [call]) for user in requests}
    current = [requests[0]]
    answers = {}
    for guess in (True, False):
        model = FakeModel(lambda tokens: rules[current[0]](tokens), tokenizer.vocab_size)
        router = Router(model, tokenizer, FREE, guess=guess)
        if guess:
            assert router._guesser is not None
            router._guesser.prices.fixed = 1.0
            router._guesser.prices.record = lambda *_: None  # type: ignore[method-assign]
        results = []
        for user in requests:
            current[0] = user
            results.append(router.route(user))
        answers[guess] = [(r.calls, r.token_ids) for r in results]
        assert (sum(r.stats.guessed_right for r in results) > 0) == guess
        assert (results[-1].stats.forward_passes <= 2) == guess
        assert [len(p.tokens) for p in results[-1].passes] == results[-1].stats.pass_sizes
    assert answers[True] == answers[False]


def test_a_trail_knows_strings() -> None:
    trail = Trail(escape=9)
    trail.add([1, 2, 9])
    assert trail.key(copied=False) == ((1, 2, 9), ())
    trail.add([5, 6])
    assert trail.key(copied=False) == ((1, 2, 9), (5, 6))
    assert trail.key(copied=True) == ((1, 2, 9), 2)
    other = trail.copy()
    other.add([7, 9, 3])
    assert other.key(copied=False) == ((1, 2, 9, 9, 3), None)
    assert trail.key(copied=True) == ((1, 2, 9), 2)
