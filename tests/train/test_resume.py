"""A run that is killed at any moment, and goes on, ends as one that was left alone; with dropout too."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("torch") is None or find_spec("peft") is None:
    pytest.skip("torch or peft is not installed", allow_module_level=True)

STEPS = 90


def train(folder: Path) -> None:
    """Train an adapter with dropout on a small random model; its best state goes into ``result.json``."""
    import torch
    from peft import LoraConfig, get_peft_model

    from tests.train.test_loop import rows, small_model
    from train.backends.common import trainable
    from train.loop import LoopConfig, fit

    config = LoopConfig(
        steps=STEPS, learning_rate=1e-2, warmup=4, validate_every=30, save_every=3, log_every=1, threads=1,
        precision="fp32",
    )  # fmt: skip
    model = small_model(width=32, layers=2)
    torch.manual_seed(1)
    shape = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.3, target_modules=["q_proj", "v_proj", "down_proj"])
    result = fit(get_peft_model(model, shape), rows, [rows(500)], folder, config, trainable=trainable)
    (folder / "result.json").write_text(json.dumps(result))


def process(folder: Path) -> int:
    """Train in a process of its own, forked from one that has never trained; its id."""
    child = os.fork()
    if not child:
        train(folder)
        os._exit(0)
    return child


def kill(child: int, log: Path, lines: int, pause: float) -> None:
    """Kill a process `pause` seconds after line `lines` of its log."""
    while not log.is_file() or log.read_bytes().count(b"\n") < lines:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(0.005)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), "it was done before it was killed"


def main(folder: Path) -> None:
    """A run that is left alone, and one that is killed twice."""
    assert os.waitpid(process(folder / "whole"), 0)[1] == 0
    moments = random.Random()
    for first, last in ((4, 25), (35, 60)):
        lines, pause = moments.randint(first, last), moments.random() / 50
        print(f"kill {pause:.3f} s after line {lines}", file=sys.stderr)
        kill(process(folder / "killed"), folder / "killed" / "log.jsonl", lines, pause)
    assert os.waitpid(process(folder / "killed"), 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_two_kills_change_nothing(tmp_path: Path) -> None:
    import torch

    done = subprocess.run(
        [sys.executable, "-m", "tests.train.test_resume", str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole, resumed = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed"))
    assert resumed["step"] == whole["step"], done.stderr
    assert resumed["validation"] == pytest.approx(whole["validation"], rel=1e-3), done.stderr
    one, two = (torch.load(tmp_path / name / "last.pt")["model"] for name in ("whole", "killed"))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, msg=f"{name}: {done.stderr}")


if __name__ == "__main__":
    import peft  # noqa: F401  (here, so that the forked processes need not import it)

    import tests.train.test_loop  # noqa: F401

    main(Path(sys.argv[1]))
