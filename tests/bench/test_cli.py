"""The command line: help that shows how, mistakes in one line with exit code 2, JSON alone on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bench.run
from bench.cli import main
from bench.records import Settings
from bench.report import build
from bench.run import Outcome
from bench.variants import made_from, merge
from export.base import Checkpoint
from export.checkpoint import count_parameters
from export.trim_record import Trim
from router.toolset import Toolset
from tests.bench import made


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "bench all-runtimes --quick" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["all-runtimes", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--model", "--toolset", "--runtimes", "--variants", "--device", "--threads", "--suite", "--cases", "--requests",
        "--budget", "--out", "--quick", "--json", "examples:",
    ):  # fmt: skip
        assert option in text


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["everything"], "unknown command 'everything'; there are all-runtimes"),
        (["all-runtimes", "--fast"], "--fast"),
        (["all-runtimes", "--requests", "0"], "--requests: 0 is not positive"),
        (["all-runtimes", "--toolset", "kiwy"], "unknown toolset 'kiwy'"),
        (["all-runtimes", "--suite", "nightly"], "unknown suite 'nightly'"),
        (["all-runtimes", "--cases", "none.jsonl"], "none.jsonl: no such case file"),
        (["all-runtimes", "--runtimes", "lama_cpp"], "did you mean 'llama_cpp'"),
        (["all-runtimes", "--variants", "gguf-q8"], "did you mean 'gguf-q8_0'"),
        (["all-runtimes", "--trim-tokens", "600"], "--trim-tokens says how to trim, not by what"),
        (["all-runtimes", "--trim-vocab", "english", "--trim-form", "half"], "--trim-form half: unknown"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], told: str, refused: Callable[[list[str], str], None]) -> None:
    refused(argv, told)


@pytest.mark.parametrize(
    "argv",
    [
        ["all-runtimes"],
        ["accuracy", "seed", "--out", "new"],
        ["cold", "nothing"],
        ["identical", "seed"],
        ["lift", "--base", "seed", "--tuned", "seed", "--out", "new"],
        ["peers", "seed"],
        ["quantization"],
        ["scaling"],
        ["shape", "--shape", "tiny"],
        ["unseen", "nothing", "--data", "nowhere", "--out", "new"],
    ],
    ids=lambda argv: argv[0],
)
def test_threads_that_no_core_can_use_are_refused_at_once(
    argv: list[str], refused: Callable[[list[str], str], None]
) -> None:
    refused([*argv, "--threads", "99999"], "--threads: 99999 is more than ")


def test_a_model_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["all-runtimes", "--model", "./nothing"]) == 2
    assert "./nothing: no such model folder" in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / "out" / "bench").iterdir()) == [], "no report, and nothing half-made"


def test_an_existing_folder_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["all-runtimes", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.fixture
def finished(kiwi: Toolset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A bench that ends at once with a made-up report; what it was asked for."""
    asked: list[Any] = []
    runs = made.runs(kiwi)

    def run(settings: Any, screen: Any, *, out: Path | None) -> Outcome:
        asked.append((settings, out))
        return Outcome(build(made.context(settings=settings), runs[: 8 if settings.quick else 9], runs[0]), tmp_path)

    monkeypatch.setattr(bench.run, "all_runtimes", run)
    (tmp_path / "report.json").write_text("{}")
    return asked


def test_json_is_alone_on_stdout(finished: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["all-runtimes", "--quick", "--json"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["folder"] == str(tmp_path) and data["report"]["schema"] == "edgecall.report/1"
    assert "Written to" in captured.err


def test_tables_and_files_end_the_output(
    finished: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["all-runtimes", "--quick"]) == 0
    text = capsys.readouterr().out
    assert "gguf-q8_0" in text and "Parity" in text
    assert text.index("Written to") > text.index("Parity")
    assert "report.json" in text.splitlines()[-1]


def test_a_failed_runtime_is_exit_code_1(finished: list[Any]) -> None:
    assert main(["all-runtimes"]) == 1


def test_options_reach_the_settings(finished: list[Any], tmp_path: Path) -> None:
    main(
        "all-runtimes --model m --runtimes torch,mlx --variants a,b --device cpu --threads 2 --suite release "
        f"--requests 7 --budget 60 --seed 5 --out {tmp_path / 'new'}".split()
    )
    settings, out = finished[0]
    assert (settings.model, settings.runtimes, settings.variants) == ("m", ("torch", "mlx"), ("a", "b"))
    assert (settings.device, settings.threads, settings.suite) == ("cpu", 2, "release")
    assert (settings.requests, settings.budget_s, settings.seed, settings.quick) == (7, 60.0, 5, False)
    assert out == tmp_path / "new"
    assert settings.command.startswith("bench all-runtimes --model m")
    assert settings.trim is None
    text = str(tmp_path / "report.json")
    main(f"all-runtimes --trim-vocab english --trim-vocab {text} --trim-tokens 600 --trim-form output".split())
    assert finished[1][0].trim == Trim(("english", text), 600, "output")


def test_the_checkpoint_is_trimmed_before_anything_is_exported(tiny: Checkpoint, tmp_path: Path) -> None:
    """In the process that merges; the report's entry says how."""
    lines: list[str] = []
    settings = Settings(model=str(tiny.folder), cache=tmp_path, trim=Trim(("english",), 600))
    checkpoint, parameters = merge(settings, tmp_path / "merge.log", lambda name, line: lines.append(line))
    assert checkpoint.vocab_size == 600 and parameters == count_parameters(checkpoint.folder)
    assert made_from(checkpoint)["trim"]["rule"] == ["english"]
    assert [line.split()[0] for line in lines] == ["merging", "trimming"]


def test_quick_means_less(finished: list[Any]) -> None:
    main(["all-runtimes", "--quick"])
    main(["all-runtimes"])
    quick, full = finished[0][0], finished[1][0]
    assert quick.requests < full.requests == 1000
    assert quick.budget_s < full.budget_s and quick.blocks < full.blocks
