"""Mixed precision: how it is spelled, and that each format gives every class, and every layer, what was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import own_name, quant_of, scheme_of
from export.base import Checkpoint
from export.mixed import CLASSES, Layers, Mix, Scheme, by_class, name_of, parse, place_of
from export.pipeline import export_one
from export.proof_file import read_header
from router.toolset import Toolset
from runtimes.errors import UserError
from tests.odd import odd_checkpoint
from tests.tiny import LIGHTS


def scheme(fmt: str) -> Scheme:
    found = scheme_of(fmt)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("asked", "types", "name"),
    [
        ("q8_0", ("q8_0", "q8_0", "q8_0"), "q8_0"),
        ("q8_0+mlp=q8_0", ("q8_0", "q8_0", "q8_0"), "q8_0"),
        ("q4_0", ("q6_k", "q4_0", "q4_0"), "q4_0"),
        ("q8_0+mlp=q4_0", ("q8_0", "q8_0", "q4_0"), "q8_0+mlp=q4_0"),
        ("q8_0+mlp=q4_0+attention=q4_0", ("q8_0", "q4_0", "q4_0"), "q4_0+embedding=q8_0"),
        ("q4_0+embedding=q4_0", ("q4_0", "q4_0", "q4_0"), "q4_0+embedding=q4_0"),
        ("q5_0", ("q5_0", "q5_0", "q5_0"), "q5_0"),
        ("f32+embedding=q5_0+attention=q5_0+mlp=q4_0", ("q5_0", "q5_0", "q4_0"), "q5_0+mlp=q4_0"),
        ("q8_0+attention=q5_1+mlp=iq4_nl", ("q8_0", "q5_1", "iq4_nl"), "q8_0+attention=q5_1+mlp=iq4_nl"),
        ("q4_k_m+embedding=q8_0", ("q8_0", "q4_k_m", "q4_k_m"), "q4_k_m+embedding=q8_0"),
    ],
)  # fmt: skip
def test_a_mix_has_one_name(asked: str, types: tuple[str, ...], name: str) -> None:
    mix = parse(scheme("gguf"), asked)
    assert mix.types == types
    assert name_of(scheme("gguf"), mix) == own_name("gguf", asked) == name
    assert parse(scheme("gguf"), name) == mix


def test_layers_are_joined_and_ordered() -> None:
    mix = parse(scheme("gguf"), "q8_0+mlp.2=q4_0+attention.5=q5_0+mlp.0-1=q4_0+mlp.7-9=q8_0")
    assert mix.layers == (Layers("attention", 5, 5, "q5_0"), Layers("mlp", 0, 2, "q4_0"))
    assert name_of(scheme("gguf"), mix) == "q8_0+attention.5=q5_0+mlp.0-2=q4_0"
    assert [mix.of("mlp", layer) for layer in (0, 2, 3)] == ["q4_0", "q4_0", "q8_0"]
    assert mix.of("attention", 5) == "q5_0" and mix.of("embedding") == "q8_0"


@pytest.mark.parametrize("fmt", ["gguf", "onnx", "mlx"])
def test_every_combination_has_a_name_of_its_own_that_reads_back(fmt: str) -> None:
    own = scheme(fmt)
    inner = [*own.presets, *own.in_layers, *list(own.types)[-3:]]
    inner = list(dict.fromkeys(name for name in inner if name in own.types))
    mixes = [
        Mix((first, second, third))
        for first in inner if first not in own.in_layers for second in inner for third in inner
    ]  # fmt: skip
    named = {name_of(own, mix): mix for mix in mixes}
    assert len(named) == len(mixes)
    assert all(parse(own, name) == mix for name, mix in named.items())


@pytest.mark.parametrize(
    ("fmt", "asked", "told"),
    [
        ("gguf", "q8", "gguf has no quantization 'q8'; there are f32, f16, q8_0, q4_k_m, q4_0, bf16"),
        ("gguf", "q8_0+mpl=q4_0", "unknown class 'mpl'; there are embedding, attention, mlp; did you mean 'mlp'?"),
        ("gguf", "q8_0+mlp=q4", "mlp cannot be 'q4'; there are f32"),
        ("gguf", "q8_0+mlp", "'mlp' is not CLASS=TYPE"),
        ("gguf", "q8_0+mlp=q4_0+mlp=q5_0", "mlp is there twice"),
        ("gguf", "q8_0+mlp.3-1=q4_0", "the range ends before it begins; write mlp.1-3=q4_0"),
        ("gguf", "q8_0+mlp.0-3=q4_0+mlp.2=q5_0", "mlp.0-3 and mlp.2 overlap"),
        ("gguf", "q8_0+embedding.0=q4_0", "the embedding lies in no layer; write embedding=q4_0"),
        ("gguf", "q8_0+embedding=q4_k_m", "embedding cannot be 'q4_k_m'"),
        ("onnx", "int8+embedding=dynamic8", "embedding cannot be 'dynamic8'"),
        ("mlx", "bf16+mlp=4bit", "mlx has no quantization 'bf16'"),
        ("coreml", "fp16+mlp=fp32", "coreml has no quantization 'fp16+mlp=fp32'"),
    ],
)
def test_mistakes(fmt: str, asked: str, told: str) -> None:
    with pytest.raises(UserError) as raised:
        quant_of(fmt, asked)
    assert told in str(raised.value)


def test_a_mix_is_held_to_its_coarsest_type() -> None:
    assert quant_of("gguf", "f32+mlp.0=q4_0").precision == 4
    assert quant_of("gguf", "f32+mlp.0=q4_0").logit_tolerance == quant_of("gguf", "q4_0").logit_tolerance
    assert quant_of("gguf", "q8_0+embedding=f16").logit_tolerance == quant_of("gguf", "q8_0").logit_tolerance
    assert quant_of("onnx", "fp32+mlp=int4b64").precision == 4
    assert quant_of("mlx", "8bit+mlp=6bit").dtype == "8bit+mlp=6bit"


def test_places() -> None:
    places = {
        "token_embd.weight": ("embedding", None),
        "output.weight": ("embedding", None),
        "lm_head.kept.weight": ("embedding", None),
        "blk.11.attn_output.weight": ("attention", 11),
        "blk.0.ffn_down.weight": ("mlp", 0),
        "model.layers.3.self_attn.q_proj.weight": ("attention", 3),
        "model.layers.3.mlp.up_proj": ("mlp", 3),
    }
    assert {name: place_of(name) for name in places} == places
    with pytest.raises(ValueError, match="neither"):
        place_of("blk.0.ssm_in.weight")
    assert by_class({"blk.0.ffn_up.weight": "q8_0", "blk.1.ffn_up.weight": "q4_0", "output.weight": "q8_0"}) == {
        "embedding": {"q8_0": 1}, "mlp": {"q4_0": 1, "q8_0": 1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def wide(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Three layers whose widths every type divides."""
    return odd_checkpoint(
        tmp_path_factory.mktemp("wide") / "checkpoint", tiny, hidden_size=256, intermediate_size=512, head_dim=64,
        query_pre_attn_scalar=64, num_hidden_layers=3,
    )  # fmt: skip


