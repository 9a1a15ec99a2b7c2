"""Writing and reading back every value that can be written; refusing, with a position, whatever cannot be read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.render import render_call, render_completion, render_prefix, render_prompt, user_turn
from router.toolset import Call, Schema, Tool, Toolset
from router.wire import FUNCTIONGEMMA, GEMMA4, WIRES, WireError, WireFormat, parse_completion, wire_format
from router.wire_format import MAX_CHARACTERS, MAX_DEPTH
from tests.router.strategies import FRAGMENTS, RESERVED, call_lists, values

wires = st.sampled_from(list(WIRES.values()))
S, E, X, R, T = "<start_function_call>", "<end_function_call>", "<escape>", "<start_function_response>", "<end_of_turn>"


def call(arguments: str) -> str:
    return f"{S}call:f{{{arguments}}}{E}"


def exactly(a: Any, b: Any) -> bool:
    """Equal with equal types: 1 is neither 1.0 nor True."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(exactly(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(exactly, a, b))
    return type(a) is type(b) and a == b


@settings(deadline=None, max_examples=200, derandomize=True)
@given(call_lists, wires)
def test_round_trip(calls: list[Call], wire: WireFormat) -> None:
    read = parse_completion(render_completion(calls, wire), wire)
    assert [c.name for c in read] == [c.name for c in calls]
    assert all(exactly(r.arguments, c.arguments) for r, c in zip(read, calls, strict=True))


@settings(deadline=None, max_examples=120, derandomize=True)
@given(call_lists, wires, st.data())
def test_cut_or_damaged_completions_never_change_a_call(
    calls: list[Call], wire: WireFormat, data: st.DataObject
) -> None:
    """A completion cut short gives its first calls or an error, never another call."""
    text = render_completion(calls, wire)
    cut = data.draw(st.integers(0, len(text)))
    try:
        read = parse_completion(text[:cut], wire)
    except WireError as error:
        assert error.position is not None and 0 <= error.position <= cut
    else:
        assert read == calls[: len(read)]


_pieces = st.sampled_from([*RESERVED, *FRAGMENTS, "call:", "f", "{", "}", "a:1", "response:", "0", "\0", "\ud800"])


