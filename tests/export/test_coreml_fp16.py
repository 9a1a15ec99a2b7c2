"""What float16 cannot hold: recorded, rescaled exactly, and gone from the package as the interpreter runs it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from router.cases import Case
from router.toolset import Call
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from tests.loud import LAYER, PEAK, changed, loud_mlp, loud_scores, loud_stream
from tests.odd import odd_checkpoint
from tests.tiny import LIGHTS

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

from export import coreml  # noqa: E402
from export.coreml_mil import Package  # noqa: E402
from export.coreml_model import Gemma3Stateful, Norm, load_checkpoint  # noqa: E402
from export.coreml_record import (  # noqa: E402
    LARGEST,
    PLAIN,
    STREAM,
    Intermediate,
    Record,
    operations,
    passes,
    record,
    rendered,
    rounding,
    simulate,
    verdict,
)
from export.coreml_rescale import AIM, Change, Knob, knobs, mend, plan, rescale  # noqa: E402
from export.pipeline import export_one  # noqa: E402
from export.proof_file import read_header  # noqa: E402
from export.proof_requests import default_requests  # noqa: E402
from export.proof_run import measure, reference  # noqa: E402

CAPACITY = 512
REQUESTS = tuple(default_requests(LIGHTS, 6)[i] for i in (0, 2, 3, 4, 5))
"""The model calls for each of them, and every choice on the way is clearer than float16 rounds."""
TWO_LAYERS = {"num_hidden_layers": 2, "sliding_window_pattern": 2}
"""One local, one global: a package of two layers is converted and interpreted in a moment."""


@pytest.fixture(scope="module")
def odd(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return odd_checkpoint(tmp_path_factory.mktemp("fp16") / "odd", tiny, seed=3, **TWO_LAYERS)


@pytest.fixture(scope="module")
def loud(odd: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Its residual stream peaks at 100,000."""
    return changed(odd, tmp_path_factory.mktemp("fp16") / "loud", loud_stream)


def some_tokens(source: Checkpoint, count: int = 60, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(4, source.vocab_size, count)]


def by_name(seen: Record) -> dict[str, float]:
    return {one.name: one.max_abs for one in seen.intermediates}


def logits_of(net: Gemma3Stateful, tokens: list[int]) -> Any:
    """With the cache in float32, which a scaled key or value is not rounded in."""
    net.cache_in(torch.float32)
    try:
        return next(passes(net, [tokens]))
    finally:
        net.cache_in(torch.float16)


def test_the_record_is_of_the_network_that_transformers_has(odd: Checkpoint) -> None:
    from transformers import Gemma3ForCausalLM

    tokens = some_tokens(odd)
    seen = record(load_checkpoint(odd, CAPACITY, exact=False), [tokens])
    reference = Gemma3ForCausalLM.from_pretrained(odd.folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        out = reference(torch.tensor([tokens]), output_hidden_states=True)
    largest = [float(state.abs().max()) for state in out.hidden_states]
    found = by_name(seen)
    streams = ["scale", "layers.0.add_mlp", "norm"]  # transformers shows the last layer's behind the last norm
    assert [found[name] for name in streams] == pytest.approx(largest, rel=1e-4)
    assert found["head"] == pytest.approx(float(out.logits[0].abs().max()), rel=1e-3)
    heads = [one for one in seen.intermediates if one.role == "v"]
    assert [(one.name, one.layer) for one in heads] == [
        (f"layers.{layer}.v.{head}", layer) for layer in (0, 1) for head in (0, 1)
    ]
    assert found["layers.1.scores"] < 100  # not what stands for a masked one
    assert seen.tokens == len(tokens)


def test_what_sequences_share_is_run_once_and_seen_all_the_same(odd: Checkpoint) -> None:
    net = load_checkpoint(odd, CAPACITY, exact=False)
    first, second = some_tokens(odd), [*some_tokens(odd)[:40], *some_tokens(odd, 20, 1)]
    alone = [by_name(record(net, [tokens])) for tokens in (first, second)]
    sizes: list[int] = []
    hook = net.embed.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))
    together = by_name(record(net, [first, second]))
    hook.remove()
    assert sizes == [60, 20]
    want = {name: max(one[name] for one in alone) for name in together}
    assert together == pytest.approx(want, rel=1e-5)


def test_cases_are_seen_with_their_calls(odd: Checkpoint) -> None:
    from router.tokenizer import RouterTokenizer

    call = Call("status", {"room": "hall"})
    (tokens,) = rendered(odd, LIGHTS, [Case("a", "what is on?", calls=(call,))])
    tokenizer = RouterTokenizer.load(odd.folder / "tokenizer.json")
    prompt = tokenizer.prompt_ids(LIGHTS, "what is on?")
    assert tokens[: len(prompt)] == prompt
    assert tokenizer.parse(tokens[len(prompt) :]) == [call]


