"""Ctrl-C and SIGTERM while a model is merged or exported: obeyed at once, with nobody and nothing left behind.

The workers are stand-ins that never end by themselves, so a bench that waited for them would not end either.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.process import Crew, Stopped, WorkerFailure, environment
from tests.bench.ended import gone

HUNG_S = 300.0
BENCH = """
import signal, sys
import bench.run, bench.variants
from bench.cli import main
from bench.records import Variant
from export import EXPORTERS
from runtimes import RUNTIMES

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
variants = [Variant("scripted", f"slow{n}", "a", 32) for n in range(5)]
EXPORTERS.update({variant.format: "tests.bench.scripted" for variant in variants})
RUNTIMES["scripted"] = "tests.bench.scripted"
bench.run.choose = lambda settings, *, emulated: variants
bench.variants.describe = lambda: {"cores": 2}
bench.variants.WORKER = "tests.bench.stalling"
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    case = {
        "id": "a", "user": "find email scripts", "context": {}, "bucket": "easy",
        "calls": [{"name": "search", "arguments": {"item_type": "script", "query": "email"}}],
    }  # fmt: skip
    (tmp_path / "cases.jsonl").write_text(json.dumps(case) + "\n")
    started: list[subprocess.Popen[str]] = []

    def run(model: str) -> subprocess.Popen[str]:
        argv = ["all-runtimes", "--model", model, "--cases", "cases.jsonl"]
        process = subprocess.Popen(
            [sys.executable, "-c", BENCH, *argv], cwd=tmp_path, env=environment(1), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + HUNG_S
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("model", "at_work"), [("stalls", 1), ("exports", 2)], ids=["merge", "export"])
def test_obeyed_at_once(
    model: str, at_work: int, number: signal.Signals, code: int, start: Callable[[str], subprocess.Popen[str]],
    tmp_path: Path,
) -> None:  # fmt: skip
    def begun() -> list[Path]:
        return [path for path in tmp_path.glob("began-*") if path.suffix != ".new"]

    process = start(model)
    until(lambda: len(begun()) == at_work or process.poll() is not None, "the workers did not begin")
    assert process.poll() is None, process.communicate()
    assert any(tmp_path.rglob(".tmp-*/half")), "there is something to leave behind"
    assert len([path for path in (tmp_path / "out" / "bench").iterdir() if path.name[0] != "."]) == 1, "reserved"
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=HUNG_S)
    assert process.returncode == code
    assert err.splitlines() == (["bench: interrupted"] if code == 130 else [])
    assert "FAILED" not in out, "an export that was ended has not failed"
    assert len(begun()) == at_work, "those that waited were not begun"
    for pid in (int(pid) for path in begun() for pid in path.read_text().split()):
        until(lambda pid=pid: gone(pid), f"{pid} is at work still")  # type: ignore[misc]
    assert list(tmp_path.rglob(".tmp-*")) == []
    assert list((tmp_path / "out" / "bench").iterdir()) == []


def test_a_crew_is_ended_together_and_takes_nobody_more(tmp_path: Path) -> None:
    crew = Crew()
    workers = [crew.start(f"w{n}", tmp_path / f"w{n}.log", module="tests.bench.misbehaving") for n in range(2)]
    failures: list[str] = []

    def hang() -> None:
        try:
            workers[0].call("hang", silence=HUNG_S)
        except WorkerFailure as failure:
            failures.append(str(failure))

    thread = threading.Thread(target=hang)
    thread.start()
    workers[1].call("count", to=1)
    crew.check()
    crew.end()
    thread.join(HUNG_S)
    assert not any(worker.alive for worker in workers)
    assert len(failures) == 1 and "crashed in 'hang' (signal SIGKILL)" in failures[0]
    with pytest.raises(Stopped):
        crew.check()
    with pytest.raises(Stopped):
        crew.start("late", tmp_path / "late.log", module="tests.bench.misbehaving")
    assert not (tmp_path / "late.log").exists()