def dtype_of(folder: Path, source: Checkpoint, quant: str) -> str:
    """What llama.cpp's runtime says that it computes in."""
    from runtimes.artifact import Artifact
    from runtimes.llama_cpp import open_model

    manifest = {"format": "gguf", "quant": quant, "weights": "model.gguf", "vocab_size": source.vocab_size}
    model = open_model(Artifact(folder, manifest), device="cpu", threads=1)
    try:
        return model.dtype
    finally:
        model.close()


GGUF_MIXES = {
    "q8_0+embedding=q6_k+mlp=q4_0": {"embedding": {"q6_k": 1}, "attention": {"q8_0": 12}, "mlp": {"q4_0": 9}},
    "q5_1+mlp.1-2=iq4_nl": {"embedding": {"q5_1": 1}, "attention": {"q5_1": 12}, "mlp": {"iq4_nl": 6, "q5_1": 3}},
    "f32+attention=bf16+mlp=f16": {"embedding": {"f32": 1}, "attention": {"bf16": 12}, "mlp": {"f16": 9}},
    "q4_k+embedding=q5_k": {"embedding": {"q5_k": 1}, "attention": {"q4_k": 12}, "mlp": {"q4_k": 9}},
    "bf16": {"embedding": {"bf16": 1}, "attention": {"bf16": 12}, "mlp": {"bf16": 9}},
    "q5_0": {"embedding": {"q5_0": 1}, "attention": {"q5_0": 12}, "mlp": {"q5_0": 9}},
    "q4_1+embedding=q4_0+attention=q5_0": {"embedding": {"q4_0": 1}, "attention": {"q5_0": 12}, "mlp": {"q4_1": 9}},
}  # fmt: skip


