"""The ONNX export: optimum's weights, once each, in a graph that the checker and ONNX Runtime accept, quietly."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from runtimes.errors import UserError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("optimum.exporters.onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from export import onnx as exporter  # noqa: E402
from export.checkpoint import count_parameters  # noqa: E402
from export.onnx_graph import EMBEDDING, Graph, GraphError, rewrite  # noqa: E402
from export.onnx_quant import Blocks, dequantize_blocks, quantize_blocks  # noqa: E402
from export.onnx_types import USUAL  # noqa: E402
from runtimes.onnxruntime_cells import GRAPH  # noqa: E402

TOOLSET: Any = None  # leaves no trace in this format


@pytest.fixture(scope="module")
def traced(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return exporter._trace(tiny, tmp_path_factory.mktemp("traced"))


@pytest.fixture(scope="module")
def written(traced: Any, tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Quantization -> folder and facts; the checkpoint is traced once for all."""
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "_trace", lambda *_: traced)
        for quant in exporter.QUANTS:
            folder = tmp_path_factory.mktemp(f"onnx-{quant}")
            out[quant] = folder, exporter.write(tiny, folder, quant, TOOLSET)
    return out


def stored(folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    model = onnx.load(folder / "model.onnx")
    return model, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def checkpoint_weights(source: Checkpoint) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(source.folder / "model.safetensors"))


def blocks_of(name: str, weights: dict[str, np.ndarray]) -> Blocks:
    bits = 8 if f"{name}.int8" in weights else 4
    zero = weights.get(f"{name}.zero")
    return Blocks(weights[f"{name}.int{bits}"], weights[f"{name}.scale"], zero, bits)


@pytest.mark.parametrize("quant", list(exporter.QUANTS))
def test_what_is_written(tiny: Checkpoint, written: dict[str, tuple[Path, Any]], quant: str) -> None:
    folder, facts = written[quant]
    assert [p.name for p in folder.iterdir()] == ["model.onnx"]
    assert facts.weights == "model.onnx"
    assert set(facts.versions) == {"onnx", "optimum-onnx", "transformers", "torch"}
    model, _ = stored(folder)
    onnx.checker.check_model(model)
    config = tiny.config
    kinds = ["local" if kind == "sliding_attention" else "global" for kind in config["layer_types"]]
    caches = {
        f"{i}.{part}": [1, config["num_key_value_heads"], f"{kind} cells", config["head_dim"]]
        for i, kind in enumerate(kinds)
        for part in ("key", "value")
    }
    session = opened(folder / "model.onnx")
    assert {i.name: i.shape for i in session.get_inputs()} == {
        **dict.fromkeys(("input_ids", "positions", "cells.global", "cells.local"), [1, "n"]),
        "rows": ["rows"],
        **{f"mask.{kind}": ["n", f"{kind} cells"] for kind in ("global", "local")},
        **{f"past_key_values.{name}": shape for name, shape in caches.items()},
    }
    assert {o.name: o.shape for o in session.get_outputs()} == {
        "logits": ["rows", tiny.vocab_size],
        **{f"present.{name}": shape for name, shape in caches.items()},
    }
    said = session.get_modelmeta().custom_metadata_map
    assert said == {"edgecall.graph": GRAPH, "sliding_window": str(config["sliding_window"])}


def test_fp32_is_the_checkpoint_stored_once(tiny: Checkpoint, written: dict[str, tuple[Path, Any]]) -> None:
    folder, facts = written["fp32"]
    _, got = stored(folder)
    want = checkpoint_weights(tiny)
    assert {name for name in got if name.endswith(".weight")} == set(want)
    for name, weight in want.items():
        if weight.ndim == 1:
            weight = weight + 1  # Gemma's norms
        elif name != EMBEDDING:
            weight = weight.T
        np.testing.assert_array_equal(got[name], weight)
    assert (folder / "model.onnx").stat().st_size < 4 * count_parameters(tiny.folder) + 70_000
    assert facts.details["tensors"] == {"fp32": len(want)}
    assert facts.details["embedding"] == "fp32"


