"""The wire format against what FunctionGemma's own template rendered, and against our own Jinja template."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from router.chat_template import chat_template, template_tools
from router.render import (
    render_completion,
    render_prefix,
    render_prompt,
    render_response,
    render_responses,
    render_suffix,
)
from router.toolset import Call, Schema, Tool, Toolset
from router.toolset_load import from_openai
from router.wire import FUNCTIONGEMMA, GEMMA4, WIRES, WireFormat, parse_completion
from tests.router.strategies import calls, names, toolsets, values, words

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "functiongemma.json").read_text())
RENDERINGS = {r["name"]: r for r in GOLDEN["renderings"]}
WEATHER = Call("get_current_weather", {"location": "Tokyo, Japan"})


@cache
def compiled(wire: WireFormat) -> jinja2.Template:
    """The template in the environment of Hugging Face's libraries."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(chat_template(wire))


def template(wire: WireFormat, messages: list[dict[str, Any]], tools: list[Any] | None, *, ask: bool = False) -> str:
    return compiled(wire).render(messages=messages, tools=tools, bos_token=wire.bos, add_generation_prompt=ask)


def toolset(rendering: dict[str, Any]) -> Toolset:
    return from_openai(rendering["tools"], instruction=rendering["messages"][0]["content"])


@pytest.mark.parametrize("name", RENDERINGS)
def test_prompt_is_the_official_one(name: str) -> None:
    rendering = RENDERINGS[name]
    assert render_prompt(toolset(rendering), rendering["messages"][1]["content"]) == rendering["prompt"]


@pytest.mark.parametrize("name", RENDERINGS)
def test_completion_is_the_official_one(name: str) -> None:
    rendering = RENDERINGS[name]
    made = [Call(c["function"]["name"], c["function"]["arguments"]) for c in rendering["messages"][2]["tool_calls"]]
    text = render_completion(made)
    if name == "full_turn_with_tool_response":
        [part] = rendering["messages"][3]["content"]
        text += render_response(part["name"], part["response"]) + rendering["messages"][4]["content"] + "<end_of_turn>"
    assert text == rendering["completion"]
    assert parse_completion(rendering["completion"]) == made


@pytest.mark.parametrize("name", RENDERINGS)
def test_template_renders_the_official_text(name: str) -> None:
    rendering = RENDERINGS[name]
    text = template(FUNCTIONGEMMA, rendering["messages"], rendering["tools"])
    assert text == rendering["prompt"] + rendering["completion"]


@pytest.mark.parametrize("name", RENDERINGS)
def test_gemma4_differs_in_spelling_only(name: str) -> None:
    rendering = RENDERINGS[name]
    user = rendering["messages"][1]["content"]
    expected = rendering["prompt"]
    for ours, theirs in zip(FUNCTIONGEMMA.control_tokens, GEMMA4.control_tokens, strict=True):
        expected = expected.replace(ours, theirs)
    expected = expected.replace("<|turn>developer\n", "<|turn>system\n")
    assert render_prompt(toolset(rendering), user, GEMMA4) == expected


def test_gemma4_call_spelled_out() -> None:
    text = render_completion([Call("search", {"query": "a{b", "limit": 3})], GEMMA4)
    assert text == '<|tool_call>call:search{limit:3,query:<|"|>a{b<|"|>}<tool_call|><|tool_response>'
    assert parse_completion(text, GEMMA4) == [Call("search", {"query": "a{b", "limit": 3})]


def test_what_the_golden_file_is_silent_about() -> None:
    """Order and contents of a declaration: nested objects, arrays, no parameters, keywords that are not declared."""
    every = Schema(
        "object",
        properties={
            "type": Schema("string", "Named like a keyword.", min_length=1, default="x"),
            "Zeta": Schema("number", minimum=0, maximum=9, default=1.5),
            "alpha": Schema("integer", enum=(1, 2)),
            "flag": Schema("boolean", "On or off."),
            "tags": Schema("array", "Labels.", items=Schema("string", "One.", enum=("b", "a"))),
            "free": Schema("object", additional=True),
            "inner": Schema(
                "object", "Both.", properties={"y": Schema("integer"), "X": Schema("string")}, required=("y", "X")
            ),
            "rows": Schema("array", items=Schema("object", properties={"n": Schema("integer")}, required=("n",))),
            "path": Schema("string", bind="path"),
        },
        required=("Zeta", "path", "alpha"),
    )
    text = render_prefix(
        Toolset("t", (Tool("do", "It.", every), Tool("nop", "", Schema("object"))), instruction=" Go. ")
    )
    e = "<escape>"
    assert text == (
        "<bos><start_of_turn>developer\nGo."
        f"<start_function_declaration>declaration:do{{description:{e}It.{e},parameters:{{properties:{{"
        f"alpha:{{type:{e}INTEGER{e}}},"
        f"flag:{{description:{e}On or off.{e},type:{e}BOOLEAN{e}}},"
        f"free:{{type:{e}OBJECT{e}}},"
        f"inner:{{description:{e}Both.{e},properties:{{X:{{type:{e}STRING{e}}},y:{{type:{e}INTEGER{e}}}}},"
        f"required:[{e}y{e},{e}X{e}],type:{e}OBJECT{e}}},"
        f"rows:{{items:{{properties:{{n:{{type:{e}INTEGER{e}}}}},required:[{e}n{e}],type:{e}OBJECT{e}}},"
        f"type:{e}ARRAY{e}}},"
        f"tags:{{description:{e}Labels.{e},items:{{description:{e}One.{e},enum:[{e}b{e},{e}a{e}],type:{e}STRING{e}}},"
        f"type:{e}ARRAY{e}}},"
        f"type:{{description:{e}Named like a keyword.{e},type:{e}STRING{e}}},"
        f"Zeta:{{type:{e}NUMBER{e}}}"
        f"}},required:[{e}Zeta{e},{e}alpha{e}],type:{e}OBJECT{e}}}}}<end_function_declaration>"
        f"<start_function_declaration>declaration:nop{{description:{e}{e},parameters:{{type:{e}OBJECT{e}}}}}"
        "<end_function_declaration><end_of_turn>\n<start_of_turn>user\n"
    )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(toolsets, words, st.sampled_from(list(WIRES.values())))
