"""Processes that train together take the steps that one alone takes, and one of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from runtimes.errors import UserError  # noqa: E402
from tests.train.test_loop import small_model, state  # noqa: E402
from train.loop import LoopConfig, fit  # noqa: E402
from train.packing import Row, pack  # noqa: E402
from train.workers import Workers  # noqa: E402

CONFIG = LoopConfig(
    steps=5, learning_rate=1e-2, warmup=2, validate_every=5, save_every=5, threads=1, precision="fp32", log_every=1
)


def rows(step: int) -> list[Row]:
    """Two rows with unlike numbers of tokens that carry loss."""
    ids = [4 + (7 * step + 5 * i) % 120 for i in range(30)]
    return [
        pack(ids[:4], [(ids[4:6], ids[6:8])], limit=64),
        pack(ids[:8], [(ids[8:12], ids[12:20]), (ids[20:22], ids[22:30])], limit=64),
    ]


def train(folder: Path) -> list[dict[str, Any]]:
    """Train a small model into `folder`; what was told here."""
    told: list[dict[str, Any]] = []
    fit(small_model(layers=2), rows, [rows(99)], folder, CONFIG, trainable=state, report=told.append)
    return told


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    alone = [event for event in train(tmp_path / "alone") if "loss" in event]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "--module", "tests.train.test_workers", str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    together = [json.loads(line) for line in (tmp_path / "together" / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in together if "loss" in event]
    assert losses == pytest.approx([event["loss"] for event in alone], abs=2e-4)
    assert losses[-1] < losses[0] - 0.1
    events = {rank: json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)}
    assert events[0] == together and events[1] == []
    first, second = (torch.load(tmp_path / name / "best.pt")["model"] for name in ("alone", "together"))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-3, atol=1e-4)


def test_a_step_that_cannot_be_shared_is_refused() -> None:
    assert Workers(1, 2).share([0, 1, 2, 3]) == [1, 3]
    with pytest.raises(UserError, match="rows_per_step 3: 2 processes cannot share them"):
        Workers(0, 2).share([0, 1, 2])


if __name__ == "__main__":
    out = Path(sys.argv[1])
    seen = train(out / "together")
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(seen))
