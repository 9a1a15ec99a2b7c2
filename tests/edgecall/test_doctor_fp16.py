"""`edgecall doctor --fp16`: what is told of a model that fits, of one that is mended, and of one that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from export.base import Checkpoint
from tests.edgecall.conftest import Ran
from tests.loud import LAYER, PEAK, changed, loud_mlp, loud_scores, loud_stream
from tests.odd import odd_checkpoint

pytest.importorskip("torch")

Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def odd(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return odd_checkpoint(
        tmp_path_factory.mktemp("doctor") / "odd", tiny, num_hidden_layers=2, sliding_window_pattern=2
    )


def test_a_model_that_is_mended(
    cli: Cli, odd: Checkpoint, lamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = changed(odd, tmp_path / "loud", loud_stream, loud_mlp)
    monkeypatch.setenv("COLUMNS", "80")
    ran = cli("doctor", "--fp16", str(source.folder), "--toolset", str(lamps))
    assert ran.code == 0 and "running 8 sequences" in ran.err  # seven requests, and random tokens
    assert max(map(len, ran.out.splitlines()[1:])) <= 80  # but for the title, which wraps
    rows = {line[:19].strip(): line[19:].split() for line in ran.out.splitlines()}
    assert rows["stream + attention"][-4:-1] == ["overflows", "/", "8"]
    layer, largest, share, told, *factor, after = rows["gate times up"]
    assert (layer, told, factor[0]) == (str(LAYER), "overflows", "/")
    assert float(largest.replace(",", "")) > 65504 and float(share.rstrip("%")) > 100
    assert float(after.replace(",", "")) <= 65504 / 4
    assert rows["embedding"][-2] == "fits"
    assert "mendable: a float16 export rescales, exactly, in powers of two\n  residual stream / 8\n  MLP up" in ran.out


def test_the_same_for_programs_on_cases(cli: Cli, odd: Checkpoint, lamps: Path, tmp_path: Path) -> None:
    source = changed(odd, tmp_path / "loud", loud_stream)
    cases = tmp_path / "cases.jsonl"
    case = {"id": "a", "user": "light", "calls": [{"name": "switch", "arguments": {"room": "hall"}}]}
    cases.write_text(json.dumps(case) + "\n")
    ran = cli("doctor", "--fp16", str(source.folder), "--toolset", str(lamps), "--cases", str(cases), "--json")
    found = json.loads(ran.out)
    assert ran.code == 0
    assert (found["model"], found["toolset"], found["sequences"], found["verdict"]) == ("loud", "lamps", 2, "mendable")
    assert found["rescaling"] == [{"knob": "residual stream", "layer": None, "shift": 3}]
    rows = {one["name"]: one for one in found["intermediates"]}
    stream = rows["layers.1.add_mlp"]
    assert (stream["layer"], stream["float32"], stream["verdict"]) == (1, True, "overflows")
    assert stream["max_abs"] == pytest.approx(PEAK, rel=0.15) and stream["share"] > 1
    assert (stream["max_abs_after"], stream["verdict_after"]) == (stream["max_abs"] / 8, "fits")
    up = rows["layers.0.up"]
    assert not up["float32"] and up["max_abs_after"] == up["max_abs"]
    assert rows["head"]["layer"] is None


def test_a_model_that_fits_and_one_that_nothing_mends(cli: Cli, odd: Checkpoint, lamps: Path, tmp_path: Path) -> None:
    ran = cli("doctor", "--fp16", str(odd.folder), "--toolset", str(lamps))
    assert ran.code == 0 and "nothing is rescaled" in ran.out and "overflows" not in ran.out
    source = changed(odd, tmp_path / "scores", loud_scores)
    ran = cli("doctor", "--fp16", str(source.folder), "--toolset", str(lamps))
    assert ran.code == 1
    assert f"overflows: no rescaling mends layers.{LAYER}.scores; export fp32" in ran.out


def test_mistakes_are_told(cli: Cli, lamps: Path, tmp_path: Path) -> None:
    ran = cli("doctor", "--toolset", str(lamps))
    assert (ran.code, ran.err) == (2, "edgecall: --toolset belongs to --fp16 MODEL; give that too, or leave it out\n")
    ran = cli("doctor", "--fp16", str(tmp_path / "none"), "--toolset", str(lamps))
    assert ran.code == 2 and "no such model folder" in ran.err and ran.out == ""
    ran = cli("doctor", "--fp16", "seed", "--cases", str(tmp_path / "none.jsonl"))
    assert ran.code == 2 and ran.err == f"edgecall: {tmp_path / 'none.jsonl'}: no such case file\n"
