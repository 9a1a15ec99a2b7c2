"""Which variants a bench chooses: the formats' defaults, by name, and runtimes that stand in for others."""

from __future__ import annotations

import platform

import pytest

from bench.records import Settings, Variant
from bench.variants import choose, on_devices
from runtimes.errors import UserError

STAND_IN = Variant("coreml-reference", "coreml", "fp32", 32)


def names(*, emulated: str = "named", **settings: object) -> list[str]:
    return [one.name for one in choose(Settings(**settings), emulated)]  # type: ignore[arg-type]


def test_a_stand_in_has_a_name_of_its_own_and_the_artifact_of_its_format() -> None:
    assert (STAND_IN.name, STAND_IN.artifact) == ("coreml-reference-fp32", "coreml-fp32")
    assert Variant("coreml", "coreml", "fp32", 32).name == "coreml-fp32"


def test_stand_ins_take_part_where_that_is_asked() -> None:
    everything = names(emulated="always")
    for quant in ("fp32", "fp16", "ane", "int8", "pal8", "pal6", "int4"):
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


def on_a_mac(monkeypatch: pytest.MonkeyPatch, machine: str = "arm64") -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.4", ("", "", ""), machine))
    monkeypatch.setattr(platform, "machine", lambda: machine)


def compared(**settings: object) -> list[str]:
    asked = Settings(runtimes=("coreml",), **settings)  # type: ignore[arg-type]
    return [one.name for one in on_devices(choose(asked, "always"), asked)]


def test_on_a_mac_core_ml_is_compared_with_itself_on_every_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not compressed; of a compressed one the file differs, not where it runs."""
    on_a_mac(monkeypatch)
    units = ("cpu", "gpu", "ane", "all")
    whole = [f"coreml-{quant}@{unit}" for quant in ("fp32", "fp16", "ane") for unit in units]
    assert compared() == [*whole, "coreml-int8", "coreml-pal8", "coreml-pal6", "coreml-int4"]
    assert compared(quick=True) == [f"coreml-fp32@{unit}" for unit in units]
    assert compared(device="ane", quick=True) == ["coreml-fp32"]
    assert compared(variants=("coreml-fp16@gpu", "coreml-int8@ane")) == ["coreml-fp16@gpu", "coreml-int8@ane"]
    on_a_mac(monkeypatch, "x86_64")
    assert compared(quick=True) == [f"coreml-fp32@{unit}" for unit in ("cpu", "gpu", "all")]


def test_where_core_ml_cannot_run_it_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert compared(quick=True) == ["coreml-fp32"]
    asked = Settings()
    assert on_devices(choose(asked), asked) == choose(asked)


def test_a_device_of_its_own_is_part_of_the_name_alone() -> None:
    (variant,) = choose(Settings(variants=("coreml-fp16@ane",)))
    assert variant == Variant("coreml", "coreml", "fp16", 16, "ane")
    assert (variant.name, variant.artifact) == ("coreml-fp16@ane", "coreml-fp16")
    with pytest.raises(UserError, match="unknown variant 'coreml-fp61'; .* did you mean 'coreml-fp16'"):
        choose(Settings(variants=("coreml-fp61@ane",)))
