"""Tools from elsewhere: what is carried, what is lost by which name, and that the YAML written reads back equal."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from router.explain import ToolsetError
from router.productions import productions
from router.toolset import Schema, Tool, Toolset
from router.toolset_load import load_toolset, load_yaml
from router.wire_format import FUNCTIONGEMMA
from runtimes.console import Parser, run
from tests.router import strategies
from train.data import tools_cmd
from train.data.tools import KINDS, Loss, LossWarning, Wish, dump_yaml, tools_from, write_yaml
from train.data.tools.assembling import from_list


def lowered(schema: Any, **defs: Any) -> tuple[Schema, list[Loss]]:
    """A parameter's schema as it arrives in a toolset, and what was lost."""
    losses: list[Loss] = []
    parameters = {"type": "object", "properties": {"value": schema}, "required": ["value"], "$defs": defs}
    tool = {"name": "t", "description": "d", "inputSchema": parameters}
    toolset = from_list([tool], "list", wish=Wish(), lost=losses.append)
    return toolset.tools[0].parameters, losses


def value(schema: Any, **defs: Any) -> tuple[Schema, list[str]]:
    parameters, losses = lowered(schema, **defs)
    assert all(loss.kind in KINDS for loss in losses)
    return parameters.properties["value"], [loss.kind for loss in losses]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "title": "Value", "examples": ["x"]}, Schema("string")),
        ({"type": ["integer"]}, Schema("integer")),
        ({"const": "a"}, Schema("string", enum=("a",))),
        ({"enum": [1, 2]}, Schema("integer", enum=(1, 2))),
        ({"properties": {"a": {"type": "string"}}}, Schema("object", properties={"a": Schema("string")})),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, Schema("number", exclusive_minimum=0)),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": False}, Schema("number", minimum=0)),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, Schema("number")),
        ({"oneOf": [{"const": "a", "title": "A"}, {"const": "b"}]}, Schema("string", enum=("a", "b"))),
        ({"$ref": "#/$defs/S", "description": "mine"}, Schema("string", "mine", min_length=2)),
        ({"allOf": [{"$ref": "#/$defs/S"}, {"maxLength": 5}]}, Schema("string", "theirs", min_length=2, max_length=5)),
        ({"type": "array", "items": {}}, Schema("array")),
        ({"type": "object"}, Schema("object", additional=True)),
        ({"type": "string", "minLength": 2.0}, Schema("string", min_length=2)),
        ({"type": "integer", "minLength": 3}, Schema("integer")),
        ({"type": "string", "pattern": "^[a-z]+$", "enum": ["ab", "c"]}, Schema("string", enum=("ab", "c"))),
    ],
)
def test_what_can_be_said_is_carried_without_loss(schema: Any, expected: Schema) -> None:
    assert value(schema, S={"type": "string", "minLength": 2, "description": "theirs"}) == (expected, [])


