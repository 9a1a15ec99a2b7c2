"""The README's table says what the committed report says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench.readme import BEGIN, END, filled, main, results
from bench.report import build, validate
from router.toolset import Toolset
from runtimes.errors import UserError
from tests.bench import made

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path("docs/bench/report.json")


@pytest.fixture(scope="module")
def report(kiwi: Toolset) -> dict[str, Any]:
    runs = made.runs(kiwi)
    return json.loads(json.dumps(build(made.context(), runs, runs[0])))  # type: ignore[no-any-return]


def test_the_readme_is_what_the_committed_report_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = Path("README.md").read_text(encoding="utf-8")
    assert filled(text, SOURCE) == text, "run `make docs`"
    assert validate(json.loads(SOURCE.read_text(encoding="utf-8")))


def test_every_run_is_there(report: dict[str, Any]) -> None:
    text = results(report)
    for run in report["runs"]:
        assert run["artifact"] in text
    first = report["runs"][0]
    assert f"| {100 * first['accuracy']['exact']:.1f}% |" in text
    assert f"| easy | {first['accuracy']['by_bucket']['easy']['n']} |" in text


def test_the_threads_are_said(report: dict[str, Any]) -> None:
    assert "timed requests a run, 1 thread; A CPU, 2 cores" in results(report)
    report = copy.deepcopy(report)
    for run in report["runs"]:
        run["threads"] = run["threads"] and 4
    assert "requests a run, 4 threads; A CPU" in results(report)
    report["runs"][0]["threads"] = 1
    assert "requests a run, 1 to 4 threads; A CPU" in results(report)
    for run in report["runs"]:
        run["threads"] = None
    assert "requests a run; A CPU" in results(report)


def test_blocks_timed_while_the_machine_was_busy_are_said(report: dict[str, Any]) -> None:
    report = copy.deepcopy(report)
    for block in report["blocks"]:
        block["busy"] = block["index"] in (3, 7)
    assert "2 of the 20 blocks were timed while the machine was busy" in results(report).splitlines()[0]
    for block in report["blocks"]:
        block["busy"] = False
    assert "busy" not in results(report)


def test_only_what_lies_between_the_marks_is_written(tmp_path: Path, report: dict[str, Any]) -> None:
    source, page = tmp_path / "report.json", tmp_path / "page.md"
    source.write_text(json.dumps(report))
    page.write_text(f"before\n{BEGIN.format(source=source.as_posix())}\nold\n{END}\nafter\n")
    assert main([str(source), str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text and results(report) in text
    assert filled(text, source) == text


def test_a_page_without_marks_is_left_alone(tmp_path: Path, report: dict[str, Any]) -> None:
    source, page = tmp_path / "report.json", tmp_path / "page.md"
    source.write_text(json.dumps(report))
    page.write_text("no marks")
    with pytest.raises(UserError, match="has no marks"):
        main([str(source), str(page)])
    assert page.read_text() == "no marks"
