"""JSON lines of tools and messages, on rows of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router import render
from router.toolset import DEFAULT_INSTRUCTION, Call
from runtimes.errors import UserError
from train.data.importers import find
from train.data.importers.base import Row, Skipped, rows

TOOLS = [
    {
        "function": {
            "name": "ring",
            "description": "Ring somebody",
            "parameters": {
                "type": "OBJECT",
                "properties": {"who": {"type": "STRING", "description": "Name"}, "loud": {"type": "BOOLEAN"}},
                "required": ["who"],
            },
        }
    },
    {
        "function": {
            "name": "hang_up",
            "description": "End the call",
            "parameters": {"type": "OBJECT", "properties": {}},
        }
    },
]
CLOCK = "Current date and time given in YYYY-MM-DDTHH:MM:SS format: 2031-05-02T07:45:10\nDay of week is Friday\n"


def line(
    say: str, *calls: tuple[str, Any], developer: str = CLOCK + DEFAULT_INSTRUCTION, **more: Any
) -> dict[str, Any]:
    answer = {"role": "assistant", "tool_calls": [{"function": {"name": n, "arguments": a}} for n, a in calls]}
    messages = [{"role": "developer", "content": developer}, {"role": "user", "content": say}, answer]
    return {"metadata": "train", "tools": TOOLS, "messages": messages, **more}


def read(folder: Path, *lines: Any, keep_going: bool = False) -> list[Row | Skipped]:
    (folder / "dataset.jsonl").write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return list(rows(find("mobile_actions"), folder, keep_going=keep_going))


def test_rows_become_cases_with_date_and_weekday_as_context(tmp_path: Path) -> None:
    first, second, third = read(
        tmp_path,
        line("Ring Ada", ("ring", {"who": "Ada", "loud": None})),
        line("ring ada, then hang up", ("ring", '{"who": "ada"}'), ("hang_up", {}), metadata="eval"),
        line("what is love", developer="You answer the phone."),
    )
    assert isinstance(first, Row) and isinstance(second, Row) and isinstance(third, Row)
    assert first.case.calls == (Call("ring", {"who": "Ada"}),), "a null that columns were filled with is no argument"
    assert first.case.context == {"date": "2031-05-02", "time": "07:45:10", "weekday": "Friday"}
    placed = CLOCK.replace("2031-05-02T07:45:10", "{date}T{time}").replace("Friday", "{weekday}")
    assert first.toolset.instruction == placed + DEFAULT_INSTRUCTION and first.split == "train"
    assert first.toolset.placed == ("date", "time", "weekday")
    prompt = render.render_prompt(render.placed(first.toolset, first.case.context), "Ring Ada")
    assert prompt.startswith(f"<bos><start_of_turn>developer\n{CLOCK}{DEFAULT_INSTRUCTION}<start_function_declaration>")
    assert third.toolset.placed == third.toolset.shown == ()
    assert first.case.id == "mobile_actions/dataset/1" and first.case.bucket == "ring"
    assert second.split == "test" and second.case.bucket == "parallel"
    assert [c.name for c in second.case.calls] == ["ring", "hang_up"]
    assert second.toolset == first.toolset
    assert third.case.calls == () and third.case.bucket == "no-call" and third.case.context == {}
    assert third.toolset.instruction == "You answer the phone." and third.toolset.name != first.toolset.name
    tool = first.toolset.tool("ring")
    assert tool is not None and tool.required == ("who",) and tool.parameters.properties["loud"].type == "boolean"


def test_what_follows_the_first_exchange_does_not_matter(tmp_path: Path) -> None:
    long = line("Ring Ada", ("ring", {"who": "Ada"}))
    long["messages"] += [
        {"role": "tool", "content": "done"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
    ]
    (row,) = read(tmp_path, long)
    assert isinstance(row, Row) and row.case.user == "Ring Ada" and len(row.case.calls) == 1


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        (line("x", ("dance", {})), "missing tool: 'dance'"),
        (line("x", ("ring", {"loud": True})), "who: required, but missing"),
        (line("x", ("ring", "{oops")), "the arguments of a call are not JSON"),
        (line("x", ("ring", "[]")), "are array, not an object"),
        (line("x", metadata="other"), "'metadata' is 'other'"),
        (line(" "), "the request is empty"),
        (line("x", messages=[{"role": "user", "content": "x"}]), "no assistant message follows"),
        (line("x", messages=[]), "there is no request"),
        (line("x", messages=[{"role": "tool", "content": "x"}]), "comes before the request"),
        (
            line("x", tools=[{"function": {"description": "nameless"}}]),
            "tools that cannot be read: .*'name' is missing",
        ),
        (line("x", tools=None), "'tools' is null, not an array"),
        ("[]", "an object with 'messages' is expected|'metadata' is None"),
        ("{broken", "not JSON"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, bad: Any, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong) as error:
        read(tmp_path, line("Ring Ada", ("ring", {"who": "Ada"})), bad)
    assert str(error.value).startswith(f"{tmp_path / 'dataset.jsonl'}:2: ")
    assert "\n" not in str(error.value)
