"""Recipes that draw on public corpora: which rows go where, exchanged values, requests for no tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.cases import Case
from runtimes.errors import UserError
from train.data.recipe import load_recipe
from train.data.rows import rows
from train.data_cli import build_data, training_cases

ARTISTS = [f"artist{n}" for n in range(150)]


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """SNIPS with one intent of 400 requests, CLINC150 with three intents and requests out of scope."""
    folder = tmp_path / "corpora"
    (folder / "snips").mkdir(parents=True)
    (folder / "clinc150").mkdir()
    played: list[Any] = [
        {"data": [{"text": "play "}, {"text": ARTISTS[n % 150], "entity": "artist"}, {"text": f" please {n}"}]}
        for n in range(400)
    ]
    (folder / "snips" / "train_PlayMusic_full.json").write_text(json.dumps({"PlayMusic": played}))
    asked = {
        "train": [[f"{words} {n}", intent] for words, intent in
                  (("start the song", "play_music"), ("pay bill", "pay_bill"), ("call mum", "make_call"))
                  for n in range(60)],
        "val": [["pay my bill", "pay_bill"], ["start it", "play_music"]],
        "oos_train": [["what is love", "oos"]],
        "oos_val": [["why is the sky blue", "oos"]],
        "test": [], "oos_test": [],
    }  # fmt: skip
    (folder / "clinc150" / "data_full.json").write_text(json.dumps(asked))
    return folder


def recipe(tmp_path: Path, **changes: Any) -> Path:
    clinc = {"source": "clinc150", "no_call": True, "without": ["play_music"], **changes}
    data = {"toolset": "assistant", "seed": 3, "corpora": [{"source": "snips", "times": 2, "swap": 1.0}, clinc]}
    (tmp_path / "mixed.yaml").write_text(json.dumps(data))
    return tmp_path / "mixed.yaml"


def split(path: Path, corpora: Path, name: Any) -> list[Case]:
    return list(rows(load_recipe(path, corpora), name))


def test_rows_go_where_they_belong(tmp_path: Path, corpora: Path) -> None:
    path = recipe(tmp_path)
    train, dev, test = (split(path, corpora, name) for name in ("train", "dev", "test"))
    assert {c.id for c in test if c.calls} == {f"snips/train/PlayMusic/{n:04d}" for n in range(100)}
    assert [c.user for c in test if not c.calls] == ["pay my bill", "why is the sky blue"]
    played = [c for c in train if c.calls]
    assert len(played) + 2 * len([c for c in dev if c.calls]) == 2 * 300
    assert len({c.id for c in train}) == len(train)
    silent = [c.user for c in train + dev if not c.calls]
    assert len(silent) == 121 and not [u for u in silent if u.startswith("start")]
    assert 0 < len(dev) < 0.1 * len(train)
    assert not {c.user for c in dev} & {c.user for c in train if not c.calls}


def test_exchanged_values_stand_in_the_request(tmp_path: Path, corpora: Path) -> None:
    train = [c for c in split(recipe(tmp_path), corpora, "train") if c.calls]
    changed = 0
    for case in train:
        number = int(case.id.split("/")[3])
        (artist,) = case.calls[0].arguments.values()
        assert case.user == f"play {artist} please {number}"
        changed += artist != ARTISTS[number % 150]
    assert 0.4 * len(train) < changed < 0.8 * len(train)
    again = [c for c in split(recipe(tmp_path), corpora, "train") if c.calls]
    assert again == train


def test_rows_may_be_limited(tmp_path: Path, corpora: Path) -> None:
    path = recipe(tmp_path, rows=20)
    assert sum(not c.calls for c in split(path, corpora, "train")) == 20
    assert sum(not c.calls for c in split(path, corpora, "test")) == 2


def test_built_without_leaks(tmp_path: Path, corpora: Path) -> None:
    report = build_data(load_recipe(recipe(tmp_path), corpora), tmp_path / "out", [])
    assert [entry["test"] for entry in report["leaks"]] == ["dev.jsonl", "test.jsonl"]
    assert all(entry["exact"] == entry["normalised"] == 0 for entry in report["leaks"])
    loaded = load_recipe(recipe(tmp_path), corpora)
    kept = {c.user for c in training_cases(loaded, "train")}
    assert not kept & {c.user for c in rows(loaded, "test")}


def test_what_is_wrong_is_told(tmp_path: Path, corpora: Path) -> None:
    with pytest.raises(
        UserError, match=r"it draws on public corpora \(snips, clinc150\); say where they lie with --data"
    ):
        load_recipe(recipe(tmp_path))
    with pytest.raises(UserError, match="no such folder; it should hold snips"):
        split(recipe(tmp_path), tmp_path, "train")
    with pytest.raises(UserError, match="clinc150 has no intent 'play_musik'"):
        split(recipe(tmp_path, without=["play_musik"]), corpora, "train")
    with pytest.raises(UserError, match="unknown key 'witout'; did you mean 'without'"):
        load_recipe(recipe(tmp_path, witout=[]), corpora)
