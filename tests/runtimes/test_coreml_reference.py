"""The reference interpreter as a runtime: compressed packages, its state, its precisions, and what it refuses.

That it computes what PyTorch does, however it is asked, is tests/runtimes/test_conformance.py; the operations one by
one are tests/runtimes/mil.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from export.base import Checkpoint
from router.toolset import Toolset
from runtimes import FORMATS, coreml_reference, is_emulated, prover
from runtimes.artifact import Artifact
from runtimes.base import Availability
from runtimes.coreml_package import package_inputs
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError
from tests.coreml_states import check_states
from tests.exports import Maker
from tests.odd import odd_checkpoint
from tests.stress.mutate import Package as Mutable
from tests.tiny import WINDOW

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")

from export import coreml  # noqa: E402
from export.coreml import walk  # noqa: E402
from export.coreml_mil import Package  # noqa: E402
from export.coreml_model import Gemma3Stateful, load_checkpoint  # noqa: E402
from runtimes import mil  # noqa: E402

COMPRESSED = 2048
"""Elements above which coremltools compresses a weight."""


@pytest.fixture(scope="module")
def exact(exported: Maker) -> Artifact:
    return exported("coreml", "fp32")


@pytest.fixture(scope="module")
def half(exported: Maker) -> Artifact:
    return exported("coreml", "fp16")


class Shallow(NamedTuple):
    """A checkpoint of two layers, local and global, and its package in 32 bits."""

    source: Checkpoint
    path: Path


@pytest.fixture(scope="module")
def shallow(tiny: Checkpoint, kiwi: Toolset, tmp_path_factory: pytest.TempPathFactory) -> Shallow:
    folder = tmp_path_factory.mktemp("shallow")
    source = odd_checkpoint(
        folder / "source", tiny, num_hidden_layers=2, sliding_window_pattern=2, max_position_embeddings=1024
    )
    return Shallow(source, folder / coreml.write(source, folder, "fp32", kiwi).weights)


def random_tokens(vocab: int, count: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(4, vocab, count)]


def how(name: str) -> Any:
    """A function from an `MLModel` to a compressed one."""
    import coremltools.optimize.coreml as cto

    kinds = {
        "int8-per-channel": cto.OpLinearQuantizerConfig("linear_symmetric", dtype="int8", granularity="per_channel"),
        "uint8-with-offset": cto.OpLinearQuantizerConfig("linear", dtype="uint8", granularity="per_channel"),
        "int4-per-block": cto.OpLinearQuantizerConfig(
            "linear_symmetric", dtype="int4", granularity="per_block", block_size=16
        ),
        "palettes-of-6-bits": cto.OpPalettizerConfig("uniform", nbits=6),
        "pruned": cto.OpMagnitudePrunerConfig(target_sparsity=0.25),
    }
    config = cto.OptimizationConfig(global_config=kinds[name])
    function = {
        "p": cto.palettize_weights if name != "pruned" else cto.prune_weights, "i": cto.linear_quantize_weights,
        "u": cto.linear_quantize_weights,
    }[name[0]]  # fmt: skip
    return lambda model: function(model, config)


def with_weights(net: Gemma3Stateful, function: mil.Function) -> set[str]:
    """Put a decompressed package's constants into the PyTorch network; names of those that were there.

    coremltools adds to the name of what it compressed, the tables of angles among it.
    """
    found = set()
    with torch.no_grad():
        for name, target in (*net.named_parameters(), *net.named_buffers()):
            for own, value in function.constants.items():
                fits = isinstance(value, np.ndarray) and value.shape == tuple(target.shape)
                if fits and own.startswith(name.replace(".", "_")):
                    target.copy_(torch.from_numpy(value.astype(np.float32)))
                    found.add(name)
    return found


def _spec(change: str, spec: Any) -> None:
    """Change what a package's description says, or what it is written in, and nothing that the interpreter runs."""
    told = spec.description
    described = {one.name: one for one in (*told.input, *told.output, *told.state)}
    (main,) = spec.mlProgram.functions.values()
    match change:
        case "version":
            spec.specificationVersion = 99
        case "old version":
            spec.specificationVersion = 7
        case "opset":
            main.block_specializations["CoreML5"].CopyFrom(main.block_specializations.pop(main.opset))
            main.opset = "CoreML5"
        case "foreign opset":
            main.block_specializations["CoreML1"].CopyFrom(main.block_specializations.pop(main.opset))
            main.opset = "CoreML1"
        case "name":
            described["logits"].name = "logitz"
        case "no states":
            del told.state[:]
        case "output type" | "input type":
            one = described["logits" if change == "output type" else "input_ids"].type.multiArrayType
            one.dataType = one.FLOAT16
        case "state shape":
            described["keys"].type.stateType.arrayType.shape[2] -= 1
        case "input shape":
            described["rows"].type.multiArrayType.shapeRange.sizeRanges.add(lowerBound=1, upperBound=1)
        case "range":
            described["positions"].type.multiArrayType.shapeRange.sizeRanges[1].upperBound -= 1
        case "metadata":
            told.metadata.userDefined["edgecall.context_length"] = "abc"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("version", "specification version 99, of which nothing is known here"),
        ("old version", "function 'main': opset 'CoreML8' came with specification version 9, not 7"),
        ("opset", "function 'main': states, which opset 'CoreML5' does not have"),
        ("foreign opset", "function 'main': opset 'CoreML1', which is not known here"),
        ("name", "it has the outputs logits, its description logitz"),
        ("no states", "it has the states keys, keys_rest, values, values_rest, its description none"),
        ("output type", "output 'logits' is fp32, in the description fp16"),
        ("input type", "input 'input_ids' is int32, in the description fp16"),
        ("state shape", "state 'keys' has the shape .*, in the description another"),
        ("input shape", r"input 'rows' has the shape \(any\), in the description another"),
        ("range", "but its edgecall.context_length is"),
        ("metadata", "but its edgecall.context_length is 'abc'; export again"),
    ],
)
def test_what_apps_are_told_is_what_the_program_is(exact: Artifact, tmp_path: Path, change: str, told: str) -> None:
    weights = tmp_path / exact.weights.name
    shutil.copytree(exact.weights, weights)
    package = Mutable(weights)
    _spec(change, package.spec)
    package.save()
    with pytest.raises(ArtifactError, match=told):
        coreml_reference.open_model(Artifact(tmp_path, exact.manifest | {"weights": weights.name}))


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("int8-per-channel", "constexpr_blockwise_shift_scale"),
        ("uint8-with-offset", "constexpr_blockwise_shift_scale"),
        ("int4-per-block", "constexpr_blockwise_shift_scale"),
        ("palettes-of-6-bits", "constexpr_lut_to_dense"),
        ("pruned", "constexpr_sparse_to_dense"),
    ],
)
def test_compressed_weights(shallow: Shallow, tmp_path: Path, name: str, operation: str) -> None:
    """As PyTorch with the weights that coremltools itself decompresses; and not as with the uncompressed ones."""
    import coremltools.optimize.coreml as cto

    path, plain = tmp_path / "small.mlpackage", tmp_path / "plain.mlpackage"
    with mil.quiet():
        model = how(name)(ct.models.MLModel(str(shallow.path), skip_model_load=True))
        model.save(str(path))
        cto.decompress_weights(model).save(str(plain))
    package = Package(path)
    assert package.operations[operation] > 10
    net = load_checkpoint(shallow.source, shallow.source.context_length)
    tokens = random_tokens(shallow.source.vocab_size, 64)
    uncompressed = walk(net, tokens)
    net.reset()
    found = with_weights(net, mil.load(plain).main)
    large = {name for name, weight in net.named_parameters() if weight.numel() > COMPRESSED}
    assert large | {"cos_local", "sin_global"} <= found
    got = walk(package, tokens)
    np.testing.assert_allclose(got, walk(net, tokens), atol=2e-3)
    assert np.abs(got - uncompressed).max() > 0.05


