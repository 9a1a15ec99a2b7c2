"""The MLX export: the checkpoint's weights, in a folder that plain mlx-lm opens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from runtimes.errors import UserError
from tests.odd import odd_checkpoint

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
pytest.importorskip("transformers")

from export import mlx  # noqa: E402

TOOLSET: Any = None  # leaves no trace in this format


@pytest.fixture(scope="module")
def written(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    out = {}
    for quant in mlx.QUANTS:
        folder = tmp_path_factory.mktemp(f"mlx-{quant}")
        out[quant] = folder, mlx.write(tiny, folder, quant, TOOLSET)
    return out


def checkpoint_weights(source: Checkpoint) -> dict[str, Any]:
    return dict(mx.load(str(source.folder / "model.safetensors")))


def as_numpy(array: Any) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def test_fp32_is_the_checkpoint(tiny: Checkpoint, written: dict[str, tuple[Path, Any]]) -> None:
    folder, facts = written["fp32"]
    want, got = checkpoint_weights(tiny), dict(mx.load(str(folder / facts.weights)))
    assert got.keys() == want.keys()  # the tied head is not stored twice
    for name in want:
        assert got[name].dtype == mx.float32
        np.testing.assert_array_equal(as_numpy(got[name]), as_numpy(want[name]))
    assert facts.details["bits_per_weight"] == 32


def test_bf16_rounds_every_weight(tiny: Checkpoint, written: dict[str, tuple[Path, Any]]) -> None:
    folder, facts = written["bf16"]
    want, got = checkpoint_weights(tiny), dict(mx.load(str(folder / facts.weights)))
    for name in want:
        assert got[name].dtype == mx.bfloat16
        np.testing.assert_array_equal(as_numpy(got[name]), as_numpy(want[name].astype(mx.bfloat16)))
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert facts.details["bits_per_weight"] == 16


@pytest.mark.parametrize(("quant", "bits"), [("8bit", 8), ("4bit", 4)])
def test_quantized_weights_are_within_half_a_step(
    tiny: Checkpoint, written: dict[str, tuple[Path, Any]], quant: str, bits: int
) -> None:
    folder, facts = written[quant]
    config = json.loads((folder / "config.json").read_text())
    settings = dict(config["quantization"])
    wider = settings.pop("model.embed_tokens", None)
    assert settings == {"group_size": 64, "bits": bits, "mode": "affine"}
    assert wider == (None if quant == "8bit" else {"group_size": 64, "bits": 6, "mode": "affine"})
    assert facts.details["embedding_bits"] == (8 if quant == "8bit" else 6)
    assert config["quantization_config"] == config["quantization"]
    want, got = checkpoint_weights(tiny), dict(mx.load(str(folder / facts.weights)))
    quantized = [name.removesuffix(".scales") for name in got if name.endswith(".scales")]
    assert {f"{name}.weight" for name in quantized} == {name for name in want if want[name].ndim == 2}
    for name in quantized:
        packed, scales, biases = (got[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
        width = facts.details["embedding_bits"] if name == "model.embed_tokens" else bits
        back = as_numpy(mx.dequantize(packed, scales, biases, 64, width))
        step = np.repeat(np.abs(as_numpy(scales)), 64, axis=1)
        # The largest of a group may lie up to one step outside: mlx puts zero on the grid.
        assert np.all(np.abs(back - as_numpy(want[f"{name}.weight"])) <= 1.01 * step)
        assert np.mean(np.abs(back - as_numpy(want[f"{name}.weight"])) <= 0.51 * step) > 0.95
    assert bits + 1 <= facts.details["bits_per_weight"] < bits + 2  # a float32 scale and bias per 64 weights; norms
    assert facts.details["not_quantized"] == []
    assert facts.details["activations"] == "float32"


def test_widths_that_do_not_divide_are_named(tiny: Checkpoint, tmp_path: Path) -> None:
    source = odd_checkpoint(tmp_path / "odd", tiny)
    facts = mlx.write(source, tmp_path / "out", "4bit", TOOLSET)
    kept = facts.details["not_quantized"]
    assert facts.details["group_size"] == 32
    assert "model.embed_tokens" in kept and "model.layers.0.self_attn.q_proj" in kept  # 80 wide
    assert "model.layers.0.self_attn.o_proj" not in kept  # 128 wide
    assert "model.layers.0.mlp.down_proj" not in kept  # 96 wide
    assert facts.details["sliding_window_pattern"] == 3


@pytest.mark.parametrize("quant", list(mlx.QUANTS))
def test_plain_mlx_lm_opens_it(written: dict[str, tuple[Path, Any]], quant: str) -> None:
    import mlx_lm

    net, tokenizer = mlx_lm.load(str(written[quant][0]))
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "find email scripts"}], add_generation_prompt=True)
    logits = net(mx.array([ids]))
    assert logits.shape == (1, len(ids), 768)
    assert bool(mx.all(mx.isfinite(logits.astype(mx.float32))).item())


def test_same_source_same_bytes(tiny: Checkpoint, written: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, _ = written["4bit"]
    mlx.write(tiny, tmp_path, "4bit", TOOLSET)
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(path.name for path in tmp_path.iterdir())
    for name in files:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_nothing_is_printed(tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mlx.write(tiny, tmp_path, "8bit", TOOLSET)
    assert capsys.readouterr().out == ""


def test_pattern() -> None:
    local, glob = "sliding_attention", "full_attention"
    assert mlx.sliding_window_pattern({"num_hidden_layers": 4, "layer_types": [local, glob, local, glob]}) == 2
    assert mlx.sliding_window_pattern({"num_hidden_layers": 2, "layer_types": [glob, glob]}) == 1
    assert mlx.sliding_window_pattern({"num_hidden_layers": 2, "layer_types": [local, local]}) == 3
    assert mlx.sliding_window_pattern({"num_hidden_layers": 9, "sliding_window_pattern": 5}) == 5
    with pytest.raises(UserError, match="every 1 layers"):
        mlx.sliding_window_pattern({"num_hidden_layers": 2, "layer_types": [glob, local]})


def test_errors_are_one_line(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mlx has no quantization '2bit'; there are fp32, 8bit, 4bit, 8bitg32"):
        mlx.write(tiny, tmp_path, "2bit", TOOLSET)
    other = dataclasses.replace(tiny, config={**tiny.config, "model_type": "llama"})
    with pytest.raises(UserError, match="model_type is 'llama'"):
        mlx.write(other, tmp_path, "fp32", TOOLSET)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text(json.dumps(tiny.config))
    with pytest.raises(UserError, match="cannot read this checkpoint") as caught:
        mlx.write(dataclasses.replace(tiny, folder=empty), tmp_path, "fp32", TOOLSET)
    assert "\n" not in str(caught.value)
