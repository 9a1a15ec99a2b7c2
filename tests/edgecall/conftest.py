"""The command line as its users meet it: exit code, stdout and stderr, with directories of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


LAMPS = """\
name: lamps
description: A lamp in each room. Every answer is one of a few, so that a random model gives one soon.
tools:
  - name: switch
    description: Switch a lamp.
    parameters:
      type: object
      properties:
        room: {type: string, enum: [kitchen, hall]}
        state: {type: string, enum: [lit, dark], default: lit}
        project_path: {type: string, bind: context.project_path}
      required: [room, project_path]
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that a test does reaches the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGECALL_CACHE", str(folder))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("EDGECALL_DEBUG", raising=False)
    return folder


@pytest.fixture(scope="session")
def lamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toolset file."""
    path = tmp_path_factory.mktemp("toolset") / "lamps.yaml"
    path.write_text(LAMPS)
    return path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """``cli("route", "…")``: the command, in this process."""

    def call(*argv: str) -> Ran:
        from edgecall.cli import main

        capfd.readouterr()
        try:
            code = main(list(argv))
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture
def python() -> Callable[..., Ran]:
    """``python("-c", "…")``: a fresh interpreter, with the checkout importable."""

    def call(*argv: str, cwd: Path | None = None, **environment: str) -> Ran:
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        done = subprocess.run(
            [sys.executable, *argv], cwd=cwd or ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return call
