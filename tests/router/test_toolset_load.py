"""Toolsets from files and lists: what comes out, and how what is wrong is explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from configs import path as config
from router.explain import ToolsetError
from router.toolset import MISSING, Schema, Tool, Toolset, to_dict
from router.toolset_load import from_dict, from_openai, load_json, load_toolset, load_yaml
from tests.router.strategies import toolsets


def test_kiwi(kiwi: Toolset) -> None:
    assert [t.name for t in kiwi] == ["search", "load", "execute"]
    assert kiwi.max_calls == 1 and kiwi.bound_keys == ("project_path",)
    load = kiwi.tool("load")
    assert load is not None
    assert load.required == ("item_type", "item_id")
    assert list(load.visible) == ["item_type", "item_id", "source", "destination"]
    assert load.visible["source"].default == "project" and load.visible["destination"].default is MISSING
    assert load.bound == {"project_path": "project_path"}
    execute = kiwi.tool("execute")
    assert execute is not None and execute.visible["parameters"].additional


@pytest.mark.parametrize("file", sorted(config("toolsets").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_toolset_loads_by_name_and_by_path(file: Path) -> None:
    assert load_toolset(file.stem) == load_toolset(file) == load_yaml(file)
    assert load_toolset(file.stem).name == file.stem


@settings(deadline=None, max_examples=80, derandomize=True)
@given(toolsets)
def test_plain_form_loads_back(toolset: Toolset) -> None:
    """What hypothesis draws may break a rule (two tools of one name); then it is refused, not changed."""
    plain = json.loads(json.dumps(to_dict(toolset)))
    try:
        assert from_dict(plain) == toolset
    except ToolsetError as error:
        assert any(word in str(error) for word in ("already a tool", "listed twice"))


FULL = """
name: full
description: Everything that can be said.
instruction: Choose.
max_calls: 3
show_context: [date, weekday]
tools:
  - name: nothing
    description: Takes nothing.
  - name: all.of-it
    description: Takes everything.
    parameters:
      type: object
      properties:
        code: {type: string, pattern: '^[A-Z]{2}[0-9]+$', default: AB1}
        day: {type: string, format: date}
        text: {type: string, copy: true, case_insensitive: true, minLength: 1, maxLength: 80}
        name: {type: string, copy: snake_case, also: [all, the rest]}
        plain: {type: string, copy: false}
        size: {type: integer, minimum: 1, maximum: 10, default: 2}
        ratio: {type: number, exclusiveMinimum: 0, exclusiveMaximum: 1.5}
        level: {type: integer, enum: [1, 2, 3]}
        really: {type: boolean, default: false}
        tags: {type: array, items: {type: string, enum: [a, b]}, minItems: 1, maxItems: 3, default: [a]}
        free: {type: object}
        shut: {type: object, properties: {x: {type: integer}}, required: [x], default: {x: 1}}
        open: {type: object, properties: {x: {type: integer}}, additionalProperties: true, maxProperties: 4}
        who: {type: string, bind: context.user_name}
      required: [day, who]