def test_template_renders_prompts_as_the_renderer(toolset: Toolset, user: str, wire: WireFormat) -> None:
    messages = [{"role": "developer", "content": toolset.instruction}, {"role": "user", "content": f" {user}\n"}]
    assert template(wire, messages, template_tools(toolset), ask=True) == render_prompt(toolset, user, wire)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(st.lists(st.tuples(calls, values), min_size=1, max_size=3), min_size=1, max_size=3),
    words,
    words,
    st.sampled_from(list(WIRES.values())),
)
def test_template_renders_conversations_as_the_renderer(
    rounds: list[list[tuple[Call, Any]]], user: str, answer: str, wire: WireFormat
) -> None:
    """Rounds of parallel calls and their responses, then text; the prompt up to each point too."""
    toolset = Toolset("t", (Tool("a", "b", Schema("object")),))
    tools = template_tools(toolset)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": toolset.instruction},
        {"role": "user", "content": user},
    ]
    text = render_prompt(toolset, user, wire)
    for made in rounds:
        functions = [{"function": {"name": c.name, "arguments": c.arguments}} for c, _ in made]
        messages.append({"role": "assistant", "tool_calls": functions})
        text += render_completion([c for c, _ in made], wire)
        assert template(wire, messages, tools) == text
        messages += [{"role": "tool", "name": c.name, "content": value} for c, value in made]
        text += render_responses([(c.name, value) for c, value in made], wire)
        assert template(wire, messages, tools, ask=True) == text
        assert parse_completion(text.split(render_suffix(wire), 1)[1], wire)[-len(made) :] == [c for c, _ in made]
    messages.append({"role": "assistant", "content": answer})
    text += answer + wire.end_turn
    assert template(wire, messages, tools) == text
    messages.append({"role": "user", "content": user})
    text += f"\n{wire.start_turn}user\n{user}{wire.end_turn}\n{wire.start_turn}model\n"
    assert template(wire, messages, tools, ask=True) == text


@settings(deadline=None, max_examples=50, derandomize=True)
@given(names, values)
def test_a_response_that_is_no_object_stands_under_value(name: str, value: Any) -> None:
    body = value if isinstance(value, dict) else {"value": value}
    assert render_response(name, value) == render_response(name, body)


def test_template_without_tools_has_no_developer_turn() -> None:
    text = template(FUNCTIONGEMMA, [{"role": "user", "content": "hi"}], None, ask=True)
    assert text == "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"


def test_template_gives_tools_the_default_sentence() -> None:
    toolset = Toolset("t", (Tool("a", "b", Schema("object")),))
    text = template(FUNCTIONGEMMA, [{"role": "user", "content": "hi"}], template_tools(toolset), ask=True)
    assert text == render_prompt(toolset, "hi")


@pytest.mark.parametrize("token", FUNCTIONGEMMA.reserved)
def test_template_refuses_control_tokens_in_text(token: str) -> None:
    with pytest.raises(jinja2.TemplateError, match="control token"):
        template(FUNCTIONGEMMA, [{"role": "user", "content": f"hi {token}"}], None)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "judge", "content": "x"}], "unknown role judge"),
        ([{"role": "user", "content": "x"}, {"role": "tool", "name": "a", "content": {}}], "must follow the call"),
        ([{"role": "assistant", "content": "x", "tool_calls": [{"name": "a", "arguments": {}}]}], "both text and tool"),
        ([{"role": "assistant", "tool_calls": [{"name": "a", "arguments": "{}"}]}], "not JSON text"),
        ([{"role": "assistant", "tool_calls": [{"name": "a", "arguments": {"x:y": 1}}]}], "a key contains :"),
    ],
)
def test_template_refuses_what_it_cannot_render(messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=message):
        template(FUNCTIONGEMMA, messages, None)


def test_template_finds_the_tool_of_an_openai_response_by_the_id_of_its_call() -> None:
    made = [
        {"id": i, "type": "function", "function": {"name": n, "arguments": {}}} for i, n in (("1", "f"), ("2", "g"))
    ]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": made},
        {"role": "tool", "tool_call_id": "2", "content": "yes"},
        {"role": "tool", "tool_call_id": "1", "content": [1]},
    ]
    text = template(FUNCTIONGEMMA, messages, None)
    calls = render_completion([Call("f", {}), Call("g", {})])
    assert text.endswith(calls + render_responses([("g", "yes"), ("f", [1])]))
    messages[3]["tool_call_id"] = "3"
    with pytest.raises(jinja2.TemplateError, match="answers a call that was not made"):
        template(FUNCTIONGEMMA, messages, None)
    del messages[3]["tool_call_id"]
    messages[3]["content"] = "x"
    with pytest.raises(jinja2.TemplateError, match="needs the name of its tool"):
        template(FUNCTIONGEMMA, messages, None)
