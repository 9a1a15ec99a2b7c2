"""The ONNX Runtime runtime, where the conformance test does not look: shapes, device memory, providers, bad files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from runtimes.artifact import Artifact
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError
from tests.exports import Maker, bare_artifact
from tests.odd import LAYERS, odd_checkpoint, random_tokens, reference, walk
from tests.passes import consecutive
from tests.tiny import WINDOW

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("optimum.exporters.onnx")

from export import onnx as exporter  # noqa: E402
from runtimes import onnxruntime as runtime  # noqa: E402
from runtimes.onnxruntime_cells import GRAPH, Bound, Layout  # noqa: E402
from runtimes.onnxruntime_sequence import CHUNK, TokenSequence, chunks  # noqa: E402

MEAN_ERROR = {"fp32": 2e-5, "int8": 0.2, "int4": 1.6}


def export(source: Checkpoint, folder: Path, quant: str) -> Artifact:
    nothing: Any = None
    written = exporter.write(source, folder, quant, nothing)
    return bare_artifact(source, folder, "onnx", quant, written.weights)


def with_weights(artifact: Artifact, path: Path) -> Artifact:
    return Artifact(path.parent, {**artifact.manifest, "weights": path.name})


@pytest.fixture(scope="module")
def artifact(exported: Maker) -> Artifact:
    return exported("onnx", "fp32")


@pytest.fixture(scope="module")
def model(artifact: Artifact) -> runtime.OnnxModel:
    return runtime.open_model(artifact, device="cpu", threads=1)


def test_ten_windows_with_rewinds(tiny: Checkpoint, model: runtime.OnnxModel) -> None:
    tokens = random_tokens(tiny, 10 * WINDOW, 1)
    rows = walk(model.session(), tokens, np.random.default_rng(2), longest=90)
    want = reference(tiny, tokens)
    assert max(np.abs(row - want[i]).max() for i, row in rows.items()) < 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"tie_word_embeddings": False},
        {"attention_bias": True},
        {"num_key_value_heads": 4, "hidden_activation": "silu"},
        {"sliding_window_pattern": 1},
        {"sliding_window_pattern": LAYERS + 1},
    ],
    ids=["two-key-heads", "linear-rope", "untied", "bias", "no-groups-silu", "all-global", "all-local"],
)
def test_other_shapes(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Width 80 is no multiple of a block; two key heads cannot be cut without a copy; see `tests.odd`."""
    source = odd_checkpoint(tmp_path / "odd", tiny, **changes)
    tokens = random_tokens(source, 150, 3)
    want = reference(source, tokens)
    traced = exporter._trace(source, tmp_path)
    monkeypatch.setattr(exporter, "_trace", lambda *_: traced)
    for quant, limit in MEAN_ERROR.items():
        (tmp_path / quant).mkdir()
        opened = runtime.open_model(export(source, tmp_path / quant, quant), device="cpu", threads=1)
        rows = walk(opened.session(), tokens, np.random.default_rng(4))
        assert np.mean([np.abs(row - want[i]).mean() for i, row in rows.items()]) < limit, quant


@pytest.mark.parametrize("quant", list(exporter.QUANTS))
def test_says_what_it_uses(exported: Maker, quant: str) -> None:
    opened = runtime.open_model(exported("onnx", quant), device="auto", threads=2)
    assert (opened.dtype, opened.threads) == (quant, 2)
    assert opened.device in ("cpu", "cuda")
    assert opened.native.get_session_options().inter_op_num_threads == 1


class _Value:
    """An `OrtValue` in a device's memory, which lies on the CPU here."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.copy()

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray, device: str, index: int) -> _Value:
        assert (device, index) == ("elsewhere", 3)
        return cls(array)

    def data_ptr(self) -> int:
        return int(self.array.__array_interface__["data"][0])

    def numpy(self) -> np.ndarray:
        return self.array.copy()

    def update_inplace(self, array: np.ndarray) -> None:
        assert array.flags.c_contiguous and array.shape == self.array.shape
        self.array[:] = array


class _Elsewhere:
    """A session's I/O binding that calls the CPU's memory by a device's name."""

    def __init__(self, native: Any) -> None:
        self._io = native.io_binding()

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self._io.bind_cpu_input(name, array)

    def bind_input(self, name: str, device: str, index: int, *rest: Any) -> None:
        assert (device, index) == ("elsewhere", 3)
        self._io.bind_input(name, "cpu", 0, *rest)

    def bind_output(self, name: str, device: str, index: int, *rest: Any) -> None:
        assert (device, index) == (("cpu", 0) if name == "logits" else ("elsewhere", 3))
        self._io.bind_output(name, "cpu", 0, *rest)


