"""BFCL: questions, function documents and accepted answers, on rows of our own in the leaderboard's form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from router.cases import correct
from router.toolset import Call, Toolset
from runtimes.errors import UserError
from train.data.importers import find
from train.data.importers.base import Row, Skipped, rows
from train.data.importers.bfcl import MAX_ACCEPT
from train.data.importers.store import read_import, write_import

BAKE = {
    "name": "oven.bake",
    "description": "Bake something",
    "parameters": {
        "type": "dict",
        "properties": {
            "dish": {"type": "string", "description": "What to bake"},
            "degrees": {"type": "integer", "description": "Heat"},
            "hours": {"type": "float", "default": 1.5},
            "fan": {"type": "boolean", "default": False},
            "racks": {"type": "array", "items": {"type": "integer"}},
            "mode": {"type": "string", "enum": ["top", "bottom"]},
        },
        "required": ["dish", "degrees"],
    },
}
PLAN = {
    "name": "plan",
    "description": "Plan meals",
    "parameters": {
        "type": "dict",
        "properties": {
            "meal": {
                "type": "dict",
                "properties": {"name": {"type": "string"}, "guests": {"type": "integer"}, "day": {"type": "string"}},
                "required": ["name"],
            },
            "extras": {"type": "array", "items": {"type": "dict"}},
            "note": {"type": "any"},
        },
        "required": ["meal"],
    },
}


def question(name: str, say: Any, *functions: Any) -> dict[str, Any]:
    turn = [[{"role": "user", "content": say}]] if isinstance(say, str) else say
    return {"id": name, "question": turn, "function": list(functions)}


def bfcl(folder: Path, category: str, questions: list[Any], answers: list[Any] | None = None, version: int = 4) -> Path:
    path = folder / f"BFCL_v{version}_{category}.json"
    path.write_text("".join(json.dumps(q) + "\n" for q in questions))
    if answers is not None:
        (folder / "possible_answer").mkdir(exist_ok=True)
        lines = [{"id": q["id"], "ground_truth": a} for q, a in zip(questions, answers, strict=True)]
        (folder / "possible_answer" / path.name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def one(folder: Path, category: str, functions: list[Any], answer: Any) -> Row:
    bfcl(folder, category, [question(f"{category}_0", "bake it", *functions)], [answer])
    (row,) = rows(find("bfcl"), folder)
    assert isinstance(row, Row)
    return row


def right(row: Row, *calls: Call) -> bool:
    return correct(row.case, calls, row.toolset)


def test_accepted_values_become_gold_and_accept(tmp_path: Path) -> None:
    accepted = {
        "dish": ["bread", "a loaf"],
        "degrees": [200],
        "hours": ["", 1.5, 2],
        "fan": ["", False],
        "mode": ["top", ""],
    }
    row = one(tmp_path, "simple_python", [BAKE], [{"oven.bake": accepted}])
    assert row.split == "test" and row.case.bucket == "simple_python" and row.case.id == "bfcl/simple_python_0"
    assert row.case.calls == (Call("oven.bake", {"dish": "bread", "degrees": 200, "mode": "top"}),)
    assert right(row, Call("oven.bake", {"dish": "A Loaf", "degrees": 200, "hours": 2}))
    assert right(row, Call("oven.bake", {"dish": "bread", "degrees": 200, "hours": 1.5, "fan": False, "mode": "top"}))
    assert not right(row, Call("oven.bake", {"dish": "bread", "degrees": 200, "mode": "bottom"}))
    assert not right(row, Call("oven.bake", {"dish": "bread", "degrees": 200, "fan": True}))
    assert not right(row, Call("oven.bake", {"dish": "cake", "degrees": 200}))
    # dish x hours x mode; what equals a default is no further answer
    assert len(row.case.accept) == 2 * 2 * 2 - 1
    assert row.toolset.max_calls == 1 and not row.notes


def test_values_are_read_by_their_schema(tmp_path: Path) -> None:
    accepted = {
        "dish": [""],
        "degrees": [180.0],
        "racks": [[1.0, 2], [2, 1]],
        "mode": ["sideways", "bottom"],
        "fan": [None, ""],
    }
    row = one(tmp_path, "simple_python", [BAKE], [{"oven.bake": accepted}])
    assert row.case.calls == (
        Call("oven.bake", {"dish": "", "degrees": 180, "racks": [1, 2], "mode": "bottom"}),
    )  # fmt: skip
    assert isinstance(row.case.calls[0].arguments["degrees"], int)
    assert right(row, Call("oven.bake", {"dish": "", "degrees": 180, "racks": [2, 1], "mode": "bottom"}))


def test_objects_hold_accepted_lists_of_their_own(tmp_path: Path) -> None:
    meal = {"name": ["stew", "soup"], "guests": [4], "day": ["", "monday"]}
    extras = [[{"item": ["salt", "pepper"]}, {"item": ["oil"]}]]
    row = one(tmp_path, "live_simple", [PLAN], [{"plan": {"meal": [meal], "extras": extras, "note": ["", "n"]}}])
    assert row.case.calls == (
        Call("plan", {"meal": {"name": "stew", "guests": 4}, "extras": [{"item": "salt"}, {"item": "oil"}]}),
    )
    assert right(row, Call("plan", {"meal": {"name": "SOUP", "guests": 4, "day": "monday"},
                                    "extras": [{"item": "pepper"}, {"item": "oil"}], "note": "n"}))  # fmt: skip
    assert len(row.case.accept) == 2 * 2 * 2 * 2 - 1


def test_the_order_of_parallel_calls_is_free(tmp_path: Path) -> None:
    calls = [{"oven.bake": {"dish": [d], "degrees": [200, 210]}} for d in ("pie", "tart", "cake")]
    row = one(tmp_path, "parallel", [BAKE], calls)
    assert row.toolset.max_calls == 8
    assert len(row.case.accept) == math.factorial(3) * 2**3 - 1 and not row.notes
    made = [Call("oven.bake", {"dish": d, "degrees": 200}) for d in ("cake", "pie", "tart")]
    assert right(row, *made)
    assert not right(row, *made[:2])
    assert right(row, Call("oven.bake", {"dish": "tart", "degrees": 210}), made[1], made[0])


def test_too_many_right_answers_are_cut_and_noted(tmp_path: Path) -> None:
    calls = [{"oven.bake": {"dish": [f"{d} {n}" for n in range(20)], "degrees": [200]}} for d in "abcdef"]
    row = one(tmp_path, "parallel", [BAKE], calls)
    assert len(row.case.accept) == MAX_ACCEPT
    assert row.notes == (f"accepted answers cut at {MAX_ACCEPT}",)
    swapped = [row.case.calls[1], row.case.calls[0], *row.case.calls[2:]]
    assert right(row, *swapped), "other orders are among them"
    many = [{"oven.bake": {"dish": [f"d {n}" for n in range(400)], "degrees": [200]}}]
    (tmp_path / "many").mkdir()
    assert len(one(tmp_path / "many", "simple", [BAKE], many).case.accept) == MAX_ACCEPT - 1, "values are cut, too"


def test_several_functions_and_no_call(tmp_path: Path) -> None:
    bfcl(tmp_path, "live_irrelevance", [question("i-0", "tell me a joke", BAKE)])
    bfcl(
        tmp_path, "parallel_multiple", [question("p-0", "bake and plan", BAKE, PLAN)],
        [[{"oven.bake": {"dish": ["pie"], "degrees": [1]}}, {"plan": {"meal": [{"name": ["x"]}]}}]],
    )  # fmt: skip
    found = {r.case.bucket: r for r in rows(find("bfcl"), tmp_path) if isinstance(r, Row)}
    assert found["live_irrelevance"].case.calls == ()
    assert [c.name for c in found["parallel_multiple"].case.calls] == ["oven.bake", "plan"]
    assert len(found["parallel_multiple"].case.accept) == 1


def test_java_types_and_system_messages(tmp_path: Path) -> None:
    kinds = {"key": "String", "ttl": "long", "extra": "HashMap", "any": "any"}
    properties: dict[str, Any] = {name: {"type": kind} for name, kind in kinds.items()}
    properties["tags"] = {"type": "ArrayList", "items": {"type": "String"}}
    parameters = {"type": "dict", "properties": properties, "required": ["key"]}
    function = {"name": "Cache.put", "description": "", "parameters": parameters}
    talk = [[{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "store it"}]]
    accepted = {"key": ["k"], "ttl": [60], "tags": [["a"]], "extra": [{"x": ["1", "2"]}]}
    bfcl(tmp_path, "simple_java", [question("j-0", talk, function)], [[{"Cache.put": accepted}]])
    (row,) = rows(find("bfcl"), tmp_path)
    assert isinstance(row, Row)
    assert row.case.user == "Be brief.\n\nstore it"
    assert row.case.calls[0].arguments == {"key": "k", "ttl": 60, "tags": ["a"], "extra": {"x": "1"}}
    tool = row.toolset.tool("Cache.put")
    assert tool is not None
    assert {n: s.type for n, s in tool.parameters.properties.items()} == {
        "key": "string", "ttl": "integer", "extra": "object", "any": "string", "tags": "array",
    }  # fmt: skip


def test_what_a_router_has_no_use_for_is_left_out(tmp_path: Path) -> None:
    dialogue = [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "x"}]
    ]
    odd = {"name": "año", "description": "", "parameters": {"type": "dict", "properties": {}}}
    nine = [question("irrelevance_0", dialogue, BAKE), question("irrelevance_1", "x", odd)]
    bfcl(tmp_path, "irrelevance", nine)
    bfcl(tmp_path, "irrelevance", [question("old", "x", BAKE)], version=3)
    bfcl(tmp_path, "live_relevance", [question("r", "x", BAKE)])
    bfcl(tmp_path, "multi_turn_base", [{"id": "m"}])
    calls = [{"oven.bake": {"dish": [str(n)], "degrees": [n]}} for n in range(9)]
    bfcl(tmp_path, "parallel", [question("p", "x", BAKE)], [calls])
    found = list(rows(find("bfcl"), tmp_path))
    reasons = sorted(s.reason for s in found if isinstance(s, Skipped) and not s.fault)
    assert len(found) == len(reasons) == 6
    assert reasons == sorted(
        [
            "a dialogue, not one request",
            "functions that a toolset cannot express",
            *["a file of another version, or of a category without single turns or fixed answers"] * 3,
            "more calls than a toolset allows",
        ]
    )


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ([{"oven.boil": {"dish": ["x"]}}], "missing tool: the answer at .*calls 'oven.boil'"),
        ([{"oven.bake": {"dish": ["x"]}}], "no value for the required parameter 'degrees'"),
        ([{"oven.bake": {"dish": ["x"], "degrees": ["hot"]}}], "'hot' is string, not an integer"),
        ([{"oven.bake": {"dish": ["x"], "degrees": [1], "mode": ["left"]}}], "'left' is not one of"),
        ([{"oven.bake": {"dish": ["x"], "degrees": [1], "salt": [1]}}], "unknown parameter 'salt'"),
        ([{"oven.bake": {"dish": "x", "degrees": [1]}}], "a list of accepted values is expected"),
        ([["oven.bake"]], "not a list of one-function objects"),
        ("oven.bake", "'ground_truth' is string, not an array"),
    ],
)
def test_faults_of_answers_are_told(tmp_path: Path, answer: Any, wrong: str) -> None:
    path = bfcl(tmp_path, "simple", [question("simple_0", "bake it", BAKE)], [answer])
    with pytest.raises(UserError, match=wrong) as error:
        list(rows(find("bfcl"), tmp_path))
    assert str(error.value).startswith(f"{path}:1: ")
    (left,) = rows(find("bfcl"), tmp_path, keep_going=True)
    assert isinstance(left, Skipped) and left.fault


def test_other_faults_are_told(tmp_path: Path) -> None:
    path = bfcl(tmp_path, "simple", [question("simple_0", "bake it", BAKE)], [[]])
    path.write_text(path.read_text().replace("simple_0", "simple_1"))
    with pytest.raises(UserError, match="'simple_1' is not in possible_answer"):
        list(rows(find("bfcl"), tmp_path))
    path.write_text('{"id": "simple_0", "question": 7, "function": []}\n')
    with pytest.raises(UserError, match="'function' declares nothing"):
        list(rows(find("bfcl"), tmp_path))
    path.write_text(json.dumps({**question("simple_0", "x", BAKE), "question": 7}) + "\n")
    with pytest.raises(UserError, match="neither text nor a turn of messages"):
        list(rows(find("bfcl"), tmp_path))
    path.write_text("\n{nope\n")
    with pytest.raises(UserError, match="not JSON") as error:
        list(rows(find("bfcl"), tmp_path))
    assert str(error.value).startswith(f"{path}:2: ")
    (tmp_path / "possible_answer" / path.name).unlink()
    with pytest.raises(UserError, match="no possible_answer/BFCL_v4_simple.json here; get it from github.com"):
        list(rows(find("bfcl"), tmp_path))


def test_bfcl_on_disk_is_a_test_set(tmp_path: Path) -> None:
    bfcl(tmp_path, "simple", [question(f"simple_{n}", f"bake {n}", BAKE) for n in range(3)],
         [[{"oven.bake": {"dish": [str(n)], "degrees": [n]}}] for n in range(3)])  # fmt: skip
    report = write_import(find("bfcl"), tmp_path, tmp_path / "out")
    assert report["files"] == {
        "unverified": 2,
        "unverified_files": ["BFCL_v4_simple.json", "possible_answer/BFCL_v4_simple.json"],
    }
    assert not (tmp_path / "out" / "train.jsonl").exists()
    found = list(read_import(tmp_path / "out", "test"))
    assert len(found) == 3 and report["toolsets"] == 1
    assert all(isinstance(toolset, Toolset) and correct(case, case.calls, toolset) for case, toolset in found)
