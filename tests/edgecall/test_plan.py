"""`--to` and `--quant`: what they mean, and what they say to a mistake."""

from __future__ import annotations

import pytest

from edgecall.plan import DEFAULT_FORMATS, defaults, known, plan, routing_quant
from runtimes.errors import UserError


def test_nothing_asked_is_every_formats_default() -> None:
    assert plan(None, None) == [(fmt, quant) for fmt in DEFAULT_FORMATS for quant in defaults(fmt)]


def test_names_go_to_the_formats_that_have_them_and_the_rest_get_defaults() -> None:
    assert plan("gguf", "q8_0,q4_k_m") == [("gguf", "q8_0"), ("gguf", "q4_k_m")]
    assert plan("onnx,gguf", "q8_0") == [*(("onnx", q) for q in defaults("onnx")), ("gguf", "q8_0")]
    assert plan("onnx,mlx", "fp32") == [("onnx", "fp32"), ("mlx", "fp32")]


def test_a_prefix_names_the_format() -> None:
    assert plan("onnx,mlx,gguf", "onnx:fp32, mlx:8bit,gguf:f16") == [("onnx", "fp32"), ("mlx", "8bit"), ("gguf", "f16")]


def test_all() -> None:
    table = known()
    assert plan("all", "all") == [(fmt, quant) for fmt in table for quant in table[fmt]]
    assert plan("gguf,onnx", "gguf:all,int8") == [*(("gguf", q) for q in table["gguf"]), ("onnx", "int8")]


def test_nothing_comes_twice() -> None:
    assert plan("gguf,gguf", "q8_0,gguf:q8_0,f16") == [("gguf", "q8_0"), ("gguf", "f16")]


@pytest.mark.parametrize(
    ("to", "quant", "message"),
    [
        (
            "ggfu",
            None,
            "--to ggfu: unknown format; there are safetensors, gguf, onnx, mlx, coreml and all; did you mean 'gguf'?",
        ),
        ("gguf,", None, "--to 'gguf,': an empty entry; write names with commas between"),
        ("", None, "--to '': an empty entry; write names with commas between"),
        (
            "gguf",
            "q8",
            "--quant q8: unknown quantization; gguf has f32, f16, q8_0, q4_k_m, q4_0; did you mean 'q8_0'?",
        ),
        (
            "gguf,onnx",
            "onnx:q8_0",
            "--quant q8_0: unknown quantization; onnx has fp32, int8, int4",
        ),
        (
            "coreml",
            "pal4",
            "--quant pal4: unknown quantization; coreml has fp32, fp16, ane, int8, pal8, pal6, int4; "
            "did you mean 'pal8'?",
        ),
        ("gguf", "onnx:int8", "--quant onnx:int8: onnx is not among the formats of --to (gguf)"),
        (
            "gguf",
            "tflite:int8",
            "--quant tflite:int8: unknown format 'tflite'; there are safetensors, gguf, onnx, mlx, coreml",
        ),
    ],
)
def test_mistakes_say_what_is_allowed(to: str, quant: str | None, message: str) -> None:
    with pytest.raises(UserError) as told:
        plan(to, quant)
    assert str(told.value) == message


def test_routing_takes_eight_bits_where_there_are_some() -> None:
    assert {fmt: routing_quant(fmt) for fmt in known()} == {
        "safetensors": defaults("safetensors")[0],
        "gguf": "q8_0",
        "onnx": "int8",
        "mlx": "8bit",
        "coreml": "int8",
    }


def test_a_mix_comes_back_under_its_one_name() -> None:
    assert plan("gguf", "q8_0+mlp=q4_0+attention=q8_0") == [("gguf", "q8_0+mlp=q4_0")]
    assert plan("gguf,onnx", "gguf:q5_0,int8+mlp=int4") == [("gguf", "q5_0"), ("onnx", "int8+mlp=int4")]
    assert plan("onnx,mlx", "fp32+mlp=fp32") == [("onnx", "fp32"), ("mlx", "fp32")]
    assert plan("gguf", "q8_0,q8_0+mlp=q8_0") == [("gguf", "q8_0")]


def test_what_cannot_be_mixed() -> None:
    with pytest.raises(UserError, match=r"--quant fp16\+mlp=fp32: coreml has no mixes; give fp16 alone"):
        plan("coreml", "fp16+mlp=fp32")
    with pytest.raises(UserError, match="mlp cannot be 'int4'; there are f32"):
        plan("gguf", "q8_0+mlp=int4")