class _Session:
    def __init__(self, native: Any) -> None:
        self._native = native

    def io_binding(self) -> _Elsewhere:
        return _Elsewhere(self._native)

    def run_with_iobinding(self, binding: _Elsewhere) -> None:
        self._native.run_with_iobinding(binding._io)


@pytest.mark.parametrize("heads", [1, 2])
def test_caches_in_device_memory(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heads: int) -> None:
    """The same numbers to the bit, at every way to come to a position, where only addresses are known of the caches."""
    source = odd_checkpoint(tmp_path / "odd", tiny, num_key_value_heads=heads)
    (tmp_path / "out").mkdir()
    native = runtime.open_model(export(source, tmp_path / "out", "fp32"), device="cpu", threads=1).native
    monkeypatch.setattr(ort, "OrtValue", _Value)
    layout = Layout.of(native)
    host, device = TokenSequence(native, layout), TokenSequence(_Session(native), layout, ("elsewhere", 3))
    tokens = random_tokens(source, 400, 5)
    for past, end in [(0, 50), (50, 51), (51, 90), (60, 61), (30, 400), (0, 7), (7, 8)]:
        for rows in (list(range(end - past)), [end - past - 1]):
            want = host(tokens[past:end], rows, past).copy()
            np.testing.assert_array_equal(device(tokens[past:end], rows, past), want)
    for kept, mine in zip(device.arrays(8), host.arrays(8), strict=True):
        np.testing.assert_array_equal(kept, mine)
    other = TokenSequence(_Session(native), layout, ("elsewhere", 3))
    assert other.arrays(0)[0].shape[2] == 0
    other.load(host.arrays(8))
    np.testing.assert_array_equal(other(tokens[8:9], [0], 8), host(tokens[8:9], [0], 8))


def test_only_the_wanted_rows_are_computed(tiny: Checkpoint, model: runtime.OnnxModel) -> None:
    run = model.sequence()
    ids = random_tokens(tiny, 20, 6)
    every = run(ids, range(20), 0).copy()
    for rows in ([19], [0], [3, 4, 11]):
        found = run(ids, rows, 0)
        assert found.shape == (len(rows), tiny.vocab_size)
        np.testing.assert_allclose(found, every[rows], atol=1e-5)


def test_chunks_share_the_wanted_rows_out() -> None:
    rows = [0, CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 5]
    found = list(chunks(2 * CHUNK + 6, rows))
    assert [(begin, end) for begin, end, *_ in found] == [
        (0, CHUNK), (CHUNK, 2 * CHUNK), (2 * CHUNK, 2 * CHUNK + 6),
    ]  # fmt: skip
    assert [here for *_, here in found] == [[0, CHUNK - 1], [CHUNK - 1], [0, 5]]
    assert [rows[slots] for *_, slots, _ in found] == [rows[:2], [], rows[2:]]


