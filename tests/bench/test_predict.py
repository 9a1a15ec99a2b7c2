"""The prediction's arithmetic, by hand, and the rates that it is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench.probe as probe
from bench.predict import (
    SHORTLIST_RUNTIMES,
    Rates,
    Size,
    Weights,
    cache_bytes,
    cached_bytes,
    few_limit,
    floor_s,
    operations,
    predicted,
    rates_for,
    read_bytes,
    sizes_of,
    weights_of,
)
from bench.records import Variant
from bench.shapes import Shape
from runtimes import RUNTIMES, mlx_net, open_model, runtime
from runtimes.artifact import Artifact
from runtimes.base import Pass

SMALL = Shape(
    "small", hidden=2, intermediate=3, layers=2, heads=2, kv_heads=1, head_dim=4, vocab=10, window=3, pattern=2
)
"""Layer 0 sees three tokens, layer 1 all. Keys and values: 2*2*1*4 = 16 weights; query and output 2*2*2*4 = 32, the MLP
3*2*3 = 18, together 50; output matrix 20."""
GGUF = Variant("llama_cpp", "gguf", "q8_0", 8)


def test_weights_of_a_shape() -> None:
    assert (SMALL.kv_weights, SMALL.other_weights, SMALL.output_weights) == (16, 50, 20)
    assert SMALL.parameters == 2 * 66 + 20 + 2 * (4 * 2 + 2 * 4) + 2
    assert [SMALL.is_local(0), SMALL.is_local(1)] == [True, False]


def test_cached_bytes_by_hand() -> None:
    # A key and a value are 2 * 1 * 4 numbers. Behind 10 tokens, 2 new ones: layer 0 reads 2 cached, layer 1 all 10, and
    # each writes 2.
    assert cached_bytes(SMALL, Size(10, 2), 2) == 8 * 2 * (2 + 10 + 2 * 2)
    assert cached_bytes(SMALL, Size(1, 1), 4) == 8 * 4 * (1 + 1 + 2)
    assert cached_bytes(SMALL, Size(0, 5), 4) == 8 * 4 * (2 * 5)


def test_operations_by_hand() -> None:
    # 2 tokens behind 10, one row. Keys and values of both layers, and the rest of layer 0, for 2 tokens; the rest of
    # layer 1 and the output matrix for the one row. Layer 0: each token sees 3 (its window); layer 1: the last sees 12.
    linear = 2 * (2 * 16 + 50) + (50 + 20)
    assert operations(SMALL, Size(10, 2)) == 2 * linear + 4 * 2 * 4 * (3 + 3 + 12)
    # Both rows: the rest of layer 1 and the output matrix twice, and in layer 1 the first sees 11.
    linear = 2 * (2 * 16 + 50) + 2 * (50 + 20)
    assert operations(SMALL, Size(10, 2, rows=2)) == 2 * linear + 4 * 2 * 4 * (3 + 3 + 11 + 12)
    # From nothing the window is not full yet: 1 and 2 seen.
    linear = 2 * (2 * 16 + 50) + (50 + 20)
    assert operations(SMALL, Size(0, 2)) == 2 * linear + 4 * 2 * 4 * (1 + 2 + 2)


def test_passes_over_few_ids_by_hand() -> None:
    # Of the output matrix's 10 rows, 3: of its 400 bytes 120 are read, and 3 * 2 weights multiplied instead of 20.
    few, all_ids, weights = Size(10, 2, ids=3), Size(10, 2), Weights(1000, output=400)
    assert read_bytes(SMALL, all_ids, weights, 2) == 1000 + cached_bytes(SMALL, all_ids, 2)
    assert read_bytes(SMALL, few, weights, 2) == 600 + 120 + cached_bytes(SMALL, all_ids, 2)
    assert operations(SMALL, all_ids) - operations(SMALL, few) == 2 * (10 - 3) * 2
    # Two rows over the same ids: read once, multiplied twice.
    both = Size(10, 2, rows=2, ids=3)
    assert read_bytes(SMALL, both, weights, 2) == read_bytes(SMALL, few, weights, 2)
    assert operations(SMALL, Size(10, 2, rows=2)) - operations(SMALL, both) == 2 * 2 * (10 - 3) * 2
    assert read_bytes(SMALL, Size(10, 2, ids=10), weights, 2) == read_bytes(SMALL, all_ids, weights, 2)
    assert read_bytes(SMALL, few, Weights(1000), 2) == read_bytes(SMALL, all_ids, Weights(1000), 2), "none can be left"
    assert (weights.reads, Weights(1000).reads) == ({1000, 600}, {1000})


def test_few_ids_are_read_at_the_rate_of_what_they_leave() -> None:
    few, whole, weights = Size(10, 1, ids=3), Size(11, 1), Weights(1000, output=400)
    rates = Rates(1.0, 1e9, "fp32", few_bytes_s=4.0)
    expected = read_bytes(SMALL, few, weights, 2) / 4 + read_bytes(SMALL, whole, weights, 2)
    assert floor_s(SMALL, [few, whole], weights, 2, rates) == pytest.approx(expected)
    found = predicted(SMALL, {"a": [few, whole], "b": [whole] * 2}, GGUF, weights, rates)
    assert found["few_ids"] == 0.25 and found["cases"]["a"] == pytest.approx(1e3 * expected)
    assert found["weights_mb"] == 1e-3 and found["bound"] == "memory"


def test_a_pass_takes_the_longer_of_reading_and_multiplying() -> None:
    one = Size(10, 1)
    read, work = 1000 + cached_bytes(SMALL, one, 2), operations(SMALL, one)
    assert floor_s(SMALL, [one], Weights(1000), 2, Rates(1.0, 1e9, "fp32")) == pytest.approx(read)
    assert floor_s(SMALL, [one], Weights(1000), 2, Rates(1e9, 1.0, "fp32")) == pytest.approx(work)
    assert floor_s(SMALL, [one] * 3, Weights(1000), 2, Rates(1.0, 1e9, "fp32")) == pytest.approx(3 * read)


def test_the_entry_of_a_run() -> None:
    passes = {"a": [Size(10, 2)], "b": [Size(10, 2), Size(12, 1)], "c": [Size(10, 2), Size(12, 1), Size(13, 1)]}
    found = predicted(SMALL, passes, GGUF, Weights(1000), Rates(1e6, 1e12, "int8"))
    first = 1e3 * (1000 + cached_bytes(SMALL, Size(10, 2), 2)) / 1e6
    second = 1e3 * (1000 + cached_bytes(SMALL, Size(12, 1), 2)) / 1e6
    assert found["cases"]["a"] == pytest.approx(first) and found["p50"] == pytest.approx(first + second)
    assert found["bound"] == "memory" and found["compute"] == "int8" and found["cache_number_bytes"] == 2
    assert predicted(SMALL, passes, GGUF, Weights(1000), Rates(1e12, 1e6, "int8"))["bound"] == "compute"


def test_sizes_of_recorded_passes() -> None:
    passes = [Pass(5, [1, 2, 3]), Pass(8, [4], "all"), Pass(9, [5, 6], "all"), Pass(11, [7, 8, 9], [0, 2])]
    assert sizes_of(passes) == [Size(5, 3, 1), Size(8, 1, 1), Size(9, 2, 2), Size(11, 3, 2)]
    few = Pass(5, [1, 2, 3], [1, 2], np.array([4, 9, 11]))
    assert sizes_of([few, Pass(8, [4], ids=np.array([7]))]) == [Size(5, 3, 2, ids=3), Size(8, 1, 1, ids=1)]


def test_which_rates_bound_a_variant() -> None:
    rates: dict[str, float | None] = {"fp32": 1e9, "int8": 4e9}
    onnx = Variant("onnxruntime", "onnx", "fp32", 32)
    assert rates_for(GGUF, 1.0, rates) == Rates(1.0, 4e9, "int8")
    assert rates_for(onnx, 1.0, rates) == Rates(1.0, 1e9, "fp32")
    assert rates_for(Variant("mlx", "mlx", "8bit", 8), 1.0, rates).kind == "fp32", "it multiplies floats"
    assert rates_for(GGUF, 1.0, {"fp32": 1e9, "int8": None}).kind == "fp32"
    assert rates_for(onnx, 1.0, rates, 3.0).few_bytes_s == rates_for(GGUF, 1.0, rates, 3.0).few_bytes_s == 3.0
    assert [cache_bytes(v) for v in (GGUF, Variant("llama_cpp", "gguf", "f32", 32), onnx)] == [2, 4, 4]


def test_weights_in_a_gguf_file_are_without_its_vocabulary(exported: Callable[[str, str], Artifact]) -> None:
    from gguf import GGUFReader

    artifact = exported("gguf", "q8_0")
    tensors = GGUFReader(artifact.weights).tensors
    alone = sum(int(tensor.n_bytes) for tensor in tensors)
    found = weights_of(artifact, GGUF)
    assert alone <= found.total < alone + 64 * len(tensors), "padding between them"
    assert found.total < artifact.weights.stat().st_size and found.output == 0


@pytest.mark.parametrize(
    ("runtime_name", "fmt", "quant"), [("torch", "safetensors", "fp32"), ("mlx", "mlx", "bf16"), ("mlx", "mlx", "8bit")]
)
def test_the_output_matrix_is_as_large_as_the_runtime_says(
    runtime_name: str, fmt: str, quant: str, exported: Callable[[str, str], Artifact]
) -> None:
    artifact = exported(fmt, quant)
    found = weights_of(artifact, Variant(runtime_name, fmt, quant, 32))
    model = open_model(artifact, runtime_name=runtime_name, device="cpu", threads=1)
    if runtime_name == "torch":
        size = model.net.lm_head.weight.nbytes  # type: ignore[attr-defined]
    else:
        size = mlx_net.output_bytes(model.net)  # type: ignore[attr-defined]
    assert found.output == size and found.total == artifact.size_bytes > size
    assert weights_of(artifact, Variant("other", fmt, quant, 32)).output == 0
    assert few_limit(artifact, found) == 0, "a small matrix is not worth it"
    assert few_limit(artifact, Weights(1 << 30, 1 << 29)) == artifact.vocab_size // 16
    model.close()


@pytest.mark.parametrize("name", RUNTIMES)
def test_which_runtimes_compute_few_logits(name: str) -> None:
    module = runtime(name)
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    assert any(hasattr(one, "append_shortlist") for one in own) == (name in SHORTLIST_RUNTIMES)


def test_what_the_probe_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ROUNDS", 1)
    monkeypatch.setattr(probe, "ROUND_S", 0.001)
    told: list[Any] = []
    for threads in (1, 2):
        found = probe.bandwidth(told.append, sizes=[1 << 16, 1 << 18], threads=threads)
        assert len(found["bytes_s"]) == 2 and min(found["bytes_s"]) > 0 and f"{threads} threads" in found["how"]
    found = probe.compute(told.append, width=64, inner=96, threads=1)
    assert found["ops_s"]["fp32"] > 0 and "64x96" in found["how"]["fp32"]
    assert (found["ops_s"]["int8"] is None) == found["how"]["int8"].startswith("not measured")
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = probe.compute(told.append, width=64, inner=96, threads=1)
    assert found["ops_s"]["int8"] is None and found["how"]["int8"] == "not measured: onnx is not installed"
    assert told and probe.streamed_bytes() > 0


def test_the_int8_product_is_the_product() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from export.onnx_quant import dequantize_blocks, quantize_blocks

    (operations_, run), *_ = probe._int8(64, 96, 1)
    session, x = run.func.__self__, run.args[1]["x"]
    weights = np.random.default_rng(0).standard_normal((96, 64), dtype=np.float32)
    expected = x @ dequantize_blocks(quantize_blocks(weights, 8), 64).T
    assert operations_ == 2 * len(x) * 64 * 96
    assert np.abs(session.run(None, {"x": x})[0] - expected).max() < 0.02 * np.abs(expected).max()


def test_the_last_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, size in enumerate(("32K", "1024K", "33M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    monkeypatch.setattr(probe, "Path", lambda given: tmp_path)
    assert probe.last_cache_bytes() == 33 << 20
