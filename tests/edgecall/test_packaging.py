"""What is installed: extras that exist and suffice, pins that hold, data that travels with the code."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runtimes.console import EXTRAS
from tests.edgecall.conftest import ROOT, Ran

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS = ("edgecall", "router", "runtimes", "export", "train", "bench", "configs", "models")
DISTRIBUTIONS = {
    "llama_cpp": "llama-cpp-python",
    "mlx_lm": "mlx-lm",
    "optimum": "optimum-onnx",
    "huggingface_hub": "huggingface-hub",
}
"""Where a distribution is not called like its module."""


def _requirements(extra: str) -> set[str]:
    """Names of the distributions that an extra brings, its own references followed."""
    found: set[str] = set()
    for line in PROJECT["optional-dependencies"][extra]:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[([\w,]+)\])?", line)
        assert match is not None, line
        if match[1] == "edgecall":
            for inner in match[2].split(","):
                found |= _requirements(inner)
        else:
            found.add(match[1].lower())
    return found


def test_the_extras_that_are_promised_exist() -> None:
    promised = {"llama", "onnx", "mlx", "coreml", "export", "train", "unsloth", "ray", "serve", "dev", "all"}
    assert promised <= PROJECT["optional-dependencies"].keys()


def test_all_is_everything_but_unsloth_and_ray() -> None:
    extras = PROJECT["optional-dependencies"].keys() - {"all", "unsloth", "ray"}
    assert _requirements("all") == set().union(*map(_requirements, extras))


# Brought by a direct requirement of the same extra (transformers brings safetensors and so on).
INDIRECT = {("mlx", "transformers")}


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_module_is_answered_by_an_extra_that_brings_it(module: str) -> None:
    for extra in EXTRAS[module]:
        if (extra, module) not in INDIRECT:
            assert DISTRIBUTIONS.get(module, module) in _requirements(extra), extra


def test_every_extra_named_anywhere_exists() -> None:
    named = set()
    for path in [p for room in ROOMS for p in (ROOT / room).rglob("*.py")] + [
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("*.md"),
    ]:
        for match in re.finditer(r"edgecall\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            named |= {(extra, path.name) for extra in match[1].split(",")}
    assert named, "the search found nothing at all"
    assert {(e, where) for e, where in named if e not in PROJECT["optional-dependencies"]} == set()


def _imports(tree: ast.AST, *, everywhere: bool) -> set[str]:
    """Top-level names of imported modules; without `everywhere`, only those that run when the module is imported."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if everywhere or not (lazy or typing):
            found |= _imports(node, everywhere=everywhere)
    return found - sys.stdlib_module_names - set(ROOMS)


CORE = {"numpy", "tokenizers", "llguidance", "yaml", "rich"}
"""Modules of the requirements without which nothing is installed."""


@pytest.mark.parametrize("room", ROOMS)
def test_everything_imported_is_declared(room: str) -> None:
    """In the core requirements, or under an extra that the command line can name when it is missing."""
    undeclared = {
        (name, str(path.relative_to(ROOT)))
        for path in (ROOT / room).rglob("*.py")
        for name in _imports(ast.parse(path.read_text(encoding="utf-8")), everywhere=True) - CORE - EXTRAS.keys()
    }
    assert undeclared == set()


@pytest.mark.parametrize("room", ["edgecall", "router", "runtimes", "configs", "models"])
def test_what_an_import_runs_is_core(room: str) -> None:
    eager = {
        (name, str(path.relative_to(ROOT)))
        for path in (ROOT / room).rglob("*.py")
        for name in _imports(ast.parse(path.read_text(encoding="utf-8")), everywhere=False) - CORE
    }
    assert eager == set()


def test_every_direct_requirement_is_constrained() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {re.split(r"[=<>]", line)[0].lower() for line in lines if line and not line.startswith("#")}
    core = {re.split(r"[=<>]", line)[0].lower() for line in PROJECT["dependencies"]}
    assert (core | _requirements("all") | _requirements("ray")) - pinned == set()


def test_the_licence_is_the_full_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text and "9. Accepting" in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy (a build leaves folders behind) without a network."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / "tree" / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder / "tree" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    done = subprocess.run([*command, "-w", folder, folder / "tree"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("edgecall-*.whl"))


def test_the_wheel_holds_code_and_data_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {p for room in ROOMS for p in (ROOT / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    data = {p for p in code if p.suffix != ".py"}
    expected = {p.relative_to(ROOT).as_posix() for p in code}
    assert expected - names == set()
    assert {name for name in names if name.split("/")[0] not in ROOMS or name.endswith(".pyc")} == set()
    assert {"bench/report.schema.json", "configs/toolsets/kiwi.yaml"} <= {p.relative_to(ROOT).as_posix() for p in data}


def test_the_unpacked_wheel_works_away_from_the_checkout(
    wheel: Path, python: Callable[..., Ran], tmp_path: Path
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import router, runtimes, edgecall; from edgecall import load_toolset;"
        "print(edgecall.__file__); print(load_toolset('kiwi').name)"
    )
    ran = python("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'site' / 'edgecall' / '__init__.py'}\nkiwi\n"), ran.err