@pytest.mark.parametrize("tied", [True, False])
def test_every_knob_is_exact_and_lowers_what_it_says(odd: Checkpoint, tied: bool) -> None:
    """In float32 the logits are the same to the last bit, and of the intermediates only those named are smaller."""

    def network() -> Gemma3Stateful:
        net = load_checkpoint(odd, CAPACITY, exact=False)
        if not tied:
            net.head.weight = torch.nn.Parameter(net.head.weight.detach().clone())
        assert net.tied is tied
        return net

    tokens, plain = some_tokens(odd), network()
    logits, before = logits_of(plain, tokens), record(plain, [tokens])
    turned = 0
    for knob in knobs(tied=tied):
        for layer in (0, 1) if knob.per_layer else (None,):
            net = network()
            rescale(net, [Change(knob.name, layer, 5)])
            assert net.tied is tied
            assert torch.equal(logits_of(net, tokens), logits), knob
            after = by_name(record(net, [tokens]))
            for one in before.intermediates:
                lower = one.role in knob.lowers and (layer is None or one.layer == layer)
                assert after[one.name] == one.max_abs / (32 if lower else 1), (knob, one)
            turned += 1
    assert turned == 3 + 2 * 8


def test_a_norm_that_reads_what_is_smaller_needs_its_epsilon_smaller(odd: Checkpoint) -> None:
    """What the rescaling of epsilon is there for: without it, logits move where activations are small."""
    tokens, net = some_tokens(odd), load_checkpoint(odd, CAPACITY, exact=False)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, Norm):
                module.eps = 0.01
    logits = logits_of(net, tokens)
    rescale(net, [Change("residual stream", None, 3)])
    assert torch.equal(logits_of(net, tokens), logits)
    net.norm.eps *= 64
    assert float((logits_of(net, tokens) - logits).abs().max()) > 0.1


def made_record(**max_abs: float) -> Record:
    """A record of one layer in which everything is 1 but what is given."""
    roles = {role: 1.0 for knob in knobs(tied=True) for role in knob.lowers} | max_abs
    outside = ("embed", "scale", "norm", "head")
    return Record(
        tuple(Intermediate(role, role, None if role in outside else 0, value) for role, value in roles.items()), 1
    )


def test_what_fits_is_left_alone_and_what_does_not_gets_room() -> None:
    assert plan(made_record(add_mlp=LARGEST / 2), tied=True) == ()
    (change,) = plan(made_record(add_mlp=LARGEST / 2 + 16), tied=True)
    assert change == Change("residual stream", None, 2)
    assert str(change) == "residual stream / 4"
    assert plan(made_record(add_mlp=AIM * LARGEST), tied=True) == (Change("residual stream", None, 4),)
    assert plan(made_record(embed=LARGEST, head=LARGEST), tied=True) == (Change("embedding", None, 2),)
    two = plan(made_record(embed=LARGEST, head=LARGEST), tied=False)
    assert two == (Change("embedding", None, 2), Change("logits", None, 2))


def test_one_knob_in_the_mlp_serves_for_the_other() -> None:
    """Where up is scaled down, its output has become smaller with it."""
    assert plan(made_record(gated=4 * LARGEST, down=4 * LARGEST), tied=True) == (Change("MLP up", 0, 4),)
    assert plan(made_record(gated=LARGEST, down=4 * LARGEST), tied=True) == (
        Change("MLP up", 0, 2),
        Change("MLP output", 0, 2),
    )
    assert str(Change("MLP up", 0, 10)) == "MLP up of layer 0 / 1,024"


def test_verdicts() -> None:
    assert [verdict(value) for value in (1.0, 32752.0, 32753.0, 65504.0, 65505.0, math.inf)] == [
        "fits", "fits", "near", "near", "overflows", "overflows",
    ]  # fmt: skip


def test_a_stream_of_100000_is_lost_in_a_plain_float16_and_kept_when_rescaled(loud: Checkpoint) -> None:
    net = load_checkpoint(loud, CAPACITY, exact=False)
    _, sequences = coreml.samples(loud, LIGHTS)
    want = [logits.clone() for logits in passes(net, sequences)]
    assert any(torch.isnan(rows).any() for rows in simulate(net, sequences, PLAIN))
    assert rounding(net, sequences, PLAIN)["finite"] is False
    mended = mend(net, sequences)
    peak = max(one.max_abs for one in mended.before.worst if one.role in STREAM)
    assert peak == pytest.approx(PEAK, rel=0.15) and mended.before.largest.verdict == "overflows"
    assert (mended.verdict, mended.changes) == ("mendable", (Change("residual stream", None, 3),))
    assert mended.after.largest.max_abs <= LARGEST / AIM
    for rows, rescaled in zip(want, passes(net, sequences), strict=True):
        assert torch.equal(rows, rescaled)
    facts = rounding(net, sequences, PLAIN)
    assert facts["finite"] and facts["top1_agreement"] > 0.97