@pytest.mark.parametrize(("quant", "bits"), [("int8", 8), ("int4", 4)])
def test_every_matrix_is_quantized(
    tiny: Checkpoint, written: dict[str, tuple[Path, Any]], quant: str, bits: int
) -> None:
    folder, facts = written[quant]
    model, got = stored(folder)
    want = checkpoint_weights(tiny)
    matrices = {name for name, weight in want.items() if weight.ndim == 2}
    assert not matrices & set(got)
    for name in matrices:
        blocks = blocks_of(name, got)
        assert blocks.bits == (8 if name == EMBEDDING else bits)
        back = dequantize_blocks(blocks, want[name].shape[1])
        # The far end of a block may be clipped: at 8 bits by half a step, at 4 where that makes the rest better.
        step = np.repeat(np.abs(blocks.scale), USUAL[blocks.bits], axis=1)[:, : want[name].shape[1]]
        error = np.abs(back - want[name]) / step
        assert (error <= 0.51).mean() > (0.99 if blocks.bits == 8 else 0.9)
        assert error.max() <= (1.01 if blocks.bits == 8 else 4)
    products = [n for n in model.graph.node if n.op_type == "MatMulNBits"]
    assert len(products) == len(matrices)
    assert all(helper.get_node_attr_value(n, "accuracy_level") == 4 for n in products)
    assert not {"MatMul", "Gemm"} & {n.op_type for n in model.graph.node}
    assert facts.details["embedding"] == "int8"
    kinds: dict[str, int] = {f"int{bits}": len(matrices)}
    if bits == 4:
        kinds = {"int4": len(matrices) - 1, "int8": 1}
    assert facts.details["tensors"] == {"fp32": len(want) - len(matrices), **kinds}


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_embedding_and_output_layer_share_one_matrix(written: dict[str, tuple[Path, Any]], quant: str) -> None:
    model, _ = stored(written[quant][0])
    lookup = next(n for n in model.graph.node if n.op_type == "GatherBlockQuantized")
    table = next(n for n in model.graph.node if n.output[0] == lookup.input[0])
    head = next(n for n in model.graph.node if n.output[0] == "logits")
    assert head.input[1] == table.input[0] == f"{EMBEDDING}.int8"
    assert head.input[2] == lookup.input[2]


def opened(model: Path | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_one(op_type: str, inputs: dict[str, np.ndarray], out: tuple[int, ...], **attributes: Any) -> np.ndarray:
    """ONNX Runtime's own operator on its own."""
    kinds = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()
    ]
    node = helper.make_node(op_type, list(inputs), ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "one", kinds, [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    result: np.ndarray = opened(model.SerializeToString()).run(None, inputs)[0]
    return result


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [64, 80, 96, 130])
def test_blocks_mean_to_onnxruntime_what_they_mean_here(bits: int, width: int) -> None:
    rng = np.random.default_rng(bits * width)
    weight = rng.standard_t(3, size=(24, width)).astype(np.float32)
    weight[3] = 0
    weight[4] = 1.5
    x = rng.normal(size=(5, width)).astype(np.float32)
    blocks = quantize_blocks(weight, bits)
    inputs = {"x": x, "b": blocks.packed, "s": blocks.scale}
    if blocks.zero is not None:
        inputs["z"] = blocks.zero
    got = run_one("MatMulNBits", inputs, (5, 24), K=width, N=24, bits=bits, block_size=USUAL[bits], accuracy_level=1)
    np.testing.assert_allclose(got, x @ dequantize_blocks(blocks, width).T, atol=2e-4)


def test_lookup_of_8_bit_rows() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32)
    blocks = quantize_blocks(weight, 8)
    ids = np.array([[3, 39, 0, 3]])
    inputs = {"t": blocks.packed.reshape(40, -1), "i": ids, "s": blocks.scale}
    sizes = {"gather_axis": 0, "quantize_axis": 1, "block_size": USUAL[8], "bits": 8}
    got = run_one("GatherBlockQuantized", inputs, (1, 4, 128), **sizes)
    np.testing.assert_array_equal(got[..., :96], dequantize_blocks(blocks, 96)[ids])


def test_eight_bits_are_within_half_a_step() -> None:
    weight = np.random.default_rng(1).standard_t(2, size=(50, 70)).astype(np.float32)
    blocks = quantize_blocks(weight, 8, rows_at_once=7)
    step = np.repeat(np.abs(blocks.scale), USUAL[8], axis=1)[:, :70]
    error = np.abs(dequantize_blocks(blocks, 70) - weight) / step
    assert error.max() <= 1.001
    assert (error <= 0.501).mean() > 0.99  # what lies as far out as the extreme, on the other side, loses a step
    widest = np.abs(np.pad(weight, ((0, 0), (0, 58))).reshape(50, 2, USUAL[8])).max(axis=-1)
    np.testing.assert_allclose(np.abs(blocks.scale), widest / 128, rtol=1e-6)


