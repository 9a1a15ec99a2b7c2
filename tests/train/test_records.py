"""What runs leave for a model card: rows by tool with their digest, and a base's stages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from router.cases import Case
from router.toolset import Call
from train.base import BaseConfig, Stage
from train.base_record import write_record
from train.data.corpora import Corpus
from train.data.recipe import load_recipe
from train.data.summary import origins, tally
from train.data_cli import build_data
from train.loop import LoopConfig
from train.vectors import WordVectors

CASES = [
    Case("a", "play", calls=(Call("play", {"artist": "é"}),)),
    Case("b", "play and rate", calls=(Call("play", {}), Call("rate", {}))),
    Case("c", "hello"),
]
RECIPE = {
    "toolset": "toolbox", "seed": 1, "rows": {"train": 20, "dev": 5, "test": 5}, "noise": {"rate": 0, "share": 0},
    "slots": {"city": {"train": ["oslo", "rome", "paris"], "test": ["lima"]}},
    "patterns": [{"name": "weather", "weight": 1, "call": "get_weather", "arguments": {"city": "{city}"},
                  "train": ["weather in {city}", "{city} weather (now|today|please|)"],
                  "test": ["is it warm in {city}"]}],
}  # fmt: skip
LOOP = LoopConfig(steps=4, learning_rate=1e-3, precision="fp32")


def test_a_tally_counts_and_digests_the_cases_in_their_order() -> None:
    text = "\n".join(json.dumps(case.to_dict(), sort_keys=True) for case in CASES)
    assert tally(CASES) == {
        "rows": 3,
        "by_tool": {"no call": 1, "play": 1, "play+rate": 1},
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    assert tally(CASES[::-1])["sha256"] != tally(CASES)["sha256"]
    assert tally([]) == {"rows": 0, "by_tool": {}, "sha256": hashlib.sha256().hexdigest()}
    assert origins([Corpus("snips"), Corpus("hwu64"), Corpus("snips", no_call=True)], [("a.jsonl", 3)]) == {
        "corpora": ["hwu64", "snips"],
        "against": [{"file": "a.jsonl", "rows": 3}],
    }


def test_what_was_built_is_told_as_a_card_needs_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    tests = tmp_path / "mine.jsonl"
    tests.write_text(json.dumps(Case("x", "something else").to_dict()) + "\n")
    report = build_data(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", [tests])
    assert report["against"] == [{"file": "mine.jsonl", "rows": 1}] and report["corpora"] == []
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    train = report["train"]
    assert isinstance(train, dict) and train["rows"] == len(lines) == sum(train["by_tool"].values())
    text = "\n".join(json.dumps(json.loads(line), sort_keys=True) for line in lines)
    assert train["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def base(folder: Path) -> BaseConfig:
    """A configuration of three stages; the last one has not been run."""
    corpus = folder / "corpora" / "snips"
    corpus.mkdir(parents=True)
    rows = [{"data": [{"text": "play "}, {"text": f"song {n}", "entity": "track"}]} for n in range(130)]
    (corpus / "train_PlayMusic_full.json").write_text(json.dumps({"PlayMusic": rows}))
    (folder / "recipe.yaml").write_text(
        json.dumps(RECIPE | {"corpora": [{"source": "clinc150", "no_call": True, "rows": 5}]})
    )
    weights = {"recipes": 0.5, "synthetic": 0.5}
    stages = (
        Stage("code", LOOP, text=["code"]),
        Stage("tools", LOOP, weights=weights, recipes=["recipe.yaml"], seed=4),
        Stage("more", LOOP, weights={"snips": 1.0}),
    )
    for name, loss in (("code", 3.5), ("tools", 0.25)):
        done = folder / "out" / name / "base"
        done.mkdir(parents=True)
        (done / "stage.json").write_text(json.dumps({"stage": name, "step": 3, "validation": loss}))
    (folder / "out" / "base").mkdir()
    return BaseConfig("tiny", 1024, {}, stages, [], folder)


def test_the_stages_that_were_run_are_recorded(tmp_path: Path) -> None:
    config = base(tmp_path)
    known = WordVectors(("film", "rain"), np.eye(2, dtype=np.float32), "glove.txt", "abc")
    write_record(replace(config, vectors=known), tmp_path / "corpora", tmp_path / "out", tmp_path / "out" / "base")
    vectors = {"file": "glove.txt", "sha256": "abc", "words": 2, "dimensions": 2}
    assert json.loads((tmp_path / "out" / "base" / "stages.json").read_text())["vectors"] == vectors
    write_record(config, tmp_path / "corpora", tmp_path / "out", tmp_path / "out" / "base")
    record = json.loads((tmp_path / "out" / "base" / "stages.json").read_text())
    code, tools = record["stages"]
    assert (code["name"], code["text"], code["validation"]) == ("code", ["code"], 3.5)
    assert tools == {
        "name": "tools", "steps": 4, "learning_rate": 1e-3, "text": [], "weights": {"recipes": 0.5, "synthetic": 0.5},
        "recipes": ["recipe.yaml"], "rows_per_step": 2, "row_tokens": 1280, "requests": 32, "swap": 0.5, "seed": 4,
        "step": 3, "validation": 0.25, "pointing": 0.0, "embedding_rate": 1.0, "average": 0.0,
        "copying": 0.0, "precision": "fp32", "validation_rows": "held_out",
    }  # fmt: skip
    assert record["vectors"] is None
    assert record["sources"] == {"clinc150": None}, "SNIPS is there, but no stage that was run drew on it"

    said = (replace(config.stages[0], text=["utterances"]),)
    later = replace(config, start=str(tmp_path / "out" / "base"), stages=said)
    done = tmp_path / "later" / "code" / "base"
    done.mkdir(parents=True)
    (done / "stage.json").write_text(json.dumps({"step": 2, "validation": 1.0}))
    (tmp_path / "later" / "base").mkdir()
    write_record(later, tmp_path / "corpora", tmp_path / "later", tmp_path / "later" / "base")
    record = json.loads((tmp_path / "later" / "base" / "stages.json").read_text())
    assert [stage["validation"] for stage in record["stages"]] == [3.5, 0.25, 1.0]
    assert record["sources"] == {"clinc150": None, "snips": 29}, "one of thirty is withheld"
