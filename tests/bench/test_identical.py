"""`bench identical`: the same answers whatever saves passes and bytes, and the proof that a difference is seen."""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.identical import Asked, Said, compared, identical
from bench.identical_page import LEGEND, render, tables
from bench.identical_report import validate
from bench.identical_worker import moved
from bench.process import WorkerFailure
from bench.records import Settings, Variant
from bench.run import Bench
from bench.screen import Screen
from bench.variants import Missing
from export.base import Checkpoint
from export.pipeline import export_one
from export.trim import trim_checkpoint
from export.trim_record import Trim
from router.cases import Case
from router.toolset import Call, Schema, Tool, Toolset, to_dict
from runtimes import runtime
from runtimes.artifact import Artifact
from runtimes.errors import UnavailableError, UserError
from tests.bench import scripted

WORDS = "email report backup invoice note page photo user".split()
NOTES = Toolset(
    "notes",
    (
        Tool(
            "note",
            "Write it down.",
            Schema(
                "object",
                properties={
                    "level": Schema("integer", minimum=0, maximum=100),
                    "room": Schema("string", enum=("kitchen", "hall", "bath")),
                    "text": Schema("string", max_length=6),
                },
                required=("room", "text"),
            ),
        ),
    ),
)
"""An enumeration, a number, and a string that even a random model ends."""


def written(path: Path, cases: list[Case]) -> Path:
    path.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in cases))
    return path