@pytest.mark.parametrize("quant", list(GGUF_MIXES))
def test_gguf_has_the_types_that_were_asked_for(wide: Checkpoint, kiwi: Toolset, tmp_path: Path, quant: str) -> None:
    pytest.importorskip("llama_cpp")
    reader = pytest.importorskip("gguf").GGUFReader
    from export import gguf

    facts = gguf.write(wide, tmp_path, quant, kiwi)
    mix = parse(gguf.SCHEME, quant)
    matrices = [t for t in reader(tmp_path / "model.gguf").tensors if not t.name.endswith("norm.weight")]
    assert len(matrices) == 22
    for tensor in matrices:
        assert tensor.tensor_type.name.lower() == mix.of(*place_of(tensor.name)), tensor.name
    assert facts.details["classes"] == GGUF_MIXES[quant]
    assert dtype_of(tmp_path, wide, quant) == quant
    assert facts.details["fallback_types"] == {}


def test_gguf_leaves_q4_k_m_its_own_choice(wide: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from export import gguf

    plain = gguf.write(wide, tmp_path / "plain", "q4_k_m", kiwi).details["classes"]
    assert plain["embedding"] == {"q6_k": 1} and set(plain["mlp"]) <= {"q4_k", "q6_k"}
    mixed = gguf.write(wide, tmp_path / "mixed", "q4_k_m+embedding=q8_0", kiwi).details
    assert mixed["classes"] == plain | {"embedding": {"q8_0": 1}}
    assert mixed["fallback_types"] == {}


def test_gguf_names_the_way_out_for_an_odd_width(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from export import gguf

    facts = gguf.write(tiny, tmp_path, "q8_0+embedding=q6_k", kiwi)
    assert facts.details["classes"]["embedding"] == {"q8_0": 1}
    assert facts.details["fallback_types"] == {"Q8_0": 1}


def test_a_layer_that_the_model_lacks(wide: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from export import gguf

    with pytest.raises(UserError, match=r"gguf: q8_0\+mlp.2-3=q4_0: mlp.2-3: the model's layers are 0 to 2"):
        gguf.write(wide, tmp_path / "out", "q8_0+mlp.2-3=q4_0", kiwi)
    assert not (tmp_path / "out").exists()


ONNX_MIXES = {
    "fp32+mlp=int4b64": {"MatMulNBits": 9, "MatMul": 12, "Gemm": 1},
    "int4+embedding=int4b16+attention=dynamic8": {"MatMulNBits": 10, "DynamicQuantizeMatMul": 12},
    "int8+attention=dynamic8+mlp=dynamic8": {"MatMulNBits": 1, "DynamicQuantizeMatMul": 21},
    "fp16+mlp.0=fp32": {"MatMul": 21, "Gemm": 1, "Cast": 20},
}


@pytest.fixture(scope="module")
def traced(wide: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The checkpoint is traced once for all mixes."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("optimum.exporters.onnx")
    from export import onnx

    model = onnx._trace(wide, tmp_path_factory.mktemp("traced"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_trace", lambda *_: model)
        yield


@pytest.mark.parametrize("quant", list(ONNX_MIXES))
def test_onnx_computes_what_was_asked_for(wide: Checkpoint, traced: None, tmp_path: Path, quant: str) -> None:
    made = export_one(wide, "onnx", quant, tmp_path, LIGHTS, requests=["light in the hall"], threads=1)
    assert made.name == f"onnx-{own_name('onnx', quant)}"
    operators = made.manifest["details"]["operators"]
    wanted = ONNX_MIXES[quant]
    assert {name: operators.get(name, 0) for name in wanted} == wanted
    mix = parse(scheme("onnx"), quant)
    for kind in CLASSES:
        layers = {mix.of(kind, layer) for layer in range(3)}
        assert set(made.manifest["details"]["classes"][kind]) == (layers if kind != "embedding" else {mix.of(kind)})
    assert read_header(made).met


def test_dynamic_weights_are_within_half_a_step(wide: Checkpoint, traced: None, tmp_path: Path) -> None:
    import onnx
    from safetensors.numpy import load_file

    from export.onnx import write

    write(wide, tmp_path, "int8+mlp=dynamic8", LIGHTS)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    name = "model.layers.1.mlp.down_proj.weight"
    want = load_file(wide.folder / "model.safetensors")[name].T
    packed, scale, zero = (stored[f"{name}.{part}"] for part in ("dynamic8", "scale", "zero"))
    assert packed.dtype == zero.dtype == np.uint8 and packed.shape == want.shape == (512, 256)
    back = (packed.astype(np.float32) - zero) * scale
    assert np.abs(back - want).max() <= 1.01 * scale.max() and (np.abs(back - want) <= 0.51 * scale).mean() > 0.99


@pytest.mark.parametrize(
    ("quant", "config"),
    [
        (
            "8bit+mlp=4bitg32",
            {"group_size": 32, "bits": 4, "others": {"attention": (8, 64), "embedding": (8, 64)}},
        ),
        (
            "fp32+attention=6bit",
            {"group_size": 64, "bits": 6, "others": {}},
        ),
    ],
)
def test_mlx_has_the_bits_that_were_asked_for(
    wide: Checkpoint, tmp_path: Path, quant: str, config: dict[str, Any]
) -> None:
    pytest.importorskip("mlx_lm")
    made = export_one(wide, "mlx", quant, tmp_path, LIGHTS, requests=["light in the hall"], threads=1)
    assert made.name == f"mlx-{quant}" and read_header(made).met
    written = json.loads((made.folder / "config.json").read_text())["quantization"]
    assert (written["group_size"], written["bits"]) == (config["group_size"], config["bits"])
    own = {name: entry for name, entry in written.items() if isinstance(entry, dict)}
    assert {place_of(name)[0]: (e["bits"], e["group_size"]) for name, e in own.items()} == config["others"]
    from mlx_lm.utils import load_model

    net, _ = load_model(made.folder)  # mlx-lm's own reading of that config
    assert hasattr(net.layers[0].self_attn.q_proj, "bits")
    assert hasattr(net.layers[0].mlp.up_proj, "bits") is ("mlp" in quant)
    assert np.isfinite(made.manifest["details"]["bits_per_weight"])


def test_the_proof_goes_with_a_mix(wide: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    asked = ["light in the hall", "status of the bath"]
    one = export_one(wide, "gguf", "q8_0+attention=q8_0+mlp=q4_0", tmp_path, LIGHTS, requests=asked, threads=1)
    assert one.folder.name == "gguf-q8_0+mlp=q4_0" and one.precision == 4
    header = read_header(one)
    assert header.met and header.format_tolerance == quant_of("gguf", "q4_0").logit_tolerance
    lines: list[str] = []
    again = export_one(
        wide, "gguf", "q8_0+mlp=q4_0", tmp_path, LIGHTS, requests=asked, threads=1, progress=lines.append
    )  # fmt: skip
    assert again.sha256 == one.sha256 and lines == [f"{one.folder} is up to date"]
