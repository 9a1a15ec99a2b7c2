"""Where a report goes: a folder of its own, whoever else runs at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.folder import check_out, reserved
from export.atomic import staged
from runtimes.errors import UserError

STARTED = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
NAME = "20250102T030405Z-0123abcd"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out" / "bench"


def test_a_report_is_never_overwritten(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty")
    (tmp_path / "empty" / "x").write_text("1")
    with pytest.raises(UserError, match="is not empty; reports are not overwritten"):
        check_out(tmp_path / "empty")
    with pytest.raises(UserError, match="is not empty"):
        check_out(tmp_path / "empty" / "x")


def report(text: str, out: Path | None = None) -> Path:
    with reserved(out, STARTED, "0123abcdef") as target, staged(target) as staging:
        (staging / "report.md").write_text(text)
    return target


def test_runs_of_the_same_second_get_a_folder_each(folder: Path) -> None:
    runs = 6
    together = threading.Barrier(runs)

    def run(number: int) -> Path:
        with reserved(None, STARTED, "0123abcdef") as target, staged(target) as staging:
            (staging / "report.md").write_text(str(number))
            together.wait(60)  # nobody writes a report before everybody has a folder
        return target

    with ThreadPoolExecutor(runs) as pool:
        targets = list(pool.map(run, range(runs)))
    assert sorted(path.name for path in folder.iterdir()) == [NAME, *(f"{NAME}-{n}" for n in range(2, runs + 1))]
    assert [(path / "report.md").read_text() for path in targets] == [str(number) for number in range(runs)]


def test_a_finished_report_is_not_taken_either(folder: Path) -> None:
    assert [report("first").name, report("second").name, report("third").name] == [NAME, f"{NAME}-2", f"{NAME}-3"]
    assert (folder / NAME / "report.md").read_text() == "first"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), UserError("no such model")])
def test_a_run_that_fails_leaves_no_folder(folder: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        with reserved(None, STARTED, None) as target, staged(target):
            assert target.name == "20250102T030405Z-nocommit" and target.is_dir()
            raise error
    assert list(folder.iterdir()) == []


def test_what_has_been_written_stays_when_the_run_fails_after(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), reserved(None, STARTED, "0123abcdef") as target:
        with staged(target) as staging:
            (staging / "report.md").write_text("whole")
        raise KeyboardInterrupt
    assert (folder / NAME / "report.md").read_text() == "whole"


def test_a_named_folder_is_not_made_nor_removed(tmp_path: Path) -> None:
    assert report("named", tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(UserError, match="is not empty"):
        report("again", tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyboardInterrupt), reserved(tmp_path / "empty", STARTED, None):
        raise KeyboardInterrupt
    assert (tmp_path / "empty").is_dir() and not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="^out"), reserved(None, STARTED, None):
        pass
