"""The training configurations that are shipped: whole, and of tools and recipes that are there."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import configs
from router.toolset_load import load_toolset
from train.base import Stage
from train.cli import make_loop
from train.data.recipe import beside
from train.loop import LoopConfig
from train.lora import LOOP, LoraConfig
from train.settings import make, read_config

HERE = Path(configs.__file__).parent
LORA = sorted((*(HERE / "train").glob("lora-*.yaml"), *(HERE / "examples").glob("*/train.yaml")))
BASES = sorted((HERE / "train").glob("base-*.yaml"))


def loop_of(path: Path) -> LoopConfig:
    return make_loop({**LOOP, **read_config(path).get("loop", {})}, arguments(path))


def arguments(path: Path) -> argparse.Namespace:
    return argparse.Namespace(config=path, device=None, threads=None)


@pytest.mark.parametrize("path", LORA, ids=lambda p: p.parent.name if p.stem == "train" else p.stem)
def test_adapters(path: Path) -> None:
    loop = loop_of(path)
    config = make(LoraConfig, str(path), {**read_config(path), "loop": loop})
    assert load_toolset(beside(path, config.toolset)).tools
    assert (path.parent / config.recipe).is_file()
    assert loop.learning_rate > 0 and config.epochs > 0


def test_all_adapters_of_the_seed_learn_at_one_rate() -> None:
    assert {path.stem: loop_of(path).learning_rate for path in LORA} == dict.fromkeys(
        (path.stem for path in LORA), loop_of(HERE / "train" / "lora-kiwi.yaml").learning_rate
    )


@pytest.mark.parametrize("path", BASES, ids=lambda p: p.stem)
def test_bases(path: Path) -> None:
    listed = read_config(path)["stages"]
    stages = [make(Stage, str(path), {**s, "loop": make_loop(s["loop"], arguments(path))}) for s in listed]
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        assert bool(stage.text) != bool(stage.weights)
        assert stage.weights is None or sum(stage.weights.values()) == pytest.approx(1.0)
        assert all((path.parent / recipe).is_file() for recipe in stage.recipes)