class TestScripted:
    """In processes, over a runtime that answers from a script."""

    def run(
        self, folder: Path, small_tokenizer: Path, kiwi: Toolset, scripts: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        calls = {f"find {word} scripts": [Call("search", {"item_type": "script", "query": word})] for word in WORDS}
        cases = [
            Case(f"s{i}", user, {"project_path": "/p"}, "served", tuple(c)) for i, (user, c) in enumerate(calls.items())
        ]
        made: dict[str, Artifact | Missing] = {
            f"scripted-{quant}": scripted.make(folder / quant, small_tokenizer, kiwi, quant, calls, **script)
            for quant, script in scripts.items()
        }
        settings = Settings(
            runtimes=("scripted",), variants=tuple(made), cases=written(folder / "cases.jsonl", cases), threads=1,
            plugins=("tests.bench.scripted",), silence_s=30.0,
        )  # fmt: skip
        found = identical(
            settings, Asked(ways=("guess", "lanes")), Screen(quiet=True), out=folder / "out", artifacts={"whole": made}
        )
        assert validate(json.loads((folder / "out" / "identical.json").read_text()))
        return found.report

    def test_what_is_the_same_and_a_batch_that_is_broken(
        self, tmp_path: Path, small_tokenizer: Path, kiwi: Toolset
    ) -> None:
        report = self.run(tmp_path, small_tokenizer, kiwi, {"a": {"lanes": "right"}, "b": {"lanes": "wrong"}, "c": {}})
        assert not report["identical"]
        same, broken, alone = report["toolsets"][0]["runs"]
        for run in (same, broken, alone):
            guess = run["comparisons"][0]
            assert (guess["n"], guess["equal"], guess["different"]) == (8, 8, 0)
            assert not guess["detail"].startswith("0 tokens"), "guesses were made"
        assert (same["comparisons"][1]["n"], same["comparisons"][1]["equal"]) == (8, 8)
        lanes = broken["comparisons"][1]
        assert lanes["equal"] == 0 and lanes["different"] == len(lanes["differences"]) == 8
        assert lanes["largest_margin"] > 20, "the script is sure of itself"
        assert not any(one["tie"] for one in lanes["differences"])
        assert same["rounding"]["lanes"] == 0 and broken["rounding"]["lanes"] > 20
        assert alone["comparisons"][1]["status"] == "skipped" and alone["rounding"]["lanes"] is None
        page = render(report)
        assert "SOMETHING DIFFERS" in page and "NO TIE" in page and LEGEND in page
        (told,) = [line for line in page.splitlines() if line.startswith("Rounding moved logits further than the tie")]
        assert "scripted-b on kiwi" in told and "scripted-a" not in told
        assert [table.title for table in tables(report)] == ["Answers on kiwi", "Rounding", "Not compared"]

    def test_a_crash_is_told_and_fails(self, tmp_path: Path, small_tokenizer: Path, kiwi: Toolset) -> None:
        report = self.run(tmp_path, small_tokenizer, kiwi, {"a": {"crash_at": 30}, "b": {}})
        crashed, sound = report["toolsets"][0]["runs"]
        assert not report["identical"] and crashed["status"] == "failed" and "SIGKILL" in crashed["reason"]
        assert sound["status"] == "ok" and sound["comparisons"][0]["equal"] == 8
        assert "SIGKILL" in render(report)


class InProcess:
    """A worker process that is none: runtimes are imported once for all tests."""

    def __init__(self, name: str, log: Path, *, module: str, threads: int | None = None) -> None:
        self.name, self.log, self.pid = name, log, os.getpid()
        self.started, self.alive = time.monotonic(), True
        self.worker = importlib.import_module(module).IdenticalWorker()

    def call(self, command: str, *, silence: float, on_event: Any = None, **arguments: Any) -> dict[str, Any]:
        def emit(event: dict[str, Any]) -> None:
            if on_event is not None:
                on_event(json.loads(json.dumps(event)))

        try:
            found: dict[str, Any] = getattr(self.worker, command)(emit, **json.loads(json.dumps(arguments)))
        except UserError as error:
            raise WorkerFailure(str(error)) from error
        return found

    def close(self) -> None:
        if self.alive and self.worker.routed is not None:
            self.worker.router.model.close()
        self.alive = False

    kill = close


@pytest.mark.parametrize(
    ("name", "fmt", "quant"),
    [
        ("llama_cpp", "gguf", "q8_0"),
        ("onnxruntime", "onnx", "int8"),
        ("torch", "safetensors", "fp32"),
        ("mlx", "mlx", "fp32"),
    ],
)
def test_small_random_models(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fmt: str, quant: str
) -> None:
    state = runtime(name).availability()
    if not state.available:
        pytest.skip(f"{state.reason}; {state.fix}")
    monkeypatch.setattr("bench.fleet.WorkerProcess", InProcess)
    rooms = ("kitchen", "hall", "bath")
    cases = [
        Case(
            f"r{i}",
            f"{verb} the {rooms[i % 3]} at {7 * i}",
            {},
            "random",
            (Call("note", {"room": rooms[i % 3], "text": verb}),),
        )
        for i, verb in enumerate(["light", "dim", "switch", "heat", "note", "ask", "open", "set", "show"])
    ]
    file = written(tmp_path / "cases.jsonl", cases)
    (tmp_path / "tools.json").write_text(json.dumps(to_dict(NOTES)))
    sources = {"whole": tiny} | {
        form: trim_checkpoint(tiny, Trim((str(file),), 704, form), NOTES, tmp_path / "trimmed")
        for form in ("output", "full")
    }
    artifacts: dict[str, dict[str, Artifact | Missing]] = {}
    for form, source in sources.items():
        try:
            made = export_one(source, fmt, quant, tmp_path / form, NOTES, requests=(), threads=1)
            artifacts[form] = {f"{fmt}-{quant}": made}
        except UnavailableError as error:
            artifacts[form] = {f"{fmt}-{quant}": Missing(str(error), True)}
    settings = Settings(
        toolset=str(tmp_path / "tools.json"), runtimes=(name,), variants=(f"{fmt}-{quant}",), cases=file, threads=1,
        device="cpu",
    )  # fmt: skip
    asked = Asked(toolsets=(settings.toolset,))
    report = identical(settings, asked, Screen(quiet=True), out=tmp_path / "out", artifacts=artifacts).report
    (run,) = report["toolsets"][0]["runs"]
    assert run["status"] == "ok" and report["identical"], json.dumps(run["comparisons"], indent=1)
    found = {one["way"]: one for one in run["comparisons"]}
    assert list(found) == ["guess", "lanes", "trim-output", "trim-full"]
    assert found["guess"]["n"] == len(cases) and not found["guess"]["detail"].startswith("0 tokens")
    assert found["lanes"]["n"] == len(cases) and found["lanes"]["detail"] == "8 at once"
    skipped = [way for way, one in found.items() if one["status"] != "ok"]
    assert skipped == (["trim-output"] if fmt == "gguf" else []), "llama.cpp has no such form"
    for way in {"trim-output", "trim-full"}.difference(skipped):
        assert found[way]["n"] > 0 and found[way]["n"] + found[way]["left_out"] == len(cases)
        assert found[way]["detail"] == f"704 of {tiny.vocab_size} tokens"
    assert run["rounding"]["rows"] > 20 and run["rounding"]["many"] < 0.5 and run["rounding"]["lanes"] < 0.5


def test_a_size_alone_trims_by_the_cases_and_no_artifact_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trims: list[Trim | None] = []

    def export_all(bench: Bench, variants: list[Variant]) -> tuple[dict[str, Artifact | Missing], dict[str, Any]]:
        trims.append(bench.settings.trim)
        return {}, {"name": "m", "sha256": "", "parameters": None}

    monkeypatch.setattr("bench.identical.export_all", export_all)
    argv = ["identical", "seed", "--runtimes", "scripted", "--variants", "scripted-a", "--limit", "2"]
    assert main([*argv, "--ways", "trim-full", "--trim-tokens", "900", "--out", str(tmp_path / "out")]) == 1
    whole, trim = trims
    assert whole is None and trim is not None and (trim.tokens, trim.form, trim.called) == (900, "full", "the cases")
    assert [Path(rule).name for rule in trim.rules] == ["identical-cases.jsonl"]
    assert not json.loads((tmp_path / "out" / "identical.json").read_text())["identical"]
    for text in (capsys.readouterr().out, (tmp_path / "out" / "identical.md").read_text()):
        assert "NOTHING WAS COMPARED" in text and "Nothing differs" not in text


def test_what_parts_is_a_tie_or_not() -> None:
    plain = {"a": Said((1, 2, 3), True), "b": Said((1, 2, 3), True), "c": Said((1, 2), True), "d": Said((1,), True)}
    other = {"a": Said((1, 2, 3), True), "b": Said((1, 5, 6), True), "c": Said((1, 4), True), "d": Said((1, 9), False)}

    def margins(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert items == [
            {"case": "b", "before": [1], "a": 2, "b": 5}, {"case": "c", "before": [1], "a": 2, "b": 4}
        ]  # fmt: skip
        return [
            {"case": "b", "margin": -0.01, "tokens": ["2", "5"]},
            {"case": "c", "margin": 0.5, "tokens": ["2", "4"]},
        ]

    users = dict.fromkeys(plain, "on")
    found = compared("guess", plain=plain, answers=other, margins=margins, tie=0.02, users=users)
    assert (found["n"], found["equal"], found["ties"], found["different"]) == (4, 1, 1, 2)
    assert found["largest_margin"] == 0.5
    kinds = [(one["case"], one["at_token"], one["margin"], one["tie"]) for one in found["differences"]]
    assert kinds == [("b", 1, 0.01, True), ("c", 1, 0.5, False), ("d", None, None, False)]


def test_how_far_two_best_tokens_move() -> None:
    import numpy as np

    rows = [np.array([0.0, 3.0, 1.0, 2.5], np.float32), np.array([1.0, 0.0, 0.0, 0.0], np.float32)]
    others = [rows[0] + 7, np.array([1.0, 0.0, 0.0, 0.0], np.float32)]
    assert moved(rows, others) == 0, "all logits moved alike"
    others[0] = np.array([9.0, 3.0, 1.0, 2.75], np.float32)
    assert moved(rows, others) == 0.25, "the two best alone count"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["seed", "--ways", "guess,speed"], "unknown way 'speed'; there are guess, lanes, trim-output, trim-full"),
        (["seed", "--limit", "0"], "--limit: 0 is not positive"),
        (["seed", "--toolset", "kiwi,toolbox", "--cases", "x.jsonl"], "is of one toolset"),
        (["seed", "--toolset", "nope"], "nope"),
        (["seed", "--trim-tokens", "0"], "--trim-tokens 0: is not positive"),
        (["seed", "--out", "full"], "is not empty"),
        (["seed", "--runtimes", "no_such"], "no_such"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(refused: Any, argv: list[str], told: str) -> None:
    refused(["identical", *argv], told)


def test_it_is_among_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0 and "identical" in capsys.readouterr().out
