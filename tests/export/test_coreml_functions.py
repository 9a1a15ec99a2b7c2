"""The package of fixed shapes: what is in it, and that it makes the calls of the network that it was made from.

How passes are cut into its functions is tests/runtimes/test_coreml_package.py; that it is Gemma, however it is asked,
tests/runtimes/test_conformance.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from tests.exports import PART, Neural
from tests.loud import LAYER, changed, loud_mlp, loud_scores, loud_stream
from tests.tiny import LIGHTS

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")

from export import coreml, coreml_functions, coreml_neural  # noqa: E402
from export.coreml_mil import Package  # noqa: E402
from export.coreml_model import Gemma3Stateful, Norm, load_checkpoint  # noqa: E402
from export.coreml_neural import mb  # noqa: E402
from export.coreml_record import LARGEST, rounding, run  # noqa: E402
from export.coreml_rescale import AIM  # noqa: E402
from export.pipeline import export_one  # noqa: E402
from export.proof import verify  # noqa: E402
from export.proof_file import read_header, read_proof  # noqa: E402
from export.proof_requests import default_requests  # noqa: E402
from export.proof_run import measure, reference  # noqa: E402
from runtimes import coreml_reference, mil  # noqa: E402

FEW = tuple(one for one in coreml_neural.FUNCTIONS if one.name in ("decode_1", "prefill_32", "verify_32", "choose_1"))
REQUESTS = tuple(default_requests(LIGHTS, 6)[i] for i in (0, 2, 3, 4, 5))
"""As in test_coreml_fp16.py: every choice on the way is clearer than float16 rounds."""


def shapes(function: mil.Function) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    return {one.name: (one.type.dtype, one.type.shape) for one in function.inputs}


def test_functions_share_a_state_and_have_fixed_shapes(neural: Neural) -> None:
    package, capacity, vocab = neural.package, neural.source.context_length, neural.source.vocab_size
    functions = package.program.functions
    sizes = {"decode_1": 1, "prefill_8": 8, "prefill_32": 32, "prefill_128": 128, "verify_8": 8, "verify_32": 32}
    assert {**sizes, "choose_1": 1}.keys() == functions.keys()
    assert package.program.default == "decode_1"
    for name, function in functions.items():
        size = sizes.get(name, 1)
        mask = ("fp16", (1, capacity, 1, size))
        want: dict[str, Any] = {
            "input_ids": ("int32", (1, size)),
            "positions": ("int32", (size,)),
            "write": ("fp16", (1, size, 1, capacity)),
            "past": mask,
            "near": mask,
        }
        outputs = ("logits",)
        if name == "choose_1":
            want["allowed"], outputs = ("fp16", (1, vocab)), ("id", "logit")
        assert (shapes(function), function.outputs) == (want, outputs), name
        assert {one.name: one.type.shape for one in function.states} == package.states
    assert package.states == {"keys": (2, capacity, 1, 64), "values": (2, 64, 1, capacity)}
    assert neural.artifact.manifest["details"]["states"] == {
        name: list(shape) for name, shape in package.states.items()
    }
    metadata = package.spec.description.metadata.userDefined
    assert metadata["edgecall.context_length"] == str(capacity)
    assert metadata["edgecall.sliding_window"] == str(neural.source.config["sliding_window"])
    for function in package.spec.description.functions:
        assert all(one.shortDescription for one in (*function.input, *function.output))


def test_the_layout_is_the_advised_one(neural: Neural) -> None:
    """Four axes, channels first, convolutions; float16 but for the outputs; no axis that is longer than allowed."""
    for name, function in neural.package.program.functions.items():
        counts = function.counts
        assert not {"linear", "matmul", "layer_norm"} & set(counts), name
        heads, layers = 4, 2
        assert counts["conv"] == layers * (1 + 2 + 2 + 1 + 3) + 2  # q, k, v, o, MLP; two parts of the output matrix
        assert counts["softmax"] == layers * heads
        assert counts["einsum"] == layers * (2 * heads + 2)
        last = set(function.outputs)
        for op in function.operations:
            for one in op.outputs:
                if one.name in last:
                    continue
                assert one.type.dtype in ("fp16", "int32", "bool", "fp32" if op.type == "cast" else ""), (name, op)
                if op.type in ("conv", "einsum", "softmax", "gelu", "rsqrt"):
                    assert len(one.type.shape) == 4 and one.type.shape[0] == 1, (name, op)
                    assert max(one.type.shape) <= PART, (name, op)


def test_weights_are_there_once(neural: Neural) -> None:
    """One copy for seven functions, for the look-up and the output matrix; and what is altered is missed."""
    net = load_checkpoint(neural.source, neural.source.context_length)
    (weights,) = neural.artifact.folder.rglob("weight.bin")
    tables = 4 * net.cos_local.numel()
    numbers = sum(weight.numel() for weight in net.parameters()) + tables
    assert 2 * numbers < weights.stat().st_size < 2.2 * numbers
    assert coreml.missing_weights(neural.package, net, PART) == []
    with torch.no_grad():
        net.layers[1].up.weight[5, 7] += 0.01
        net.embed.weight[700, 3] += 0.01  # in the second part
        net.layers[0].k_norm.weight.mul_(1.01)
    changed_names = ["embed.weight", "layers.0.k_norm.weight", "layers.1.up.weight"]
    assert sorted(coreml.missing_weights(neural.package, net, PART)) == changed_names


def test_the_check_runs_every_function_and_notices_another_network(
    neural: Neural, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = load_checkpoint(neural.source, neural.source.context_length, exact=False)
    tokens = coreml.samples(neural.source, LIGHTS)[1][-1]
    called: list[str] = []
    real = Package.run

    def spy(self: Package, *given: Any, function: str | None = None) -> Any:
        called.append(str(function))
        return real(self, *given, function=function)

    monkeypatch.setattr(Package, "run", spy)
    monkeypatch.setattr(coreml_neural, "PART", PART)
    coreml._check(neural.package, net, tokens, neural=True)
    assert set(called) == set(neural.package.program.functions)
    assert neural.artifact.manifest["details"]["interpreted"]["max_abs_logit"] < 0.2
    assert (
        max(neural.artifact.manifest["details"]["interpreted"]["largest"].values()) < 1000
    )  # no masked scores among them
    net.window -= 1
    with pytest.raises(RuntimeError, match="from the network's"):
        coreml._check(neural.package, net, tokens, neural=True)
    net.window += 1
    right = neural.package.program.functions["choose_1"]
    operations = tuple(
        dataclasses.replace(op, type="reduce_argmin") if op.type == "reduce_argmax" else op for op in right.operations
    )
    wrong = mil.make_plan(dataclasses.replace(right, operations=operations), neural.package.program.path)
    monkeypatch.setitem(neural.package._plans, "choose_1", wrong)
    with pytest.raises(RuntimeError, match="not the best of the allowed"):
        coreml._check(neural.package, net, tokens, neural=True)


def test_verify_calls_every_function(neural: Neural, tmp_path: Path) -> None:
    """Requests of the toolset may call a few of them; one that computes something else is noticed all the same."""
    found = {check.name: check for check in verify(neural.artifact, threads=1).checks}
    assert found["functions"].ok and all(check.ok for check in found.values())
    apart = (read_header(neural.artifact).measured or {})["apart"]
    assert 0 < apart < 0.2
    unrounded = {check.name: check for check in verify(neural.artifact, threads=1, precision="float32").checks}
    assert "in coreml-reference in float32, not in coreml itself" in unrounded["logits"].detail
    less = float(unrounded["functions"].detail.split("at most ")[1].split()[0])
    assert unrounded["functions"].ok and less < apart / 10  # what is left without rounding is the functions' own
    package = neural.package.program
    model = coreml_reference.open_model(neural.artifact, threads=1)
    prompt = read_proof(neural.artifact)[1][0].prompt[:12]
    for name, function in package.functions.items():
        kind, wrong = ("reduce_argmax", "reduce_argmin") if name == "choose_1" else ("gelu", "relu")
        operations = tuple(
            dataclasses.replace(op, type=wrong, inputs={k: v for k, v in op.inputs.items() if k != "mode"})
            if op.type == kind
            else op
            for op in function.operations
        )
        broken = mil.make_plan(dataclasses.replace(function, operations=operations), package.path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(model.plans, name, broken)
            apart = model.session().disagreement(prompt)
        assert apart is not None and apart > 0.5, name


def built(net: Gemma3Stateful, folder: Path) -> Package:
    coreml_functions.convert_functions(net).save(str(folder / "model.mlpackage"))
    return Package(folder / "model.mlpackage")


def as_artifact(package: Package, source: Checkpoint, quant: str = "ane") -> Artifact:
    path = package.program.path
    (path.parent / "tokenizer.json").write_bytes((source.folder / "tokenizer.json").read_bytes())
    sizes = {"context_length": source.context_length, "vocab_size": source.vocab_size}
    return Artifact(
        path.parent, {"format": "coreml", "quant": quant, "weights": path.name, "wire": "functiongemma", **sizes}
    )


def test_the_calls_are_those_of_the_plain_package(neural: Neural, tmp_path: Path) -> None:
    """Decoded with the grammar; and unrounded, the logits are the plain package's, whichever the layout."""
    known = reference(neural.source, "functiongemma", LIGHTS, REQUESTS)
    coreml.write(neural.source, tmp_path, "fp16", LIGHTS)
    found = [
        measure(
            as_artifact(package, neural.source, quant), known.rows, known.probe, LIGHTS, "coreml-reference", "cpu", None
        )
        for package, quant in ((neural.package, "ane"), (Package(tmp_path / coreml.PACKAGE), "fp16"))
    ]
    neural, plain = ([(row.completion, row.calls) for row in one.decoded] for one in found)
    assert neural == plain and any(calls for _, calls in plain)
    assert [one.same for one in found] == [len(REQUESTS)] * 2
    assert found[0].max_abs < coreml.QUANTS["ane"].logit_tolerance
    assert found[0].probe < coreml.QUANTS["ane"].logit_tolerance