@pytest.mark.parametrize("tail", [2, 5, 100])
def test_four_bits_beat_plain_rounding(tail: int) -> None:
    """Plain rounding: 16 steps from the block's least to its greatest value."""
    weight = np.random.default_rng(tail).standard_t(tail, size=(200, 128)).astype(np.float32)
    cut = weight.reshape(200, -1, USUAL[4])
    low, high = cut.min(-1, keepdims=True).clip(max=0), cut.max(-1, keepdims=True).clip(min=0)
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    plain = (np.clip(np.rint(cut / scale) + zero, 0, 15) - zero) * scale
    ours = dequantize_blocks(quantize_blocks(weight, 4), 128).reshape(cut.shape)
    assert np.square(ours - cut).sum() < 0.95 * np.square(plain - cut).sum()


def test_four_bits_keep_what_four_bits_can_say() -> None:
    rng = np.random.default_rng(2)
    q = rng.integers(0, 16, size=(60, 3, USUAL[4])).astype(np.float32)
    q[..., 0], q[..., 1] = 0, 15
    scale = rng.uniform(0.01, 2, size=(60, 3, 1)).astype(np.float32)
    weight = ((q - rng.integers(0, 16, size=(60, 3, 1))) * scale).reshape(60, -1).astype(np.float32)
    np.testing.assert_allclose(dequantize_blocks(quantize_blocks(weight, 4), 96), weight, atol=1e-4)


def test_an_export_is_quiet_and_offline_and_the_same_again(
    tiny: Checkpoint,
    written: dict[str, tuple[Path, Any]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("an export needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    facts = exporter.write(tiny, tmp_path, "int8", TOOLSET)
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in recwarn.list] == []
    folder, before = written["int8"]
    assert facts == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_above_two_gigabytes_the_data_lies_beside(
    tiny: Checkpoint,
    traced: Any,
    written: dict[str, tuple[Path, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from runtimes.artifact import Artifact
    from runtimes.onnxruntime import open_model

    monkeypatch.setattr(exporter, "LARGEST_FILE", 100_000)
    monkeypatch.setattr(exporter, "_trace", lambda *_: traced)
    facts = exporter.write(tiny, tmp_path, "fp32", TOOLSET)
    assert facts.weights == "onnx"
    assert {p.name for p in (tmp_path / "onnx").iterdir()} == {"model.onnx", "model.onnx.data"}
    assert (tmp_path / "onnx" / "model.onnx").stat().st_size < 200_000
    rows = []
    for folder, weights in ((tmp_path, facts.weights), (written["fp32"][0], "model.onnx")):
        manifest = {
            "format": "onnx",
            "quant": "fp32",
            "weights": weights,
            "context_length": tiny.context_length,
            "vocab_size": tiny.vocab_size,
        }
        model = open_model(Artifact(folder, manifest), device="cpu", threads=1)
        rows.append(model.session().append([5, 6, 7], rows="all"))
    np.testing.assert_array_equal(*rows)


def test_unknown_quantization(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="int8"):
        exporter.write(tiny, tmp_path, "q8_0", TOOLSET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost", ["q_norm/Mul_1", "o_proj/MatMul", "rotary_emb/Expand", "v_proj/MatMul"])
def test_a_graph_traced_by_other_versions_is_an_error(
    tiny: Checkpoint, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    other = type(traced)()
    other.CopyFrom(traced)
    for node in other.graph.node:
        if lost in node.name:
            node.op_type = "Elsewhere"
            node.output[0] += "_renamed"
    monkeypatch.setattr(exporter, "_trace", lambda *_: other)
    with pytest.raises(UserError, match=r"constraints\.txt") as raised:
        exporter.write(tiny, tmp_path, "fp32", TOOLSET)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"])
def test_what_the_rewrite_would_drop_is_refused(tiny: Checkpoint, traced: Any, key: str) -> None:
    with pytest.raises(GraphError, match=key):
        rewrite(Graph(traced), {**tiny.config, key: 30.0})


def test_availability_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    assert exporter.availability().available
    plain = exporter.version

    def without(name: str) -> str:
        if name == "optimum-onnx":
            raise PackageNotFoundError(name)
        return plain(name)

    monkeypatch.setattr(exporter, "version", without)
    state = exporter.availability()
    assert (state.available, state.reason) == (False, "optimum-onnx is not installed")
    assert state.fix == 'pip install "edgecall[export]"'
    monkeypatch.setattr(exporter, "version", lambda name: "5.1.0" if name == "transformers" else plain(name))
    state = exporter.availability()
    assert not state.available
    assert "transformers 5.1.0" in state.reason
