"""Training under an export's rounding: the formats are GGUF's, the model is the exported one, and adapters learn."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="peft is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("gguf", reason="gguf is not installed")

from gguf import GGMLQuantizationType, GGUFReader  # noqa: E402
from gguf.quants import dequantize, quantize  # noqa: E402

from export.base import Checkpoint  # noqa: E402
from export.gguf_tensors import find_tensors  # noqa: E402
from export.merge import merge_checkpoint  # noqa: E402
from router.tokenizer import RouterTokenizer  # noqa: E402
from runtimes.errors import UserError  # noqa: E402
from tests.odd import odd_checkpoint  # noqa: E402
from tests.tiny import LIGHTS  # noqa: E402
from tests.train.test_backends import CONFIG, DEV, LOOP, TRAIN, log, train_with  # noqa: E402
from train.backends import availability  # noqa: E402
from train.backends.blocks import FORMATS  # noqa: E402
from train.backends.common import peft_config  # noqa: E402
from train.backends.packed import PackedCases  # noqa: E402
from train.backends.quantized import fake_quantize, stored_as, train_under  # noqa: E402
from train.loop import autocast, batch_loss, collate, use_packed_attention  # noqa: E402

KINDS = ("q8_0", "q4_0")
FUSED = platform.machine() not in ("x86_64", "AMD64")
"""Whether compilers fuse multiplications and additions of C code unasked, so that llama.cpp may round differently."""
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def by_gguf(weight: Any, form: str) -> Any:
    """`weight` after the gguf package's own quantization and back."""
    kind = GGMLQuantizationType[form.upper()]
    with np.errstate(all="ignore"):
        return torch.from_numpy(dequantize(quantize(weight.detach().numpy(), kind), kind).astype(np.float32))


def edges() -> Iterator[tuple[str, Any]]:
    """Tensors of whole blocks whose rounding is easily got wrong."""
    rng = np.random.default_rng(7)
    yield "random", rng.normal(size=(64, 256)) * 0.05
    yield "magnitudes", rng.normal(size=(64, 96)) * 10.0 ** rng.integers(-6, 5, size=(64, 96))
    yield "zeros", np.zeros((3, 32))
    huge = rng.normal(size=(8, 32)) * 1e-3
    huge[np.arange(8), rng.integers(32, size=8)] = [2e5, -2e5, 30, -30, 1, -1, 1e3, -1e3]
    yield "one huge value", huge
    largest = rng.uniform(-0.5, 0.5, size=(8, 64))
    largest[:, 5], largest[:, 40] = 1, -1
    largest[:4, 9], largest[4:, 3] = -1, -1  # the first of several decides the sign of the scale
    yield "both signs at the largest magnitude", largest
    halves = np.tile(np.arange(-16, 16) / 2.0, (2, 4))
    halves[:, ::32], halves[1] = -127, halves[1] * -1  # scale 1: every other value lies between two steps
    yield "ties for 8 bits", halves
    yield "ties for 4 bits", np.tile(np.linspace(-8, 7.5, 32), (2, 2)) * np.array([[1.0], [-0.125]])
    just_below = np.full((1, 32), np.float32(0.5) - np.float32(2) ** -25)
    just_below[0, 0] = 127  # adding a half and cutting would round it up
    yield "just below a half", just_below
    yield "scales below half precision", rng.normal(size=(16, 32)) * 10.0 ** -np.arange(4.0, 36, 2)[:, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "values"), list(edges()), ids=[name for name, _ in edges()])
def test_the_formats_are_those_of_the_gguf_package(kind: str, name: str, values: Any) -> None:
    """To the bit; the sign of a zero aside where a block's scale is stored as zero, so that nothing is left of it."""
    weight = torch.from_numpy(values.astype(np.float32))
    ours, theirs = FORMATS[kind](weight), by_gguf(weight, kind)
    assert ours.shape == weight.shape and ours.dtype == torch.float32
    left = theirs.reshape(-1, 32).any(1)
    assert torch.equal(*(v.reshape(-1, 32)[left].view(torch.int32) for v in (ours, theirs)))
    assert torch.equal(ours, theirs), name
    assert left.any() or name == "zeros"


