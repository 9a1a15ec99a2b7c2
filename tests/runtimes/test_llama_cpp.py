"""The llama.cpp runtime beyond what every runtime must do (test_conformance): cutting, failures, devices, clean-up."""

from __future__ import annotations

import gc
import random
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.artifact import Artifact
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError
from tests.exports import Maker
from tests.passes import consecutive

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

from runtimes import llama_context, llama_cpp, llama_native

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def artifact(exported: Maker) -> Artifact:
    return exported("gguf", "f32")


@pytest.fixture
def model(artifact: Artifact) -> Iterator[llama_cpp.LlamaModel]:
    opened = llama_cpp.open_model(artifact, device="cpu", threads=1)
    yield opened
    opened.close()


def tokens_of(n: int, seed: int, vocab: int = 700) -> list[int]:
    return random.Random(seed).choices(range(vocab), k=n)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


# Appends longer than one native call


def test_long_appends_are_cut(artifact: Artifact, model: llama_cpp.LlamaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tokens_of(333, 1)
    rows = model.session().append(tokens, rows="all")
    monkeypatch.setattr(llama_context, "_BATCH", 50)
    monkeypatch.setattr(llama_context, "_ROWS_BYTES", 7 * 4 * model.vocab_size)
    other = llama_cpp.open_model(artifact, device="cpu", threads=1)
    calls = counted(monkeypatch)
    session = other.session()
    np.testing.assert_allclose(session.append(tokens), rows[-1], atol=5e-3)
    assert calls.decoded == [50] * 6 + [33]
    session.rewind(0)
    calls.decoded.clear()
    np.testing.assert_allclose(session.append(tokens, rows="all"), rows, atol=5e-3)
    assert calls.decoded == [7] * 47 + [4]
    assert session.position == 333
    other.close()


class Counting:
    """The native module, noting how many tokens each decode gets; `fail_at` makes that call fail."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.decoded: list[int] = []
        self.fail_at = -1
        self.error: BaseException | None = None

    def llama_decode(self, context: Any, batch: Any) -> int:
        self.decoded.append(batch.n_tokens)
        if len(self.decoded) - 1 == self.fail_at:
            if self.error is not None:
                self.real.llama_decode(context, batch)
                raise self.error
            return 1
        return int(self.real.llama_decode(context, batch))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def counted(monkeypatch: pytest.MonkeyPatch) -> Counting:
    stand_in = Counting(llama_native.native())
    monkeypatch.setattr(llama_cpp, "native", lambda: stand_in)
    return stand_in


@pytest.mark.parametrize("rows", ["last", "all"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=["code", "interrupt"])
def test_a_decode_that_fails_half_way(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, rows: Any, error: BaseException | None
) -> None:
    monkeypatch.setattr(llama_context, "_BATCH", 20)
    calls = counted(monkeypatch)
    model = llama_cpp.open_model(artifact, device="cpu", threads=1)
    start, wrong, right = tokens_of(90, 2), tokens_of(70, 3), tokens_of(30, 4)
    expected = model.session().append(start + right).copy()
    session = model.session()
    session.append(start)
    calls.fail_at, calls.error = len(calls.decoded) + 2, error
    with pytest.raises(SessionError if error is None else KeyboardInterrupt) as raised:
        session.append(wrong, rows=rows)
    assert "\n" not in str(raised.value)
    assert session.position == 90
    calls.fail_at = -1
    np.testing.assert_allclose(session.append(right), expected, atol=5e-3)
    model.close()


# The context


def test_the_context_variable(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(llama_cpp.CONTEXT_VARIABLE, "300")
    model = llama_cpp.open_model(artifact, device="cpu", threads=1)
    assert model.context_length == 300
    session = model.session()
    session.append(tokens_of(300, 5))
    with pytest.raises(SessionError, match=llama_cpp.CONTEXT_VARIABLE):
        session.append([1])
    model.close()
    for wrong in ("0", "1025", "many", "-5"):
        monkeypatch.setenv(llama_cpp.CONTEXT_VARIABLE, wrong)
        with pytest.raises(UserError, match="1 to 1024"):
            llama_cpp.open_model(artifact, device="cpu", threads=1)


def test_the_default_context_is_capped(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "DEFAULT_CONTEXT", 256)
    model = llama_cpp.open_model(artifact, device="cpu", threads=1)
    assert (model.context_length, model.trained_context) == (256, 1024)
    model.close()


@pytest.mark.parametrize("cut", [1, 250, 400])
def test_a_context_grows_as_it_fills(model: llama_cpp.LlamaModel, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """The same logits as from a context that was large enough; also rewound, and from a snapshot."""
    tokens = tokens_of(700, 12)
    small = model.session()
    monkeypatch.setattr(llama_context, "AHEAD", 700)
    large = model.session()
    large.append(tokens[:cut])
    assert large._cells >= 768
    monkeypatch.setattr(llama_context, "AHEAD", 0)
    small.append(tokens[:cut])
    assert small._cells == 256 * -(-cut // 256)
    for start, end in ((cut, cut + 40), (cut + 40, 690), (300, 310), (310, 700)):
        for session in (small, large):
            session.rewind(min(session.position, start))
        want = large.append(tokens[start:end], rows="all")
        np.testing.assert_allclose(small.append(tokens[start:end], rows="all"), want, atol=5e-3)
    assert small._cells == 768
    empty = model.session()
    empty.restore(small.snapshot())
    assert empty._cells == 768 and empty.position == 700
    np.testing.assert_allclose(empty.append([5, 6]), large.append([5, 6]), atol=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_rewinds_past_what_the_window_cache_holds(
    model: llama_cpp.LlamaModel, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A window of 64 in a cache of 256 cells, which wraps again and again: as from a cache that never does."""
    chance = random.Random(seed)
    plain = llama_context.context_parameters
    monkeypatch.setattr(llama_context, "UBATCH", 64)
    monkeypatch.setattr(llama_context, "AHEAD", 1000)
    computed = counted(monkeypatch)
    small = model.session()
    small.append([1])

    def full(*arguments: Any, **options: Any) -> Any:
        params = plain(*arguments, **options)
        params.swa_full = True
        return params

    monkeypatch.setattr(llama_cpp, "context_parameters", full)
    large = model.session()
    large.append([1])
    prefix = tokens_of(300, seed)
    again = 0
    for session in (small, large):
        session.append(prefix[1:])
    for _ in range(14):
        request = tokens_of(chance.choice([1, 7, 40, 130, 250, 600]), chance.randrange(1000))
        want = large.append(request)
        np.testing.assert_allclose(small.append(request), want, atol=5e-3)
        target = chance.choice([300, 300, 300, 299, 301, chance.randint(1, 300)])
        computed.decoded.clear()
        for session in (large, small):
            session.rewind(target)
        again += bool(computed.decoded)
        assert small.position == target == len(small._held)
        assert computed.llama_memory_seq_pos_min(large.memory, 0) == 0
        tail = tokens_of(2 + 300 - min(target, 300), chance.randrange(1000))
        want = large.append(tail, rows="all")
        np.testing.assert_allclose(small.append(tail, rows="all"), want, atol=5e-3)
        if target >= 300:
            for session in (large, small):
                session.rewind(300)
    assert 0 < again < 14, "some rewinds are done within the window's cache"


def test_a_request_is_taken_back_without_computing(
    model: llama_cpp.LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a router does, behind a prefix that does not fit into the window's cache."""
    monkeypatch.setattr(llama_context, "UBATCH", 64)
    calls = counted(monkeypatch)
    session = model.session()
    session.append(tokens_of(600, 1))
    want = session.append([7, 8, 9], rows="all").copy()
    calls.decoded.clear()
    for turn in range(30):
        session.rewind(600)
        session.append(tokens_of(1 + 23 * turn % 120, turn))
    session.rewind(600)
    assert len(calls.decoded) == 30
    np.testing.assert_allclose(session.append([7, 8, 9], rows="all"), want, atol=5e-3)


def test_a_context_that_cannot_grow_stays(model: llama_cpp.LlamaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = model.session(), model.session()
    for one in (session, other):
        one.append(tokens_of(20, 3))
    monkeypatch.setattr(llama_cpp.LlamaSession, "_put", lambda self, state, position: False)
    with pytest.raises(SessionError, match="larger context"):
        session.append(tokens_of(600, 4))
    assert session.position == 20
    np.testing.assert_array_equal(session.append([7]), other.append([7]))


# What a model says about itself, and files that are wrong


@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0", "q4_k_m", "q4_0"])
def test_dtype_is_the_files(exported: Maker, quant: str) -> None:
    artifact = exported("gguf", quant)
    artifact = Artifact(artifact.folder, artifact.manifest | {"quant": "f32", "dtype": "f32", "precision": 32})
    model = llama_cpp.open_model(artifact, device="cpu", threads=1)
    assert model.dtype == quant
    model.close()


def test_threads_reach_llama_cpp(artifact: Artifact) -> None:
    model = llama_cpp.open_model(artifact, device="cpu", threads=2)
    session = model.session()
    session.append([2])  # its context is made when there is something to put in
    native = llama_native.native()
    assert (
        model.threads == native.llama_n_threads(session.context) == native.llama_n_threads_batch(session.context) == 2
    )
    model.close()


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.999])
def test_a_truncated_file(artifact: Artifact, tmp_path: Path, keep: float) -> None:
    whole = artifact.weights.read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ArtifactError, match=r"model\.gguf.*export again") as raised:
        llama_cpp.open_model(Artifact(tmp_path, artifact.manifest), device="cpu", threads=1)
    assert "\n" not in str(raised.value)