@pytest.mark.parametrize("heads", [1, 2])
def test_any_number_of_cells(tiny: Checkpoint, tmp_path: Path, heads: int) -> None:
    """One after the other across the steps in which buffers grow and are bound, and back again behind each."""
    source = odd_checkpoint(tmp_path / "odd", tiny, num_key_value_heads=heads)
    (tmp_path / "out").mkdir()
    opened = runtime.open_model(export(source, tmp_path / "out", "fp32"), device="cpu", threads=1)
    tokens = random_tokens(source, 300, 8)
    want, session = reference(source, tokens), opened.session()
    for position in (62, 63, 64, 65, 127, 128, 129, 191, 255, 256, 257, 299):
        session.append(tokens[session.position : position])
        for length in (1, 2):
            part = tokens[position : position + length]
            found = session.append(part, rows="all")
            np.testing.assert_allclose(found, want[position : position + len(part)], atol=2e-4)
            session.rewind(position)
        session.rewind(position // 2)


def test_caches_are_updated_in_place(tiny: Checkpoint, model: runtime.OnnxModel) -> None:
    """A pass writes its own cells and no other: what another sequence marked there stays."""
    run = model.sequence()
    tokens = random_tokens(tiny, 40, 9)
    run(tokens[:30], [0], 0)
    marked = [np.where(np.arange(64)[:, None] >= 33, 7, a).astype(np.float32) for a in run.arrays(64)]
    run.load(marked)
    before = [a.copy() for a in run.arrays(64)]
    run(tokens[30:33], [2], 30)
    for now, was in zip(run.arrays(64), before, strict=True):
        np.testing.assert_array_equal(now[:, :, :30], was[:, :, :30])
        np.testing.assert_array_equal(now[:, :, 33:], was[:, :, 33:])
        assert np.all(now[:, :, 30:33] != was[:, :, 30:33])


def test_what_is_bound_is_used_again(
    tiny: Checkpoint, model: runtime.OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests behind one prefix bind nothing after the first of each size."""
    session, tokens = model.session(), random_tokens(tiny, 60, 10)
    session.append(tokens[:40])
    made: list[tuple[int, int]] = []
    plain = Bound.__init__

    def watched(self: Bound, *args: Any) -> None:
        made.append(args[-2:])
        plain(self, *args)

    monkeypatch.setattr(Bound, "__init__", watched)
    for _ in range(3):
        session.append(tokens[40:45])
        session.append(tokens[45:46])
        session.append(tokens[46:50], rows=[0, 3])
        session.append(tokens[50:51])
        session.rewind(40)
    assert made == [(5, 1), (1, 1), (4, 2)]


def test_bare_loop_computes_what_a_session_does(
    tiny: Checkpoint, artifact: Artifact, model: runtime.OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = random_tokens(tiny, 2 * WINDOW, 7)
    passes = [tokens[100:112], tokens[112:113], tokens[113:]]
    seen: list[Any] = []
    plain = Bound.run

    def watched(self: Bound) -> None:
        plain(self)
        seen.append(self.logits.copy())

    monkeypatch.setattr(Bound, "run", watched)
    loop = runtime.bare_loop(artifact, device="cpu", threads=1, prefix=tokens[:100], passes=consecutive(100, passes))
    loop()
    loop()
    monkeypatch.undo()
    session = model.session()
    session.append(tokens[:100])
    want = [session.append(part).copy() for part in passes]
    assert len(seen) == 1 + 2 * len(passes)
    for got, row in zip(seen[1:], want * 2, strict=True):
        assert got.shape == (1, tiny.vocab_size)
        np.testing.assert_allclose(got[0], row, atol=1e-5)


@pytest.mark.parametrize("device", ["abacus", "cpu:0", "cuda:x", "metal:1"])
def test_unknown_devices(artifact: Artifact, device: str) -> None:
    with pytest.raises(UserError, match="unknown device"):
        runtime.open_model(artifact, device=device, threads=1)


def test_a_missing_device_says_how_to_get_it(artifact: Artifact) -> None:
    devices = runtime.availability().devices
    assert devices["cpu"].available
    for name, recipe in {"cuda": "onnxruntime-gpu", "metal": "Mac"}.items():
        if devices[name].available:
            continue
        with pytest.raises(UnavailableError, match=recipe) as raised:
            runtime.open_model(artifact, device=name, threads=1)
        assert "\n" not in str(raised.value)


class _Part:
    """As `get_provider_graph_assignment_info` gives them."""

    def __init__(self, ep_name: str, *kinds: str) -> None:
        self.ep_name = ep_name
        self._nodes = [type("Node", (), {"op_type": kind})() for kind in kinds]

    def get_nodes(self) -> list[Any]:
        return self._nodes


class _Native:
    """An `InferenceSession` on a machine that this one is not."""

    def __init__(self, providers: list[str], parts: list[_Part], vocab: int) -> None:
        self._providers, self._parts, self._vocab = providers, parts, vocab

    def get_providers(self) -> list[str]:
        return self._providers

    def get_provider_graph_assignment_info(self) -> list[_Part]:
        return self._parts

    def get_outputs(self) -> list[Any]:
        return [type("Output", (), {"name": "logits", "shape": [1, "rows", self._vocab]})()]

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "past_key_values.0.key", "shape": [1, 1, "local cells", 32]})()]

    def get_modelmeta(self) -> Any:
        return type("Meta", (), {"custom_metadata_map": {"edgecall.graph": GRAPH, "sliding_window": "64"}})()

    def get_session_options(self) -> Any:
        return type("Options", (), {"intra_op_num_threads": 1})()


CPU, CUDA, COREML = "CPUExecutionProvider", "CUDAExecutionProvider", "CoreMLExecutionProvider"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tiny: Checkpoint) -> Any:
    """`elsewhere(providers, parts)`: a build with all providers, whose sessions come out like that."""
    asked: dict[str, Any] = {}

    def arrange(providers: list[str], parts: list[_Part]) -> dict[str, Any]:
        def make(path: Any, options: Any, **how: Any) -> _Native:
            asked.update(how, recorded=options.get_session_config_entry("session.record_ep_graph_assignment_info"))
            return _Native(providers, parts, tiny.vocab_size)

        monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, COREML, CPU])
        monkeypatch.setattr(ort, "preload_dlls", lambda: None)
        monkeypatch.setattr(runtime, "_driver", lambda: True)
        monkeypatch.setattr(ort, "InferenceSession", make)
        return asked

    return arrange


@pytest.mark.parametrize(
    ("device", "parts", "name"),
    [
        ("cuda", [_Part(CUDA, "MatMul", "Attention"), _Part(CPU, "Shape", "Range")], "cuda"),
        ("cuda:1", [_Part(CUDA, "Gemm")], "cuda:1"),
        ("auto", [_Part(CUDA, "MatMulNBits")], "cuda"),
        ("metal", [_Part(COREML, "MatMul"), _Part(CPU, "Attention"), _Part(COREML, "Gelu")], "metal+cpu"),
    ],
)
def test_the_device_is_where_the_products_are(
    artifact: Artifact, elsewhere: Any, device: str, parts: list[_Part], name: str
) -> None:
    asked = elsewhere([CUDA, COREML, CPU], parts)
    assert runtime.open_model(artifact, device=device, threads=1).device == name
    provider, options = asked["providers"][0]
    assert provider == (COREML if device == "metal" else CUDA)
    if provider == CUDA:
        assert options == {"use_tf32": "0", "device_id": "1" if device == "cuda:1" else "0"}
    assert asked["recorded"] == "1"
    assert asked["enable_fallback"] == 0


def test_a_provider_that_does_nothing_is_an_error(artifact: Artifact, elsewhere: Any) -> None:
    elsewhere([COREML, CPU], [_Part(CPU, "MatMul", "Gemm"), _Part(COREML, "Gelu")])
    with pytest.raises(UnavailableError, match="takes no part"):
        runtime.open_model(artifact, device="metal", threads=1)


def test_a_provider_that_silently_falls_back_is_an_error(artifact: Artifact, elsewhere: Any) -> None:
    elsewhere([CPU], [_Part(CPU, "MatMul")])
    with pytest.raises(UnavailableError, match="does not start here.*onnxruntime-gpu"):
        runtime.open_model(artifact, device="cuda", threads=1)


def test_a_provider_that_fails_to_start(artifact: Artifact, elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere([CPU], [])

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected\n; GPU=0")

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(UnavailableError, match="CUDA failure 100.*onnxruntime-gpu") as raised:
        runtime.open_model(artifact, device="cuda", threads=1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped", "missing"])
def test_a_bad_file_is_one_line(
    artifact: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    good = artifact.weights.read_bytes()
    bad = {
        "cut": good[: len(good) // 2],
        "garbage": b"\xff\x00not a protobuf" * 100,
        "empty": b"",
        "flipped": good.replace(b"RotaryEmbedding", b"RotaryEmbaddinx"),
    }
    path = tmp_path / "model.onnx"
    if damage in bad:
        path.write_bytes(bad[damage])
    with pytest.raises(ArtifactError) as raised:
        runtime.open_model(with_weights(artifact, path), device="cpu", threads=1)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_another_vocabulary_than_the_manifest_says(artifact: Artifact) -> None:
    other = Artifact(artifact.folder, {**artifact.manifest, "vocab_size": 12})
    with pytest.raises(ArtifactError, match="vocabulary of 12"):
        runtime.open_model(other, device="cpu", threads=1)


@pytest.mark.parametrize("said", ["1", "3", None])
def test_a_graph_of_another_version(artifact: Artifact, tmp_path: Path, said: str | None) -> None:
    import onnx

    made = onnx.load(artifact.weights)
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, {} if said is None else {"edgecall.graph": said, "sliding_window": "64"})
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=f"of version {said or 1}.*export again") as raised:
        runtime.open_model(with_weights(artifact, tmp_path / "model.onnx"), device="cpu", threads=1)
    assert "\n" not in str(raised.value)


def test_the_context_is_the_manifests(artifact: Artifact) -> None:
    short = Artifact(artifact.folder, {**artifact.manifest, "context_length": 5})
    session = runtime.open_model(short, device="cpu", threads=1).session()
    session.append([5, 6, 7])
    with pytest.raises(SessionError, match="context of 5"):
        session.append([5, 6, 7])
    assert session.position == 3


def test_absent_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    state = runtime.availability()
    assert not state.available
    assert state.reason
    assert "pip install" in state.fix


def test_import_is_light() -> None:
    code = "import sys, runtimes.onnxruntime; print([m for m in ('onnxruntime', 'onnx', 'torch') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