@settings(deadline=None, max_examples=500, derandomize=True)
@given(st.lists(_pieces, max_size=14).map("".join), wires)
@example(S * 5000, FUNCTIONGEMMA)
def test_any_text_parses_or_gives_the_typed_error(text: str, wire: WireFormat) -> None:
    try:
        read = parse_completion(text, wire)
    except WireError as error:
        assert error.position is not None and 0 <= error.position <= len(text)
    else:
        assert parse_completion(render_completion(read, wire), wire) == read
        assert len(read) == text.count(wire.start_call)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.8e-05", 1.8e-05),
        ("1E+3", 1000.0),
        ("-0.5", -0.5),
        ("+7", 7),
        ("-0", 0),
        ("10", 10),
        ("10.0", 10.0),
        ("None", None),
        ("null", None),
        ("true", True),
        ("false", False),
        (f" \n\t{X} a {X} ", " a "),
        (f"{X}{X}", ""),
        (f"{X}a}},b:1]{X}", "a},b:1]"),
        ("[]", []),
        ("[ 1 , [ ] , { } ]", [1, [], {}]),
        (f"[{X}a,b{X},{X}c{X}]", ["a,b", "c"]),
        (f"{{k:{{a b:[1,{{}}]}},l:{X}x{X}}}", {"k": {"a b": [1, {}]}, "l": "x"}),
        (f"{X}line\nbreak\r\n{X}", "line\nbreak\r\n"),
    ],
)
def test_values(text: str, value: Any) -> None:
    [read] = parse_completion(call(f"a:{text}") + R)
    assert exactly(read.arguments, {"a": value})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("", 0),
        (T, 0),
        ("I cannot help with that.", 0),
        (f"I cannot.{T}\n", 0),
        ("call:f{a:1}", 0),
        (call(""), 1),
        (call("") + T, 1),
        (call("") + "<eos>", 1),
        (f"{call('')}{T}\n<eos>", 1),
        ("<eos>", 0),
        (f"{S} call: f {{ }} {E} \n {call('a:1')} {R}", 2),
        (f"{call('')}{R}response:f{{ok:true}}<end_function_response>", 1),
        (f"{call('')}{R}response:f{{}}<end_function_response>Done.{T}", 1),
        (f"{call('')}{call('')}{R}response:f{{}}<end_function_response>{R}response:f{{}}<end_function_response>", 2),
        (f"{call('')}{R}response:f{{a:[1]}}<end_function_response>{call('b:2')}{R}", 2),
    ],
)
def test_completions(text: str, calls: int) -> None:
    read = parse_completion(text)
    assert len(read) == calls and all(c.name == "f" for c in read)


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        (f"{S}", "expected 'call:', found the end", 21),
        (f"{S}search{{}}{E}", "expected 'call:', found 'search{}'", 21),
        (f"{S}call:{{}}{E}", "expected the name of a tool, found '{}'", 26),
        (f"{S}call:{X}f{X}{{}}{E}", f"expected the name of a tool, found {X}", 26),
        (f"{S}call:a{X}b{X}{{}}{E}", f"expected '{{', found {X}", 27),
        (f"{S}call:a b{{}}{E}", "expected '{', found 'b{}'", 28),
        (f"{S}call:f{{a:1{E}", f"expected ',' or '}}', found {E}", 31),
        (f"{S}call:f{{a:1}}", f"expected {E}, found the end", 32),
        (f"{S}call:f{{a:1}}}}{E}", f"expected {E}, found '}}'", 32),
        (f"{S}call:f{{a:{{b:1}}{E}", f"expected ',' or '}}', found {E}", 35),
        (f"{S}call:f{{a:[1}}{E}", "expected ',' or ']', found '}'", 32),
        (call("a:Tokyo"), "'Tokyo' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:"), "expected a value, found '}'", 30),
        (call("a"), "expected ':' after the key 'a', found '}'", 29),
        (call(":1"), "expected a key, found ':1}'", 28),
        (call("a:1,"), "expected a key, found '}'", 32),
        (call("a:1 b:2"), "expected ',' or '}', found 'b:2}'", 32),
        (call("a:1,a:2"), "the key 'a' is given twice", 32),
        (call("a:1,b:{c:1,c:1}"), "the key 'c' is given twice", 39),
        (call(f"{X}a{X}:1"), f"expected a key, found {X}", 28),
        (call(f"a{X}b:1"), f"expected ':' after the key 'a', found {X}", 29),
        (call(f"a:{X}x"), f"expected {X} at the end of a string, found {E}", 40),
        (call(f"a:{X}x{T}{X}"), f"expected {X} at the end of a string, found {T}", 39),
        (call(f"a:{X}x<bos>{X}"), f"expected {X} at the end of a string, found <bos>", 39),
        (call(f"a:{X}x{X}y"), "expected ',' or '}', found 'y}'", 47),
        (call(f"a:{X}\0{X}"), "the string contains a null character; it cannot be written", 38),
        (call("a\0:1"), "the key 'a\\x00' contains a control character", 28),
        (call(f"a:{X}\ud800{X}"), "the string contains half a surrogate pair at 0; it is not text", 38),
        (call("a:007"), "'007' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:.5"), "'.5' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:1."), "'1.' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:--1"), "'--1' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:0x10"), "'0x10' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:1_000"), "'1_000' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:٣"), "'٣' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:NaN"), "'NaN' is no value; strings are escaped, numbers written as in JSON", 30),
        (call("a:1e999"), "the number 1e999 is out of range", 30),
        (call("a:1e-999"), "the number 1e-999 is out of range", 30),
        (f"Sure! {call('')}", f"expected the end of the turn or nothing after text, found {S}", 6),
        (f"{call('')} ok", "expected another call, a stop or the end after a call, found 'ok'", 49),
        (f"{call('')} ok {call('')}", "expected another call, a stop or the end after a call, found 'ok '", 49),
        (f"{call('')}{T}{call('')}", f"expected nothing after the end of the turn, found {S}", 61),
        (R, f"expected the end of the turn or nothing after text, found {R}", 0),
        (f"{call('')}{R}nonsense", "expected 'response:', found 'nonsense'", 73),
        (f"{call('')}{R}response:f{{}}", "expected <end_function_response>, found the end", 85),
        (E, f"expected the end of the turn or nothing after text, found {E}", 0),
        ("a\0b", "the text contains a null character; it cannot be written", 0),
    ],
)
def test_hostile_completions_are_refused_where_they_go_wrong(text: str, message: str, position: int) -> None:
    with pytest.raises(WireError) as caught:
        parse_completion(text)
    assert str(caught.value) == f"{message} (at character {position})"
    assert caught.value.position == position


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        S * 1_000_000,
        call("a:" + "[" * 1_000_000),
        call("a:" + X + "x" * 1_000_000 + X),
        "{" * 1_000_000,
        call("a:" + "9" * 1_000_000),
        "\0" * 1_000_000,
    ],
)
def test_a_million_characters(text: str) -> None:
    with pytest.raises(WireError, match=f"longer than {MAX_CHARACTERS} characters"):
        parse_completion(text)


