"""The log of a run: whole lines only, in order, with the time that is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtimes.errors import UserError
from train.journal import Journal, read_events
from train.loop import LoopConfig

LOOP = LoopConfig(steps=10, learning_rate=1e-3, precision="fp32")


def test_events_are_written_told_and_read_again(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with Journal(tmp_path / "log.jsonl", LOOP, 2, told.append) as journal:
        journal.began -= 8  # as if the next two steps had taken 8 seconds
        journal.trained(4, loss=1.23456, lr=0.1, tokens=800, heads=[1.0])
        journal.trained(5, loss=1.0, lr=0.1, tokens=None)
        journal.event(step=5, validation=2.0)
    assert read_events(tmp_path / "log.jsonl") == [told[0], told[1], told[2]]
    first, second, third = told
    assert (first["loss"], first["precision"], first["heads"]) == (1.2346, "fp32", [1.0])
    assert first["left_s"] == pytest.approx(24, abs=1) and first["tokens_per_s"] == pytest.approx(100, abs=5)
    assert "precision" not in second and "tokens_per_s" not in second
    assert third == {"step": 5, "validation": 2.0}


def test_a_line_that_a_kill_cut_short_is_passed_over_and_then_gone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 4, "loss": 2.0}\n{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    assert [event["step"] for event in read_events(path)] == [4, 6]
    with Journal(path, LOOP, 4, lambda _: None) as journal:
        journal.event(step=5, loss=1.5)
        journal.event(step=6, loss=1.25)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [4, 6, 5, 6]
    assert [(event["step"], event["loss"]) for event in read_events(path)] == [(4, 2.0), (5, 1.5), (6, 1.25)]


@pytest.mark.parametrize("line", ['{"step": 4, "lo{"step": 5}', "[1]", '{"loss": 1.0}'])
def test_any_other_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n' + line + '\n{"step": 6, "loss": 1.0}\n')
    with pytest.raises(UserError, match=r"log.jsonl:2: not an event of a training run"):
        read_events(path)


def test_a_curve_is_drawn_of_a_log_that_was_cut(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from train.plot import plot_loss

    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 4, "loss": 2.0}\n{"step": 4, "validation": 2.5}\n{"step"')
    plot_loss(path, tmp_path / "loss.png", title="a run")
    assert (tmp_path / "loss.png").read_bytes()[1:4] == b"PNG"


def test_a_silent_one_writes_nothing(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with Journal(tmp_path / "log.jsonl", LOOP, 0, told.append, silent=True) as journal:
        journal.event(step=1, validation=1.0)
    assert not told and not list(tmp_path.iterdir())


def test_a_full_disk_names_the_log(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full")
    (tmp_path / "log.jsonl").symlink_to(full)
    with pytest.raises(UserError, match=r"log.jsonl: disk full"):
        with Journal(tmp_path / "log.jsonl", LOOP, 0, lambda _: None) as journal:
            journal.event(step=1, validation=1.0)
