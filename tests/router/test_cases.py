"""Cases: reading them, and when two lists of calls are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs import path as config
from router.cases import Case, CaseError, correct, load_cases, normalise, same_calls
from router.toolset import Call, Schema, Tool, Toolset
from router.toolset_load import load_toolset
from router.validate import schema_errors

INNER = Schema("object", properties={"n": Schema("integer", default=1), "who": Schema("string", case_insensitive=True)})
TOOLSET = Toolset(
    "t",
    (
        Tool(
            "f",
            "",
            Schema(
                "object",
                properties={
                    "a": Schema("string"),
                    "size": Schema("number", default=10),
                    "name": Schema("string", case_insensitive=True, default="Straße"),
                    "inner": INNER,
                    "rows": Schema("array", items=INNER),
                    "path": Schema("string", bind="path"),
                },
            ),
        ),
        Tool("g", "", Schema("object")),
    ),
)


def f(**arguments: Any) -> Call:
    return Call("f", arguments)


def test_normalise_fills_defaults_removes_bound_and_folds() -> None:
    call = f(a="X", path="/home", inner={"who": "ME"}, rows=[{"who": "You", "n": 2}, {}])
    assert normalise([call, Call("g", {}), Call("h", {"path": 1})], TOOLSET) == [
        f(a="X", inner={"who": "me", "n": 1}, rows=[{"who": "you", "n": 2}, {"n": 1}], size=10, name="strasse"),
        Call("g", {}),
        Call("h", {"path": 1}),
    ]
    assert call == f(a="X", path="/home", inner={"who": "ME"}, rows=[{"who": "You", "n": 2}, {}])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ([], [], True),
        ([f()], [], False),
        ([f(a="x")], [f(a="x")], True),
        ([f(a="x")], [f(a="X")], False),
        ([f(a="x")], [f(a="x ")], False),
        ([f(name="ANNA")], [f(name="anna")], True),
        ([f(size=10)], [f()], True),
        ([f(size=10.0)], [f()], True),
        ([f(size=True)], [f(size=1)], False),
        ([f(name="STRASSE")], [f()], True),
        ([f(path="a")], [f(path="b")], True),
        ([f(path="a")], [f()], True),
        ([f(inner={})], [f(inner={"n": 1.0})], True),
        ([f(inner={})], [f()], False),
        ([f(a="x", size=3)], [Call("f", {"size": 3, "a": "x"})], True),
        ([f(), Call("g", {})], [Call("g", {}), f()], False),
        ([f(), f()], [f()], False),
        ([f(b=1)], [f()], False),
        ([Call("g", {})], [Call("f", {})], False),
        ([Call("h", {"x": 1})], [Call("h", {"x": 1.0})], True),
    ],
)
def test_same_calls(a: list[Call], b: list[Call], same: bool) -> None:
    assert same_calls(a, b, TOOLSET) is same
    assert same_calls(b, a, TOOLSET) is same


def test_correct_takes_any_accepted_list() -> None:
    case = Case("1", "do it", calls=(f(a="x"),), accept=((f(a="y"), Call("g", {})), ()))
    assert correct(case, [f(a="x", size=10)], TOOLSET)
    assert correct(case, [f(a="y"), Call("g", {})], TOOLSET)
    assert correct(case, [], TOOLSET)
    assert not correct(case, [f(a="y")], TOOLSET)
    assert not correct(Case("2", "hm"), [f()], TOOLSET)
    assert correct(Case("2", "hm"), [], TOOLSET)


@pytest.mark.parametrize("file", sorted(config("cases").rglob("*.jsonl")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_cases_hold_to_their_toolset(file: Path) -> None:
    toolset = load_toolset(file.parent.name)
    for case in load_cases(file):
        for calls in (case.calls, *case.accept):
            assert [error for call in calls for error in schema_errors(call, toolset)] == [], case.id
            assert len(calls) <= toolset.max_calls
        assert set(toolset.bound_keys) <= case.context.keys(), case.id


GOOD = {"id": "a", "user": "hi", "calls": []}


def test_load(tmp_path: Path) -> None:
    full = {
        "id": "b", "user": "go\u2028on", "context": {"path": "/x"}, "bucket": "hard",
        "calls": [{"name": "f", "arguments": {"a": "x"}}], "accept": [[], [{"name": "g"}]], "template": "go on",
    }  # fmt: skip
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(GOOD) + "\r\n\n" + json.dumps(full, ensure_ascii=False) + "\n")
    cases = load_cases(path)
    assert cases == [
        Case("a", "hi"),
        Case("b", "go\u2028on", {"path": "/x"}, "hard", (f(a="x"),), ((), (Call("g", {}),)), "go on"),
    ]
    path.write_text("\n".join(json.dumps(case.to_dict()) for case in cases))
    assert load_cases(path) == cases


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes (column 2)"),
        ("[" * 100_000, "not JSON: nested too deep"),
        ("[]", "a case must be an object, not array"),
        ('{"id": "x", "id": "y"}', "the key 'id' is given twice"),
        ({"id": "b", "user": "x"}, "'calls' is missing; a case needs id, user and calls"),
        ({**GOOD, "id": "b", "usr": 1}, "unknown key 'usr'; a case has id, user, context, bucket, calls, accept, "
         "template; did you mean 'user'?"),
        (GOOD, "id: 'a' is already the id of line 1; ids must differ"),
        ({**GOOD, "id": 1}, "id: must be text that is not empty"),
        ({**GOOD, "user": "  "}, "user: must be text that is not empty"),
        ({**GOOD, "bucket": None}, "bucket: must be text that is not empty"),
        ({**GOOD, "context": []}, "context: must be an object, not array"),
        ({**GOOD, "calls": None}, "calls: must be a list of calls, not null"),
        ({**GOOD, "calls": ["f"]}, "calls[0]: a call must be an object with 'name' and 'arguments'"),
        ({**GOOD, "calls": [{"name": "f", "args": {}}]}, "calls[0]: unknown key 'args'; a call has name and arguments"),
        ({**GOOD, "calls": [{"name": "f", "arguments": "{}"}]}, "calls[0].arguments: must be an object, not string"),
        ({**GOOD, "template": 3}, "template: must be text"),
        ({**GOOD, "accept": {}}, "accept: must be a list of lists of calls, not object"),
        ({**GOOD, "accept": [{}]}, "accept[0]: must be a list of calls, not object"),
    ],
)  # fmt: skip
def test_errors_name_file_and_line(tmp_path: Path, line: Any, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + (line if isinstance(line, str) else json.dumps(line)) + "\n")
    with pytest.raises(CaseError) as caught:
        load_cases(path)
    assert str(caught.value) == f"{path}:3: {message}"


def test_files_that_hold_no_cases(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"none\.jsonl: no such case file"):
        load_cases(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CaseError, match=r"empty\.jsonl: holds no cases"):
        load_cases(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(CaseError, match=r"latin\.jsonl: cannot be read"):
        load_cases(tmp_path / "latin.jsonl")