def peft_model(source: Checkpoint, targets: list[str], *, seed: int = 5) -> Any:
    """The base with a random adapter (also B), as large as one that was trained."""
    from peft import get_peft_model
    from transformers import Gemma3ForCausalLM

    torch.manual_seed(seed)
    base = Gemma3ForCausalLM.from_pretrained(source.folder, dtype=torch.float32, local_files_only=True)
    model = get_peft_model(base, peft_config(replace(CONFIG, targets=targets)))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    return model


def a_batch(source: Checkpoint) -> Any:
    tokenizer = RouterTokenizer.load(source.folder / "tokenizer.json")
    data = PackedCases(tokenizer, LIGHTS, TRAIN, limit=1024, seed=0)
    return collate([data.row(0)], window=int(source.config["sliding_window"]))


def loss_of(model: Any, batch: Any) -> Any:
    use_packed_attention(model)
    return batch_loss(model.eval(), batch)[0]


def with_weights(source: Checkpoint, weights: dict[str, Any]) -> Any:
    """The plain model of a merged checkpoint with other matrices, by their names in it."""
    from transformers import Gemma3ForCausalLM

    model = Gemma3ForCausalLM.from_pretrained(source.folder, dtype=torch.float32, local_files_only=True)
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown
    return model


def merged(source: Checkpoint, model: Any, folder: Path) -> Checkpoint:
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return merge_checkpoint(source.folder, folder / "merged", adapter=folder / "adapter")


def matrices(source: Checkpoint) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {k: v for k, v in load_file(source.folder / "model.safetensors").items() if v.ndim == 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [ALL, ["q_proj", "down_proj"]], ids=["all", "some"])
def test_its_loss_is_that_of_the_merged_weights_quantized_by_the_gguf_package(
    tiny: Checkpoint, tmp_path: Path, kind: str, targets: list[str]
) -> None:
    model, batch = peft_model(tiny, targets), a_batch(tiny)
    checkpoint = merged(tiny, model, tmp_path)
    plain = loss_of(model, batch).item()
    rounded = {
        name: by_gguf(weight, "q8_0" if name == "model.embed_tokens.weight" else kind)
        for name, weight in matrices(checkpoint).items()
    }
    assert len(rounded) == 7 * 7 + 1
    wanted = loss_of(with_weights(checkpoint, rounded), batch).item()
    train_under(model, kind)
    assert loss_of(model, batch).item() == pytest.approx(wanted, abs=1e-5)
    assert abs(wanted - plain) > 1e-3, "rounding moved nothing, so nothing was compared"