def test_a_file_of_another_kind(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model" * 1000)
    with pytest.raises(ArtifactError, match="magic"):
        llama_cpp.open_model(Artifact(tmp_path, artifact.manifest), device="cpu", threads=1)


def test_a_vocabulary_that_is_not_the_manifests(artifact: Artifact) -> None:
    wrong = Artifact(artifact.folder, artifact.manifest | {"vocab_size": 5})
    with pytest.raises(ArtifactError, match="manifest says 5"):
        llama_cpp.open_model(wrong, device="cpu", threads=1)


def test_a_path_that_is_not_ascii(artifact: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "Grüße 你好"
    shutil.copytree(artifact.folder, folder)
    model = llama_cpp.open_model(Artifact(folder, artifact.manifest), device="cpu", threads=1)
    assert model.session().append([5]).shape == (model.vocab_size,)
    model.close()


# Devices


def test_devices_of_this_build() -> None:
    state = llama_cpp.availability()
    assert state.available
    assert state.version
    assert state.devices["cpu"].available
    for kind in ("cuda", "metal", "vulkan", "rocm"):
        device = state.devices[kind]
        assert device.available or ("CMAKE_ARGS" in device.fix and "pip install" in device.fix)


def test_auto_takes_the_gpu_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = llama_native.Gpu("cuda", "Some GPU", 123)
    monkeypatch.setattr(llama_native, "gpus", lambda: [gpu])
    assert llama_native.choose("auto") == gpu
    assert llama_native.choose("cuda") == gpu
    assert llama_native.choose("cpu") is None
    with pytest.raises(UnavailableError, match="GGML_METAL"):
        llama_native.choose("metal")
    assert llama_cpp.availability().devices["cuda"].available
    monkeypatch.setattr(llama_native, "gpus", list)
    assert llama_native.choose("auto") is None
    with pytest.raises(UnavailableError, match="GGML_CUDA"):
        llama_native.choose("cuda")


@pytest.mark.gpu
def test_on_a_gpu(artifact: Artifact, model: llama_cpp.LlamaModel) -> None:
    found = llama_native.gpus()
    if not found:
        pytest.skip("this build of llama-cpp-python finds no GPU")
    tokens = tokens_of(300, 6)
    want = model.session().append(tokens)
    other = llama_cpp.open_model(artifact, device=found[0].kind, threads=1)
    assert other.device == found[0].kind
    np.testing.assert_allclose(other.session().append(tokens), want, atol=0.05)
    other.close()


def test_without_the_package() -> None:
    done = python(
        "import sys; sys.modules['llama_cpp'] = None\n"
        "from runtimes import llama_cpp\n"
        "state = llama_cpp.availability()\n"
        "assert not state.available and 'llama-cpp-python' in state.reason and 'pip install' in state.fix\n"
        "assert not any(d.available for d in state.devices.values())\n"
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_runtime_loads_no_library() -> None:
    done = python("import sys, runtimes.llama_cpp; assert 'llama_cpp' not in sys.modules")
    assert done.returncode == 0, done.stderr


# The bare loop


def test_the_bare_loop_does_what_a_session_does(
    artifact: Artifact, model: llama_cpp.LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    prefix, passes = tokens_of(100, 7), [tokens_of(12, 8), tokens_of(1, 9), tokens_of(5, 10)]
    loop: Any = llama_cpp.bare_loop(
        artifact, device="cpu", threads=1, prefix=prefix, passes=consecutive(len(prefix), passes)
    )
    session = model.session()
    want = session.append([*prefix, *passes[0], *passes[1], *passes[2]])
    inner = loop.args[0]
    for _ in range(3):
        calls.decoded.clear()
        loop()
        assert calls.decoded == [12, 1, 5]
        np.testing.assert_allclose(inner._view(-1, 1)[0], want, atol=5e-3)
    assert llama_native.native().llama_memory_seq_pos_max(inner.memory, 0) == 117


def test_a_bare_loop_that_cannot_run(artifact: Artifact) -> None:
    for prefix, passes in (([1] * 1000, [[2] * 30]), ([1], [[-1]]), ([], [])):
        with pytest.raises(SessionError):
            llama_cpp.bare_loop(
                artifact, device="cpu", threads=1, prefix=prefix, passes=consecutive(len(prefix), passes)
            )


# Memory and noise


def test_logits_outlive_the_model(artifact: Artifact) -> None:
    model = llama_cpp.open_model(artifact, device="cpu", threads=1)
    session = model.session()
    session.append([5, 6, 7])
    rows = session.append([8, 9], rows="all")  # what an append gives stands until the next one
    want = rows.copy()
    del session
    model.close()
    np.testing.assert_array_equal(rows, want)


def test_one_sessions_logits_are_not_anothers(model: llama_cpp.LlamaModel) -> None:
    one, other = model.session(), model.session()
    mine = one.append([5, 6, 7])
    kept = mine.copy()
    other.append([9, 10])
    np.testing.assert_array_equal(mine, kept)


def test_a_context_is_freed_with_the_last_logits(model: llama_cpp.LlamaModel) -> None:
    session = model.session()
    logits = session.append([5, 6, 7], rows="all")
    assert not logits.flags.owndata and logits.flags.writeable, "no copy"
    assert session._handle is not None
    finalizer, want = session._handle._free, logits.copy()
    session.close()
    assert finalizer.alive
    np.testing.assert_array_equal(logits, want)
    del logits
    gc.collect()
    assert not finalizer.alive


def test_a_dropped_session_is_freed(model: llama_cpp.LlamaModel) -> None:
    session = model.session()
    session.append([5])
    assert session._handle is not None
    alive, finalizer = weakref.ref(session), session._handle._free
    del session
    gc.collect()
    assert alive() is None
    assert not finalizer.alive
    assert model.session().append([5]).shape == (model.vocab_size,)


def test_closing_a_session_leaves_the_model(model: llama_cpp.LlamaModel) -> None:
    one, other = model.session(), model.session()
    one.close()
    one.close()
    with pytest.raises(SessionError):
        one.append([5])
    assert other.append([5]).shape == (model.vocab_size,)


def test_only_the_bindings_are_imported_and_the_package_stays_whole(artifact: Artifact) -> None:
    done = python(
        "import sys\n"
        "from runtimes import llama_native\n"
        "bindings = llama_native.native(); llama_native.gpus()\n"
        "heavy = {'llama_cpp', 'llama_cpp.llama', 'jinja2', 'torch', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "import llama_cpp\n"
        "assert llama_cpp.llama_cpp is bindings and llama_cpp.Llama and llama_cpp.llama_decode\n"
        "import pathlib\n"
        "from runtimes.artifact import Artifact\n"
        "from runtimes import llama_cpp as runtime\n"
        "artifact = Artifact(pathlib.Path(sys.argv[1]),"
        " {'format': 'gguf', 'weights': 'model.gguf', 'vocab_size': int(sys.argv[2])})\n"
        "runtime.open_model(artifact, device='cpu', threads=1).session().append([5, 6])\n",
        str(artifact.folder),
        str(artifact.vocab_size),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_quiet_also_at_exit(artifact: Artifact) -> None:
    """Nothing is printed, and an interpreter that ends with everything open ends well."""
    done = python(
        "import sys, pathlib\n"
        "from runtimes.artifact import Artifact\n"
        "from runtimes import llama_cpp\n"
        "from runtimes.base import Pass\n"
        "artifact = Artifact(pathlib.Path(sys.argv[1]),"
        " {'format': 'gguf', 'weights': 'model.gguf', 'vocab_size': int(sys.argv[2])})\n"
        "model = llama_cpp.open_model(artifact, device='cpu', threads=1)\n"
        "sessions = [model.session(), model.session()]\n"
        "kept = [s.append([5, 6, 7]) for s in sessions]\n"
        "loop = llama_cpp.bare_loop(artifact, device='cpu', threads=1, prefix=[5], passes=[Pass(1, [6])])\n"
        "loop()\n",
        str(artifact.folder),
        str(artifact.vocab_size),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