@pytest.mark.parametrize(
    ("schema", "expected", "kind"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, Schema("string"), "choice"),
        ({"type": ["boolean", "string"]}, Schema("boolean"), "choice"),
        ({"type": "string", "not": {"const": "x"}}, Schema("string"), "condition"),
        ({"type": "string", "pattern": "(?=a)b"}, Schema("string"), "pattern"),
        ({"type": "string", "pattern": "["}, Schema("string"), "pattern"),
        ({"type": "string", "pattern": "^a$", "minLength": 3}, Schema("string", min_length=3), "pattern"),
        ({"type": "string", "format": "password"}, Schema("string"), "format"),
        ({"type": "integer", "format": "int64"}, Schema("integer"), "format"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, Schema("array", items=Schema("string")),
         "bound"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, Schema("integer"), "bound"),
        ({"type": "integer", "minimum": "1"}, Schema("integer"), "bound"),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}, Schema("array"), "tuple"),
        ({}, Schema("string"), "untyped"),
        ({"type": "file"}, Schema("string"), "untyped"),
        ({"enum": ["a", 1]}, Schema("string", enum=("a",)), "enum"),
        ({"enum": [[1], [2]]}, Schema("array"), "enum"),
        ({"type": "boolean", "enum": [True]}, Schema("boolean"), "enum"),
        ({"type": "string", "enum": ["<escape>", "b"]}, Schema("string", enum=("b",)), "enum"),
        ({"type": "integer", "default": "x"}, Schema("integer"), "default"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, Schema("object", additional=True), "open"),
        ({"type": "string", "description": "one\n\ntwo"}, Schema("string", "one"), "description"),
        ({"type": "string", "description": "a<esc<escape>ape>b"}, Schema("string", "ab"), "text"),
        ({"type": "string", "contentEncoding": "base64"}, Schema("string"), "keyword"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, Schema("string"), "all-of"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, Schema("array", items=Schema("string")), "null"),
        ({"type": "object", "required": ["a"], "properties": {}}, Schema("object", additional=True), "required"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_lost_by_name(schema: Any, expected: Schema, kind: str) -> None:
    found, kinds = value(schema)
    assert (found, set(kinds)) == (expected, {kind} | ({"untyped"} if schema.get("type") == "file" else set()))


def test_null_and_defaults_make_a_parameter_optional_and_say_so() -> None:
    for schema, kind in (
        ({"type": ["string", "null"]}, "null"),
        ({"type": "string", "nullable": True}, "null"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null"),
        ({"type": "string", "default": "x"}, "default"),
    ):
        parameters, losses = lowered(schema)
        assert (parameters.required, [loss.kind for loss in losses]) == ((), [kind])


def test_a_parameter_that_may_be_null_by_default_loses_nothing() -> None:
    losses: list[Loss] = []
    schema = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    tool = {"name": "t", "description": "d", "parameters": {"type": "object", "properties": {"v": schema}}}
    toolset = from_list([tool], "list", wish=Wish(), lost=losses.append)
    assert (toolset.tools[0].parameters.properties, losses) == ({"v": Schema("string")}, [])


def test_a_schema_that_contains_itself_is_told_with_the_way_round() -> None:
    node = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}}}
    with pytest.raises(ToolsetError, match=r"t\.value\.children\[\]: .*Node contains itself .*--without t") as caught:
        value({"$ref": "#/$defs/Node"}, Node=node)
    assert "\n" not in str(caught.value)


def test_what_an_unchosen_branch_says_is_not_told() -> None:
    assert value({"oneOf": [{"type": "integer"}, {"type": "string", "pattern": "["}]})[1] == ["choice"]


def test_references_that_multiply_end_with_one_line() -> None:
    defs = {f"L{n}": {"type": "object", "properties": {f"p{i}": {"$ref": f"#/$defs/L{n + 1}"} for i in range(9)}}
            for n in range(8)}  # fmt: skip
    with pytest.raises(ToolsetError, match="multiply"):
        value({"$ref": "#/$defs/L0"}, **defs, L8={"type": "string"})


def test_a_tool_that_no_call_fits_is_left_out_and_the_others_stay() -> None:
    losses: list[Loss] = []
    impossible = {"type": "object", "properties": {"x": False}, "required": ["x"]}
    tools = [{"name": "a", "description": "d", "parameters": impossible}, {"name": "b", "description": "d"},
             {"type": "web_search"}]  # fmt: skip
    toolset = from_list(tools, "list", wish=Wish(), lost=losses.append)
    assert [tool.name for tool in toolset] == ["b"]
    assert [loss.kind for loss in losses] == ["tool", "tool"]


def test_names_that_cannot_be_written_are_replaced_and_stay_apart() -> None:
    losses: list[Loss] = []
    tools = [{"name": n, "description": "d"} for n in ("get/users", "get users", "9lives")]
    toolset = from_list(tools, "list", wish=Wish(), lost=losses.append)
    assert [tool.name for tool in toolset] == ["get_users", "get_users_2", "_9lives"]
    assert {loss.kind for loss in losses} == {"name"} and len(losses) == 4


# Whatever a document says, what comes out is a toolset that can be decoded, written and read.

