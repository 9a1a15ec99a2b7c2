"""Runs as a bench collects them, made up: for tests of what comes after measuring."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.metrics import judge
from bench.records import Answer, Run, Settings, Timed, Variant
from bench.report import Context
from bench.suites import Suite, digest
from router.cases import Case
from router.toolset import Call, Toolset
from runtimes.artifact import Artifact

GOLD = Call("search", {"item_type": "script", "query": "email"})
WRONG = Call("search", {"item_type": "script", "query": "mail"})
CASES = tuple(
    Case(f"c{i:03}", f"find email scripts {i}", {"project_path": "/p"}, ("easy", "hard")[i % 2], (GOLD,))
    for i in range(100)
)
SUITE = Suite("default", CASES, digest(CASES), ("a.jsonl",))


def artifact(name: str) -> Artifact:
    fmt, _, quant = name.partition("-")
    files = [{"path": "model.bin", "bytes": 12_345_678, "sha256": "0" * 64}]
    manifest = {"format": fmt, "quant": quant, "precision": 32, "weights": "model.bin", "files": files}
    return Artifact(Path("out/artifacts") / name, manifest)


def run(
    toolset: Toolset, runtime: str, name: str, precision: int, *, wrong: int = 0, ms: float = 10.0, timed: int = 400
) -> Run:
    """A run that got the first `wrong` cases wrong and takes `ms`, give or take."""
    fmt, _, quant = name.partition("-")
    rng = random.Random(name)
    out = Run(Variant(runtime, fmt, quant, precision), artifact=artifact(name))
    out.opened = {
        "device": "cpu", "dtype": quant, "threads": 1, "versions": {runtime: "1.0"}, "load_ms": 50.0,
        "cold_start_ms": 900.0, "peak_rss_mb": 200.0, "device_memory_mb": None, "request_ms": ms,
    }  # fmt: skip
    stats = {
        "request_tokens": 12, "forced_tokens": 9, "decided_tokens": 11, "forward_passes": 12,
        "pass_sizes": [12] + [1] * 11, "pass_causes": {"request": 1, "fork": 3, "string": 6, "number": 2},
        "total_ms": ms, "first_decision_ms": ms / 4,
    }  # fmt: skip
    for index, case in enumerate(CASES):
        for mode in ("grammar", "unconstrained"):
            calls = [WRONG if index < wrong else GOLD]
            out.answers[mode][case.id] = Answer(case.id, calls, [1, 2, 3], "text", None, stats, False)
            out.verdicts[mode][case.id] = judge(case, calls, toolset)
    for number in range(timed):
        took = ms * rng.lognormvariate(0, 0.15)
        case = CASES[number % len(CASES)]
        parts = {"total_ms": took, "model_ms": 0.9 * took, "grammar_ms": 0.05 * took, "tokenize_ms": 0.01 * took}
        out.timed.append(Timed(case.id, took, took / 4, number * 20 // timed, [GOLD], parts))
    out.speed = {"prefill_tok_s": 9000.0, "decode_tok_s": 700.0,
                 "throughput": {"requests": 40, "lanes": 8, "alone_per_s": 90.0, "together_per_s": 180.0,
                                "same_calls": 1.0}}  # fmt: skip
    out.floor = {"case": "c007", "passes": [12, 1, 1], "ms": [ms * 0.8] * 60, "request_ms": [ms] * 60}
    return out


def context(**more: Any) -> Context:
    started = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    blocks = [
        {"index": i, "seconds": 3.0, "load_average": 1.0, "calibration_ms": 8.0, "foreign_cores": 0.1,
         "busy": i == 3, "order": ["gguf-f32"]}
        for i in range(20)
    ]  # fmt: skip
    known = {
        "settings": Settings(command="bench all-runtimes"),
        "suite": SUITE,
        "toolset": "kiwi",
        "toolset_sha256": "f" * 64,
        "model": {"name": "seed", "sha256": "a" * 64, "parameters": 8_000_000},
        "machine": {"os": "Linux", "cpu": "A CPU", "cores": 2, "memory_gb": 24.0, "gpu": None, "python": "3.11.7"},
        "started": started,
        "finished": started + timedelta(minutes=5),
        "blocks": blocks,
        "stages_s": {"export": 12.3},
    }
    return Context(**(known | more))


def runs(toolset: Toolset) -> list[Run]:
    """Eight runs as on a Linux machine: some right, one worse, one skipped, one that crashed while it was timed."""
    made = [
        run(toolset, "torch", "safetensors-fp32", 32, wrong=4, ms=60),
        run(toolset, "llama_cpp", "gguf-f32", 32, wrong=4, ms=16),
        run(toolset, "llama_cpp", "gguf-q8_0", 8, wrong=5, ms=11),
        run(toolset, "onnxruntime", "onnx-fp32", 32, wrong=4, ms=22),
        run(toolset, "onnxruntime", "onnx-int8", 8, wrong=16, ms=9),
        run(toolset, "mlx", "mlx-fp32", 32, wrong=4, ms=300, timed=40),
        run(toolset, "mlx", "mlx-8bit", 8, wrong=4, ms=320, timed=40),
    ]
    for one in made[1:]:
        one.parity = {
            "sequences": 120, "of_sequences": 121, "rows": 2000, "top1_rows": 1990, "max_abs_logit": 1.2e-4,
            "mean_kl": 3e-9, "top1_agreement": 0.9995, "by_kind": {}, "top1_differences": [],
        }  # fmt: skip
        one.same_calls = {case.id: True for case in CASES}
    made[4].same_calls = {case.id: not 4 <= i < 16 for i, case in enumerate(CASES)}
    made[4].disagreements = [
        {"case": CASES[i].id, "user": CASES[i].user, "calls": [WRONG.to_dict()], "reference_calls": [GOLD.to_dict()],
         "reference_margin": 0.02, "margin": -0.01, "at_token": 7, "tokens": ["e", "m"]}
        for i in range(4, 16)
    ]  # fmt: skip
    coreml = Run(Variant("coreml", "coreml", "fp32", 32), artifact=artifact("coreml-fp32"))
    coreml.skip("Core ML prediction needs macOS 15", "run the bench on a Mac")
    crashed = Run(Variant("llama_cpp", "gguf", "f16", 16), artifact=artifact("gguf-f16"))
    crashed.fail("crashed in 'turn' (signal SIGSEGV); see logs/gguf-f16.log", "latency")
    return [*made, coreml, crashed]
