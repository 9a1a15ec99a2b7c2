"""A base's stages: text, then calls; each from the one before, resumable, chosen by name."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from router.cases import Case  # noqa: E402
from router.tokenizer import RouterTokenizer  # noqa: E402
from runtimes.errors import UserError  # noqa: E402
from train.base import BaseConfig, Stage, gemma3_config, train_base  # noqa: E402
from train.base_record import source_digests, stage_recipe  # noqa: E402
from train.base_rows import encode_text, make_mixture  # noqa: E402
from train.claim import claim, differences  # noqa: E402
from train.data import texts  # noqa: E402
from train.data.sources import read_all  # noqa: E402
from train.data.texts import Texts  # noqa: E402
from train.loop import LoopConfig  # noqa: E402
from train.vectors import WordVectors  # noqa: E402

SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4,
         "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip
RECIPE = {
    "toolset": "toolbox", "seed": 1, "rows": {"train": 60, "dev": 20, "test": 5}, "noise": {"rate": 0, "share": 0},
    "slots": {"city": {"train": ["oslo", "rome", "paris"], "test": ["lima"]}},
    "patterns": [{"name": "weather", "weight": 1, "call": "get_weather", "arguments": {"city": "{city}"},
                  "train": ["weather in {city}", "{city} weather (now|today|please|)"],
                  "test": ["is it warm in {city}"]}],
}  # fmt: skip


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    folder = tmp_path / "corpora" / "snips"
    folder.mkdir(parents=True)
    rng = random.Random(1)
    for intent, slot, verb in (("PlayMusic", "artist", "play"), ("RateBook", "object_name", "rate")):
        rows = [
            {"data": [{"text": f"{verb} "}, {"text": f"name {rng.randrange(500)}", "entity": slot}]} for _ in range(220)
        ]
        (folder / f"train_{intent}_full.json").write_text(json.dumps({intent: rows}))
    return folder.parent


@pytest.fixture
def config(tmp_path: Path) -> BaseConfig:
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    loop = LoopConfig(steps=4, learning_rate=1e-3, warmup=1, validate_every=2, save_every=2, threads=1)
    language = Stage("language", loop, text=["utterances"], row_tokens=512, rows_per_step=1)
    tools = Stage("tools", loop, weights={"snips": 0.5, "recipes": 0.5}, recipes=["recipe.yaml"], rows_per_step=1)
    return BaseConfig("tiny", 1024, SHAPE, (language, tools), ["alpha", "beta"] * 40, tmp_path)


def recipe(config: BaseConfig, corpora: Path, against: Sequence[Case] = ()) -> dict[str, Any]:
    """What the second stage is made from, alone."""
    return stage_recipe(config, config.stages[1], source_digests(read_all(corpora)), corpora, against, None)


def quiet(_: dict[str, Any]) -> None:
    return None


def test_stages_run_one_after_another_and_again_from_where_they_were(
    tmp_path: Path, corpora: Path, config: BaseConfig
) -> None:
    events: list[dict[str, Any]] = []
    whole = train_base(config, corpora, tmp_path / "whole", events.append)
    assert [e["stage"] for e in events if "stage" in e] == ["language", "tools"]
    assert whole["stage"] == "tools"
    assert {"model.safetensors", "tokenizer.json", "loss-language.png", "loss-tools.png"} <= {
        p.name for p in (tmp_path / "whole" / "base").iterdir()
    }
    weights = (tmp_path / "whole" / "base" / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "whole" / "tools" / "base" / "model.safetensors").read_bytes()
    assert weights != (tmp_path / "whole" / "language" / "base" / "model.safetensors").read_bytes()

    parts = tmp_path / "parts"
    train_base(config, corpora, parts, quiet, stages=["language"])
    assert not (parts / "tools").exists()

    class Interrupted(Exception):
        pass

    def stops(event: dict[str, Any]) -> None:
        if "validation" in event:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_base(config, corpora, parts, stops)
    train_base(config, corpora, parts, quiet)
    assert (parts / "base" / "model.safetensors").read_bytes() == weights
    assert train_base(config, corpora, parts, quiet)["stage"] == "tools"  # nothing left to do


@pytest.mark.parametrize(
    ("changes", "stage", "which"),
    [
        ({}, {"row_tokens": 1024}, "row_tokens 1280, now 1024"),
        ({}, {"weights": {"snips": 1.0, "recipes": 0.5}}, "weights changed"),
        ({}, {"seed": 7}, "seed 0, now 7"),
        ({"vectors": WordVectors(("a",), np.ones((1, 4), np.float32), "v.txt", "0")}, {}, "--vectors"),
    ],
)
def test_a_stage_is_not_gone_on_with_nor_taken_as_finished_under_another_recipe(
    tmp_path: Path, corpora: Path, config: BaseConfig, changes: dict[str, Any], stage: dict[str, Any], which: str
) -> None:
    run, tools = tmp_path / "out" / "tools" / "run", config.stages[1]
    claim(run, recipe(config, corpora))
    (run / "loss.csv").touch()
    other = replace(config, stages=[replace(tools, **stage)], **changes)
    with pytest.raises(UserError, match=rf"tools/run/recipe.json: made with another configuration \({which}") as caught:
        train_base(other, corpora, tmp_path / "out", quiet)
    assert ";" not in str(caught.value).partition("(")[2].partition(")")[0], "nothing else is named"


def test_other_corpora_recipes_and_tests_are_noticed(tmp_path: Path, corpora: Path, config: BaseConfig) -> None:
    before = recipe(config, corpora)
    assert not differences(before, recipe(config, corpora))
    again = recipe(config, corpora, [Case("x", "rain?")])
    assert differences(before, again) == ["--against changed"]
    (tmp_path / "recipe.yaml").write_text(json.dumps({**RECIPE, "seed": 2}))
    file = corpora / "snips" / "train_RateBook_full.json"
    file.write_text(file.read_text().replace("rate ", "judge "))
    after = recipe(config, corpora)
    assert differences(before, after) == ["--data changed", "recipe_files changed"]


def test_what_a_kill_left_of_a_stage_is_not_taken_for_a_finished_one(
    tmp_path: Path, corpora: Path, config: BaseConfig
) -> None:
    left = tmp_path / "out" / "language" / "base"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    events: list[dict[str, Any]] = []
    train_base(config, corpora, tmp_path / "out", events.append, stages=["tools"])
    assert [e["stage"] for e in events if "stage" in e] == ["tools"]
    base = tmp_path / "out" / "base"
    (base / "of an earlier run").touch()
    shutil.rmtree(tmp_path / "out" / "tools" / "run")  # finished stages need it no more
    assert train_base(config, corpora, tmp_path / "out", quiet, stages=["tools"])["stage"] == "tools"
    assert not (base / "of an earlier run").exists(), "the folder was put together anew"
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_rows_that_validate_are_withheld_unless_the_recipe_says_development(corpora: Path, config: BaseConfig) -> None:
    def requests(stage: Stage, dev: bool = False) -> set[str]:
        return {r.text for c in make_mixture(config, stage, corpora, dev=dev).corpora for r in c.requests}

    held = config.stages[1]
    as_before = replace(held, validation="development")
    everything = {r.text for c in read_all(corpora) for r in c.requests}
    assert requests(as_before) == everything
    assert requests(as_before, dev=True) == {r.text for c in read_all(corpora, dev=True) for r in c.requests}
    assert requests(held) | requests(held, dev=True) == everything
    assert requests(held, dev=True) and not requests(held) & requests(held, dev=True)


def test_a_stage_may_be_left_out_and_must_exist(tmp_path: Path, corpora: Path, config: BaseConfig) -> None:
    events: list[dict[str, Any]] = []
    train_base(config, corpora, tmp_path / "out", events.append, stages=["tools"])
    assert [e["stage"] for e in events if "stage" in e] == ["tools"]
    with pytest.raises(UserError, match="stage 'tolls': the configuration has language, tools"):
        train_base(config, corpora, tmp_path / "out", quiet, stages=["tolls"])


def test_text_rows_put_loss_on_every_token_of_documents_that_do_not_mix(
    tmp_path: Path, corpora: Path, config: BaseConfig
) -> None:
    train_base(replace(config, stages=config.stages[1:]), corpora, tmp_path / "out", quiet)
    tokenizer = RouterTokenizer.load(tmp_path / "out" / "base" / "tokenizer.json")
    row = encode_text(tokenizer, Texts(["utterances"], corpora), random.Random(3), limit=700)
    (bos,) = tokenizer.encode("<bos>")
    starts = [i for i, token in enumerate(row.ids) if token == bos]
    assert len(starts) > 1 and len(row) <= 700
    assert [row.positions[i] for i in starts] == [0] * len(starts)
    assert len(set(row.segments)) == len(starts)
    assert row.loss.sum() == len(row) - len(starts)


def test_blocks_of_recipes_hold_valid_calls_and_no_forbidden_request(
    tmp_path: Path, corpora: Path, config: BaseConfig
) -> None:
    forbidden = Case("x", "Weather in OSLO!")
    stage = replace(config.stages[1], weights={"recipes": 1.0})
    mixture = make_mixture(config, stage, corpora, against=[forbidden])
    names = set()
    for number in range(60):
        block = mixture.block(number, rows=8)
        for text, calls in block.rows:
            assert text.lower().strip("?.! ") != "weather in oslo"
            for call in calls:
                tool = block.toolset.tool(call.name)
                assert tool is not None and set(call.arguments) <= set(tool.visible)
                names.add(call.name)
    assert {"get_weather", "getWeather"} <= names


def test_prose_and_code_come_from_the_standard_library(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "module.py"
    source.write_text('"""What this module does, in more than forty characters."""\n\ndef f():\n    """Short."""\n')
    monkeypatch.setattr(texts, "_library", lambda: (source,))
    assert texts.documents("prose", corpora) == ["What this module does, in more than forty characters."]
    assert texts.documents("code", corpora) == [source.read_text()]
    drawn = Texts(["code"], corpora).draw(random.Random(0), characters=30)
    assert drawn in source.read_text() and len(drawn) <= 30
    with pytest.raises(UserError, match="text 'poems': no such kind; there are utterances, prose, code"):
        Texts(["poems"], corpora)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--device", "bogus"], "--device bogus: there are cpu, cuda, mps"),
        (["--threads", "0"], "threads: 0 is not a number of threads"),
        (["--stages", "tolls"], "stage 'tolls': the configuration has"),
    ],
)
def test_mistakes_are_told_before_any_work(given: list[str], message: str, tmp_path: Path) -> None:
    from train.cli import main

    with pytest.raises(UserError, match=message):
        main(["base", "configs/train/base-seed.yaml", "--data", str(tmp_path), "--out", str(tmp_path / "o"), *given])
    assert not (tmp_path / "o").exists()


def test_a_shape_may_say_what_is_otherwise_usual() -> None:
    usual = gemma3_config(SHAPE, 300)
    assert (usual.vocab_size, usual.sliding_window, usual.max_position_embeddings) == (300, 512, 32768)
    own = gemma3_config({**SHAPE, "sliding_window": 128, "max_position_embeddings": 2048}, 300)
    assert (own.sliding_window, own.max_position_embeddings) == (128, 2048)
    assert own.layer_types == usual.layer_types
    with pytest.raises(UserError, match="bos_token_id follows from the tokenizer"):
        gemma3_config({**SHAPE, "bos_token_id": 5}, 300)


def test_every_layer_may_be_global() -> None:
    shape = {**SHAPE, "sliding_window_pattern": 1}
    assert set(gemma3_config(shape, 300).layer_types) == {"full_attention"}
    assert gemma3_config(shape, 300).sliding_window_pattern == 1  # llama.cpp's converter reads it


def test_a_base_may_start_from_word_vectors(tmp_path: Path, corpora: Path, config: BaseConfig) -> None:
    rng = np.random.default_rng(0)
    known = WordVectors(("verb", "play", "rate", "name"), np.linalg.qr(rng.normal(size=(12, 12)))[0][:4], "v.txt", "0")
    loop = replace(config.stages[1].loop, pointing=1.0, embedding_rate=0.5, average=0.9)
    deeper = replace(
        config, model={**SHAPE, "num_hidden_layers": 7}, vectors=known, stages=[replace(config.stages[1], loop=loop)]
    )
    train_base(deeper, corpora, tmp_path / "out", quiet)
    record = json.loads((tmp_path / "out" / "base" / "stages.json").read_text())
    assert record["vectors"]["words"] == 4
    assert (record["stages"][0]["pointing"], record["stages"][0]["embedding_rate"]) == (1.0, 0.5)
    log = [json.loads(line) for line in (tmp_path / "out" / "tools" / "run" / "log.jsonl").read_text().splitlines()]
    assert any("last" in line for line in log)


def test_matching_needs_word_vectors(tmp_path: Path, corpora: Path, config: BaseConfig) -> None:
    stage = replace(config.stages[1], weights={"matching": 1.0}, recipes=())
    with pytest.raises(UserError, match="`matching` draws on word vectors; give them with --vectors FILE"):
        train_base(replace(config, stages=[stage]), corpora, tmp_path / "out", quiet)
