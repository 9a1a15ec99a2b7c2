"""The MLX runtime against transformers: past the window, after rewinds, two sessions, other shapes, every edge."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from runtimes.artifact import Artifact
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError
from tests.exports import bare_artifact
from tests.odd import check_independence, check_walk, odd_checkpoint, random_tokens, reference
from tests.passes import consecutive
from tests.tiny import WINDOW

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

from export import mlx as exporter
from runtimes import mlx as runtime
from runtimes import mlx_net

LENGTH = 3 * WINDOW + 17


def export(source: Checkpoint, folder: Path, quant: str) -> Artifact:
    nothing: Any = None
    written = exporter.write(source, folder, quant, nothing)
    return bare_artifact(source, folder, "mlx", quant, written.weights)


@pytest.fixture(scope="module")
def artifact(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(tiny, tmp_path_factory.mktemp("mlx"), "fp32")


@pytest.fixture(scope="module", params=[False, True], ids=["traced-anew", "compiled"])
def model(artifact: Artifact, request: pytest.FixtureRequest) -> runtime.MlxModel:
    """As on a CPU, and as on a GPU: with short passes compiled, their widths rounded up."""
    return runtime.MlxModel(artifact, "cpu", compiled=request.param)


@pytest.fixture(scope="module")
def tokens(tiny: Checkpoint) -> list[int]:
    return random_tokens(tiny, LENGTH, 7)


@pytest.fixture(scope="module")
def want(tiny: Checkpoint, tokens: list[int]) -> Any:
    return reference(tiny, tokens)


@pytest.mark.parametrize("seed", range(4))
def test_random_splits_and_rewinds(model: runtime.MlxModel, tokens: list[int], want: Any, seed: int) -> None:
    check_walk(model, tokens, want, seed, longest=WINDOW + 30)


def test_one_token_at_a_time_past_the_window(model: runtime.MlxModel, tokens: list[int], want: Any) -> None:
    session = model.session()
    for position, token in enumerate(tokens[: WINDOW + 40]):
        np.testing.assert_allclose(session.append([token]), want[position], atol=2e-3)


def test_last_is_the_last_of_all(model: runtime.MlxModel, tokens: list[int]) -> None:
    session = model.session()
    every = session.append(tokens, rows="all").copy()
    session.rewind(0)
    assert every.shape == (LENGTH, model.vocab_size)
    np.testing.assert_allclose(session.append(tokens), every[-1], atol=1e-3)


def test_sessions_are_independent(model: runtime.MlxModel, tokens: list[int], want: Any) -> None:
    check_independence(model, tokens, want)


def test_a_session_may_change_threads(model: runtime.MlxModel, tokens: list[int], want: Any) -> None:
    session = model.session()
    session.append(tokens[:90])
    seen: list[Any] = []
    other = threading.Thread(target=lambda: seen.append(session.append(tokens[90:95], rows="all")))
    other.start()
    other.join()
    np.testing.assert_allclose(seen[0], want[90:95], atol=2e-3)
    np.testing.assert_allclose(session.append(tokens[95:97], rows="all"), want[95:97], atol=2e-3)


@pytest.mark.parametrize(("layers", "pattern"), [(4, 3), (2, 3), (2, 1)])
def test_other_shapes(tiny: Checkpoint, tmp_path: Path, layers: int, pattern: int) -> None:
    """Two key heads, a root that bfloat16 cannot hold, a global layer every third; fewer layers; all global."""
    source = odd_checkpoint(tmp_path / "odd", tiny, num_hidden_layers=layers, sliding_window_pattern=pattern)
    model = runtime.open_model(export(source, tmp_path / "out", "fp32"), device="cpu")
    ids = random_tokens(source, 120, 3)
    check_walk(model, ids, reference(source, ids), 0)


@pytest.mark.parametrize(("quant", "rms"), [("bf16", 0.3), ("8bit", 0.3)])
def test_narrow_variants_stay_near(tiny: Checkpoint, tmp_path: Path, tokens: list[int], quant: str, rms: float) -> None:
    model = runtime.open_model(export(tiny, tmp_path, quant), device="cpu")
    assert model.dtype == quant
    want, session = reference(tiny, tokens), model.session()
    every = session.append(tokens, rows="all").copy()
    assert 1e-3 < float(np.sqrt(np.mean((every - want) ** 2))) < rms  # the logits' own spread is 2.9
    session.rewind(70)
    np.testing.assert_allclose(session.append(tokens[70:], rows="all"), every[70:], atol=rms)


def test_four_bits_compute_what_was_stored(tiny: Checkpoint, tmp_path: Path, tokens: list[int]) -> None:
    """At four bits a random network is far from its source; it must still be the network of the stored weights."""
    import mlx.core as mx
    import torch
    from transformers import Gemma3ForCausalLM

    artifact = export(tiny, tmp_path, "4bit")
    loaded: Any = mx.load(str(artifact.weights))
    net = Gemma3ForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            stem = name.removesuffix(".weight")
            if f"{stem}.scales" in loaded:
                parts = (loaded[f"{stem}.{part}"] for part in ("weight", "scales", "biases"))
                bits = 6 if stem == "model.embed_tokens" else 4
                weight.copy_(torch.from_numpy(np.array(mx.dequantize(*parts, 64, bits))))
        want = net(torch.tensor([tokens])).logits[0].numpy()
    model = runtime.open_model(artifact, device="cpu")
    assert model.dtype == "4bit"
    np.testing.assert_allclose(model.session().append(tokens, rows="all"), want, atol=5e-3)


def test_edges(model: runtime.MlxModel, tokens: list[int], want: Any) -> None:
    session = model.session()
    session.append(tokens[:10])
    for bad in ([], [model.vocab_size], [-1], [5, model.vocab_size], [5] * model.context_length):
        with pytest.raises(SessionError):
            session.append(bad)
        assert session.position == 10
    for target in (-1, 11):
        with pytest.raises(SessionError):
            session.rewind(target)
    session.rewind(10)
    np.testing.assert_allclose(session.append(tokens[10:12], rows="all"), want[10:12], atol=2e-3)


def test_the_whole_context_fits_and_no_more(model: runtime.MlxModel) -> None:
    session = model.session()
    session.append([5] * model.context_length)
    assert session.position == model.context_length
    with pytest.raises(SessionError, match="exceed the context"):
        session.append([5])


def test_a_pass_is_compiled_once_for_each_width(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """And for each size of the cache, never for where it stands; what is longer is not compiled."""
    traced: list[tuple[int, int]] = []
    real = mlx_net.layers

    def spy(net: Any, tokens: Any, start: Any, keys: Any, values: Any) -> Any:
        traced.append((tokens.shape[1], keys[0].shape[2]))
        return real(net, tokens, start, keys, values)

    monkeypatch.setattr(mlx_net, "layers", spy)
    model = runtime.MlxModel(artifact, "cpu", compiled=True)
    assert traced == [(1, 256), (2, 256)]  # on a CPU these are made at once
    session, another = model.session(), model.session()
    for one in (session, another):
        for count in (3, 4, 1, 2, 1, 4):
            one.append(list(range(5, 5 + count)))
        one.rewind(2)
        one.append([5, 6, 7], rows=[0, 2])
    assert traced[2:] == [(4, 256)]
    session.append(list(range(10, 250)))
    session.append([9])
    assert traced[3:] == [(240, 512), (1, 512)]


def test_one_evaluation_a_pass(model: runtime.MlxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the logits are asked for; the cache is written in the same evaluation, and nothing else is read back."""
    import mlx.core as mx

    session = model.session()
    session.append([5, 6, 7])
    asked: list[tuple[int, ...]] = []
    real = np.asarray

    def spy(value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, mx.array):
            asked.append(value.shape)
        return real(value, *args, **kwargs)

    monkeypatch.setattr(np, "asarray", spy)
    monkeypatch.setattr(mx, "eval", lambda *_: pytest.fail("evaluated beside the logits"))
    session.append([8, 9])
    session.append_shortlist([10], np.array([3, 4]))
    assert asked == [(1, model.vocab_size), (1, 2)]


