"""Context within the instruction, before the declarations, as FunctionGemma was trained with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from export.gguf_modelfile import modelfile
from router.core import Router
from router.known import sample_context
from router.render import placed, render_prefix, render_prompt, user_turn
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset, to_dict
from router.toolset_load import from_dict
from router.wire import FUNCTIONGEMMA, WireError
from runtimes.errors import UserError
from tests.fake import FakeModel, scripted_rule

TEXT = (
    "Current date and time given in YYYY-MM-DDTHH:MM:SS format: {date}T{time}\nDay of week is {weekday}\n"
    "You are a model that can do function calling with the following functions"
)
NOW = {"date": "2026-01-16", "time": "00:50:30", "weekday": "Friday", "room": "kitchen"}


@pytest.fixture(scope="module")
def clock() -> Toolset:
    return from_dict(
        {
            "name": "clock",
            "instruction": TEXT,
            "show_context": ["date", "time", "room", "weekday"],
            "tools": [
                {
                    "name": "remind",
                    "description": "Remind somebody.",
                    "parameters": {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]},
                }
            ],
        }
    )


def test_what_the_instruction_names_stands_there_and_the_rest_in_the_turn(clock: Toolset) -> None:
    assert clock.placed == ("date", "time", "weekday")
    filled = placed(clock, NOW)
    assert filled.instruction == TEXT.format(**NOW)
    assert user_turn(clock, " wake me ", NOW) == "room: kitchen\nwake me"
    text = render_prompt(filled, user_turn(clock, "wake me", NOW))
    assert text.startswith(f"<bos><start_of_turn>developer\n{TEXT.format(**NOW)}<start_function_declaration>")
    assert from_dict(to_dict(clock)) == clock


def test_braces_that_are_no_shown_key_stay(clock: Toolset) -> None:
    other = replace(clock, instruction="Answer {briefly}; {date} is no key here.", shown=("room",))
    assert other.placed == ()
    assert placed(other, {}) is other
    assert "{briefly}; {date}" in render_prefix(other)


def test_the_ids_are_those_of_the_whole_prompt(tokenizer: RouterTokenizer, clock: Toolset) -> None:
    """As one text: a tokenizer may join what stands before a value with the value."""
    ids = tokenizer.prefix_ids(clock) + tokenizer.behind_prefix(clock, "wake me", NOW)
    assert ids == tokenizer.encode(render_prompt(placed(clock, NOW), user_turn(clock, "wake me", NOW)))
    plain = replace(clock, instruction="Do it.")
    assert tokenizer.context_ids(plain, NOW) == []
    assert tokenizer.prefix_ids(plain) == tokenizer.encode(render_prefix(plain))


@pytest.mark.parametrize(("key", "value"), [("date", None), ("time", "a\nb"), ("weekday", ["Friday"])])
def test_a_value_that_cannot_be_shown(tokenizer: RouterTokenizer, clock: Toolset, key: str, value: Any) -> None:
    with pytest.raises(WireError, match=f"context: .*{key}"):
        tokenizer.behind_prefix(clock, "wake me", {**NOW, key: value})


def test_the_router_keeps_what_did_not_change(tokenizer: RouterTokenizer, clock: Toolset) -> None:
    call = Call("remind", {"day": "today"})
    want = tokenizer.completion_ids([call])
    contexts = [NOW, NOW, {**NOW, "time": "00:51:00"}, {**NOW, "time": "00:51:00", "room": "hall"}, NOW]
    scripts = []
    for context in contexts:
        prompt = tokenizer.encode(render_prompt(placed(clock, context), user_turn(clock, "wake me today", context)))
        scripts.append(scripted_rule(tokenizer.vocab_size, prompt, want))
    current = [scripts[0]]
    model = FakeModel(lambda tokens: current[0](tokens), tokenizer.vocab_size)
    router = Router(model, tokenizer, clock)
    session = model.sessions[0]
    long = len(tokenizer.context_ids(clock, NOW))
    read_again = []
    for context, script in zip(contexts, scripts, strict=True):
        current[0] = script
        before = len(session.passes)
        found = router.route("wake me today", context)
        assert found.calls == [call]
        assert found.stats.prompt_tokens == len(tokenizer.prefix_ids(clock)) + long + found.stats.request_tokens
        read_again.append(max(session.passes[before:]) >= long)
        assert session.position == len(tokenizer.prefix_ids(clock)) + long
    assert read_again == [True, False, True, False, True]
    with pytest.raises(UserError, match="context: no .room"):
        router.route("wake me", {"date": "2026-01-16"})
    session.rewind(3)  # as after a pass that failed
    assert router.route("wake me today", NOW).calls == [call]


def test_a_toolset_that_does_not_fit_is_told(tokenizer: RouterTokenizer, clock: Toolset) -> None:
    with pytest.raises(UserError, match="leave no room"):
        Router(FakeModel(lambda tokens: None, tokenizer.vocab_size, 60), tokenizer, clock)  # type: ignore[arg-type,return-value]


def test_a_modelfile_takes_the_instruction_as_the_system_message(clock: Toolset) -> None:
    text = modelfile("model.gguf", clock, FUNCTIONGEMMA, context=2048)
    assert "developer\n{{ .System }}<start_function_declaration>" in text
    assert f'SYSTEM """{TEXT}"""' in text
    assert "# It begins with a line of context: room: ..." in text
    assert set(sample_context(clock)) == set(clock.shown)
    plain = modelfile("model.gguf", replace(clock, shown=()), FUNCTIONGEMMA, context=2048)
    assert "SYSTEM" not in plain and "{{ .System }}" not in plain
