"""Fillers that are open: other words in training, none of the test side's, none that templates say."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from runtimes.errors import UserError
from tests.train.recipes import small_recipe
from train.data.openwords import OpenWords
from train.data.recipe import Recipe, load_recipe
from train.data.rows import make, rows

LISTED = [f"{a}{b}{c}" for a in "bdglmnprst" for b in "aeiou" for c in ("ndle", "rrow", "lket")]
SLOTS = {
    "room": {
        "open": 0.5,
        "drop": ["the"],
        "train": ["kitchen", "the guest room", "dining hall"],
        "test": ["bundle cellar"],
    },
    "door": {"train": ["gate", "hatch"], "test": ["portal"]},
}


def recipe(folder: Path, listed: list[str] = LISTED, **changes: object) -> Recipe:
    (folder / "english.txt").write_text(" ".join(listed))
    return load_recipe(small_recipe(folder, slots=SLOTS, open_words="english.txt", **changes))


def test_training_says_words_that_are_not_listed(tmp_path: Path) -> None:
    made = [m.case for m in make(recipe(tmp_path), "train", range(300))]
    rooms = [c.arguments["room"] for case in made for c in case.calls if c.name == "switch"]
    usual = {"kitchen", "guest room", "dining hall"}
    assert 0.3 < sum(room not in usual for room in rooms) / len(rooms) < 0.7
    assert len(set(rooms)) > 60
    doors = {c.arguments["door"] for case in made for c in case.calls if c.name == "lock"}
    assert doors == {"gate", "hatch"}
    for case in made:
        for call in case.calls:
            assert all(value.lower() in case.user.lower() for value in call.arguments.values())


def test_the_test_side_is_closed_and_its_words_are_nowhere_else(tmp_path: Path) -> None:
    loaded = recipe(tmp_path, rows={"train": 300, "dev": 60, "test": 20})
    assert {c.arguments["room"] for t in rows(loaded, "test") for c in t.calls if c.name == "switch"} <= {
        "bundle cellar"
    }
    trained = " ".join(case.user.lower() for case in rows(loaded, "train"))
    assert "bundle" not in trained and "cellar" not in trained


def test_words_kin_to_what_is_held_out_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(" ".join([*LISTED, "bundles", "bund", "bundling", "lamp", "lamps", "lam"]))
    words = OpenWords.read(path, ["a bundle (of|with) lamps", "switch on"]).words
    assert not {"bundle", "bundles", "bund", "lamps", "lamp"} & set(words)
    assert {"bundling", "lam"} <= set(words)  # "bundl" is no word of theirs, and three letters prove nothing


def test_exchange_keeps_function_words_capitals_and_marks() -> None:
    words = OpenWords(tuple(LISTED))
    rng = random.Random(1)
    for _ in range(200):
        said = words.exchange("Call the NEW dentist (24)", rng)
        first, the, new, _, number = said.split()
        assert (the, number) == ("the", "(24)") and first[0].isupper() and new.isupper()
        assert said != "Call the NEW dentist (24)"
    assert words.exchange("at 3", rng) == "at 3"


def test_too_few_words_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 words are left to stand for others; at least 100"):
        recipe(tmp_path, ["alpha", "beta", "portal"])
    with pytest.raises(UserError, match="cannot read the open words"):
        OpenWords.read(tmp_path / "none.txt", [])
    with pytest.raises(UserError, match="only lists of words"):
        load_recipe(small_recipe(tmp_path, slots={"room": {"open": 0.5, "kind": "number"}, "door": SLOTS["door"]}))