@pytest.mark.parametrize("quant", ["fp32", "fp16"])
def test_the_state_is_the_networks(tiny: Checkpoint, exported: Maker, quant: str) -> None:
    """After many appends and rewinds, past the window: the cache holds what PyTorch's holds."""
    net = load_checkpoint(tiny, tiny.context_length, exact=quant == "fp32")
    plan = coreml_reference.open_model(exported("coreml", quant), threads=1).plans["main"]
    atol, logits = (1e-4, 1e-4) if quant == "fp32" else (0.1, 0.1)
    check_states(net, plan, random_tokens(tiny.vocab_size, 3 * WINDOW), atol=atol, logits=logits)


def test_fp16_is_rounded_as_declared_or_not_at_all(tiny: Checkpoint, half: Artifact) -> None:
    tokens = random_tokens(tiny.vocab_size, 60)
    rows = {}
    for precision in mil.PRECISIONS:
        model = coreml_reference.open_model(half, threads=1, precision=precision)
        assert model.dtype == {"declared": "fp16", "float32": "fp16 in float32"}[precision]
        rows[precision] = model.session().append(tokens, rows="all").copy()
    net = load_checkpoint(tiny, tiny.context_length)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() == 2:  # the norms' are float32 in the package
                weight.copy_(weight.half().float())
        want = net(*(torch.from_numpy(value) for value in package_inputs(tokens, 0, "all").values())).numpy()
    error = {precision: float(np.abs(found - want).max()) for precision, found in rows.items()}
    assert error["float32"] < 0.02 < error["declared"] < 0.5


