"""Whether calls hold to their schemas."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.formats import FORMATS, format_pattern
from router.toolset import Call, Schema, Tool, Toolset, schema_to_dict
from router.validate import equal, schema_errors, value_errors
from tests.router.strategies import schemas, values

POINT = Schema("object", properties={"x": Schema("integer"), "y": Schema("integer")}, required=("x",))
TOOL = Tool(
    "f",
    "",
    Schema(
        "object",
        properties={
            "text": Schema("string", min_length=2, max_length=4),
            "kind": Schema("string", enum=("a", "b")),
            "code": Schema("string", pattern="[0-9]{2}"),
            "day": Schema("string", format="date"),
            "size": Schema("integer", minimum=1, maximum=3),
            "ratio": Schema("number", exclusive_minimum=0, exclusive_maximum=1),
            "flag": Schema("boolean"),
            "tags": Schema("array", items=Schema("string"), min_items=1, max_items=2),
            "point": POINT,
            "free": Schema("object", additional=True, max_properties=2),
            "path": Schema("string", bind="path"),
        },
        required=("kind", "path"),
    ),
)
TOOLSET = Toolset("t", (TOOL,))


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        ({}, []),
        ({"text": "abcd", "code": "x12", "day": "2026-01-31", "size": 3, "ratio": 0.5, "flag": True}, []),
        ({"size": 2.0, "ratio": 0.5, "tags": ["a"], "point": {"x": 1}, "free": {"any": [1]}}, []),
        ({"path": "/home"}, []),
        ({"path": 1}, ["path: 1 is integer, not a string"]),
        ({"kind": None}, ["kind: None is null, not a string"]),
        ({"kind": "c"}, ["kind: 'c' is not one of 'a', 'b'"]),
        ({"text": "a"}, ["text: 'a' is shorter than 2 characters"]),
        ({"text": "abcde"}, ["text: 'abcde' is longer than 4 characters"]),
        ({"code": "1"}, ["code: '1' does not match the pattern [0-9]{2}"]),
        ({"day": "2026-13-01"}, ["day: '2026-13-01' is not in the format date"]),
        ({"size": 0}, ["size: 0 is below the minimum 1"]),
        ({"size": 4}, ["size: 4 is above the maximum 3"]),
        ({"size": 1.5}, ["size: 1.5 is number, not an integer"]),
        ({"size": True}, ["size: True is boolean, not an integer"]),
        ({"size": "2"}, ["size: '2' is string, not an integer"]),
        ({"ratio": 0}, ["ratio: 0 is not above 0"]),
        ({"ratio": 1}, ["ratio: 1 is not below 1"]),
        ({"ratio": False}, ["ratio: False is boolean, not a number"]),
        ({"flag": 1}, ["flag: 1 is integer, not a boolean"]),
        ({"tags": []}, ["tags: 0 items are fewer than 1"]),
        ({"tags": ["a", "b", 3]}, ["tags: 3 items are more than 2", "tags[2]: 3 is integer, not a string"]),
        ({"tags": "a"}, ["tags: 'a' is string, not an array"]),
        ({"point": {"y": "1", "z": 2}}, ["point.x: required, but missing", "point.y: '1' is string, not an integer",
                                         "point.z: unknown; there are x, y"]),
        ({"free": {"a": 1, "b": 2, "c": 3}}, ["free: 3 keys are more than 2"]),
        ({"point": []}, ["point: [] is array, not an object"]),
        ({"colour": 1}, ["colour: unknown parameter of f; there are text, kind, code, day, size, ratio, flag, tags, "
                         "point, free"]),
    ],
)  # fmt: skip
def test_arguments(arguments: dict[str, Any], errors: list[str]) -> None:
    assert schema_errors(Call("f", {"kind": "a", **arguments}), TOOLSET) == errors


def test_tool_and_required() -> None:
    assert schema_errors(Call("f", {}), TOOLSET) == ["kind: required, but missing"]
    assert schema_errors(Call("g", {}), TOOLSET) == ["unknown tool 'g'; there are f"]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(schemas, values)
def test_agrees_with_json_schema(schema: Schema, value: Any) -> None:
    """The same verdict as the reference implementation of JSON Schema (closed objects, which ours are)."""

    def closed(node: dict[str, Any]) -> dict[str, Any]:
        out = {k: v for k, v in node.items() if k != "description"}
        if node["type"] == "object":
            out["properties"] = {k: closed(v) for k, v in node["properties"].items()}
            out["additionalProperties"] = node.get("additionalProperties", False)
        if "items" in node:
            out["items"] = closed(node["items"])
        return out

    valid = jsonschema.Draft202012Validator(closed(schema_to_dict(schema))).is_valid(value)
    assert valid == (value_errors(value, schema) == [])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (10, 10.0, True),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        ("1", 1, False),
        (None, False, False),
        (None, None, True),
        ({"a": 1, "b": [1, 2.0]}, {"b": [1.0, 2], "a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ([1, 2], [2, 1], False),
        ([1], [1, 1], False),
        ((1, 2), [1, 2], True),
        (2**53 + 1, float(2**53), False),
        ("é", "e\u0301", False),
    ],
)
def test_equality_of_values(a: Any, b: Any, same: bool) -> None:
    assert equal(a, b) is same and equal(b, a) is same


@settings(deadline=None, max_examples=60, derandomize=True)
@given(values)
def test_every_value_equals_itself(value: Any) -> None:
    assert equal(value, value)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2026-02-30"], ["2026-2-3", "26-02-03", "2026-00-01", "2026-01-32", "2026-01-01 "]),
        ("time", ["15:00:00", "23:59:59.5Z", "00:00:00+02:00"], ["24:00:00", "15:00", "3pm"]),
        ("date-time", ["2026-01-20T15:00:00", "2026-01-20T15:00:00Z"], ["2026-01-20", "2026-01-20 15:00:00"]),
        ("email", ["a.b+c@x-y.org"], ["a@b", "a b@c.de", "@c.de", "a@c..de", "a@-c.de"]),
        ("hostname", ["localhost", "a.b-c.de"], ["-a", "a..b", "a_b", ""]),
        ("ipv4", ["0.0.0.0", "255.1.20.199"], ["256.1.1.1", "1.2.3", "01.2.3.4"]),
        ("uri", ["https://x.org/a?b=c#d", "mailto:a@b.de"], ["x.org", "http://a b", "https:"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "x"]),
    ],
)
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    assert name in FORMATS
    assert all(format_pattern(name).fullmatch(text) for text in good)
    assert not any(format_pattern(name).fullmatch(text) for text in bad)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_no_format_matches_what_cannot_be_written(name: str, data: st.DataObject) -> None:
    """Angle brackets, nulls and line breaks belong to no format, so neither does a control token."""
    text = data.draw(st.from_regex(format_pattern(name), fullmatch=True))
    assert not set("<>\0\n\r") & set(text)
