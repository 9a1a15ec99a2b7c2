"""What is PyTorch's own beside the conformance test: loading, devices, and not loading torch before it is needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from runtimes import torch as torch_runtime
from runtimes.artifact import Artifact
from runtimes.base import DeviceStatus
from runtimes.errors import ArtifactError, UnavailableError, UserError
from tests.exports import Maker


def open_cpu(artifact: Artifact) -> torch_runtime.TorchModel:
    return torch_runtime.open_model(artifact, device="cpu", threads=1)


def copy(artifact: Artifact, folder: Path, **manifest: object) -> Artifact:
    shutil.copytree(artifact.folder, folder)
    return Artifact(folder, {**artifact.manifest, **manifest})


def test_looking_whether_it_is_there_does_not_load_torch() -> None:
    program = (
        "import sys, ctypes.util\n"
        "ctypes.util.find_library = lambda name: None\n"  # with an NVIDIA driver torch has to be asked
        "import runtimes.torch\n"
        "assert runtimes.torch.availability().available\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_device_is_spoken_of() -> None:
    devices = torch_runtime.availability().devices
    assert list(devices) == ["cpu", "cuda", "metal"]
    assert devices["cpu"] == DeviceStatus(True)
    for state in devices.values():
        assert state.available or (state.detail and state.fix)


def test_what_is_asked_for_is_had_or_refused(exported: Maker) -> None:
    artifact = exported("safetensors", "fp32")
    for name, state in torch_runtime.availability().devices.items():
        if state.available:
            assert torch_runtime.open_model(artifact, device=name, threads=1).device.startswith(name)
        else:
            with pytest.raises(UnavailableError, match=name):
                torch_runtime.open_model(artifact, device=name, threads=1)
    with pytest.raises(UserError, match="'mps'.*metal"):
        torch_runtime.open_model(artifact, device="mps", threads=1)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "metal"])
@pytest.mark.parametrize("quant", ["fp32", "bf16"])
def test_an_accelerator_computes_the_same(exported: Maker, device: str, quant: str) -> None:
    state = torch_runtime.availability().devices[device]
    if not state.available:
        pytest.skip(f"{device}: {state.detail}")
    tokens = np.random.default_rng(0).integers(0, 700, 720).tolist()
    artifact = exported("safetensors", quant)
    rows = []
    for name in ("cpu", device):
        session = torch_runtime.open_model(artifact, device=name, threads=1).session()
        session.append(tokens[:700])
        session.rewind(300)
        rows.append(session.append(tokens[300:], rows="all"))
    assert np.abs(rows[0] - rows[1]).mean() <= (1e-4 if quant == "fp32" else 0.15)


def test_the_dtype_is_the_artifacts(exported: Maker) -> None:
    assert open_cpu(exported("safetensors", "fp32")).dtype == "fp32"
    model = open_cpu(exported("safetensors", "bf16"))
    assert model.dtype == "bf16"
    assert model.session().append([3]).dtype == np.float32


def test_missing_weights_are_not_made_up(exported: Maker, tmp_path: Path) -> None:
    artifact = copy(exported("safetensors", "fp32"), tmp_path / "copy")
    state = load_file(artifact.weights)
    state.pop("model.layers.3.mlp.up_proj.weight")
    save_file(state, artifact.weights, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="model.layers.3.mlp.up_proj.weight"):
        open_cpu(artifact)


def test_files_that_do_not_fit_together(exported: Maker, tmp_path: Path) -> None:
    whole = exported("safetensors", "fp32")
    with pytest.raises(ArtifactError, match="vocabulary"):
        open_cpu(copy(whole, tmp_path / "vocabulary", vocab_size=700))
    with pytest.raises(ArtifactError, match="int3"):
        open_cpu(copy(whole, tmp_path / "quant", quant="int3"))
    wide = copy(whole, tmp_path / "wide")
    config = json.loads((wide.folder / "config.json").read_text())
    (wide.folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 160}))
    with pytest.raises(ArtifactError, match="wide") as raised:
        open_cpu(wide)
    assert "\n" not in str(raised.value)
    cut = copy(whole, tmp_path / "cut")
    cut.weights.write_bytes(cut.weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cut"):
        open_cpu(cut)
