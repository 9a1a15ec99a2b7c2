"""The study of `tests.stress.coreml_full_size`: what it measures, and that it says where a limit is missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from export.base import Checkpoint
from export.proof_file import Decision, Row
from tests.exports import Maker
from tests.loud import changed
from tests.stress.coreml_full_size import EXCESS, Cost, costs, margin_of_first_difference, parity, size, spent
from tests.stress.full_size import drawn, study


def test_a_process_costs_what_it_and_its_children_take() -> None:
    pytest.importorskip("psutil")
    child = "import time; data = b'x' * 80_000_000; time.sleep(0.5)"
    parent = f"import subprocess, sys; data = b'x' * 40_000_000; subprocess.run([sys.executable, '-c', {child!r}])"
    cost = spent([sys.executable, "-c", parent])
    assert 120 < cost.peak_mb < 250
    assert cost.wall_s > 0.5 and cost.cpu_s > 0
    with pytest.raises(subprocess.CalledProcessError):
        spent([sys.executable, "-c", "raise SystemExit(3)"])


def test_limits() -> None:
    assert [line.ok for line in costs(Cost(179, 300, 9_999))] == [True, None, True]
    assert [line.ok for line in costs(Cost(181, 300, 10_001))] == [False, None, False]
    assert "MISSED" in str(next(costs(Cost(181, 300, 1))))


@pytest.mark.parametrize(("excess", "ok"), [(0.0, True), (0.9 * EXCESS, True), (1.1 * EXCESS, False)])
def test_bytes_beside_the_parameters(tmp_path: Path, excess: float, ok: bool) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weight.bin").write_bytes(bytes(round(1900 * (1 + excess))))
    (tmp_path / "model.mlmodel").write_bytes(bytes(round(100 * (1 + excess))))
    assert size(tmp_path, 1000).ok is ok


def test_where_two_completions_part() -> None:
    decided = (Decision(1, (5, 6), (2.0, 1.5), 0.5), Decision(3, (7, 8), (2.0, 1.9), 0.1))
    row = Row("r", (1,), (4, 5, 5, 7), decided, ())
    assert margin_of_first_difference(row, (4, 5, 5, 8)) == 0.1
    assert margin_of_first_difference(row, (4, 6, 5, 7)) == 0.5
    assert margin_of_first_difference(row, (4, 5, 6, 7)) == float("inf")


def test_parity_of_a_package_and_of_other_weights(exported: Maker, tiny: Checkpoint, tmp_path: Path) -> None:
    package, requests = exported("coreml", "fp16"), ("kitchen", "hall on")
    lines = {line.what: line for line in parity(tiny, package, requests)}
    assert all(line.ok is not False for line in lines.values()), lines
    assert lines["calls"].figure == "of 2 of 2 prompts the same"
    other = changed(tiny, tmp_path / "other", lambda weights: weights["model.norm.weight"].neg_())
    lines = {line.what: line for line in parity(other, package, requests)}
    assert lines["logits"].ok is False and lines["probe"].ok is False


def test_the_shape_is_what_was_asked_for(tmp_path: Path) -> None:
    options = study(None).parse_args(["--shape", "tiny", "--layers", "1"])
    source = drawn(options, tmp_path)
    assert source.config["num_hidden_layers"] == 1 and source.vocab_size == 10_240