_SMALL = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from([0.5, 2.0, "a", "", "ä<escape>", "▁"]))
_LEAF: dict[str, st.SearchStrategy[Any]] = {
    "type": st.one_of(
        st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "null", "file"]),
        st.lists(st.sampled_from(["string", "integer", "null", "object", "array"]), max_size=3),
    ),
    "enum": st.lists(_SMALL, max_size=4),
    "const": _SMALL,
    "default": st.one_of(_SMALL, st.lists(_SMALL, max_size=2)),
    "nullable": st.booleans(),
    "readOnly": st.booleans(),
    "pattern": st.sampled_from(["^a+$", "[", "b", "(?!x)", "^$", r"\d{3}"]),
    "format": st.sampled_from(["date", "uuid", "int32", "binary", 3]),
    "description": st.one_of(st.text(max_size=8), st.just("a\n\nb <end_of_turn>"), st.none(), st.integers()),
    **dict.fromkeys(
        ("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
         "uniqueItems", "multipleOf", "not", "x-y", "unknown"), _SMALL),
}  # fmt: skip


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from(["a", "b", "$ref", "c d", "1", "type", "A"]), inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            **_LEAF, "properties": named, "required": st.lists(st.sampled_from(["a", "b", "z"])),
            "items": st.one_of(inner, some), "prefixItems": some, "additionalProperties": inner,
            "patternProperties": named, "allOf": some, "anyOf": some, "oneOf": some,
        },
    )  # fmt: skip


