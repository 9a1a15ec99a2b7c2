"""The Core ML runtime with a stand-in for `MLModel`: the network that is exported, run by PyTorch.

Core ML predicts on macOS only. What is tested here is all that lies on our side of `predict`: inputs, positions, rows,
rewinding, states, edges, devices. The stand-in is as strict as Core ML about names, types and ranges. That the
*package* computes the same is tested in tests/export/test_coreml.py.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from runtimes import coreml
from runtimes.artifact import Artifact
from runtimes.coreml_package import CONTEXT
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError
from tests.exports import bare_artifact
from tests.odd import check_independence, check_walk, odd_checkpoint, random_tokens, reference
from tests.passes import consecutive
from tests.tiny import WINDOW

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")

from export.coreml_model import Gemma3Stateful, load_checkpoint  # noqa: E402

LENGTH = 3 * WINDOW + 17
CAPACITY = 256


class StandIn:
    """What the runtime uses of `coremltools.models.MLModel`, over the PyTorch network."""

    net: Gemma3Stateful
    opened: list[tuple[str, Any]]

    def __init__(self, path: str, compute_units: Any) -> None:
        type(self).opened.append((path, compute_units))

    def get_spec(self) -> Any:
        def one(name: str, *sizes: tuple[int, int]) -> Any:
            ranges = [SimpleNamespace(lowerBound=low, upperBound=high) for low, high in sizes]
            shape = SimpleNamespace(sizeRanges=ranges)
            return SimpleNamespace(name=name, type=SimpleNamespace(multiArrayType=SimpleNamespace(shapeRange=shape)))

        size = self.net.capacity
        inputs = [one("input_ids", (1, 1), (1, size)), one("positions", (1, 1), (1, size)), one("rows", (1, size))]
        return SimpleNamespace(
            description=SimpleNamespace(
                functions=(),
                defaultFunctionName="",
                metadata=SimpleNamespace(userDefined={CONTEXT: str(size)}),
                input=inputs,
                output=[SimpleNamespace(name="logits")],
                state=[SimpleNamespace(name=name) for name in self.net.states],
            )
        )

    def make_state(self) -> dict[str, Any]:
        return {name: torch.zeros_like(getattr(self.net, name)) for name in self.net.states}

    def predict(self, data: dict[str, np.ndarray], state: dict[str, Any]) -> dict[str, np.ndarray]:
        assert list(data) == ["input_ids", "positions", "rows"]
        for name, value in data.items():
            assert value.dtype == np.int32, name
            assert value.ndim == (1 if name == "rows" else 2), name
            assert 1 <= value.shape[-1] <= self.net.capacity, name
        assert data["positions"].shape[1] >= data["input_ids"].shape[1]
        for name, value in state.items():
            setattr(self.net, name, value)
        with torch.inference_mode():
            logits = self.net(*(torch.from_numpy(value) for value in data.values()))
        return {"logits": logits.numpy()}


@pytest.fixture(autouse=True)
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.4.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    StandIn.opened = []
    monkeypatch.setattr(ct.models, "MLModel", StandIn)


def an_artifact(source: Checkpoint, quant: str = "fp32") -> Artifact:
    return bare_artifact(source, Path("somewhere"), "coreml", quant, "model.mlpackage")


@pytest.fixture(scope="module")
def net(tiny: Checkpoint) -> Gemma3Stateful:
    return load_checkpoint(tiny, CAPACITY)


@pytest.fixture
def model(tiny: Checkpoint, net: Gemma3Stateful, monkeypatch: pytest.MonkeyPatch) -> Iterator[coreml.CoreMLModel]:
    monkeypatch.setattr(StandIn, "net", net, raising=False)
    yield coreml.open_model(an_artifact(tiny))


@pytest.fixture(scope="module")
def tokens(tiny: Checkpoint) -> list[int]:
    return random_tokens(tiny, LENGTH, 7)


@pytest.fixture(scope="module")
def want(tiny: Checkpoint, tokens: list[int]) -> Any:
    return reference(tiny, tokens)


@pytest.mark.parametrize("seed", range(3))
def test_random_splits_and_rewinds(model: coreml.CoreMLModel, tokens: list[int], want: Any, seed: int) -> None:
    check_walk(model, tokens, want, seed, longest=WINDOW + 30)


def test_other_tokens_after_a_rewind(tiny: Checkpoint, model: coreml.CoreMLModel, tokens: list[int]) -> None:
    session = model.session()
    session.append(tokens)
    session.rewind(100)
    other = tokens[:100] + tokens[5:60]
    np.testing.assert_allclose(session.append(other[100:], rows="all"), reference(tiny, other)[100:], atol=2e-3)


def test_sessions_are_independent(model: coreml.CoreMLModel, tokens: list[int], want: Any) -> None:
    check_independence(model, tokens, want)


def test_rows(model: coreml.CoreMLModel, tokens: list[int]) -> None:
    session = model.session()
    every = session.append(tokens[:9], rows="all")
    session.rewind(0)
    last = session.append(tokens[:9])
    assert every.shape == (9, model.vocab_size) and last.shape == (model.vocab_size,)
    assert every.dtype == last.dtype == np.float32
    np.testing.assert_allclose(last, every[-1], atol=1e-4)


def test_two_key_heads(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = odd_checkpoint(tmp_path / "odd", tiny)
    monkeypatch.setattr(StandIn, "net", load_checkpoint(source, 128), raising=False)
    ids = random_tokens(source, 100, 3)
    check_walk(coreml.open_model(an_artifact(source)), ids, reference(source, ids), 0)


def test_edges(model: coreml.CoreMLModel, tokens: list[int], want: Any) -> None:
    session = model.session()
    session.append(tokens[:10])
    for bad in ([], [model.vocab_size], [-1], [5, model.vocab_size], [5] * CAPACITY):
        with pytest.raises(SessionError):
            session.append(bad)
        assert session.position == 10
    for target in (-1, 11):
        with pytest.raises(SessionError):
            session.rewind(target)
    np.testing.assert_allclose(session.append(tokens[10:12], rows="all"), want[10:12], atol=2e-3)


def test_the_cache_is_the_context(model: coreml.CoreMLModel, tiny: Checkpoint) -> None:
    assert model.context_length == CAPACITY < tiny.context_length
    session = model.session()
    session.append([5] * CAPACITY)
    with pytest.raises(SessionError, match=f"exceed the context of {CAPACITY}"):
        session.append([5])


def test_a_pass_that_fails_changes_nothing(
    model: coreml.CoreMLModel, tokens: list[int], want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = model.session()
    session.append(tokens[:80])

    def broken(self: StandIn, data: Any, state: Any) -> Any:
        state["keys"][:, :, 80:] = 7.0  # half-way: some keys are written
        raise RuntimeError("Error computing the program")

    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "predict", broken)
        with pytest.raises(RuntimeError):
            session.append(tokens[80:90])
    assert session.position == 80
    np.testing.assert_allclose(session.append(tokens[80:85], rows="all"), want[80:85], atol=2e-3)


def test_use_after_close(model: coreml.CoreMLModel) -> None:
    session = model.session()
    session.append([5])
    model.close()
    for use in (lambda: session.append([5]), lambda: session.rewind(0), model.session):
        with pytest.raises(SessionError, match="closed"):
            use()
    model.close()


@pytest.mark.parametrize(
    ("device", "units", "says"),
    [
        ("auto", "CPU_AND_GPU", "cpu+gpu"),
        ("cpu", "CPU_ONLY", "cpu"),
        ("gpu", "CPU_AND_GPU", "cpu+gpu"),
        ("metal", "CPU_AND_GPU", "cpu+gpu"),
        ("ane", "CPU_AND_NE", "cpu+ane"),
        ("all", "ALL", "cpu+gpu+ane"),
    ],
)
def test_devices(tiny: Checkpoint, model: coreml.CoreMLModel, device: str, units: str, says: str) -> None:
    opened = coreml.open_model(an_artifact(tiny, "fp16"), device=device, threads=4)
    assert StandIn.opened[-1] == (str(Path("somewhere/model.mlpackage")), ct.ComputeUnit[units])
    assert (opened.device, opened.dtype, opened.threads) == (says, "fp16", 1)


def test_devices_that_are_not_there(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown device 'tpu'; use auto, cpu, gpu, metal, ane, all"):
        coreml.open_model(an_artifact(tiny), device="tpu")
    with pytest.raises(UnavailableError, match="'cuda'"):
        coreml.open_model(an_artifact(tiny), device="cuda")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(UnavailableError, match="device 'ane' is not available here"):
        coreml.open_model(an_artifact(tiny), device="ane")
    with pytest.raises(SessionError, match="threads"):
        coreml.open_model(an_artifact(tiny), threads=0)


@pytest.mark.parametrize(("system", "release"), [("Linux", ""), ("Darwin", "14.7"), ("Windows", "")])
def test_off_macos_15(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, system: str, release: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "mac_ver", lambda: (release, ("", "", ""), ""))
    state = coreml.availability()
    assert not state.available and state.reason == "Core ML prediction needs macOS 15" and state.fix
    assert not any(device.available for device in state.devices.values())
    with pytest.raises(UnavailableError, match="Core ML prediction needs macOS 15; "):
        coreml.open_model(an_artifact(tiny))
    with pytest.raises(UnavailableError):
        coreml.bare_loop(an_artifact(tiny), prefix=[5], passes=consecutive(1, [[6]]))


def test_on_a_mac_without_coremltools(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert coreml.availability().available
    monkeypatch.setattr(importlib.metadata, "version", version)
    state = coreml.availability()
    assert (state.available, state.reason) == (False, "coremltools is not installed")
    assert state.fix.startswith("pip install")


def test_packages_that_do_not_load(
    tiny: Checkpoint, model: coreml.CoreMLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_state(self: StandIn) -> Any:
        self._framework_error = RuntimeError("Error compiling model:\nnot a package")
        raise Exception("This model was not loaded with the Core ML Framework.")

    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "make_state", no_state)
        with pytest.raises(ArtifactError, match=r"cannot load the package \(Error compiling model:\)") as caught:
            coreml.open_model(an_artifact(tiny))
        assert "\n" not in str(caught.value)
    real = StandIn.get_spec

    def other(self: StandIn) -> Any:
        spec = real(self)
        spec.description.input.pop()
        return spec

    monkeypatch.setattr(StandIn, "get_spec", other)
    with pytest.raises(ArtifactError, match="takes input_ids, positions and gives logits"):
        coreml.open_model(an_artifact(tiny))


def test_the_bare_loop_makes_the_same_passes(
    tiny: Checkpoint, model: coreml.CoreMLModel, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    real = StandIn.predict

    def spy(self: StandIn, data: Any, state: Any) -> Any:
        out = real(self, data, state)
        seen.append(out["logits"])
        return out

    prefix, passes = tokens[:100], [tokens[100:110], tokens[110:111], tokens[111:180]]
    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "predict", spy)
        loop = coreml.bare_loop(an_artifact(tiny), prefix=prefix, passes=consecutive(len(prefix), passes))
        seen.clear()
        loop()
        loop()
    session = model.session()
    session.append(prefix)
    want = [session.append(step) for step in passes]
    assert [out.shape for out in seen] == [(1, model.vocab_size)] * 6
    for out, row in zip(seen, want * 2, strict=True):
        np.testing.assert_allclose(out[0], row, atol=1e-4)


def test_the_module_is_light() -> None:
    import subprocess

    code = (
        "import sys, runtimes.coreml as c; c.availability()\n"
        "print(*[name in sys.modules for name in ('coremltools', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
