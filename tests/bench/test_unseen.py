"""`bench unseen`: requests that bring their own tools, judged, counted by tool, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.metrics import judge
from bench.unseen import Answer, build, cases_of, render, table
from export.base import Checkpoint
from export.merge import merge_checkpoint
from export.pipeline import export_one
from router.cases import Case
from router.toolset import Call, Schema, Tool, Toolset, to_dict
from runtimes.errors import UserError
from tests.tiny import LIGHTS


def tools(name: str, other: str) -> Toolset:
    room = Schema("string", enum=("kitchen", "hall"))
    made = tuple(Tool(n, "", Schema("object", properties={"room": room}, required=("room",))) for n in (name, other))
    return Toolset(f"{name}-{other}", made)


FIRST, SECOND = tools("Dim", "Open"), tools("Lock", "Heat")
CASES = [
    *((Case(f"a/{n}", f"dim kitchen {n}", calls=(Call("Dim", {"room": "kitchen"}),)), FIRST) for n in range(4)),
    (Case("b/0", "lock hall", calls=(Call("Lock", {"room": "hall"}),)), SECOND),
    (Case("b/0@v1", "lock hall", calls=(Call("Lock", {"room": "hall"}),)), SECOND),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "imported"
    folder.mkdir()
    files: dict[str, list[dict[str, Any]]] = {
        "dev.jsonl": [case.to_dict() for case, _ in CASES],
        "toolsets.jsonl": [to_dict(toolset) for toolset in (FIRST, SECOND)],
        "assigned.jsonl": [{"case": case.id, "toolset": toolset.name} for case, toolset in CASES],
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_cases_come_with_their_tools(data: Path) -> None:
    assert [one.case.id for one in cases_of(data, "dev")] == ["a/0", "a/1", "a/2", "a/3", "b/0"]
    every = cases_of(data, "dev", wordings="all")
    assert [tool.name for tool in every[5].toolset] == ["Lock", "Heat"]
    assert [one.case.id for one in cases_of(data, "dev", limit=2)] == ["a/0", "a/2"]
    with pytest.raises(UserError, match="test.jsonl: missing; make it with `edgecall data import"):
        cases_of(data, "test")


def test_figures_are_by_tool_and_by_request(data: Path, tmp_path: Path, tiny: Checkpoint) -> None:
    artifact = exported(tiny, tmp_path)
    asked = cases_of(data, "dev", wordings="all")
    got: dict[str, dict[str, Answer]] = {"grammar": {}, "unconstrained": {}}
    for mode in got:
        for n, one in enumerate(asked):
            wrong = [Call(one.case.calls[0].name, {"room": "hall" if "kitchen" in one.case.user else "kitchen"})]
            calls = None if mode == "unconstrained" else list(one.case.calls) if n % 2 else wrong
            got[mode][one.case.id] = Answer(calls, "", judge(one.case, calls, one.toolset))
    report = build(artifact, data, "dev", asked, got, command="x", seconds=1.0)
    found = report["modes"]["grammar"]
    assert (found["n"], found["exact"], found["tool"]) == (6, 0.5, 1.0)
    assert {name: entry["exact"] for name, entry in found["by_bucket"].items()} == {"Dim": 0.5, "Lock": 0.5}
    assert found["by_bucket"]["Lock"]["exact_ci_method"] == "wilson over templates"  # one request, asked twice
    assert report["modes"]["unconstrained"]["tool"] == 0.0
    assert (report["cases"], report["requests"], report["declared"]) == (6, 5, [2, 2])
    assert [miss["case"] for miss in report["misses"]] == ["a/0", "a/2", "b/0"]
    assert [row[:2] for row in table(report).rows] == [("all", "6"), ("Dim", "4"), ("Lock", "2")]
    assert "'dim kitchen 0'" in render(report)


def test_a_model_is_asked(data: Path, tmp_path: Path, tiny: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, out = exported(tiny, tmp_path), tmp_path / "out"
    assert main(["unseen", str(artifact), "--data", str(data), "--threads", "1", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert report == json.loads((out / "report.json").read_text())
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    constrained = [s for s in samples if s["mode"] == "grammar"]
    assert len(samples) == 10 and all(s["verdict"]["schema_valid"] for s in constrained)
    assert report["modes"]["grammar"]["exact"] == sum(s["verdict"]["exact"] for s in constrained) / 5
    assert main(["unseen", str(artifact), "--data", str(tmp_path), "--out", str(tmp_path / "o2")]) == 2
    assert not (tmp_path / "o2").exists()
    assert "dev.jsonl: missing" in capsys.readouterr().err


def exported(tiny: Checkpoint, folder: Path) -> Path:
    source = merge_checkpoint(tiny.folder, folder / "merged")
    return export_one(source, "safetensors", "fp32", folder / "made", LIGHTS, requests=("on",), threads=1).folder
