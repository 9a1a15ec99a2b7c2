"""`edgecall doctor`: everything is listed, nothing is raised, and what it prints can be read and copied."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

import edgecall.doctor as doctor
from export.pipeline import EXPORTERS
from runtimes import RUNTIMES
from runtimes.base import Availability, DeviceStatus
from tests.edgecall.conftest import Ran
from train.backends import BACKENDS, availability

Cli = Callable[..., Ran]


@pytest.fixture
def json_report(cli: Cli) -> dict[str, dict[str, dict[str, object]]]:
    ran = cli("doctor", "--json")
    assert ran.code == 0
    loaded: dict[str, dict[str, dict[str, object]]] = json.loads(ran.out)
    return loaded


def test_everything_is_listed(json_report: dict[str, dict[str, dict[str, object]]]) -> None:
    assert list(json_report["runtimes"]) == list(RUNTIMES)
    assert list(json_report["exporters"]) == list(EXPORTERS)
    assert list(json_report["training"]) == list(BACKENDS)
    assert list(json_report["data"]) == ["ray"]


def test_what_is_missing_says_why_and_how(json_report: dict[str, dict[str, dict[str, object]]]) -> None:
    for kind in ("runtimes", "exporters", "training", "data"):
        for name, found in json_report[kind].items():
            assert found["available"] or (found["reason"] and found["fix"]), (kind, name)
            assert not found["available"] or found["version"], (kind, name)
            for device, status in found["devices"].items():  # type: ignore[attr-defined]
                assert status["available"] or status["detail"] or status["fix"], (kind, name, device)


@pytest.mark.parametrize(
    ("runtime", "device", "recipe"),
    [
        ("llama_cpp", "cuda", "-DGGML_CUDA=on"),
        ("llama_cpp", "metal", "-DGGML_METAL=on"),
        ("onnxruntime", "cuda", "onnxruntime-gpu"),
        ("torch", "cuda", "CUDA build"),
        ("mlx", "cuda", "mlx[cuda"),
    ],
)
def test_the_gpu_recipes_are_there(
    json_report: dict[str, dict[str, dict[str, object]]], runtime: str, device: str, recipe: str
) -> None:
    status = json_report["runtimes"][runtime]["devices"][device]  # type: ignore[index]
    assert status["available"] or recipe in status["fix"], status


def test_the_page_fits_80_columns_and_recipes_are_whole(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = 'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir llama-cpp-python [not markup]'
    found = Availability(
        True,
        "llama-cpp-python 0.3.36",
        devices={"cpu": DeviceStatus(True), "cuda": DeviceStatus(False, "CPU build", long)},
    )
    missing = Availability(False, reason="needs macOS 15", fix="run it on a Mac")
    diagnosis = doctor.Diagnosis(
        {"llama_cpp": found, "coreml": missing}, {"gguf": found}, {"unsloth": missing}, {"ray": missing}
    )
    monkeypatch.setattr(doctor, "diagnose", lambda: diagnosis)
    ran = cli("doctor")
    table, _, recipes = ran.out.partition("Not available here, and how to get it\n")
    assert ran.code == 0 and max(map(len, table.splitlines()[1:])) <= 80
    assert "cpu, no cuda" in table and "llama-cpp-python 0.3.36" in table
    assert recipes.splitlines() == [
        "  llama_cpp on cuda: CPU build",
        f"      {long}",
        "  coreml: needs macOS 15",
        "      run it on a Mac",
        "  train with unsloth: needs macOS 15",
        "      run it on a Mac",
        "  build data with ray: needs macOS 15",
        "      run it on a Mac",
    ]


def test_the_real_page_names_every_runtime(cli: Cli) -> None:
    ran = cli("doctor")
    assert ran.code == 0
    assert all(f"  {name} " in ran.out for name in (*RUNTIMES, *EXPORTERS))


def test_a_runtime_that_cannot_be_imported_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runtimes.torch", None)
    found = doctor.diagnose().runtimes["torch"]
    assert not found.available
    assert found.reason.startswith("runtimes.torch cannot be imported: ")


def test_unsloth_without_a_gpu_is_not_available_and_says_that_it_was_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(availability, "version", lambda name: "1.0")
    no, yes = {"cuda": DeviceStatus(False)}, {"cuda": DeviceStatus(True, "H100"), "cpu": DeviceStatus(True)}
    without = availability.availabilities({"torch": Availability(True, "2", devices=no)})["unsloth"]
    assert (without.available, without.version, without.fix) == (False, "unsloth 1.0", "use packed or trl here")
    assert without.reason == f"needs a CUDA device, and torch finds none ({UNTRIED})"
    with_gpu = availability.availabilities({"torch": Availability(True, "2", devices=yes)})["unsloth"]
    assert (with_gpu.available, with_gpu.devices) == (True, {"cuda": DeviceStatus(True, f"H100; {UNTRIED}")})


UNTRIED = "written against unsloth 2026.10's interface, not run on a GPU by the authors"


@pytest.mark.parametrize(
    ("name", "missing", "extra"), [("packed", "peft", "train"), ("trl", "trl", "train"), ("mlx", "mlx_lm", "mlx")]
)
def test_an_absent_training_backend_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, missing: str, extra: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == missing else object())
    found = availability.availabilities({})[name]
    assert (found.available, found.reason) == (False, f"{missing} is not installed")
    assert found.fix == f'pip install "edgecall[{extra}]"'


def test_an_exporter_must_answer_with_an_availability(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ModuleType("runtimes.torch")
    wrong.availability = lambda: "yes"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runtimes.torch", wrong)
    with pytest.raises(TypeError, match=r"runtimes\.torch\.availability\(\) returned str"):
        doctor.diagnose()