def test_a_pass_that_fails_half_way_changes_nothing(
    model: runtime.MlxModel, tokens: list[int], want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = model.session()
    session.append(tokens[:80])

    def broken(net: Any, hidden: Any, rows: Any = None) -> Any:
        raise MemoryError("no room for the logits")

    with monkeypatch.context() as patch:
        patch.setattr(mlx_net, "head", broken)
        with pytest.raises(MemoryError):
            session.append(tokens[80:90])
    assert session.position == 80
    np.testing.assert_allclose(session.append(tokens[80:85], rows="all"), want[80:85], atol=2e-3)


def test_use_after_close(artifact: Artifact) -> None:
    model = runtime.open_model(artifact, device="cpu")
    session = model.session()
    session.append([5])
    model.close()
    for use in (lambda: session.append([5]), lambda: session.rewind(0), model.session):
        with pytest.raises(SessionError, match="closed"):
            use()
    model.close()


def test_it_says_what_it_uses(artifact: Artifact, tiny: Checkpoint) -> None:
    model = runtime.open_model(artifact, device="cpu", threads=4)
    assert (model.device, model.dtype, model.threads) == ("cpu", "fp32", 1)
    assert (model.vocab_size, model.context_length) == (tiny.vocab_size, tiny.context_length)
    with pytest.raises(SessionError, match="threads"):
        runtime.open_model(artifact, device="cpu", threads=0)


def test_devices(artifact: Artifact) -> None:
    devices = runtime.availability().devices
    assert devices["cpu"].available
    missing = [name for name, state in devices.items() if not state.available]
    assert missing  # metal and cuda are never both there
    for name in missing:
        with pytest.raises(UnavailableError, match=f"device '{name}' is not available here") as caught:
            runtime.open_model(artifact, device=name)
        assert devices[name].fix in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="unknown device 'tpu'; use auto, cpu, metal, cuda"):
        runtime.open_model(artifact, device="tpu")
    wanted = next((name for name in ("metal", "cuda") if devices[name].available), "cpu")
    assert runtime.open_model(artifact).device == wanted


