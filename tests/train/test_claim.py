"""A run's folder is gone on with under the settings that it was begun with, and under no others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from runtimes.errors import UserError  # noqa: E402
from train import claim as claims  # noqa: E402
from train.claim import RECIPE, claim, differences, loop_settings, settled  # noqa: E402
from train.loop import LoopConfig  # noqa: E402
from train.state import save_state  # noqa: E402

LOOP = LoopConfig(steps=4, learning_rate=1e-3, precision="fp32")


def recipe(loop: LoopConfig = LOOP, **changes: object) -> dict[str, object]:
    settings = {"rank": 4, "targets": ["q_proj"], "loop": loop_settings(loop)}
    return {"config": settings, "data": "a" * 64, "base": "b" * 64, **changes}


def test_the_same_run_goes_on_and_may_run_elsewhere(tmp_path: Path) -> None:
    claim(tmp_path / "run", recipe())
    written = (tmp_path / "run" / RECIPE).read_bytes()
    claim(tmp_path / "run", recipe(replace(LOOP, device="cuda", threads=3, log_every=1, accumulate=2)))
    assert (tmp_path / "run" / RECIPE).read_bytes() == written
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RECIPE]


def test_every_setting_that_differs_is_named_with_what_to_do(tmp_path: Path) -> None:
    claim(tmp_path, recipe())
    (tmp_path / "loss.csv").touch()
    other = recipe(replace(LOOP, learning_rate=2e-3), data="c" * 64, base="d" * 64)
    other["config"] = {**other["config"], "targets": ["v_proj"], "rank": 8}  # type: ignore[dict-item]
    with pytest.raises(UserError) as caught:
        claim(tmp_path, other)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / RECIPE}: made with another configuration (")
    for part in ("rank 4, now 8", "targets changed", "loop.learning_rate 0.001, now 0.002", "--base changed",
                 "the training rows changed", "choose another folder (--out)"):  # fmt: skip
        assert part in said
    assert "steps" not in said


def test_a_run_that_ended_before_it_began_is_not_in_the_way(tmp_path: Path) -> None:
    claim(tmp_path, recipe())
    claim(tmp_path, recipe(data="c" * 64))
    assert json.loads((tmp_path / RECIPE).read_text())["data"] == "c" * 64


def test_a_weight_more_or_less_is_a_difference() -> None:
    one, two = ({"config": {"weights": weights}} for weights in ({"snips": 1.0}, {"snips": 1.0, "sgd": 0.5}))
    assert differences(one, two) == differences(two, one) == ["weights changed"]


def test_a_record_older_than_a_setting_counts_as_what_was_usual(tmp_path: Path) -> None:
    before = recipe()
    for name in ("precision", "average", "copying"):
        del before["config"]["loop"][name]  # type: ignore[index]
    (tmp_path / RECIPE).write_text(json.dumps(before))
    (tmp_path / "loss.csv").touch()
    loop = settled(replace(LOOP, precision="auto"), tmp_path)
    assert loop.precision == "bf16"
    claim(tmp_path, recipe(loop, dev="e" * 64))
    with pytest.raises(UserError, match=r"loop.copying 0.0, now 0.5"):
        claim(tmp_path, recipe(replace(loop, copying=0.5)))


def test_a_run_without_a_record_is_known_by_its_state(tmp_path: Path) -> None:
    """As those that were begun before there were records: their loop's settings are in ``last.pt``."""
    save_state(tmp_path / "last.pt", {"step": 2, "config": {**loop_settings(LOOP), "precision": "bf16"}})
    with pytest.raises(UserError, match=r"last.pt: .*\(loop.steps 4, now 5\)"):
        claim(tmp_path, recipe(replace(LOOP, steps=5, precision="bf16")))
    assert not (tmp_path / RECIPE).exists()
    loop = settled(replace(LOOP, precision="auto"), tmp_path)
    claim(tmp_path, recipe(loop))
    assert loop.precision == "bf16"
    assert json.loads((tmp_path / RECIPE).read_text())["config"]["rank"] == 4


def test_a_precision_is_found_once_and_then_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    automatic = replace(LOOP, precision="auto")
    monkeypatch.setattr(claims, "detect", lambda device: "bf16")
    first = settled(automatic, tmp_path)
    claim(tmp_path, recipe(first))
    monkeypatch.setattr(claims, "detect", lambda device: "fp32")
    assert first.precision == settled(automatic, tmp_path).precision == "bf16"
    assert settled(automatic, tmp_path / "new").precision == "fp32"
    assert settled(automatic, tmp_path / "new", "bf16").precision == "bf16"
    assert settled(LOOP, tmp_path) == LOOP


@pytest.mark.parametrize(("has", "found"), [({"avx512_bf16": True}, "bf16"), ({"bf16": True}, "bf16"), ({}, "fp32")])
def test_bf16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], found: str) -> None:
    from train.precision import detect

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": False} | has,
                        raising=False)  # fmt: skip
    assert detect("cpu") == found
    assert detect("mps") == "fp32"
