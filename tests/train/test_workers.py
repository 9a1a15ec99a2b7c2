"""Processes that train together take the steps that one alone takes, and one of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from runtimes.errors import UserError  # noqa: E402
from tests.train.test_loop import small_model, state  # noqa: E402
from train.loop import LoopConfig, fit  # noqa: E402
from train.packing import Row, pack  # noqa: E402
from train.workers import share  # noqa: E402

CONFIG = LoopConfig(
    steps=5, learning_rate=1e-2, warmup=2, validate_every=5, save_every=5, threads=1, precision="fp32", log_every=1
)


def rows(step: int) -> list[Row]:
    """Four rows with unlike numbers of tokens that carry loss."""
    ids = [4 + (7 * step + 5 * i) % 120 for i in range(30)]
    pair = [
        pack(ids[:4], [(ids[4:6], ids[6:8])], limit=64),
        pack(ids[:8], [(ids[8:12], ids[12:20]), (ids[20:22], ids[22:30])], limit=64),
    ]
    return [*pair, pack(ids[:6], [(ids[6:9], ids[9:14])], limit=64), pair[0]]


def train(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """Train a small model into `folder`; what was told here."""
    told: list[dict[str, Any]] = []
    config = replace(CONFIG, **changes)
    fit(small_model(layers=2), rows, [rows(99)], folder, config, trainable=state, report=told.append)
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
    same_steps(tmp_path / "alone", tmp_path / "together")


def same_steps(one: Path, two: Path) -> None:
    """The mean gradients of two runs, in the optimizer, agree to 1e-6; weights as far as Adam lets them."""
    first, second = (torch.load(place / "last.pt") for place in (one, two))
    moments = [[s["exp_avg"] for s in found["optimizer"]["state"].values()] for found in (first, second)]
    for mine, other in zip(*moments, strict=True):
        torch.testing.assert_close(other, mine, rtol=0, atol=1e-6)
    for name, weight in first["model"].items():
        torch.testing.assert_close(second["model"][name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_a_step_in_parts_is_the_step(tmp_path: Path, parts: int) -> None:
    whole, spread = train(tmp_path / "whole"), train(tmp_path / "parts", accumulate=parts)
    losses = [[event["loss"] for event in told if "loss" in event] for told in (whole, spread)]
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)
    same_steps(tmp_path / "whole", tmp_path / "parts")


def test_a_step_that_cannot_be_shared_is_refused() -> None:
    assert share(SimpleNamespace(process_index=1, num_processes=2), [0, 1, 2, 3]) == [1, 3]  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rows_per_step 3: 2 processes cannot share them"):
        share(SimpleNamespace(process_index=0, num_processes=2), [0, 1, 2])  # type: ignore[arg-type]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    seen = train(out / "together", accumulate=2)
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(seen))