def test_a_plain_float16_package_makes_the_same_calls_once_rescaled(loud: Checkpoint, tmp_path: Path) -> None:
    """With the residual stream in float16 too, run by the interpreter, which rounds every value as it is declared."""
    known = reference(loud, "functiongemma", LIGHTS, REQUESTS)
    assert all(row.reference_calls for row in known.rows)
    capacity, sequences = coreml.samples(loud, LIGHTS)
    net = load_checkpoint(loud, capacity, exact=False)
    tokens = sequences[0][-40:]

    def largest(package: Path) -> float:
        found: dict[str, float] = {}
        coreml.walk(Package(package), tokens, operations(found))
        return max(found.values())

    coreml._convert(net, "fp16", wide=(Norm,)).save(str(tmp_path / "before.mlpackage"))
    assert largest(tmp_path / "before.mlpackage") == math.inf
    mend(net, sequences)
    coreml._convert(net, "fp16", wide=(Norm,)).save(str(tmp_path / "model.mlpackage"))
    assert PEAK / 16 < largest(tmp_path / "model.mlpackage") < math.inf
    (tmp_path / "tokenizer.json").write_bytes((loud.folder / "tokenizer.json").read_bytes())
    manifest = {"format": "coreml", "quant": "fp16", "weights": "model.mlpackage", "wire": "functiongemma",
                "context_length": capacity, "vocab_size": loud.vocab_size}  # fmt: skip
    found = measure(Artifact(tmp_path, manifest), known.rows, known.probe, LIGHTS, "coreml-reference", "cpu", None)
    assert (found.same, found.top1) == (len(known.rows), 1.0)
    assert found.max_abs < coreml.QUANTS["fp16"].logit_tolerance


def test_an_export_rescales_by_itself_and_says_so(loud: Checkpoint, tmp_path: Path) -> None:
    """Both the stream and one layer's MLP are too large; before, the second alone made the export impossible."""
    source = changed(loud, tmp_path / "both", loud_mlp)
    cases = [Case("1", "kitchen", calls=(Call("status", {"room": "kitchen"}),))]
    made = export_one(source, "coreml", "fp16", tmp_path / "out", LIGHTS, requests=REQUESTS, cases=cases)
    details = made.manifest["details"]
    assert details["fp16_safe"] is True and details["fp16"]["cases"] == 1
    facts = details["fp16"]
    knobs_turned = [(change["knob"], change["layer"]) for change in facts["rescaling"]]
    assert knobs_turned == [("residual stream", None), ("MLP up", LAYER)]
    assert facts["max_abs_before"]["gated"] > LARGEST > AIM * facts["max_abs"]["gated"]
    assert facts["headroom"] >= AIM and facts["max_abs"][facts["largest"].rpartition(".")[2]] <= LARGEST / AIM
    assert facts["finite"] and facts["top1_agreement"] > 0.97
    names = {one.name for op in Package(made.weights).function.operations for one in op.outputs}
    assert set(details["interpreted"]["largest"]) <= names
    assert read_header(made).met  # the interpreter's calls are those of the checkpoint in PyTorch


def test_what_fits_is_exported_as_it_is(odd: Checkpoint) -> None:
    net = load_checkpoint(odd, CAPACITY, exact=False)
    weights = {name: weight.clone() for name, weight in net.named_parameters()}
    facts, safe = coreml._into_float16(net, [some_tokens(odd)], odd, "fp16")
    assert safe and facts["rescaling"] == [] and "max_abs_before" not in facts
    assert all(torch.equal(weights[name], weight) for name, weight in net.named_parameters())


def test_what_cannot_be_mended_is_refused(odd: Checkpoint, tmp_path: Path) -> None:
    source = changed(odd, tmp_path / "scores", loud_scores)
    with pytest.raises(UserError, match=rf"layers\.{LAYER}\.scores reaches .* overflow float16 \(65,504\)") as caught:
        coreml.write(source, tmp_path, "fp16", LIGHTS)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("export fp32")
    assert not (tmp_path / coreml.PACKAGE).exists()


def test_the_documentation_names_every_knob() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coreml-internals.md").read_text(encoding="utf-8").lower()
    named: list[Knob] = [*knobs(tied=True)]
    assert [knob.name for knob in named if knob.name.lower() not in page] == []
