"""Configurations: numbers as people write them, and one line for every mistake, with file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import configs
from runtimes.errors import UserError
from train.base import BaseConfig, Stage
from train.cli import main
from train.loop import LoopConfig
from train.lora import LoraConfig
from train.settings import make, read_config

LOOP = {"steps": 4, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("learning_rate: 2e-4", "learning_rate", 2e-4),  # text for YAML 1.1, which wants a point
        ("learning_rate: 1", "learning_rate", 1.0),
        ("steps: 1e3", "steps", 1000),
        ("steps: 1000.0", "steps", 1000),
        ("betas: [0.9, '0.95']", "betas", (0.9, 0.95)),
        ("threads: null", "threads", None),
    ],
)
def test_numbers_are_taken_as_people_write_them(tmp_path: Path, written: str, name: str, value: Any) -> None:
    (tmp_path / "a.yaml").write_text(written)
    made = make(LoopConfig, "a.yaml", {**LOOP, **read_config(tmp_path / "a.yaml")})
    assert getattr(made, name) == value
    assert type(getattr(made, name)) is type(value)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (LoopConfig, {"learning_rate": "fast"}, "learning_rate: a number is expected, not 'fast'"),
        (LoopConfig, {"learning_rate": True}, "learning_rate: a number is expected, not True"),
        (LoopConfig, {"clip": float("nan")}, "clip: a number is expected, not nan"),
        (LoopConfig, {"steps": 2.5}, "steps: a whole number is expected, not 2.5"),
        (LoopConfig, {"threads": "all"}, "threads: a whole number or nothing is expected, not 'all'"),
        (LoopConfig, {"betas": [0.9]}, r"betas: a list of 2 values is expected, not \[0.9\]"),
        (LoopConfig, {"precision": 16}, "precision: text .* is expected, not 16"),
        (LoopConfig, {"warmup": None}, "warmup: a whole number is expected, not nothing"),
        (LoopConfig, {"save_every": 0}, "save_every is 0; at least 1 is expected"),
        (LoopConfig, {"learning_rate": 0}, "learning_rate is 0.0; more than 0 is expected"),
        (LoopConfig, {"betas": [0.9, 1]}, r"betas are \(0.9, 1.0\); two decays of at least 0 and below 1 are expected"),
        (LoopConfig, {"precison": "fp32"}, "unknown setting 'precison'; did you mean 'precision'"),
        (LoraConfig, {"targets": "q_proj"}, "targets: a list is expected, not 'q_proj'"),
        (LoraConfig, {"load_in_4bit": "yes"}, "load_in_4bit: true or false is expected, not 'yes'"),
        (LoraConfig, {"rank": 0}, "rank is 0; at least 1 is expected"),
        (LoraConfig, {"dropout": 1.0}, "dropout is 1.0; a share"),
        (Stage, {"weights": {"snips": "much"}}, "weights: a number or nothing is expected"),
        (Stage, {"weights": [1]}, "weights: a mapping of names or nothing is expected"),
        (Stage, {"text": ["code"], "validation": "test"}, "validation is 'test'; there are held_out, development"),
        (Stage, {}, "stage s: one of text and weights is expected"),
        (Stage, {"text": ["code"], "name": "../s"}, "name is '../s'; a folder's name other than base"),
    ],
)
def test_a_value_of_another_kind_is_named(kind: type[Any], given: dict[str, Any], message: str) -> None:
    whole: dict[type[Any], dict[str, Any]] = {
        LoopConfig: LOOP,
        LoraConfig: {"toolset": "kiwi", "loop": LoopConfig(**LOOP)},
        Stage: {"name": "s", "loop": LoopConfig(**LOOP)},
    }
    with pytest.raises(UserError, match=f"^a.yaml: {message}") as caught:
        make(kind, "a.yaml", {**whole[kind], **given})
    assert "\n" not in str(caught.value)


def test_the_shape_of_a_base_must_be_whole_and_its_stages_different() -> None:
    stage = Stage("s", LoopConfig(**LOOP), text=["code"])
    given: dict[str, Any] = {"name": "b", "vocab_size": 300, "model": {}, "words": [], "folder": Path()}
    with pytest.raises(UserError, match="stages: at least one is expected"):
        make(BaseConfig, "b.yaml", {**given, "stages": []})
    with pytest.raises(UserError, match="stages: 's' is the name of two"):
        make(BaseConfig, "b.yaml", {**given, "stages": [stage, stage]})


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("lora", {"toolset": "kiwi", "loop": {"learning_rate": "fast"}}, "c.yaml: loop: learning_rate: a number"),
        ("lora", {"toolset": "kiwi", "loop": 3}, "c.yaml: loop: a mapping of settings is expected, not 3"),
        (
            "base",
            {"stages": [{"name": "s", "loop": {"steps": "x", "learning_rate": 1}}]},
            "c.yaml: stage 1: loop: steps: a whole number",
        ),
        ("base", {"stages": ["s"]}, "c.yaml: stage 1: a mapping of settings is expected, not 's'"),
        ("base", {"stages": 1}, "c.yaml: stages: a list is expected"),
        ("base", {"name": "b", "vocab_size": 9, "model": {}}, "c.yaml: stages: at least one is expected"),
    ],
)
def test_the_command_names_file_and_key_of_a_mistake_wherever_the_file_lies(
    tmp_path: Path, kind: str, given: dict[str, Any], message: str
) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps(given))
    rest = ["--base", "seed"] if kind == "lora" else ["--data", str(tmp_path)]
    with pytest.raises(UserError, match=message):
        main([kind, str(tmp_path / "c.yaml"), *rest, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_base_needs_every_width() -> None:
    from train.base import gemma3_config

    shape = read_config(Path(configs.path("train", "base-seed.yaml")))["model"]
    del shape["head_dim"]
    with pytest.raises(UserError, match="head_dim is None; a whole number is expected"):
        gemma3_config(shape, 300)
