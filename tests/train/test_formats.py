"""Exports: what trainers render from them is the router's own prompt and completion; what APIs get is JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from router.cases import Case, CaseError
from router.chat_template import CHAT_TEMPLATE
from router.render import render_completion, render_prompt
from router.toolset import Call, Schema, Tool, Toolset
from router.toolset_load import from_openai, load_toolset
from runtimes.console import Parser, run
from runtimes.errors import UserError
from train.data.formats import NO_CALL_TEXT, STYLES, api_names, axolotl_config, export, stream_cases, tool_schemas
from train.data.import_cmd import add_parsers
from train.data.importers.store import read_import

KIWI = load_toolset("kiwi")
HERE = {"project_path": "/p"}
RUN = {"item_type": "script", "action": "run", "item_id": "é", "parameters": {"n": [1, True, None]}, **HERE}
CASES = (
    Case("c1", "find email scripts", HERE, calls=(Call("search", {"item_type": "script", "query": "email"}),)),
    Case("c2", "good morning", HERE, bucket="no-call"),
    Case("c3", 'run "é" ', HERE, calls=(Call("execute", RUN),)),
)
GIVEN = [
    [Call(c.name, {k: v for k, v in c.arguments.items() if k != "project_path"}) for c in case.calls] for case in CASES
]


def written(
    tmp_path: Path, to: str, style: str | None = None, toolset: Toolset = KIWI, cases: Any = CASES
) -> list[Any]:
    out = tmp_path / "out.jsonl"
    assert export(((c.id, c) for c in cases), lambda _: toolset, to, out, style=style) == len(cases)
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]
    return [json.loads(line) for line in out.read_text().splitlines()]


def rendered(messages: list[Any], tools: list[Any], *, ask: bool = False) -> str:
    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(CHAT_TEMPLATE)
    return template.render(messages=messages, tools=tools, bos_token="<bos>", add_generation_prompt=ask)


def prompt(case: Case) -> str:
    return render_prompt(KIWI, case.user)


@pytest.mark.parametrize(("to", "style"), [(to, style) for to, styles in STYLES.items() for style in styles])
def test_every_form_is_one_object_a_line(tmp_path: Path, to: str, style: str) -> None:
    found = written(tmp_path, to, style)
    assert len({tuple(row) for row in found}) == 1, "the same keys in every row"


@pytest.mark.parametrize(("to", "style"), [("unsloth", "messages"), ("unsloth", "conversations"), ("trl", "messages")])
def test_messages_render_to_the_routers_prompt_and_completion(tmp_path: Path, to: str, style: str) -> None:
    for case, calls, row in zip(CASES, GIVEN, written(tmp_path, to, style), strict=True):
        messages = row["conversations" if style == "conversations" else "messages"]
        assert [m["role"] for m in messages] == ["developer", "user", "assistant"]
        assert rendered(messages, row["tools"]) == prompt(case) + render_completion(calls)


def test_trl_prompt_and_completion_meet(tmp_path: Path) -> None:
    for case, calls, row in zip(CASES, GIVEN, written(tmp_path, "trl", "prompt-completion"), strict=True):
        assert rendered(row["prompt"], row["tools"], ask=True) == prompt(case)
        whole = rendered(row["prompt"] + row["completion"], row["tools"])
        assert whole == prompt(case) + render_completion(calls)


def test_unsloth_text_is_the_whole_example(tmp_path: Path) -> None:
    assert [row["text"] for row in written(tmp_path, "unsloth", "text")] == [
        prompt(case) + render_completion(calls) for case, calls in zip(CASES, GIVEN, strict=True)
    ]


def test_axolotl_writes_arguments_and_parameters_as_json_text(tmp_path: Path) -> None:
    for case, calls, row in zip(CASES, GIVEN, written(tmp_path, "axolotl"), strict=True):
        for call in row["messages"][-1].get("tool_calls", []):  # as its chat_template strategy does
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        for tool in row["tools"]:
            tool["function"]["parameters"] = json.loads(tool["function"]["parameters"])
        assert row["messages"][0]["role"] == "system"
        assert rendered(row["messages"], row["tools"]) == prompt(case) + render_completion(calls)
    assert axolotl_config(tmp_path)["eot_tokens"] == ["<end_of_turn>", "<start_function_response>"]


@pytest.mark.parametrize("to", ["trl", "axolotl", "unsloth"])
def test_the_datasets_library_hands_rows_on_unchanged(tmp_path: Path, to: str) -> None:
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Json"):
        pytest.skip("needs a datasets library with a JSON type; older ones fill missing arguments with null")
    found = written(tmp_path, to)
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [loaded[i] for i in range(len(found))] == found


def test_openai_rows(tmp_path: Path) -> None:
    first, second, third = written(tmp_path, "openai")
    assert first["messages"] == [
        {"role": "user", "content": "find email scripts"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "search", "arguments": '{"item_type": "script", "query": "email"}'},
                }
            ],
        },
    ]
    assert first["parallel_tool_calls"] is False
    assert second["messages"][-1] == {"role": "assistant", "content": NO_CALL_TEXT}
    assert json.loads(third["messages"][-1]["tool_calls"][0]["function"]["arguments"]) == GIVEN[2][0].arguments


def test_anthropic_rows(tmp_path: Path) -> None:
    first, second, _ = written(tmp_path, "anthropic")
    block = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"item_type": "script", "query": "email"}}
    assert first["messages"][-1] == {"role": "assistant", "content": [block]}
    assert second["messages"][-1]["content"] == [{"type": "text", "text": NO_CALL_TEXT}]
    assert "system" not in first
    own = Toolset("own", KIWI.tools, instruction="Be quick.")
    assert written(tmp_path, "anthropic", toolset=own)[0]["system"] == "Be quick."
    assert written(tmp_path, "openai", toolset=own)[0]["messages"][0] == {"role": "system", "content": "Be quick."}


@pytest.mark.parametrize("to", ["openai", "anthropic"])
def test_api_schemas_are_json_schema_without_what_is_ours(to: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for tool, plain in zip(tool_schemas(KIWI, to), KIWI, strict=True):
        function = tool["function"] if to == "openai" else tool
        schema = function["parameters" if to == "openai" else "input_schema"]
        jsonschema.Draft202012Validator.check_schema(schema)
        assert function["name"] == plain.name and list(schema["properties"]) == list(plain.visible)
        assert schema["required"] == list(plain.required)
        text = json.dumps(schema)
        assert not [
            word for word in ("copy", "also", "bind", "case_insensitive", "project_path") if f'"{word}"' in text
        ]
    search = tool_schemas(KIWI, to)[0]
    function = search["function"] if to == "openai" else search
    arguments = function["parameters" if to == "openai" else "input_schema"]
    jsonschema.validate(GIVEN[0][0].arguments, arguments)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"item_type": "film", "query": "x"}, arguments)


def test_openai_tools_are_read_back(tmp_path: Path) -> None:
    back = from_openai(tool_schemas(KIWI, "openai"))
    assert [(t.name, t.description, set(t.visible)) for t in back] == [
        (t.name, t.description, set(t.visible)) for t in KIWI
    ]


def test_names_with_dots_are_changed_for_apis_alone(tmp_path: Path) -> None:
    tools = Toolset("t", (Tool("a.b", "", Schema("object")), Tool("c", "", Schema("object"))))
    case = Case("x", "go", calls=(Call("a.b", {}),))
    (row,) = written(tmp_path, "openai", toolset=tools, cases=[case])
    assert row["messages"][-1]["tool_calls"][0]["function"]["name"] == row["tools"][0]["function"]["name"] == "a_b"
    (row,) = written(tmp_path, "anthropic", toolset=tools, cases=[case])
    assert row["messages"][-1]["content"][0]["name"] == row["tools"][0]["name"] == "a_b"
    (row,) = written(tmp_path, "trl", toolset=tools, cases=[case])
    assert row["tools"][0]["function"]["name"] == "a.b"
    with pytest.raises(UserError, match="both 'a_b' without dots"):
        api_names(Toolset("t", (*tools.tools, Tool("a_b", "", Schema("object")))))
    with pytest.raises(UserError, match="too long a name"):
        api_names(Toolset("t", (Tool("n" * 65, "", Schema("object")),)))


def test_the_users_turn_can_be_rendered_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    export(
        [("f:1", CASES[0])],
        lambda _: KIWI,
        "trl",
        out,
        words=lambda case, _: f"In {case.context['project_path']}: {case.user}",
    )
    assert json.loads(out.read_text())["messages"][1]["content"] == "In /p: find email scripts"


@pytest.mark.parametrize(
    ("case", "style", "wrong"),
    [
        (Case("x", "x", calls=(Call("dance", {}),)), "messages", "unknown tool 'dance'"),
        (Case("x", "x", calls=(Call("search", {"item_type": "film"}),)), "messages", "query: required, but missing"),
        (Case("x", "say <end_of_turn>"), "text", "control token"),
        (Case("x", "x"), "words", "--style words: unsloth has messages, conversations, text"),
    ],
)
def test_faults_leave_what_was_there(tmp_path: Path, case: Case, style: str, wrong: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    with pytest.raises(UserError, match=wrong) as error:
        export([("cases.jsonl:1", CASES[0]), ("cases.jsonl:2", case)], lambda _: KIWI, "unsloth", out, style=style)
    assert "\n" not in str(error.value) and out.read_text() == "before"
    assert style == "words" or str(error.value).startswith("cases.jsonl:2: ")
    with pytest.raises(UserError, match="no cases to export"):
        export([], lambda _: KIWI, "trl", out)
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_cases_are_streamed_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(json.dumps(c.to_dict()) for c in CASES) + "\n\n{oops\n")
    stream = stream_cases(path)
    assert [next(stream) for _ in CASES] == [(f"{path}:{n}", c) for n, c in enumerate(CASES, 1)]
    with pytest.raises(CaseError, match=f"{path}:5: not JSON"):
        next(stream)
    path.write_text('{"id": "x"}\n')
    with pytest.raises(CaseError, match=":1: 'user' is missing"):
        list(stream_cases(path))
    with pytest.raises(CaseError, match="no such case file"):
        list(stream_cases(tmp_path / "absent.jsonl"))


# The commands


def command(*arguments: object) -> int:
    def main(argv: list[str]) -> int:
        parser = Parser("edgecall data", "Test.", [])
        add_parsers(parser.add_subparsers(dest="verb", required=True, parser_class=Parser))
        args = parser.parse_args(argv)
        code: int = args.run(args)
        return code

    return run(main, [str(a) for a in arguments])


@pytest.fixture()
def clinc(tmp_path: Path) -> Path:
    data = {"train": [["how far", "distance"], ["how wide", "width"]], "val": [["how near", "distance"]],
            "oos_train": [], "oos_val": [["ah", "oos"]]}  # fmt: skip
    (tmp_path / "upstream").mkdir()
    (tmp_path / "upstream" / "data_full.json").write_text(json.dumps(data))
    return tmp_path / "upstream"


def test_import_then_export(clinc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "imported"
    assert command("import", "clinc150", clinc, "--out", out) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"] == {"train": 2, "dev": 2} and report["licence"] == "CC-BY-3.0"
    assert report["files"] == {"unverified": 1, "unverified_files": ["data_full.json"]}
    assert len(list(read_import(out, "dev"))) == 2
    target = tmp_path / "rows.jsonl"
    assert (
        command("export", out / "dev.jsonl", "--toolset", out / "toolset.json", "--to", "axolotl", "--out", target) == 0
    )
    summary = json.loads(capsys.readouterr().out)
    assert summary["rows"] == 2 and summary["config"]["datasets"][0]["path"] == str(target)
    assert len(target.read_text().splitlines()) == 2


def test_tools_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tools.json"
    assert command("export", "--toolset", "kiwi", "--to", "anthropic", "--tools-only", "--out", out) == 0
    assert json.loads(out.read_text()) == tool_schemas(KIWI, "anthropic")
    assert json.loads(capsys.readouterr().out) == {"tools": len(KIWI.tools), "out": str(out)}


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("import", "snipps", "x", "--out", "o"), "invalid choice: 'snipps'"),
        (("import", "snips", "absent", "--out", "o"), "no such folder"),
        (("import", "snips", "absent", "--out", "o", "--samples", "0"), "not a whole number from 1 on"),
        (("export", "--toolset", "kiwi", "--to", "trl", "--out", "o"), "a file of cases is needed"),
        (
            ("export", "x", "--toolset", "kiwi", "--to", "trl", "--tools-only", "--out", "o"),
            "--tools-only writes the tools",
        ),
        (("export", "x", "--toolset", "kiwi", "--to", "trl", "--out", "absent/o"), "no such folder to write into"),
        (("export", "absent", "--toolset", "kiwi", "--to", "trl", "--out", "o"), "no such case file"),
        (("export", "x", "--toolset", "kiwii", "--to", "trl", "--out", "o"), "unknown toolset 'kiwii'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert wrong in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