_ANY = st.recursive(
    st.one_of(st.booleans(), st.fixed_dictionaries({}, optional=_LEAF)), lambda inner: _schemas(inner), max_leaves=8
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(_ANY)
def test_any_schema_becomes_a_parameter_that_can_be_decoded(schema: Any) -> None:
    losses: list[Loss] = []
    tools = [{"name": "t", "description": "d", "parameters": {"properties": {"v": schema}}}]
    toolset = from_list(tools, "list", wish=Wish(), lost=losses.append)
    productions(toolset, FUNCTIONGEMMA)
    assert {loss.kind for loss in losses} <= KINDS.keys()
    assert all("\n" not in str(loss) for loss in losses)
    assert _read_back(dump_yaml(toolset)) == toolset


def test_nesting_beyond_what_a_toolset_takes_ends_in_a_free_form_object() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(25):
        schema = {"type": "object", "properties": {"a": schema}}
    assert value(schema)[1] == ["depth"]


# The writer.


def _read_back(text: str) -> Toolset:
    from router.explain import Where
    from router.toolset_load import read_yaml
    from router.toolset_schema import build

    data, lines = read_yaml(text, "text")
    return build(data, Where("text", lines))


@settings(max_examples=60, deadline=None)
@given(strategies.toolsets, st.dictionaries(st.just(""), st.lists(st.text(), max_size=2)))
def test_a_written_toolset_reads_back_equal(toolset: Toolset, comments: dict[str, list[str]]) -> None:
    names = [tool.name for tool in toolset]
    enums_differ = all(len(set(s.enum)) == len(s.enum) for t in toolset for s in _walk(t.parameters) if s.enum)
    assume(len(set(names)) == len(names) and enums_differ)
    assert _read_back(dump_yaml(toolset, comments=comments)) == toolset


def _walk(schema: Schema) -> Iterator[Schema]:
    yield schema
    for inner in (*schema.properties.values(), *([schema.items] if schema.items else [])):
        yield from _walk(inner)


def test_every_key_of_a_schema_reads_back(tmp_path: Path) -> None:
    inner = Schema(
        "object", properties={"on": Schema("boolean"), "n": Schema("number", maximum=1e16)}, required=("on",)
    )
    schema = Schema("object", properties={
        "yes": Schema("string", 'a: "b" # c', enum=("no", "1e3", " x", "null", "~", "2020-01-01")),
        "pattern": Schema("string", pattern=r"^\d+: [#'\"]$", min_length=1, max_length=9, default="1: #"),
        "span": Schema("string", copy="span", case_insensitive=True),
        "where": Schema("string", bind="project_path"),
        "list": Schema("array", items=inner, min_items=1, max_items=3),
        "free": Schema("object", additional=True, default={"a": [1, None]}),
        "none": Schema("object"),
        "both": Schema("object", properties={"a": Schema("string")}, additional=True),
        "low": Schema("integer", exclusive_minimum=-1, exclusive_maximum=10**18, format=None),
        "day": Schema("string", format="date"),
    }, required=("yes", "where"))  # fmt: skip
    toolset = Toolset("full", (Tool("t", "Two\nlines\n\n  indented ", schema),), "For people", "Do: it", 3)
    path = tmp_path / "sub" / "full.yaml"
    write_yaml(toolset, path, comments={"": ["top"], "t": ["above", "it\x85name: evil"]})
    assert load_yaml(path) == toolset
    assert [p.name for p in path.parent.iterdir()] == ["full.yaml"]


@pytest.mark.parametrize("name", ["kiwi"])
def test_shipped_toolsets_read_back_equal_and_short(name: str) -> None:
    toolset = load_toolset(name)
    text = dump_yaml(toolset)
    assert _read_back(text) == toolset and _read_back(text).sha256 == toolset.sha256
    assert "source: {type: string, enum: [local, registry], default: local}" in text


# OpenAPI.

PETS = """
openapi: 3.0.3
info: {title: Pet Store, version: "1"}
paths:
  /pets/{petId}:
    parameters:
      - {name: petId, in: path, schema: {type: integer, minimum: 1}}
      - {name: verbose, in: query, schema: {type: string}}
    get:
      summary: One pet
      parameters:
        - {name: verbose, in: query, required: true, description: Say more, schema: {type: boolean}}
        - {name: X-Trace-Id, in: header, schema: {type: string, format: uuid}}
        - {name: Authorization, in: header, required: true, schema: {type: string}}
        - {name: session, in: cookie, schema: {type: string}}
      responses: {200: {description: ok}}
    put:
      operationId: updatePet
      description: "Change a pet.\\n\\nMore words."
      requestBody: {$ref: '#/components/requestBodies/Pet'}
  /pets:
    get:
      operationId: list/pets
      summary: List pets
      parameters:
        - {name: 'filter[name]', in: query, content: {application/json: {schema: {type: string}}}}
        - $ref: '#/components/parameters/Status'
        - {name: when, in: query, schema: {type: string, enum: [2020-01-01, yes, no]}}
    post:
      operationId: addMany
      summary: Add many
      requestBody: {required: true, content: {application/json: {schema: {type: array, items: {type: string}}}}}
    delete:
      operationId: upload
      summary: Upload
      requestBody: {required: true, content: {image/png: {schema: {type: string, format: binary}}}}
  /tree:
    post:
      operationId: plant
      summary: Plant
      requestBody: {required: true, content: {application/json: {schema: {$ref: '#/components/schemas/Node'}}}}
components:
  parameters:
    Status: {name: status, in: query, schema: {type: array, items: {$ref: '#/components/schemas/Status'}}}
  requestBodies:
    Pet:
      required: true
      content:
        application/json:
          schema:
            allOf:
              - $ref: 'common.yaml#/schemas/Base'
              - {type: object, required: [name], properties: {name: {type: string}, petId: {type: string}}}
  schemas:
    Status: {type: string, enum: [available, sold]}
    Node: {type: object, properties: {children: {type: array, items: {$ref: '#/components/schemas/Node'}}}}
"""
COMMON = """
schemas:
  Base: {type: object, properties: {id: {type: integer, readOnly: true}, weight: {$ref: '#/schemas/Weight'}}}
  Weight: {type: number, minimum: 0, exclusiveMinimum: true}
"""


@pytest.fixture()
def pets(tmp_path: Path) -> Path:
    (tmp_path / "common.yaml").write_text(COMMON)
    (tmp_path / "pets.yaml").write_text(PETS)
    return tmp_path / "pets.yaml"


def test_operations_become_tools(pets: Path) -> None:
    losses: list[Loss] = []
    toolset = tools_from(str(pets), wish=Wish(without=("plant",), max_calls=2), lost=losses.append)
    assert (toolset.name, toolset.max_calls) == ("pet_store", 2)
    tools = {tool.name: tool for tool in toolset}
    assert list(tools) == ["get_pets_petId", "updatePet", "list_pets", "addMany"]
    one = tools["get_pets_petId"].parameters
    assert one.required == ("petId", "verbose")
    assert one.properties == {
        "petId": Schema("integer", minimum=1),
        "verbose": Schema("boolean", "Say more"),
        "X-Trace-Id": Schema("string", format="uuid"),
    }
    update = tools["updatePet"].parameters
    assert set(update.required) == {"petId", "name"}
    assert update.properties == {
        "petId": Schema("integer", minimum=1),
        "verbose": Schema("string"),
        "name": Schema("string"),
        "body_petId": Schema("string"),
        "weight": Schema("number", exclusive_minimum=0),
    }
    assert tools["list_pets"].parameters.properties["when"].enum == ("2020-01-01", "yes", "no")
    assert tools["list_pets"].parameters.properties["status"].items == Schema("string", enum=("available", "sold"))
    assert tools["addMany"].parameters.required == ("body",)
    assert sorted((loss.kind, loss.place) for loss in losses) == [
        ("description", "updatePet"), ("name", "list_pets"), ("name", "list_pets.filter[name]"),
        ("name", "updatePet.petId"), ("never", "updatePet.id"), ("parameter", "get_pets_petId.session"),
        ("tool", "upload"),
    ]  # fmt: skip


def test_recursion_is_an_error_only_for_the_operations_that_are_wanted(pets: Path) -> None:
    with pytest.raises(ToolsetError, match=r"plant\.children\[\]: the schema #/.*/Node contains itself"):
        tools_from(str(pets), lost=lambda loss: None)
    assert len(tools_from(str(pets), wish=Wish(only=("list*",)), lost=lambda loss: None).tools) == 1
    with pytest.raises(ToolsetError, match="no tool is called 'lists'; .* did you mean 'list_pets'"):
        tools_from(str(pets), wish=Wish(only=("lists",)))


def test_an_optional_body_is_required_as_its_schema_says_and_told(tmp_path: Path) -> None:
    body = {"content": {"application/merge-patch+json": {"schema": {
        "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}}}}  # fmt: skip
    document = {"openapi": "3.1.0", "paths": {"/x": {"patch": {"summary": "s", "requestBody": body}}}}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    losses: list[Loss] = []
    toolset = tools_from(str(path), lost=losses.append)
    assert toolset.tools[0].required == ("a",) and [loss.kind for loss in losses] == ["body"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"swagger": "2.0", "paths": {}}', "OpenAPI 2.0; 3.0 and 3.1 are read"),
        ('{"openapi": "3.0.0", "paths": {}}', "has no paths"),
        ('{"a": 1}', "neither OpenAPI nor a list"),
        ('{"openapi": ', ":1: not JSON"),
        ('[{"description": "d"}]', r"\[0\]: has no name"),
        ("[]", "no tool is left"),
        ('{"openapi": "3.0", "paths": {"/": {"get": {"parameters": [{"$ref": "#/nil"}]}}}}', "there is no 'nil'"),
        ('{"openapi": "3.0", "paths": {"/": {"get": {"parameters": [{"$ref": "http://h/x"}]}}}}', "leads out of"),
    ],
)  # fmt: skip
def test_a_document_that_is_none_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ToolsetError, match=message) as caught:
        tools_from(str(path), lost=lambda loss: None)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


# Lists, toolsets and functions.


def test_lists_of_every_form_say_the_same(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "$defs": {"City": {"type": "string"}}}
    function = {"name": "weather", "description": "Weather of a city"}
    forms: list[Any] = [
        [{"type": "function", "function": {**function, "parameters": schema, "strict": True}}],
        [{"type": "function", **function, "parameters": schema}],
        {"tools": [{**function, "input_schema": schema}]},
        {"jsonrpc": "2.0", "id": 1, "result": {"tools": [{**function, "inputSchema": schema, "outputSchema": {}}]}},
    ]
    found = []
    for number, form in enumerate(forms):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(form))
        found.append(tools_from(str(path), wish=Wish(name="mine")))
    assert all(toolset == found[0] for toolset in found)
    assert found[0].tools[0].parameters.properties == {"city": Schema("string")}


def test_a_toolset_file_is_taken_as_it_is(tmp_path: Path, kiwi: Toolset) -> None:
    write_yaml(kiwi, tmp_path / "k.yaml")
    assert tools_from(str(tmp_path / "k.yaml")) == kiwi
    chosen = tools_from(str(tmp_path / "k.yaml"), wish=Wish(only=("lo*",), name="less"))
    assert (chosen.name, [tool.name for tool in chosen]) == ("less", ["load"])


def test_functions_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_tools.py").write_text("LIMIT = 3\n")
    (tmp_path / "my_tools.py").write_text(
        "from __future__ import annotations\nfrom typing import TypedDict\nfrom os.path import join\n"
        "from helper_of_tools import LIMIT\n"
        "class Place(TypedDict):\n    city: str\n"
        'def weather(place: Place, days: int = LIMIT) -> str:\n    """Weather of a place."""\n'
        'def _hidden(a: int) -> str:\n    """Not this one."""\n'
        'def alarm(time: str) -> None:\n    """Wake me."""\n'
    )
    toolset = tools_from(str(tmp_path / "my_tools.py"))
    assert (toolset.name, [tool.name for tool in toolset]) == ("my_tools", ["weather", "alarm"])
    assert toolset.tools[0].parameters.properties["days"].default == 3
    assert [t.name for t in tools_from(f"{tmp_path / 'my_tools.py'}:alarm")] == ["alarm"]
    monkeypatch.chdir(tmp_path)
    assert [t.name for t in tools_from("my_tools:alarm,weather")] == ["alarm", "weather"]
    with pytest.raises(ToolsetError, match="has no function 'alarn'; did you mean 'alarm'"):
        tools_from("my_tools:alarn")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nosuch_module_here:f", "cannot be imported"),
        ("broken.py", r"broken\.py:2: cannot be imported \(ZeroDivisionError"),
        ("missing.py", "no such file"),
        ("what", "is no source of tools"),
        ("mcp:stdio:", "names no command"),
        ("mcp:stdio:'a", "mind the quotes"),
    ],
)
def test_a_source_that_is_none_is_one_line(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("x = 0\n1 / x\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ToolsetError, match=message) as caught:
        tools_from(source)
    assert "\n" not in str(caught.value)


def test_losses_that_nobody_asks_for_are_warnings(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"name": "t"}]')
    with pytest.warns(LossWarning, match="description: t: has no description"):
        tools_from(str(path))


# MCP: stand-ins that speak the protocol's handshake of 2025-06-18, over stdio and over HTTP.

PAGES = {
    None: ([{"name": "echo", "description": "Say it\n\nagain", "inputSchema": {
        "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}], "2"),
    "2": ([{"name": "now", "title": "The time", "inputSchema": {"type": "object"}}], None),
}  # fmt: skip


def answer(message: dict[str, Any], pages: dict[Any, Any]) -> dict[str, Any] | None:
    """What a server says to one message; None to a notification."""
    if "id" not in message:
        return None
    reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "initialize":
        reply["result"] = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                           "serverInfo": {"name": "Stand In", "version": "1"}}  # fmt: skip
    elif message["method"] == "tools/list":
        tools, cursor = pages[(message.get("params") or {}).get("cursor")]
        reply["result"] = {"tools": tools} | ({"nextCursor": cursor} if cursor else {})
    else:
        reply["error"] = {"code": -32601, "message": "no such method"}
    return reply


STDIO = """
import json, os, sys
from typing import Any
{answer}
if os.environ.get("TOKEN") != "t":
    sys.exit("no token was given")
pages = {pages!r}
for line in sys.stdin:
    reply = answer(json.loads(line), pages)
    if reply:
        print(json.dumps(reply), flush=True)
"""


def _command(tmp_path: Path, *, ends: bool = True) -> str:
    script = tmp_path / "server.py"
    pages = PAGES if ends else {**PAGES, "2": (PAGES["2"][0], "2")}
    script.write_text(STDIO.format(answer=inspect.getsource(answer), pages=pages))
    return f"mcp:stdio:'{sys.executable}' '{script}'"


def test_an_mcp_server_over_stdio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mcp", reason="the MCP SDK is not installed (extra: data)")
    source = _command(tmp_path)
    monkeypatch.setenv("TOKEN", "t")
    losses: list[Loss] = []
    toolset = tools_from(source, environment=["TOKEN"], lost=losses.append)
    assert (toolset.name, [(t.name, t.description) for t in toolset]) == (
        "stand_in", [("echo", "Say it"), ("now", "The time")],
    )  # fmt: skip
    assert toolset.tools[0].required == ("text",) and [loss.kind for loss in losses] == ["description"]
    with pytest.raises(ToolsetError, match="its last words: no token was given") as caught:
        tools_from(source)
    assert "\n" not in str(caught.value)
    with pytest.raises(ToolsetError, match="does not end"):
        tools_from(_command(tmp_path, ends=False), environment=["TOKEN"])
    with pytest.raises(ToolsetError, match="the environment has no ABSENT_HERE"):
        tools_from(source, environment=["ABSENT_HERE"])
    with pytest.raises(ToolsetError, match="cannot be started .*nosuch-command"):
        tools_from("mcp:stdio:nosuch-command-here")


@pytest.fixture()
def http() -> Iterator[str]:
    """An MCP server that answers in plain JSON to those who show the token, and OpenAPI at another path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200 if self.path == "/api.yaml" else 405, PETS.replace("common.yaml", "/common.yaml"))

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.headers.get("Authorization") != "Bearer secret":
                self.reply(401, "{}")
            elif (said := answer(message, PAGES)) is None:
                self.reply(202, "")
            else:
                self.reply(200, json.dumps(said))

        def reply(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_mcp_server_over_http(http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mcp", reason="the MCP SDK is not installed (extra: data)")
    monkeypatch.setenv("MCP_TOKEN_HERE", "secret")
    toolset = tools_from(f"{http}/mcp", bearer="MCP_TOKEN_HERE", lost=lambda loss: None)
    assert [tool.name for tool in toolset] == ["echo", "now"]
    assert tools_from(f"mcp:{http}/other", bearer="MCP_TOKEN_HERE", lost=lambda loss: None) == toolset
    with pytest.raises(ToolsetError, match="did not list its tools") as caught:
        tools_from(f"{http}/mcp")
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_an_openapi_document_at_an_address(http: str) -> None:
    toolset = tools_from(f"{http}/api.yaml", wish=Wish(only=("list_pets",)), lost=lambda loss: None)
    assert [tool.name for tool in toolset] == ["list_pets"]
    with pytest.raises(ToolsetError, match="the server answers 405"):
        tools_from(f"{http}/other", lost=lambda loss: None)
    with pytest.raises(ToolsetError, match=r"/common\.yaml: the server answers 405"):
        tools_from(f"{http}/api.yaml", wish=Wish(only=("updatePet",)), lost=lambda loss: None)


# The command.


def _data(argv: list[str]) -> int:
    parser = Parser("edgecall data", "", [])
    tools_cmd.add_parser(parser.add_subparsers(dest="verb", parser_class=Parser))

    def main(arguments: list[str]) -> int:
        args: argparse.Namespace = parser.parse_args(arguments)
        return tools_cmd.main(args)

    return run(main, argv)


def test_the_command_writes_a_file_with_its_losses_and_does_not_overwrite_edits(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pets-toolset.yaml"
    argv = ["tools", str(pets), "--without", "plant", "--out", str(out)]
    assert _data(argv) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert (report["tools"], report["parameters"], report["losses"]["name"]) == (4, 12, 3)
    assert "edgecall: parameter: get_pets_petId.session" in told.err
    lines = out.read_text().splitlines()
    at = lines.index("  - name: get_pets_petId")
    assert lines[at - 1].startswith("  # parameter: get_pets_petId.session")
    assert any(line.startswith("# tool: upload: left out") for line in lines[: lines.index("name: pet_store")])
    assert len(load_yaml(out).tools) == 4
    assert _data(argv) == 2 and "--force" in capsys.readouterr().err
    assert _data([*argv, "--force"]) == 0


def test_many_losses_of_a_kind_are_told_in_short() -> None:
    losses = [Loss("format", f"t.p{n}", "dropped") for n in range(9)]
    assert len(tools_cmd.told(losses, everything=True)) == 9
    assert tools_cmd.told(losses, everything=False)[-1].startswith("format: 6 more")