WIDTHS = {
    "tied, 64": {"hidden_size": 64},
    "tied, 256": {"hidden_size": 256},
    "untied, 256": {"hidden_size": 256, "tie_word_embeddings": False},
    "no whole blocks": {},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", WIDTHS.values(), ids=WIDTHS)
def test_its_weights_are_those_of_the_exported_file(
    tiny: Checkpoint, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    """Every tensor has the expected type, and but for a rare tie its values; the loss is the exported model's."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    from export import gguf as exporter

    source = odd_checkpoint(tmp_path / "base", tiny, query_pre_attn_scalar=32, **changes)
    model, batch = peft_model(source, ["q_proj", "o_proj", "down_proj"]), a_batch(source)
    checkpoint = merged(source, model, tmp_path)
    exporter.write(checkpoint, tmp_path / "out", kind, LIGHTS)
    originals = {t.name: t.original for t in find_tensors(checkpoint)}
    exact, tied = matrices(checkpoint), checkpoint.config["tie_word_embeddings"]
    read = {}
    for tensor in GGUFReader(tmp_path / "out" / "model.gguf").tensors:
        name = originals[tensor.name]
        form = tensor.tensor_type.name.lower()
        if name not in exact:
            assert form == "f32"
            continue
        head = name == ("model.embed_tokens.weight" if tied else "lm_head.weight")
        assert form == stored_as(kind, exact[name].shape[1], head=head), name
        read[name] = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        other = (FORMATS[form](exact[name]) != read[name]).float().mean()
        assert other <= (0.01 if FUSED else 0), f"{name}: {other:.2%} differ"
    assert read.keys() == exact.keys()
    wanted = loss_of(with_weights(checkpoint, read), batch).item()
    train_under(model, kind)
    assert loss_of(model, batch).item() == pytest.approx(wanted, rel=1e-4 if FUSED else 1e-6)


def test_gradients_reach_both_halves_of_the_adapter_as_if_nothing_were_rounded(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    """B gets scaling * G @ A.T and A scaling * B.T @ G, where G is the gradient of the rounded weight."""
    model, batch = peft_model(tiny, ALL), a_batch(tiny)
    checkpoint = merged(tiny, model, tmp_path)
    forms = {name: "q8_0" if "embed" in name else "q4_0" for name in matrices(checkpoint)}
    rounded = with_weights(checkpoint, {k: by_gguf(w, forms[k]) for k, w in matrices(checkpoint).items()})
    loss_of(rounded, batch).backward()
    gradients = {name: weight.grad for name, weight in rounded.named_parameters()}
    train_under(model, "q4_0")
    loss_of(model, batch).backward()
    layers = {n: m for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert len(layers) == 7 * 7
    for name, layer in layers.items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        wanted, scaling = gradients[f"{name}.weight"], layer.scaling["default"]
        torch.testing.assert_close(b.grad, scaling * wanted @ a.T, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(a.grad, scaling * b.T @ wanted, rtol=1e-3, atol=1e-5)
        assert a.grad.abs().max() > 1e-5 and b.grad.abs().max() > 1e-5
    assert all(weight.grad is None for name, weight in model.named_parameters() if "lora_" not in name)


def test_the_gradient_passes_the_rounding_unchanged() -> None:
    weight = torch.randn(4, 64, requires_grad=True)
    sent = torch.randn(4, 64)
    fake_quantize(weight, "q4_0").backward(sent)
    assert torch.equal(weight.grad, sent)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_the_fp32_weight_is_rounded_and_then_multiplied_in_bf16(
    tiny: Checkpoint, tmp_path: Path, kind: str
) -> None:
    model = peft_model(tiny, ALL)
    weights = matrices(merged(tiny, model, tmp_path))
    train_under(model, kind)
    x = torch.randn(3, 64)
    layer = model.get_base_model().model.layers[2].mlp.up_proj
    with autocast(replace(LOOP, precision="bf16")):
        given = layer(x)
    rounded = by_gguf(weights["model.layers.2.mlp.up_proj.weight"], kind)
    assert given.dtype == torch.bfloat16
    assert torch.equal(given, torch.nn.functional.linear(x.bfloat16(), rounded.bfloat16()))


def test_a_run_validates_what_its_export_will_be_and_leaves_an_ordinary_adapter(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    """The validation loss that it keeps is that of the merged checkpoint rounded by the gguf package."""
    plain, rounding = tmp_path / "plain", tmp_path / "rounding"
    train_with(CONFIG, tiny.folder, plain)
    result = train_with(replace(CONFIG, quantize="q4_0"), tiny.folder, rounding)
    assert {p.name for p in (rounding / "adapter").iterdir()} == {p.name for p in (plain / "adapter").iterdir()}
    settings = [json.loads((f / "adapter" / "adapter_config.json").read_text()) for f in (plain, rounding)]
    assert {**settings[0], "target_modules": set(CONFIG.targets)} == {
        **settings[1],
        "target_modules": set(settings[1]["target_modules"]),
    }
    records = [json.loads((f / "adapter" / "training.json").read_text())["config"] for f in (plain, rounding)]
    assert records[1] == {**records[0], "quantize": "q4_0"} != records[0]
    checkpoint = merge_checkpoint(tiny.folder, tmp_path / "merged", adapter=rounding / "adapter")
    forms = {name: "q8_0" if "embed" in name else "q4_0" for name in matrices(checkpoint)}
    exported = with_weights(checkpoint, {k: by_gguf(w, forms[k]) for k, w in matrices(checkpoint).items()})
    tokenizer = RouterTokenizer.load(tiny.folder / "tokenizer.json")
    held = PackedCases(tokenizer, LIGHTS, DEV, limit=1024, seed=CONFIG.seed)
    assert held.rows_per_epoch == 1
    wanted = loss_of(exported, collate([held.row(0)], window=64)).item()
    assert result["validation"] == pytest.approx(wanted, abs=1e-5)
    events = log(rounding / "adapter")
    assert result["validation"] < events[0]["loss"] - 0.1, "nothing was learnt"
    assert events[0]["loss"] != log(plain / "adapter")[0]["loss"]


def test_none_trains_what_was_trained_before_to_the_bit(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the loop over PEFT's own model, put together here."""
    from peft import get_peft_model
    from safetensors.torch import load_file
    from transformers import Gemma3ForCausalLM

    from train.backends import quantized
    from train.backends.common import trainable
    from train.loop import fit

    monkeypatch.setattr(quantized, "train_under", lambda *_: pytest.fail("changed the model"))
    assert CONFIG.quantize == "none"
    result = train_with(CONFIG, tiny.folder, tmp_path / "run-of-none")
    tokenizer = RouterTokenizer.load(tiny.folder / "tokenizer.json")
    data, held = (PackedCases(tokenizer, LIGHTS, c, limit=1024, seed=CONFIG.seed) for c in (TRAIN, DEV))
    torch.manual_seed(CONFIG.seed)
    base = Gemma3ForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32, local_files_only=True)
    model: Any = get_peft_model(base, peft_config(CONFIG))
    loop = replace(LOOP, steps=4)
    best = fit(model, lambda n: [data.row(n)], [[held.row(0)]], tmp_path / "loop", loop, trainable=trainable)
    assert {k: result[k] for k in best} == best

    def losses(folder: Path) -> list[Any]:
        return [[e["step"], e.get("loss"), e.get("validation")] for e in log(folder)]

    assert losses(tmp_path / "run-of-none" / "adapter") == losses(tmp_path / "loop")
    saved = load_file(tmp_path / "run-of-none" / "adapter" / "adapter_model.safetensors")
    wanted = {k.replace(".default", ""): v for k, v in trainable(model).items()}
    assert saved.keys() == wanted.keys()
    assert all(torch.equal(saved[k], wanted[k]) for k in saved)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_an_adapter_of_the_embedding_or_the_output_is_refused(tiny: Checkpoint, name: str) -> None:
    model = peft_model(tiny, ["q_proj", name])
    with pytest.raises(UserError, match=f"q4_0 trains no adapter of {name}; leave it out of targets"):
        train_under(model, "q4_0")


@pytest.mark.parametrize("backend", ["trl", "unsloth", "mlx"])
def test_other_backends_refuse_it(backend: str) -> None:
    device = availability.default_device(backend)
    config = replace(CONFIG, backend=backend, quantize="q4_0", loop=replace(LOOP, device=device, precision="auto"))
    with pytest.raises(UserError, match=f"quantize: q4_0 is for backend packed, not {backend}; set quantize: none"):
        availability.check(config)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("quantize: q4_1", "{file}: quantize is 'q4_1'; there are none, q8_0, q4_0"),
        ("quantize:", "{file}: quantize: text (in quotes, if it looks like something else) is expected, not nothing"),
        ("quantize: q4_0\ndropout: 0.1", "{file}: quantize: q4_0 leaves no place for dropout; set dropout: 0"),
        ("quantize: q4_0\nbackend: trl", "quantize: q4_0 is for backend packed, not trl; set quantize: none"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str, message: str
) -> None:
    from edgecall.cli import main

    file = tmp_path / "lora-x.yaml"
    file.write_text(f"toolset: kiwi\nrecipe: none.yaml\n{lines}\n")
    assert main(["train", "lora", str(file), "--base", "seed", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"edgecall: {message.format(file=file)}\n"