"""


def test_every_keyword(tmp_path: Path) -> None:
    (tmp_path / "full.yaml").write_text(FULL)
    toolset = load_toolset(tmp_path / "full.yaml")
    assert (toolset.description, toolset.instruction, toolset.max_calls) == (
        "Everything that can be said.",
        "Choose.",
        3,
    )
    assert toolset.shown == ("date", "weekday")
    nothing, all_of_it = toolset.tools
    assert nothing == Tool("nothing", "Takes nothing.", Schema("object"))
    p = all_of_it.parameters.properties
    assert p["code"] == Schema("string", pattern="^[A-Z]{2}[0-9]+$", default="AB1")
    assert p["day"] == Schema("string", format="date")
    assert p["name"] == Schema("string", copy="snake_case", also=("all", "the rest"))
    assert p["plain"] == Schema("string")
    assert p["text"] == Schema("string", copy="span", case_insensitive=True, min_length=1, max_length=80)
    assert p["size"] == Schema("integer", minimum=1, maximum=10, default=2)
    assert p["ratio"] == Schema("number", exclusive_minimum=0, exclusive_maximum=1.5)
    assert p["level"] == Schema("integer", enum=(1, 2, 3))
    assert p["really"] == Schema("boolean", default=False)
    items = Schema("string", enum=("a", "b"))
    assert p["tags"] == Schema("array", items=items, min_items=1, max_items=3, default=["a"])
    assert p["free"] == Schema("object", additional=True)
    shut = {"x": Schema("integer")}
    assert p["shut"] == Schema("object", properties=shut, required=("x",), default={"x": 1})
    assert p["open"] == Schema("object", properties=shut, additional=True, max_properties=4)
    assert p["who"] == Schema("string", bind="user_name")
    assert all_of_it.required == ("day",) and all_of_it.parameters.required == ("day", "who")
    (tmp_path / "toolset.json").write_text(json.dumps(to_dict(toolset)))
    assert load_toolset(tmp_path / "toolset.json") == toolset


def parameter(schema: str, *, required: str = "[]") -> str:
    """A toolset of one tool with one parameter `p`, whose schema stands in line 9."""
    return (
        "name: t\ntools:\n  - name: f\n    description: Does it.\n    parameters:\n      type: object\n"
        f"      required: {required}\n      properties:\n        p: {schema}\n"
    )


P = "tools[0].parameters.properties.p"
TYPES = "string, integer, number, boolean, array, object"
STRING = "type, description, default, bind, enum, pattern, format, minLength, maxLength, copy, also, case_insensitive"
WAYS = "allowed are true (a span as it stands), words, snake_case, date, time and datetime"
FORMATS = "date, time, date-time, email, hostname, ipv4, uri, uuid"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is empty; a toolset needs a name and tools"),
        ("- a", ":1: a toolset must be a mapping of keys to values, not array"),
        ("name: t", ":1: 'tools' is missing; a toolset needs a name and tools"),
        ("tools: []", ":1: 'name' is missing; a toolset needs a name and tools"),
        ("name: t\ntools: []", ":2: tools: is empty; a toolset needs at least one tool"),
        ("name: t\ntools: x", ":2: tools: must be a list of tools, not string"),
        ("name: t\ntolls: []", ":2: tolls: unknown key 'tolls'; a toolset may have name, description, instruction, "
         "max_calls, show_context, tools; did you mean 'tools'?"),
        ("name: t\nname: u", ":2: the key 'name' is given twice"),
        ("name: t\n1: u", ":2: the key 1 is not a string; quote it"),
        ("name: t\non: u", ":2: the key on is not a string; quote it"),
        ("name: [", ":1: not YAML: expected the node content, but found '<stream end>'"),
        ("name: t\n---\nname: u", ":2: not YAML: but found another document"),
        ("name: *x", ":1: not YAML: found undefined alias 'x'"),
        ("name: !!python/name:os.system\n", ":1: not YAML: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/name:os.system'"),
        ("name: t\nmax_calls: 9\ntools: [{name: f, description: x}]",
         ":2: max_calls: 9 is not a number of calls; allowed are 1 to 8"),
        ("name: t\nmax_calls: true\ntools: [{name: f, description: x}]",
         ":2: max_calls: True is not a number of calls; allowed are 1 to 8"),
        ("name: 2024-01-01\ntools: []", ":1: name: 2024-01-01 is date, which JSON does not have; quote it"),
        ("name: a b\ntools: [{name: f, description: x}]",
         ":1: name: 'a b' is not a name; allowed are letters, digits, '_', '.' and '-', no digit first"),
        ("name: t\ntools:\n  - description: x", ":3: tools[0]: 'name' is missing; a tool needs one"),
        ("name: t\ntools:\n  - name: f", ":3: tools[0]: 'description' is missing; the model chooses 'f' by it"),
        ("name: t\ntools:\n  - name: f:x\n    description: x",
         ":3: tools[0].name: 'f:x' is not a name; allowed are letters, digits, '_', '.' and '-', no digit first"),
        ("name: t\ntools:\n  - name: f\n    description: a <escape> b",
         ":4: tools[0].description: it contains the control token '<escape>'; it cannot be written"),
        ("name: t\ntools:\n  - {name: f, description: x}\n  - {name: f, description: y}",
         ":4: tools[1].name: there is already a tool called 'f'; names must differ"),
        ("name: t\ntools:\n  - {name: f, description: x, parameters: {type: string}}",
         ":3: tools[0].parameters.type: must be 'object', not 'string': a call's arguments have names"),
        ("name: t\ntools:\n  - {name: f, description: x, parameters: {type: object, additionalProperties: true}}",
         ":3: tools[0].parameters.additionalProperties: a tool takes only the parameters that it names; leave it out"),
        (parameter("{}"), f":9: {P}: 'type' is missing; allowed are {TYPES}"),
        (parameter("{type: str}"), f":9: {P}.type: 'str' is not a type; allowed are {TYPES}; did you mean 'string'?"),
        (parameter("{type: [string, 'null']}"), f":9: {P}.type: ['string', 'null'] is not a type; allowed are {TYPES}"),
        (parameter("{anyOf: []}"),
         f":9: {P}.anyOf: 'anyOf' is not supported; write one type out, or one tool per case"),
        (parameter("{type: string, minLenght: 1}"), f":9: {P}.minLenght: unknown key 'minLenght'; a string may have "
         f"{STRING}; did you mean 'minLength'?"),
        (parameter("{type: integer, copy: true}"),
         f":9: {P}.copy: 'copy' is for strings and objects, not for an integer"),
        (parameter("{type: string, minimum: 1}"),
         f":9: {P}.minimum: 'minimum' is for integers and numbers, not for a string"),
        (parameter("{type: string, copy: 1}"),
         f":9: {P}.copy: 1 is no way to copy; {WAYS}"),
        (parameter("{type: string, copy: kebab}"),
         f":9: {P}.copy: 'kebab' is no way to copy; {WAYS}"),
        (parameter("{type: object, copy: true, properties: {}}"),
         f":9: {P}.copy: of an object is true or false, and goes with 'additionalProperties: true'"),
        (parameter("{type: object, copy: words}"),
         f":9: {P}.copy: of an object is true or false, and goes with 'additionalProperties: true'"),
        (parameter("{type: string, case_insensitive: 1}"), f":9: {P}.case_insensitive: 1 is neither true nor false"),
        (parameter("{type: string, also: [a]}"),
         f":9: {P}.also: goes with 'copy': it names what may stand besides the request's own words"),
        (parameter("{type: string, copy: true, also: a}"), f":9: {P}.also: must be a list of strings, not string"),
        (parameter("{type: string, copy: true, also: []}"), f":9: {P}.also: must be a list of strings, not empty"),
        (parameter("{type: string, copy: true, also: [a, 1]}"),
         f":9: {P}.also[1]: 1 is integer, not a string; quote it to make it a string"),
        (parameter("{type: string, copy: true, also: [' a']}"),
         f":9: {P}.also[0]: ' a' is empty or has white space at its ends"),
        (parameter("{type: string, copy: true, maxLength: 1, also: [ab]}"),
         f":9: {P}.also[0]: 'ab' is longer than 1 characters"),
        (parameter("{type: string, copy: true, enum: [a]}"),
         f":9: {P}.copy: a span of the request cannot also be held to an 'enum'; drop one"),
        ("name: t\nshow_context: date\ntools:\n  - {name: f, description: x}",
         ":2: show_context: must be a list of context keys, not string"),
        ("name: t\nshow_context: [date, date]\ntools:\n  - {name: f, description: x}",
         ":2: show_context[1]: 'date' is listed twice"),
        (parameter("{type: string, enum: []}"), f":9: {P}.enum: must be a list of at least one value"),
        (parameter("{type: string, enum: [a, 1]}"),
         f":9: {P}.enum[1]: 1 is integer, not a string; quote it to make it a string"),
        (parameter("{type: string, enum: [on, off]}"),
         f":9: {P}.enum[0]: True is boolean, not a string; quote it to make it a string"),
        (parameter("{type: string, enum: [a, b, a]}"), f":9: {P}.enum[2]: 'a' is listed twice"),
        (parameter("{type: number, enum: [1, 1.0]}"), f":9: {P}.enum[1]: 1.0 is listed twice"),
        (parameter("{type: string, enum: ['<escape>']}"),
         f":9: {P}.enum[0]: it contains the control token '<escape>'; it cannot be written"),
        (parameter("{type: string, enum: [a, b], default: c}"), f":9: {P}.default: 'c' is not one of 'a', 'b'"),
        (parameter("{type: integer, default: 1.5}"), f":9: {P}.default: 1.5 is number, not an integer"),
        (parameter("{type: integer, minimum: 3, default: 2}"), f":9: {P}.default: 2 is below the minimum 3"),
        (parameter("{type: integer, default: true}"), f":9: {P}.default: True is boolean, not an integer"),
        (parameter("{type: string, pattern: '^a+$', default: b}"),
         f":9: {P}.default: 'b' does not match the pattern ^a+$"),
        (parameter("{type: string, format: date, default: today}"),
         f":9: {P}.default: 'today' is not in the format date"),
        (parameter("{type: string, maxLength: 2, default: abc}"),
         f":9: {P}.default: 'abc' is longer than 2 characters"),
        (parameter("{type: array, items: {type: integer}, default: [1, x]}"),
         f":9: {P}.default: [1]: 'x' is string, not an integer"),
        (parameter("{type: integer, minimum: 5, maximum: 4}"), f":9: {P}.maximum: 4 leaves nothing above minimum 5"),
        (parameter("{type: number, exclusiveMinimum: 5, maximum: 5}"),
         f":9: {P}.maximum: 5 leaves nothing above exclusiveMinimum 5"),
        (parameter("{type: number, minimum: .inf}"), f":9: {P}.minimum: inf is not a number"),
        (parameter("{type: number, minimum: one}"), f":9: {P}.minimum: 'one' is not a number"),
        (parameter("{type: string, minLength: 3, maxLength: 2}"), f":9: {P}.maxLength: 2 is below minLength 3"),
        (parameter("{type: string, minLength: -1}"), f":9: {P}.minLength: -1 is not a whole number from 0 on"),
        (parameter("{type: array, minItems: 1.5}"), f":9: {P}.minItems: 1.5 is not a whole number from 0 on"),
        (parameter("{type: string, pattern: '['}"),
         f":9: {P}.pattern: '[' is not a regular expression: unterminated character set at position 0"),
        (parameter("{type: string, pattern: 7}"), f":9: {P}.pattern: must be a regular expression, not integer"),
        (parameter("{type: string, format: dat}"),
         f":9: {P}.format: 'dat' is not a format; allowed are {FORMATS}; did you mean 'date'?"),
        (parameter("{type: string, bind: project_path}"),
         f":9: {P}.bind: 'project_path' is not of the form context.KEY, such as context.project_path"),
        (parameter("{type: string, bind: context.x, default: y}"),
         f":9: {P}.bind: a bound parameter is filled from the context and cannot have 'default'; drop one"),
        (parameter("{type: object, properties: {q: {type: string, bind: context.x}}}"),
         f":9: {P}.properties.q.bind: only a tool's own parameters can be bound, not what lies within them"),
        (parameter("{type: object, properties: {'a:b': {type: string}}}"), f":9: {P}.properties.a:b: 'a:b' is not a "
         "name; allowed are letters, digits, '_', '.' and '-', no digit first"),
        (parameter("{type: object, additionalProperties: {type: string}}"),
         f":9: {P}.additionalProperties: must be true or false; schemas for further keys are not supported"),
        (parameter("{type: object, maxProperties: -1}"),
         f":9: {P}.maxProperties: -1 is not a whole number from 0 on (its required keys)"),
        (parameter("{type: object, properties: {x: {type: integer}}, required: [x], maxProperties: 0}"),
         f":9: {P}.maxProperties: 0 is not a whole number from 1 on (its required keys)"),
        ("name: t\ntools:\n  - {name: f, description: x, parameters: {type: object, maxProperties: 1}}",
         ":3: tools[0].parameters.maxProperties: a tool takes the parameters that it names; leave it out"),
        (parameter("{type: array, items: []}"),
         f":9: {P}.items: a schema must be a mapping of keys to values, not array"),
        (parameter("{type: string}", required="[q]"),
         ":7: tools[0].parameters.required[0]: 'q' is not among the properties; there are p"),
        (parameter("{type: string}", required="[p, p]"), ":7: tools[0].parameters.required[1]: 'p' is listed twice"),
        (parameter("{type: string}", required="p"),
         ":7: tools[0].parameters.required: must be a list of parameter names, not string"),
        (parameter("{type: string, default: x}", required="[p]"),
         ":7: tools[0].parameters.required[0]: 'p' has a default and so cannot be required; drop one"),
        (parameter("{type: string, description: [x]}"), f":9: {P}.description: must be text, not array"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ToolsetError) as caught:
        load_toolset(path)
    assert str(caught.value) == f"{path}{message}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["(?=a)b", "(?<!a)b", r"(a)\1", "(?P<x>a)(?P=x)", "(?i)a"])
def test_patterns_that_no_grammar_can_hold(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "t.yaml").write_text(parameter(f"{{type: string, pattern: '{pattern}'}}"))
    with pytest.raises(ToolsetError, match=r"t\.yaml:9: .*\.p\.pattern: no grammar can hold it: "):
        load_toolset(tmp_path / "t.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "{" * 5000,
        "[" * 5000,
        parameter("{type: array, items: " * 40 + "{type: string}" + "}" * 40),
        "a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(
            f"{chr(c)}: &{chr(c)} [{', '.join(['*' + chr(c - 1)] * 9)}]\n" for c in range(ord("c"), ord("k"))
        ),
        "name: &n [*n]",
        "name: \0",
        "name: \x01",
        "\tname: t",
        "%",
        "name: 0b2",
        "name: t\ntools: !!binary x",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "<<: [a]",
        "name: !!timestamp x",
        "name: !!bool x",
        "name: !!int x",
        "!!float x: y",
    ],
)  # fmt: skip
def test_hostile_yaml_gives_the_typed_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ToolsetError, match=r"t\.yaml"):
        load_toolset(tmp_path / "t.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ToolsetError, match=r"none\.yaml: no such toolset file"):
        load_toolset(tmp_path / "none.yaml")
    with pytest.raises(ToolsetError, match="cannot be read"):
        load_toolset(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ToolsetError, match=r"latin\.yaml: cannot be read"):
        load_toolset(tmp_path / "latin.yaml")


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(ToolsetError, match=r"unknown toolset 'kiwii'; there are .*kiwi.*; did you mean 'kiwi'\?"):
        load_toolset("kiwii")


OPENAI: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather in a city.",
            "strict": True,
            "parameters": {
                "type": "object",
                "title": "Weather",
                "properties": {
                    "city": {"type": "STRING", "title": "City"},
                    "unit": {"type": ["string", "null"], "enum": ["c", "f"]},
                    "days": {"type": "integer", "default": 3},
                    "note": {"type": "string", "default": None},
                },
                "required": ["city", "unit", "days"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "name": "stop", "parameters": {}},
]


def test_openai_tools(tmp_path: Path) -> None:
    toolset = from_openai(OPENAI, name="w", max_calls=2)
    weather, stop = toolset.tools
    assert (toolset.name, toolset.max_calls) == ("w", 2)
    assert weather.parameters == Schema(
        "object",
        properties={
            "city": Schema("string"),
            "unit": Schema("string", enum=("c", "f")),
            "days": Schema("integer", default=3),
            "note": Schema("string"),
        },
        required=("city",),
    )
    assert stop == Tool("stop", "", Schema("object"))
    (tmp_path / "my tools.json").write_text(json.dumps(OPENAI))
    assert load_json(tmp_path / "my tools.json") == from_openai(OPENAI, name="my_tools")


def test_openai_tools_as_pydantic_writes_them() -> None:
    parameters = {
        "$defs": {
            "Color": {"enum": ["red", "blue"], "title": "Color", "type": "string"},
            "Box": {"properties": {"color": {"$ref": "#/$defs/Color"}}, "required": ["color"], "type": "object"},
        },
        "properties": {
            "box": {"$ref": "#/$defs/Box", "description": "Which."},
            "tint": {"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}], "default": None},
            "many": {"type": "array", "items": {"$ref": "#/$defs/Box"}},
        },
        "required": ["box", "tint", "many"],
        "type": "object",
    }
    color = Schema("string", enum=("red", "blue"))
    box = {"color": color}
    [tool] = from_openai([{"name": "f", "parameters": parameters}])
    assert tool.parameters == Schema(
        "object",
        properties={
            "box": Schema("object", "Which.", properties=box, required=("color",)),
            "tint": color,
            "many": Schema("array", items=Schema("object", properties=box, required=("color",))),
        },
        required=("box", "many"),
    )


def test_openai_tools_that_refer_to_themselves() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    parameters = {"$defs": {"Node": node}, "type": "object", "properties": {"a": {"$ref": "#/$defs/Node"}}}
    with pytest.raises(ToolsetError, match="refer to each other or are nested too deep"):
        from_openai([{"name": "f", "parameters": parameters}])


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("x", "tools: must be a list of tool definitions, not string"),
        ([], "tools: tools: is empty; a toolset needs at least one tool"),
        ([{"type": "retrieval"}], "tools: [0].type: 'retrieval' is not a function; only functions can be called here"),
        ([{"type": "function", "function": 1}],
         "tools: [0].function: a tool must be a mapping of keys to values, not integer"),
        ([OPENAI[1], OPENAI[1]], "tools: [1].name: there is already a tool called 'stop'; names must differ"),
        ([{"name": "f", "parameters": {"type": "object", "properties": {"a": {"$ref": "#/x"}}}}],
         "tools: [0].parameters.properties.a.$ref: '#/x' leads nowhere; only #/$defs/NAME of the same "
         "parameters is known"),
        ([{"name": "f", "parameters": {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}]}}}}],
         "tools: [0].parameters.properties.a.anyOf: 'anyOf' is not supported; write one type out, or one tool per "
         "case"),
        ([{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string", "oneOf": []}}}}],
         "tools: [0].parameters.properties.a.oneOf: 'oneOf' is not supported; write one type out, or one tool per "
         "case"),
        ([{"name": "f", "inputs": {}}],
         "tools: [0].inputs: unknown key 'inputs'; a tool may have name, description, parameters"),
    ],
)  # fmt: skip
def test_openai_tools_that_cannot_be_used(tools: Any, message: str) -> None:
    with pytest.raises(ToolsetError) as caught:
        from_openai(tools)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "t",\n "tools": [}', ":2: not JSON: Expecting value (column 12)"),
        ('{"name": "t", "name": "u"}', ": the key 'name' is given twice"),
        ("[" * 100_000, ": nested too deep"),
        ('{"name": "t"}', ": 'tools' is missing; a toolset needs a name and tools"),
        ('{"name": "t", "tools": [{"name": 1}]}',
         ": tools[0].name: 1 is not a name; allowed are letters, digits, '_', '.' and '-', no digit first"),
    ],
)  # fmt: skip
def test_json_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "toolset.json"
    path.write_text(text)
    with pytest.raises(ToolsetError) as caught:
        load_json(path)
    assert str(caught.value) == f"{path}{message}"
