"""The Core ML export: the network is Gemma 3, the package holds it, and running the package gives the same logits.

Prediction by Core ML itself needs a Mac and is not tested here. The package that was saved is read back and run by
the reference interpreter, under the real runtime's Session.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from export.base import Checkpoint, Written
from router.toolset import Toolset
from runtimes import coreml as runtime
from runtimes.errors import UserError
from runtimes.mil import OPERATIONS
from tests.coreml_fake import fake_mlmodel, on_a_mac
from tests.exports import bare_artifact
from tests.odd import odd_checkpoint, random_tokens, reference, walk
from tests.tiny import WINDOW

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

from export import coreml, coreml_record  # noqa: E402
from export.coreml_mil import Package  # noqa: E402
from export.coreml_model import Gemma3Stateful, load_checkpoint  # noqa: E402

FLOATS = ("fp32", "fp16")
"""What is not compressed; the rest is tests/export/test_coreml_quant.py."""
CAPACITY = 512
LAYERS = 7


@dataclasses.dataclass(frozen=True)
class Made:
    folder: Path
    written: Written
    package: Package


@pytest.fixture(scope="module")
def made(tiny: Checkpoint, kiwi: Toolset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    out = {}
    for quant in FLOATS:
        folder = tmp_path_factory.mktemp(f"coreml-{quant}")
        written = coreml.write(tiny, folder, quant, kiwi)
        out[quant] = Made(folder, written, Package(folder / written.weights))
    return out


def as_model(made: Made, source: Checkpoint, quant: str, monkeypatch: pytest.MonkeyPatch) -> runtime.CoreMLModel:
    """The package under the real runtime, with the interpreter for Core ML."""
    on_a_mac(monkeypatch, fake_mlmodel(made.package))
    return runtime.open_model(bare_artifact(source, made.folder, "coreml", quant, made.written.weights))


def forward(net: Gemma3Stateful, tokens: list[int], start: int = 0) -> np.ndarray:
    return coreml_record.run(net, tokens, start).numpy()


@pytest.mark.parametrize("seed", range(3))
def test_the_network_is_gemma(tiny: Checkpoint, tmp_path: Path, seed: int) -> None:
    """Random splits and rewinds past the window, on both test checkpoints: transformers' logits in float32."""
    for source in (tiny, odd_checkpoint(tmp_path / "odd", tiny)):
        tokens = random_tokens(source, 3 * WINDOW, seed)
        net, want, rng = load_checkpoint(source, CAPACITY), reference(source, tokens), np.random.default_rng(seed)
        position = 0
        while position < len(tokens):
            if position and rng.random() < 0.3:
                position = int(rng.integers(0, position))
            step = tokens[position : position + int(rng.integers(1, WINDOW + 20))]
            np.testing.assert_allclose(forward(net, step, position), want[position : position + len(step)], atol=2e-3)
            position += len(step)


def test_two_halves_hold_what_one_rounds_off(tiny: Checkpoint) -> None:
    tokens = random_tokens(tiny, 150, 0)
    want = reference(tiny, tokens)
    error = {exact: np.abs(forward(load_checkpoint(tiny, 256, exact=exact), tokens) - want).max() for exact in (0, 1)}
    assert error[1] < 1e-4
    assert 20 * error[1] < error[0] < 0.5


def test_an_untied_head(tiny: Checkpoint, tmp_path: Path) -> None:
    source = odd_checkpoint(tmp_path / "untied", tiny, tie_word_embeddings=False)
    tokens = random_tokens(source, 40, 0)
    np.testing.assert_allclose(forward(load_checkpoint(source, 64), tokens), reference(source, tokens), atol=2e-3)


