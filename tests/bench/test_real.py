"""The bench over real runtimes, on the tiny random router: it exports, runs, compares and reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.records import Settings
from bench.report import validate
from bench.run import all_runtimes
from bench.screen import Screen
from export.base import Checkpoint
from runtimes import runtime

CASES = ("find email scripts", "load the invoice page", "run backup now", "what is the weather")


@pytest.mark.slow
def test_torch_and_llama_cpp(tiny: Checkpoint, tmp_path: Path) -> None:
    if not runtime("llama_cpp").availability().available:
        pytest.skip("llama_cpp is not installed")
    cases = tmp_path / "cases.jsonl"
    rows = [{"id": f"r{i}", "user": user, "calls": []} for i, user in enumerate(CASES)]
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(
        model=str(tiny.folder), runtimes=("torch", "llama_cpp"), quick=True, cases=cases, requests=4, blocks=2,
        warmup=1, budget_s=60.0, threads=1, cache=tmp_path / "artifacts",
        variants=("safetensors-fp32", "gguf-f32", "gguf-q8_0"),
    )  # fmt: skip
    outcome = all_runtimes(settings, Screen(quiet=True), out=tmp_path / "out")
    report = json.loads((outcome.folder / "report.json").read_text())
    assert validate(report)
    runs = {run["artifact"]: run for run in report["runs"]}
    assert {name: run["status"] for name, run in runs.items()} == dict.fromkeys(settings.variants, "ok")
    exact, rounded = runs["gguf-f32"]["parity"], runs["gguf-q8_0"]["parity"]
    # llama.cpp's f32 is good to about 5e-3: its GELU is a half-precision table.
    assert exact["max_abs_logit"] < 0.05 < rounded["max_abs_logit"]
    assert exact["top1_agreement"] > 0.98
    assert exact["by_kind"]["random"]["rows"] > 0
    for run in runs.values():
        assert run["accuracy"]["n"] == len(CASES)
        assert run["latency_ms"]["n"] == 4
        assert run["floor_ms"]["p50"] > 0 and run["overhead_same_request"] > 0.5
        assert run["artifact_sha256"] and run["size_mb"] > 0 and run["threads"] == 1
    assert runs["gguf-q8_0"]["size_mb"] < runs["gguf-f32"]["size_mb"]
    again = [line for line in (outcome.folder / "report.md").read_text().splitlines() if line.startswith("| 1 |")]
    assert len(again) == 2, "one table of 32 bits, one of 8"
