"""What a person sees: lines, progress on a terminal, nothing that moves elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench.records import Settings
from bench.screen import WIDE, Screen


def screen(*, terminal: bool, width: int = 100) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(Console(file=out, force_terminal=terminal, width=width, color_system=None)), out


def test_progress_moves_on_a_terminal() -> None:
    shown, out = screen(terminal=True)
    with shown.progress() as bars:
        bars.start("gguf-q8_0", 10)
        bars.update("gguf-q8_0", 7)
        bars.describe("merge", "writing [the] weights")
        bars.end("merge")
        bars.end("merge")
        bars.end("never begun")
    assert "gguf-q8_0" in out.getvalue() and "7/10" in out.getvalue()


def test_nothing_moves_in_a_file() -> None:
    shown, out = screen(terminal=False)
    with shown.progress() as bars:
        bars.start("gguf-q8_0", 10)
        bars.update("gguf-q8_0", 10)
    assert out.getvalue().strip() == ""
    assert shown.console.width == WIDE


def test_long_lines_are_not_cut() -> None:
    shown, out = screen(terminal=True, width=40)
    path = "/a/rather/long/path/to/some/folder/of/artifacts/" + "x" * 60
    shown.done("gguf-q8_0", path)
    assert path in out.getvalue().replace("\n", "")


def test_outcomes_are_told_apart() -> None:
    shown, out = screen(terminal=False)
    shown.stage(2, 5, "Open", "load")
    shown.done("a", "cpu")
    shown.skipped("b", "needs macOS")
    shown.failed("c", "crashed")
    assert out.getvalue().splitlines() == [
        "[2/5] Open  load",
        "  ok      a                  cpu",
        "  skipped b                  needs macOS",
        "  FAILED  c                  crashed",
    ]


@pytest.mark.parametrize(("seconds", "told"), [(20, "20 s"), (119, "119 s"), (120, "2 minutes"), (1500, "25 minutes")])
def test_how_long_it_takes_is_told_in_a_fitting_unit_and_not_promised(seconds: float, told: str) -> None:
    takes = Settings(budget_s=seconds).takes
    assert takes.startswith(f"about {told}, more where") and "most" not in takes


def test_the_end_says_where_everything_is() -> None:
    shown, out = screen(terminal=False)
    shown.files(Path("out/bench/x"), [("report.md", "to read")])
    assert out.getvalue().splitlines()[1:] == ["Written to out/bench/x", "  report.md        to read"]


def test_quiet_is_silent(capsys: object) -> None:
    Screen(quiet=True).say("nothing")
    assert capsys.readouterr() == ("", "")  # type: ignore[attr-defined]