def test_a_missing_package_is_said(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "mlx-lm":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    state = runtime.availability()
    assert not state.available and state.reason == "mlx-lm is not installed"
    with pytest.raises(UnavailableError, match=r"mlx-lm is not installed; pip install"):
        runtime.open_model(artifact)


def test_without_a_compiler_it_runs_unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    cpu = runtime.availability().devices["cpu"]
    assert cpu.available and "g++ not found" in cpu.detail


def test_damaged_weights(artifact: Artifact, tmp_path: Path) -> None:
    def broken(name: str) -> Artifact:
        folder = tmp_path / name
        shutil.copytree(artifact.folder, folder)
        return Artifact(folder, artifact.manifest)

    torn = broken("torn")
    torn.weights.write_bytes(torn.weights.read_bytes()[:5000])
    other = broken("other")
    config = json.loads((other.folder / "config.json").read_text())
    (other.folder / "config.json").write_text(json.dumps({**config, "hidden_size": 96}))
    more = broken("more")
    (more.folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 8}))
    kind = broken("kind")
    (kind.folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    for bad in (torn, other, more, kind):
        with pytest.raises(ArtifactError, match="mlx cannot load the weights") as caught:
            runtime.open_model(bad, device="cpu")
        assert str(bad.folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("quant", ["bf16", "4bit"])
def test_the_bare_loop_runs_narrow_variants(tiny: Checkpoint, tmp_path: Path, tokens: list[int], quant: str) -> None:
    loop = runtime.bare_loop(
        export(tiny, tmp_path, quant), device="cpu", prefix=tokens[:70], passes=consecutive(70, [[5, 6], [7]])
    )
    loop()
    loop()


def test_the_bare_loop_makes_the_same_passes(
    artifact: Artifact, model: runtime.MlxModel, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = mlx_net.head

    def spy(net: Any, hidden: Any, rows: Any = None) -> Any:
        seen.append(real(net, hidden, rows))
        return seen[-1]

    prefix, passes = tokens[:100], [tokens[100:110], tokens[110:111], tokens[111:180]]
    with monkeypatch.context() as patch:
        patch.setattr(mlx_net, "head", spy)
        loop = runtime.bare_loop(artifact, device="cpu", prefix=prefix, passes=consecutive(len(prefix), passes))
        seen.clear()
        loop()
        loop()
    session = model.session()
    session.append(prefix)
    want = [session.append(step) for step in passes]
    assert [out.shape for out in seen] == [(1, 1, model.vocab_size)] * 6
    for out, row in zip(seen, want * 2, strict=True):
        np.testing.assert_allclose(np.array(out)[0, 0], row, atol=2e-3)


def test_no_torch_is_loaded(artifact: Artifact) -> None:
    """mlx-lm's package imports transformers and torch; routing with MLX must not pay for them."""
    code = (
        "import sys; from pathlib import Path; from runtimes import mlx; from runtimes.artifact import Artifact\n"
        f"a = Artifact(Path({str(artifact.folder)!r}), {artifact.manifest!r})\n"
        "m = mlx.open_model(a, device='cpu'); m.session().append([5, 6])\n"
        "print([x for x in ('torch', 'transformers', 'mlx_lm') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
