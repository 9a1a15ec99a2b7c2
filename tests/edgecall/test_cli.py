"""The front door: help, version, unknown commands, and what it does not import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import edgecall
from edgecall.cli import COMMANDS, main
from edgecall.plan import DEFAULT_FORMATS
from tests.edgecall.conftest import Ran

Cli = Callable[..., Ran]

HEAVY = ("torch", "transformers", "llama_cpp", "onnxruntime", "onnx", "mlx", "mlx_lm", "coremltools", "optimum")
EXPORTER_MODULES = "export.pipeline, " + ", ".join(f"export.{fmt}" for fmt in DEFAULT_FORMATS)
LOADED = f"import sys; loaded = [m for m in {HEAVY} if m in sys.modules]; print(loaded); sys.exit(bool(loaded))"


def test_no_arguments_is_help(cli: Cli) -> None:
    assert cli() == cli("--help") == Ran(0, cli("-h").out, "")
    assert all(f"\n  {name:<8}{command.help}\n" in cli().out for name, command in COMMANDS.items())


def test_version(cli: Cli) -> None:
    assert cli("--version") == Ran(0, f"edgecall {edgecall.__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["dcotor"],
            "unknown command 'dcotor'; there are doctor, data, train, export, verify, inspect, bench, route; "
            "did you mean 'doctor'?",
        ),
        (
            ["frobnicate", "--help"],
            "unknown command 'frobnicate'; there are doctor, data, train, export, verify, inspect, bench, route",
        ),
        (["--frob"], "unrecognized arguments: --frob; see `edgecall --help`"),
        (["doctor", "--xml"], "unrecognized arguments: --xml; see `edgecall doctor --help`"),
        (["route"], "the following arguments are required: REQUEST; see `edgecall route --help`"),
        (["export", "seed"], "the following arguments are required: --out; see `edgecall export --help`"),
        (["verify"], "the following arguments are required: DIR; see `edgecall verify --help`"),
        (
            ["route", "x", "--threads", "two"],
            "argument --threads: invalid int value: 'two'; see `edgecall route --help`",
        ),
    ],
)
def test_mistakes_are_one_line(cli: Cli, argv: list[str], line: str) -> None:
    assert cli(*argv) == Ran(2, "", f"edgecall: {line}\n")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_imports_nothing_heavy(python: Callable[..., Ran], name: str) -> None:
    argv = [name, "--help"] if name else ["--help"]
    ran = python("-c", f"from edgecall.cli import main\ntry: main({argv})\nexcept SystemExit: pass\n{LOADED}")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "[]"), ran


@pytest.mark.parametrize(
    "modules", ["router, runtimes, edgecall", "edgecall; edgecall.Router", EXPORTER_MODULES, "train, bench"]
)
def test_imports_load_nothing_heavy(python: Callable[..., Ran], modules: str) -> None:
    ran = python("-c", f"import {modules}\n{LOADED}")
    assert (ran.code, ran.out) == (0, "[]\n"), ran.err


def test_module_and_command_are_the_same(python: Callable[..., Ran]) -> None:
    ran = python("-m", "edgecall", "--version")
    assert (ran.code, ran.out, ran.err) == (0, f"edgecall {edgecall.__version__}\n", "")


def test_it_works_from_any_folder(python: Callable[..., Ran], tmp_path: Path) -> None:
    assert python("-m", "edgecall", "nope", cwd=tmp_path).code == 2


def test_forwarded_commands_get_the_rest_of_the_line(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    import sys
    from types import ModuleType

    for name in ("data", "train", "bench"):
        seen: list[list[str]] = []
        module = ModuleType("stand_in")
        module.main = lambda argv, seen=seen: seen.append(argv) or 7  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, COMMANDS[name].target.split(":")[0], module)
        assert cli(name, "all", "--quick", "x y").code == 7
        assert seen == [["all", "--quick", "x y"]]


def test_a_missing_extra_is_named_for_the_command(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    import importlib

    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'peft'", name="peft")

    monkeypatch.setattr(importlib, "import_module", broken)
    expected = 'edgecall: peft is not installed; it comes with an extra: pip install "edgecall[train]"\n'
    assert cli("train", "lora") == Ran(2, "", expected)


class TestFacade:
    def test_every_name_resolves(self) -> None:
        for name in edgecall.__all__:
            assert getattr(edgecall, name) is not None
        assert dir(edgecall) == edgecall.__all__

    def test_unknown_names_are_attribute_errors(self) -> None:
        with pytest.raises(AttributeError, match="module 'edgecall' has no attribute 'Rooter'"):
            _ = edgecall.Rooter


def test_main_takes_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["edgecall", "nope"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("edgecall: unknown command 'nope'")