def test_says_what_it_is(exact: Artifact) -> None:
    assert is_emulated("coreml-reference") and not is_emulated("coreml")
    model = coreml_reference.open_model(exact, threads=1)
    assert (model.emulated, model.device, model.dtype, model.threads) == (True, "cpu", "fp32", 1)
    state = coreml_reference.availability()
    assert state.available and (state.version or "").startswith("coremltools ")


def test_what_is_refused(exact: Artifact) -> None:
    for device in ("gpu", "ane", "cuda"):
        with pytest.raises(UserError, match=f"device '{device}' is not one that it has; use auto or cpu"):
            coreml_reference.open_model(exact, device=device)
    with pytest.raises(UserError, match="unknown precision 'bf16'; use declared or float32"):
        coreml_reference.open_model(exact, precision="bf16")  # type: ignore[arg-type]
    with pytest.raises(SessionError, match="threads"):
        coreml_reference.open_model(exact, threads=0)


def test_another_interface_is_refused(exact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    program = mil.load(exact.weights)
    other = replace(program.main, outputs=("scores",))
    changed = replace(program, functions={"main": other})
    monkeypatch.setattr("runtimes.mil.load", lambda path: changed)
    with pytest.raises(ArtifactError, match="gives scores, not input_ids, positions, rows and logits with a state"):
        coreml_reference.open_model(exact)


def test_without_coremltools(exact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "distribution", absent)
        with pytest.raises(UnavailableError, match="coremltools is not installed; pip install"):
            coreml_reference.open_model(exact)
    bare = SimpleNamespace(files=[Path("coremltools/__init__.py")], version="9.0")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: bare)
    with pytest.raises(UnavailableError, match="coremltools has no libmilstoragepython here; use Linux or macOS"):
        coreml_reference.open_model(exact)


@pytest.mark.parametrize(
    ("own", "stand_in", "want"),
    [
        (True, True, "coreml"),
        (False, True, "coreml-reference"),
        (False, False, "coreml"),
    ],
)
def test_who_proves(monkeypatch: pytest.MonkeyPatch, own: bool, stand_in: bool, want: str) -> None:
    monkeypatch.setattr("runtimes.coreml.availability", lambda: Availability(own))
    monkeypatch.setattr(coreml_reference, "availability", lambda: Availability(stand_in))
    assert prover("coreml") == want
    assert [prover(fmt) for fmt in FORMATS if fmt != "coreml"] == [FORMATS[fmt] for fmt in FORMATS if fmt != "coreml"]


def test_the_module_is_light() -> None:
    code = (
        "import sys, runtimes.coreml_reference as c; c.availability()\n"
        "print(*[name in sys.modules for name in ('coremltools', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