def test_unrounded_it_is_the_network(neural: Neural, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untied head, its logits scaled, in 32 bits with weights that float16 holds: the same logits."""
    net = load_checkpoint(neural.source, neural.source.context_length)
    with torch.no_grad():
        net.head.weight = torch.nn.Parameter(torch.randn_like(net.head.weight) / 8)
        for weight in net.parameters():
            weight.copy_(weight.half().float())
        net.norm.weight.mul_(0.25)
        net.unscale.factor = 4.0
        for name in ("cos_global", "sin_global", "cos_local", "sin_local"):
            setattr(net, name, getattr(net, name).half().float())
    monkeypatch.setattr(coreml_functions, "FUNCTIONS", FEW)
    artifact = as_artifact(built(net, tmp_path), neural.source)
    tokens = [int(t) for t in np.random.default_rng(0).integers(4, neural.source.vocab_size, 70)]
    net.cache_in(torch.float32)
    want = run(net, tokens).numpy()
    session = coreml_reference.open_model(artifact, threads=1, precision="float32").session()
    session.append(tokens[:30])
    np.testing.assert_allclose(session.append(tokens[30:], rows="all"), want[30:], atol=2e-2)
    session.rewind(50)
    best, logit = session.choose(tokens[50:], np.arange(neural.source.vocab_size))
    assert best == int(want[-1].argmax()) and logit == pytest.approx(float(want[-1].max()), abs=2e-2)


def test_a_network_too_loud_for_float16_is_rescaled(
    neural: Neural, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream of 100,000, which this package holds in float16, and an MLP beyond it: mended, the calls of PyTorch."""
    monkeypatch.setattr(coreml_functions, "FUNCTIONS", FEW)
    source = changed(neural.source, tmp_path / "loud", loud_stream, loud_mlp)
    made = export_one(source, "coreml", "ane", tmp_path / "out", LIGHTS, requests=REQUESTS)
    details = made.manifest["details"]
    knobs = [(change["knob"], change["layer"]) for change in details["fp16"]["rescaling"]]
    assert knobs == [("residual stream", None), ("MLP up", LAYER)]
    assert details["fp16_safe"] and details["fp16"]["finite"]
    assert 1000 < max(details["interpreted"]["largest"].values()) < LARGEST / AIM * 1.1
    assert read_header(made).met and read_header(neural.artifact).met


def test_what_cannot_be_mended_is_refused(neural: Neural, tmp_path: Path) -> None:
    source = changed(neural.source, tmp_path / "scores", loud_scores)
    with pytest.raises(UserError, match=r"coreml ane: layers\.1\.scores reaches"):
        coreml.write(source, tmp_path, "ane", LIGHTS)
    assert not (tmp_path / coreml.PACKAGE).exists()


def test_a_cache_longer_than_an_axis_is_refused(neural: Neural, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(coreml_neural, "PART", 256)
    with pytest.raises(UserError, match="a cache of 512 positions is longer than the Neural Engine takes") as caught:
        coreml.write(neural.source, tmp_path, "ane", LIGHTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("eps", [1e-6, 1e-6 / 4**8])
def test_a_norm_of_any_size_stays_in_float16(tmp_path: Path, eps: float) -> None:
    """Every intermediate is finite, and the result the norm's in 32 bits, where one channel is far larger than others
    and where all are zero."""
    width = 80
    plan = norm_alone(Norm(width, eps), tmp_path)
    x = np.random.default_rng(0).normal(size=(1, width, 1, 3)) / 16
    x[0, 5] = 1
    for scale in (0.0, 1e-6, 1e-3, 1.0, 3e4):
        given = (x * scale).astype(np.float16)
        seen: list[np.ndarray] = []
        found = mil.execute(plan, {"x": given}, mil.new_state(plan), lambda _, values, seen=seen: seen.extend(values))
        assert seen and all(np.isfinite(value).all() for value in seen), scale
        exact = torch.from_numpy(given.astype(np.float64))
        want = exact * torch.rsqrt((exact * exact).mean(1, keepdim=True) + eps)
        if scale > 1e-4:  # below that epsilon is most of what there is
            np.testing.assert_allclose(*found.values(), want.numpy(), rtol=6e-3, atol=1e-4)


def norm_alone(norm: Norm, folder: Path) -> mil.Plan:
    """A program of one norm with weights of 1, over (1, width, 1, 3), saved and read back."""
    width = len(norm.weight)
    writer = object.__new__(coreml_neural._Pass)
    writer.constants = {}
    writer.weights = SimpleNamespace(scales={"norm.weight": np.ones((1, width, 1, 1), np.float16)})  # type: ignore[assignment]

    @mb.program(
        input_specs=[mb.TensorSpec((1, width, 1, 3), dtype=coreml_neural.types.fp16)], opset_version=ct.target.iOS18
    )
    def program(x: Any) -> Any:
        return writer._norm(x, norm, "norm")

    with mil.quiet():
        model = ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS18,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(folder / "norm.mlpackage"))
    loaded = mil.load(folder / "norm.mlpackage")
    return mil.make_plan(loaded.main, loaded.path)


def test_the_simulation_rounds_the_norms_too(neural: Neural) -> None:
    net = load_checkpoint(neural.source, 256, exact=False)
    tokens = [[int(t) for t in np.random.default_rng(0).integers(4, neural.source.vocab_size, 60)]]
    kinds = {name: coreml._narrow_modules(neural=name == "ane") for name in ("fp16", "ane")}
    errors = {name: rounding(net, tokens, kind)["rms_logit"] for name, kind in kinds.items()}
    assert 0 < errors["fp16"] < errors["ane"] < 0.1


def test_the_documentation_names_the_functions(neural: Neural) -> None:
    page = (Path(__file__).parents[2] / "docs" / "coreml.md").read_text(encoding="utf-8")
    for name, function in neural.package.program.functions.items():
        for word in (name, *(one.name for one in (*function.inputs, *function.states)), *function.outputs):
            assert f"`{word}`" in page, word
    assert "`edgecall.sliding_window`" in page