@pytest.mark.parametrize(
    "part", [S, X, "{", "[", "a:", "a:{", "a:[", "9", "-", " ", ",", call("a:1"), f"{X}{X}", "0" + X]
)
def test_as_much_as_is_read_at_all(part: str) -> None:
    """The longest inputs of every kind end in an answer or the typed error (not in a recursion or by running away)."""
    body = part * ((MAX_CHARACTERS - 60) // len(part))
    for text in (body, call(body), call(f"a:{body}"), call(f"a:{X}{body}")):
        try:
            read = parse_completion(text)
        except WireError:
            continue
        assert read == [] or {c.name for c in read} == {"f"}


def test_depth_is_limited_alike_in_writing_and_reading() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    text = render_call(Call("f", {"a": value}))
    assert parse_completion(text) == [Call("f", {"a": value})]
    with pytest.raises(WireError, match="more than 64 deep"):
        render_call(Call("f", {"a": [value]}))
    with pytest.raises(WireError, match="more than 64 deep"):
        parse_completion(text.replace("[1]", "[[1]]"))


def test_numbers_are_limited_alike_in_writing_and_reading() -> None:
    largest = 10**391 - 1
    assert parse_completion(render_call(Call("f", {"a": -largest}))) == [Call("f", {"a": -largest})]
    with pytest.raises(WireError, match="integer of more than"):
        render_call(Call("f", {"a": 10**5000}))
    with pytest.raises(WireError, match="is no value"):
        parse_completion(call("a:" + "9" * 5000))


@pytest.mark.parametrize("token", [*FUNCTIONGEMMA.reserved])
def test_control_tokens_cannot_be_written(token: str) -> None:
    for arguments in ({"a": f"x{token}"}, {"a": [{"b": token}]}, {token: 1}, {"a": {f"k{token}": 1}}):
        with pytest.raises(WireError, match="control token"):
            render_completion([Call("f", arguments)])
    tool = Tool("f", f"Does {token}.", Schema("object"))
    with pytest.raises(WireError, match="control token"):
        render_prefix(Toolset("t", (tool,)))
    with pytest.raises(WireError, match="control token"):
        render_prefix(Toolset("t", (Tool("f", "", Schema("object")),), instruction=token))
    with pytest.raises(WireError, match="the request contains the control token"):
        render_prompt(Toolset("t", (Tool("f", "", Schema("object")),)), f"hi {token}")


def test_the_other_family_s_tokens_are_text() -> None:
    assert parse_completion(call(f"a:{X}<|tool_call>{X}")) == [Call("f", {"a": "<|tool_call>"})]
    text = render_completion([Call("f", {"a": X})], GEMMA4)
    assert parse_completion(text, GEMMA4) == [Call("f", {"a": X})]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"a:b": 1}, "key 'a:b' contains ':'; it cannot be written"),
        ({"a{": 1}, "key 'a{' contains '{'; it cannot be written"),
        ({"a}": 1}, "key 'a}' contains '}'; it cannot be written"),
        ({"a,b": 1}, "key 'a,b' contains ','; it cannot be written"),
        ({"[": 1}, "key '[' contains '['; it cannot be written"),
        ({"": 1}, "key '' is empty; it cannot be written"),
        ({" a": 1}, "key ' a' begins or ends with a space; it cannot be written"),
        ({"a\n": 1}, "key 'a\\n' contains a control character; it cannot be written"),
        ({1: 1}, "key 1 is int, not a string"),
        ({"a": float("nan")}, "nan is not a number that JSON can write"),
        ({"a": float("-inf")}, "-inf is not a number that JSON can write"),
        ({"a": {1, 2}}, "a value of type set cannot be written; JSON values can"),
        ({"a": b"x"}, "a value of type bytes cannot be written; JSON values can"),
        ({"a": "\0"}, "the string '\\x00' contains a null character; it cannot be written"),
        ({"a": "\ud800"}, "the string '\\ud800' contains half a surrogate pair at 0; it is not text"),
    ],
)
def test_what_cannot_be_written(arguments: dict[Any, Any], message: str) -> None:
    with pytest.raises(WireError) as caught:
        render_call(Call("f", arguments))
    assert str(caught.value) == message
    assert caught.value.position is None