@pytest.mark.parametrize("quant", FLOATS)
def test_interface(tiny: Checkpoint, made: dict[str, Made], quant: str) -> None:
    package = made[quant].package
    capacity = tiny.context_length  # smaller than the default 2,048
    assert package.inputs == {
        "input_ids": [(1, 1), (1, capacity)],
        "positions": [(1, 1), (1, capacity)],
        "rows": [(1, capacity)],
    }
    names = ["keys", "values"] + (["keys_rest", "values_rest"] if quant == "fp32" else [])
    assert package.states == dict.fromkeys(names, (LAYERS, 1, capacity, 32))
    assert [one.name for one in package.spec.description.output] == ["logits"]
    assert package.spec.specificationVersion == 9  # iOS 18, macOS 15
    assert set(package.operations) <= set(OPERATIONS)
    assert package.operations["softmax"] == LAYERS
    assert package.operations["slice_update"] == LAYERS * len(names)
    details = made[quant].written.details
    assert details["context_length"] == capacity
    assert details["operations"] == dict(package.operations)
    assert made[quant].written.weights == "model.mlpackage"


@pytest.mark.parametrize("quant", FLOATS)
def test_weights(tiny: Checkpoint, made: dict[str, Made], quant: str) -> None:
    net = load_checkpoint(tiny, 16)
    assert coreml.missing_weights(made[quant].package, net) == []
    tied = [value for value in made[quant].package.constants() if value.shape == tuple(net.embed.weight.shape)]
    assert len(tied) == 1  # the head is the embedding, stored once
    with torch.no_grad():
        net.layers[3].up.weight[5, 7] += 0.01
        net.layers[6].k_norm.weight.mul_(1.01)
    assert coreml.missing_weights(made[quant].package, net) == ["layers.3.up.weight", "layers.6.k_norm.weight"]


def test_the_fp32_package_converts_no_whole_cache(made: dict[str, Made]) -> None:
    """Core ML keeps the state in float16; converting all of it for each layer would cost more than the network."""
    package = made["fp32"].package
    for op in package.function.operations:
        if op.type == "cast":
            assert op.outputs[0].type.shape not in package.states.values(), op
        if op.type in ("linear", "matmul", "softmax", "rsqrt"):
            assert op.outputs[0].type.dtype == "fp32", op


def test_the_fp16_package_keeps_norms_residual_and_softmax_wide(made: dict[str, Made]) -> None:
    kinds: dict[str, set[str]] = {}
    operations = made["fp16"].package.function.operations
    for op in operations:
        kinds.setdefault(op.type, set()).update(one.type.dtype for one in op.outputs)
    for wide in ("softmax", "rsqrt", "reduce_mean"):
        assert kinds[wide] == {"fp32"}, wide
    for narrow in ("linear", "matmul", "gelu"):
        assert kinds[narrow] == {"fp16"}, narrow
    adds = [op for op in operations if op.type == "add"]
    residual = [op for op in adds if op.outputs[0].type.shape[-1:] == (64,)]
    assert len(residual) == 2 * LAYERS
    assert {op.outputs[0].type.dtype for op in residual} == {"fp32"}


