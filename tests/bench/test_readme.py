"""The README's tables say what the committed reports say."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench.accuracy import validate as validate_accuracy
from bench.readme import BEGIN, END, adapters, filled, main, marked, results
from bench.report import build, validate
from router.toolset import Toolset
from runtimes.errors import UserError
from tests.bench import made
from tests.bench.test_accuracy import report_of

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path("docs/bench/report.json")
ACCURACY = Path("docs/bench/accuracy.json")


@pytest.fixture(scope="module")
def report(kiwi: Toolset) -> dict[str, Any]:
    runs = made.runs(kiwi)
    return json.loads(json.dumps(build(made.context(), runs, runs[0])))  # type: ignore[no-any-return]


def test_the_readme_is_what_the_committed_report_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = Path("README.md").read_text(encoding="utf-8")
    assert filled(text, SOURCE) == text, "run `make docs`"
    assert validate(json.loads(SOURCE.read_text(encoding="utf-8")))


def test_the_readme_is_what_the_committed_accuracy_report_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = Path("README.md").read_text(encoding="utf-8")
    if not ACCURACY.exists():
        assert BEGIN.format(source=ACCURACY.as_posix()) not in text, "a table without its report"
        return
    assert filled(marked(text, ACCURACY), ACCURACY) == text, "run `make docs`"
    assert validate_accuracy(json.loads(ACCURACY.read_text(encoding="utf-8")))


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


def test_an_accuracy_report_gets_marks_at_the_end_of_the_section(
    tmp_path: Path, report: dict[str, Any], kiwi: Toolset
) -> None:
    source, second, page = tmp_path / "report.json", tmp_path / "accuracy.json", tmp_path / "page.md"
    source.write_text(json.dumps(report))
    second.write_text(json.dumps(report_of(kiwi)))
    first = f"# A\n\n{BEGIN.format(source=source.as_posix())}\nold\n{END}\n\nWords.\n"
    page.write_text(f"{first}\n## B\n\nMore.\n")
    assert main([str(second), str(page)]) == 0
    assert main([str(source), str(page)]) == 0
    text = page.read_text()
    begin = BEGIN.format(source=second.as_posix())
    assert f"Words.\n\n{begin}\n\n{adapters(report_of(kiwi))[:20]}" in text and f"{END}\n\n## B\n\nMore.\n" in text
    assert text.index(END) < text.index("Words.") < text.index(begin) and results(report) in text
    assert marked(text, second) == text and text.count(begin) == 1, "they are put there once"
    assert main([str(second), str(page)]) == 0 and page.read_text() == text
    changed = text.replace("75.0% of 20", "76.0% of 20")
    assert changed != text and filled(changed, second) == text, "what differs is seen"
    page.write_text(first.rstrip())
    assert main([str(second), str(page)]) == 0
    assert page.read_text().endswith(f"{END}\n"), "a page may end with its section"
    page.write_text("no marks")
    with pytest.raises(UserError, match="has no marks"):
        main([str(second), str(page)])


def test_a_toolset_is_a_row(kiwi: Toolset) -> None:
    report = report_of(kiwi)
    text = adapters(report)
    lines = text.splitlines()
    assert "models/mine" in lines[0] and "gguf-q8_0 on llama_cpp; A CPU, 2 cores" in lines[0]
    assert lines[2] == "| toolset | held-out templates | hard | by hand, test | corpora | a tool serves: a call |"
    assert lines[4] == (
        "| kiwi | 75.0% of 20 (53-89) [65.0%] | 75.0% of 20 (53-89) [70.0%] | 100.0% of 20 (84-100) [100.0%] | "
        "100.0% of 40 (91-100) [100.0%] | 100.0% of 100 (96-100) [97.0%] |"
    )
    assert lines[-1] == "robot: not measured, no cases of it. home: failed, crashed in 'answer'."
    assert "[" not in adapters(report_of(kiwi, free=False)).splitlines()[4]
