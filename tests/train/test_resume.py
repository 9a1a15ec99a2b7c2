"""A run that is killed at any moment, and goes on, ends as one that was left alone; with dropout too."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from tests.train.test_loop import rows, small_model  # noqa: E402
from train.backends.common import trainable  # noqa: E402
from train.loop import LoopConfig, fit  # noqa: E402

CONFIG = LoopConfig(
    steps=160, learning_rate=1e-2, warmup=4, validate_every=40, save_every=3, threads=1, log_every=1, precision="fp32"
)


def train(folder: Path) -> dict[str, Any]:
    """An adapter with dropout on a small random model."""
    from peft import LoraConfig, get_peft_model

    model = small_model(width=32, layers=2)
    torch.manual_seed(1)
    shape = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.3, target_modules=["q_proj", "v_proj", "down_proj"])
    return fit(get_peft_model(model, shape), rows, [rows(500)], folder, CONFIG, trainable=trainable)


def killed_after(folder: Path, lines: int, pause: float) -> int:
    """Train in a process of its own, kill it `pause` seconds after line `lines` of its log; its exit code."""
    log = folder / "log.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.train.test_resume", str(folder)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while process.poll() is None and (log.read_bytes().count(b"\n") if log.is_file() else 0) < lines:
        time.sleep(0.002)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    return process.wait()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signal that cannot be caught")
def test_two_kills_change_nothing(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    moments = random.Random()
    folder = tmp_path / "killed"
    for first, last in ((5, 40), (60, 100)):
        lines, pause = moments.randint(first, last), moments.random() / 50
        assert killed_after(folder, lines, pause) == -signal.SIGKILL, "it was done before it was killed"
    resumed = train(folder)
    assert resumed["step"] == whole["step"]
    assert resumed["validation"] == pytest.approx(whole["validation"], rel=1e-3)
    one, two = (torch.load(place / "last.pt")["model"] for place in (tmp_path / "whole", folder))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, msg=name)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