def test_the_package_under_the_runtime(
    tiny: Checkpoint, made: dict[str, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = as_model(made["fp32"], tiny, "fp32", monkeypatch)
    tokens = random_tokens(tiny, 3 * WINDOW, 1)
    want = reference(tiny, tokens)
    assert model.context_length == tiny.context_length
    first, second = model.session(), model.session()
    second.append(tokens[50:90])
    for position, row in walk(first, tokens, np.random.default_rng(1), longest=WINDOW + 30).items():
        np.testing.assert_allclose(row, want[position], atol=2e-3, err_msg=f"position {position}")
    second.rewind(0)
    np.testing.assert_allclose(second.append(tokens[:5], rows="all"), want[:5], atol=2e-3)


def test_the_fp16_package_stays_near(tiny: Checkpoint, made: dict[str, Made], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = random_tokens(tiny, 2 * WINDOW, 2)
    want = reference(tiny, tokens)
    model = as_model(made["fp16"], tiny, "fp16", monkeypatch)
    assert model.dtype == "fp16"
    got = np.stack(list(walk(model.session(), tokens, np.random.default_rng(2)).values()))
    assert len(got) > WINDOW / 2
    session = model.session()
    every = session.append(tokens, rows="all")
    assert 1e-4 < float(np.sqrt(np.mean((every - want) ** 2))) < 0.1  # the logits' own spread is 2.9
    session.rewind(70)
    np.testing.assert_allclose(session.append(tokens[70:], rows="all"), every[70:], atol=0.3)
    simulated = next(coreml_record.simulate(load_checkpoint(tiny, 256, exact=False), [tokens])).numpy()
    assert float(np.sqrt(np.mean((every[-len(simulated) :] - simulated) ** 2))) < 0.1


def test_two_key_heads(
    tiny: Checkpoint, kiwi: Toolset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = odd_checkpoint(tmp_path / "odd", tiny, max_position_embeddings=1024)
    folder = tmp_path / "out"
    folder.mkdir()
    written = coreml.write(source, folder, "fp32", kiwi)
    assert capfd.readouterr() == ("", "")  # no progress bars, no warnings
    assert written.details["states"]["keys"] == [4, 2, 1024, 32]
    assert written.details["interpreted"]["max_abs_logit"] < 1e-3
    package = Package(folder / written.weights)
    tokens = random_tokens(source, 100, 3)
    want = reference(source, tokens)
    model = as_model(Made(folder, written, package), source, "fp32", monkeypatch)
    for position, row in walk(model.session(), tokens, np.random.default_rng(3)).items():
        np.testing.assert_allclose(row, want[position], atol=2e-3)


def test_a_package_that_computes_something_else_is_noticed(tiny: Checkpoint, made: dict[str, Made]) -> None:
    net = load_checkpoint(tiny, tiny.context_length)
    tokens = random_tokens(tiny, WINDOW + 40, 4)
    coreml._check(made["fp32"].package, net, tokens)
    net.window -= 1
    with pytest.raises(RuntimeError, match="from the network's"):
        coreml._check(made["fp32"].package, net, tokens)
    with pytest.raises(RuntimeError, match="states"):
        coreml._check(made["fp16"].package, net, tokens)


def test_capacity(tiny: Checkpoint) -> None:
    large = dataclasses.replace(tiny, config={**tiny.config, "max_position_embeddings": 32768})
    assert coreml._capacity(tiny, 500, None) == tiny.context_length == 1024
    assert coreml._capacity(large, 500, None) == 2048
    assert coreml._capacity(large, 1537, None) == 3072  # room for a request and its answer
    assert coreml._capacity(large, 500, 8192) == 8192
    for asked in (0, 32769):
        with pytest.raises(UserError, match=f"context_length {asked} is outside 1..32768"):
            coreml._capacity(large, 500, asked)
    with pytest.raises(UserError, match="prompt has 1024 tokens, the cache holds 1024"):
        coreml._capacity(tiny, 1024, None)


def test_what_is_not_covered_is_refused(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="unknown quantization 'int5'; there are fp32, fp16, ane, int8, pal8, pal6, int4"
    ):
        coreml.write(tiny, tmp_path, "int5", kiwi)
    for key, value in (("final_logit_softcapping", 30.0), ("model_type", "llama"), ("rope_scaling", {"factor": 8.0})):
        other = dataclasses.replace(tiny, config={**tiny.config, key: value})
        with pytest.raises(UserError, match=f"{key} is .* the Core ML export covers"):
            coreml.write(other, tmp_path, "fp32", kiwi)
    fewer = dataclasses.replace(tiny, config={**tiny.config, "hidden_size": 32})
    with pytest.raises(UserError, match="has shape .* expected"):
        coreml.write(fewer, tmp_path, "fp32", kiwi)
    deeper = dataclasses.replace(
        tiny, config={**tiny.config, "num_hidden_layers": 8, "layer_types": ["full_attention"] * 8}
    )
    with pytest.raises(UserError, match=r"the checkpoint lacks model.layers.7"):
        coreml.write(deeper, tmp_path, "fp32", kiwi)


def test_availability_needs_no_mac() -> None:
    state = coreml.availability()
    assert state.available and state.version and state.version.startswith("coremltools ")


def test_the_documentation_names_the_interface(made: dict[str, Made]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "coreml.md").read_text(encoding="utf-8")
    package = made["fp32"].package
    for name in (*package.inputs, *package.states, "logits", "edgecall.context_length"):
        assert f"`{name}`" in page, name
    metadata = package.spec.description.metadata.userDefined
    assert int(metadata["edgecall.context_length"]) == made["fp32"].written.details["context_length"]
