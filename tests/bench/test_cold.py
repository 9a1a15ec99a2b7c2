"""From the start of a process to its first call: what is told, never how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.cold import FIGURES, Start, context_for, first_calls
from bench.process import environment
from export.base import Checkpoint
from export.pipeline import export_one
from router.toolset import Call, Toolset
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from tests.bench import scripted
from tests.tiny import LIGHTS


@pytest.fixture(scope="module")
def gguf(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("llama_cpp")
    return export_one(tiny, "gguf", "q8_0", tmp_path_factory.mktemp("cold"), LIGHTS, requests=(), threads=1)


def started(artifact: Artifact, **more: Any) -> Start:
    return Start(artifact.folder, "llama_cpp", "kitchen on", {}, threads=1, **more)


def test_a_prefix_is_restored_or_computed(gguf: Artifact) -> None:
    ticks: list[int] = []
    found = first_calls(started(gguf), 2, tick=ticks.append)
    assert found["n"] == 2 and ticks == [1, 2]
    for kind in ("saved", "computed"):
        one = found[kind]
        assert one["n"] == 2 and one.keys() == {"n", "wall_range_ms", *FIGURES}
        low, high = one["wall_range_ms"]
        assert 0 < low <= one["wall_ms"] <= high
        assert 0 < one["import_cpu_ms"] < one["cpu_ms"] and one["import_ms"] < one["wall_ms"]
        assert one["open_ms"] > 0 and one["request_ms"] > 0


def test_time_ends_it_but_not_before_one_of_each(gguf: Artifact) -> None:
    found = first_calls(started(gguf), 5, seconds=0)
    assert found["n"] == found["saved"]["n"] == found["computed"]["n"] == 1


def test_the_process_imports_what_the_router_needs(gguf: Artifact) -> None:
    asked = {
        "folder": str(gguf.folder), "runtime": "llama_cpp", "device": "auto", "threads": 1, "user": "hall off",
        "context": {}, "save_prefix": False, "plugins": [], "started_ns": time.monotonic_ns(),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bench.first_call", json.dumps(asked)],
        env=environment(1), capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["prefix_restored"] is False and told["error"] is None
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "router.core" in imported
    heavy = {"torch", "transformers", "sympy", "matplotlib", "rich", "onnxruntime", "export", "train"}
    assert not heavy & {name.partition(".")[0] for name in imported}
    assert {name for name in imported if name.startswith("bench")} <= {"bench", "bench.first_call"}


def test_a_runtime_without_snapshots_keeps_nothing(tmp_path: Path, small_tokenizer: Path, kiwi: Toolset) -> None:
    answers = {"find email scripts": [Call("search", {"item_type": "script", "query": "email"})]}
    artifact = scripted.make(tmp_path / "a", small_tokenizer, kiwi, "a", answers)
    start = Start(
        artifact.folder, "scripted", "find email scripts", context_for(kiwi), threads=1,
        plugins=("tests.bench.scripted",),
    )  # fmt: skip
    found = first_calls(start, 1)
    assert found["saved"] is None and found["computed"]["n"] == 1
    with pytest.raises(UserError, match=r"a fresh process made no call: .*no 'project_path'") as caught:
        first_calls(Start(start.folder, "scripted", start.user, {}, plugins=start.plugins), 1)
    assert "Error" not in str(caught.value), "the line alone, without the class that brought it"


def test_the_command(gguf: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cold", str(gguf.folder), "--n", "1", "--threads", "1", "--request", "bath on", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["saved"]["n"] == 1
    assert "prefix restored" in captured.err and "prefix computed" in captured.err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["cold", "nope"], "nope: no such artifact folder; make one with `edgecall export`"),
        (["cold", "full", "--n", "0"], "--n: 0 is not positive"),
        (["all-runtimes", "--cold", "-1"], "--cold: -1 is not a number of processes"),
    ],
)
def test_mistakes(refused: Any, argv: list[str], told: str) -> None:
    refused(argv, told)