@pytest.mark.parametrize("name", ["", "a b", "a{", "1a", "ä", "a:b", "a\n"])
def test_names_that_cannot_be_written(name: str) -> None:
    with pytest.raises(WireError, match="tool name"):
        render_call(Call(name, {}))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(values)
def test_a_value_that_holds_itself_is_refused(value: Any) -> None:
    loop: list[Any] = [value]
    loop.append(loop)
    with pytest.raises(WireError, match="nested more than"):
        render_call(Call("f", {"a": loop}))


def test_keys_are_sorted_without_regard_to_case() -> None:
    assert render_call(Call("f", {"b": 1, "A": 2, "a": 3, "C": 4})) == call("A:2,a:3,b:1,C:4")


def test_unknown_wire_format() -> None:
    with pytest.raises(WireError, match="unknown wire format 'gemma5'; there are functiongemma, gemma4"):
        wire_format("gemma5")


def test_shown_context_stands_on_a_line_of_its_own_before_the_request() -> None:
    toolset = Toolset("t", (Tool("f", "", Schema("object")),), shown=("date", "weekday"))
    context = {"date": "2026-03-11", "weekday": "Wednesday", "project_path": "/p"}
    assert user_turn(toolset, " lunch on friday\n", context) == "date: 2026-03-11, weekday: Wednesday\nlunch on friday"
    plain = replace(toolset, shown=())
    assert user_turn(plain, " lunch on friday\n", context) == "lunch on friday"
    assert render_prefix(toolset) == render_prefix(plain)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({}, "context: no 'date', which toolset t shows the model; give it with the request"),
        ({"date": "one\ntwo"}, "context: date: .* is not text or a number on one line"),
        ({"date": ["2026"]}, "context: date: .* is not text or a number on one line"),
    ],
)
def test_shown_context_must_be_there_and_be_one_line(context: dict[str, Any], message: str) -> None:
    toolset = Toolset("t", (Tool("f", "", Schema("object")),), shown=("date",))
    with pytest.raises(WireError, match=message):
        user_turn(toolset, "hi", context)
