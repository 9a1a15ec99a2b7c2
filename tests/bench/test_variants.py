"""Which variants a bench chooses: the formats' defaults, by name, and runtimes that stand in for others."""

from __future__ import annotations

import pytest

from bench.records import Settings, Variant
from bench.variants import choose
from runtimes.errors import UserError

STAND_IN = Variant("coreml-reference", "coreml", "fp32", 32)


def names(*, emulated: str = "named", **settings: object) -> list[str]:
    return [one.name for one in choose(Settings(**settings), emulated)]  # type: ignore[arg-type]


def test_a_stand_in_has_a_name_of_its_own_and_the_artifact_of_its_format() -> None:
    assert (STAND_IN.name, STAND_IN.artifact) == ("coreml-reference-fp32", "coreml-fp32")
    assert Variant("coreml", "coreml", "fp32", 32).name == "coreml-fp32"


def test_stand_ins_take_part_where_that_is_asked() -> None:
    everything = names(emulated="always")
    for quant in ("fp32", "fp16", "int8", "pal8", "pal6", "int4"):
        assert {f"coreml-{quant}", f"coreml-reference-{quant}"} <= set(everything)
    assert len(everything) == len(set(everything))
    assert "coreml-reference-fp32" in names(emulated="always", quick=True)
    assert not any("reference" in name for name in names())


def test_quick_keeps_to_the_defaults() -> None:
    """A compressed package takes a conversion and, off a Mac, an interpreter: too slow for five minutes."""
    quick = names(emulated="always", quick=True)
    assert [name for name in quick if name.startswith("coreml")] == ["coreml-fp32", "coreml-reference-fp32"]
    assert {"gguf-f32", "gguf-q8_0", "onnx-fp32", "onnx-int8", "mlx-fp32", "mlx-8bit", "safetensors-fp32"} <= set(quick)


@pytest.mark.parametrize(
    "settings",
    [
        {"variants": ("coreml-reference-fp32",)},
        {"runtimes": ("coreml-reference",), "variants": ("coreml-fp32",)},
        {"runtimes": ("coreml-reference",), "quick": True},
    ],
)
def test_by_name(settings: dict[str, tuple[str, ...]]) -> None:
    assert choose(Settings(**settings)) == [STAND_IN]  # type: ignore[arg-type]
    assert choose(Settings(variants=("coreml-fp32",)))[0].runtime == "coreml"


def test_where_time_is_measured_they_are_refused() -> None:
    with pytest.raises(UserError, match="coreml-reference: is emulated, its times mean nothing"):
        names(emulated="never", runtimes=("coreml-reference",))
    with pytest.raises(UserError, match="unknown variant 'coreml-reference-fp32'"):
        names(emulated="never", variants=("coreml-reference-fp32",))
