"""How rows are made: context, joined requests, hard ones, arguments and words of a recipe's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from router.cases import Case
from runtimes.errors import UserError
from tests.train.recipes import TOOLS, patterns, small_recipe
from train.data.recipe import Recipe, Split, load_recipe
from train.data.rows import make

SHOWN = """\
name: trips
max_calls: 1
show_context: [date, weekday, city]
tools:
  - name: weather
    description: The weather.
    parameters:
      type: object
      properties:
        city: {type: string}
        user: {type: string, bind: context.user}
      required: [city, user]
"""


def made(recipe: Recipe, split: Split = "train", count: int = 200) -> list[Case]:
    return [m.case for m in make(recipe, split, range(count))]


def trips(folder: Path, **changes: Any) -> Path:
    (folder / "trips.yaml").write_text(SHOWN)
    pattern = {
        "name": "here", "weight": 1, "call": "weather", "arguments": {"city": "{city|context.city}"},
        "train": ["weather here", "weather in {city}"], "test": ["is it wet here"],
    }  # fmt: skip
    data = {
        "toolset": "trips.yaml", "seed": 3, "rows": {"train": 50, "dev": 5, "test": 5}, "patterns": [pattern],
        "context": {"user": ["ann"], "city": {"train": ["oslo", "rome"], "test": ["lima"]}},
        "slots": {"city": {"train": ["bonn"], "test": ["kyiv"]}}, **changes,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_context_comes_from_the_recipe_and_may_be_the_answer(tmp_path: Path) -> None:
    cases = made(load_recipe(trips(tmp_path)))
    assert {case.context["user"] for case in cases} == {"ann"}
    assert {case.context["city"] for case in cases} == {"oslo", "rome"}
    assert list(cases[0].context) == ["user", "date", "weekday", "city"]
    for case in cases:
        (call,) = case.calls
        assert call.arguments == {"city": "bonn" if "bonn" in case.user.lower() else case.context["city"]}
    assert {case.context["city"] for case in made(load_recipe(trips(tmp_path)), "test")} == {"lima"}


def test_days_may_be_listed_and_every_other_key_must_be(tmp_path: Path) -> None:
    context = {"user": ["ann"], "city": ["oslo"], "date": ["2026-03-20"]}
    cases = made(load_recipe(trips(tmp_path, context=context)), count=20)
    assert {(c.context["date"], c.context["weekday"]) for c in cases} == {("2026-03-20", "Friday")}
    with pytest.raises(UserError, match=r"toolset trips needs a value for context.user .* context: \{user: \[...\]\}"):
        load_recipe(trips(tmp_path, context={"city": ["oslo"]}))
    with pytest.raises(UserError, match=r"recipe.yaml:\d+: context: date: 'friday' is no date"):
        load_recipe(trips(tmp_path, context={**context, "date": ["friday"]}))
    with pytest.raises(UserError, match="context: city: 'oslo' is in train"):
        load_recipe(trips(tmp_path, context={**context, "city": {"train": ["oslo"], "test": ["Oslo"]}}))


def test_requests_of_three(tmp_path: Path) -> None:
    parallel = {"share": 0.5, "patterns": ["lamp", "door"], "joiners": [" and "], "calls": [2, 3]}
    path = small_recipe(tmp_path, parallel=parallel)
    (tmp_path / "shed.yaml").write_text(TOOLS.replace("max_calls: 2", "max_calls: 3"))
    for m in make(load_recipe(path), "train", range(200)):
        joined = m.case.user.lower().count(" and ") + 1
        assert len(m.case.calls) == joined == (m.case.template or "").count(" + ") + 1
        assert len(m.wordings) == (1 if joined == 1 else joined + 1)
        for call in m.case.calls:
            assert all(value in m.case.user for value in call.arguments.values())
    counts = {len(case.calls) for case in made(load_recipe(path))}
    assert counts == {1, 2, 3}


HARD = {
    "share": 0.5,
    "groups": [
        {
            "patterns": ["lamp", "door"],
            "train": ['"{other}" is for later. {this}', "{this}; {room} has none"],
            "test": ["{this} unlike {door}"],
        }
    ],
}


def test_hard_requests_hold_values_that_are_not_meant(tmp_path: Path) -> None:
    recipe = load_recipe(small_recipe(tmp_path, hard=HARD, parallel=None))
    rows = list(make(recipe, "train", range(300)))
    hard = [m for m in rows if m.case.bucket == "hard"]
    assert 0.35 < len(hard) / len(rows) < 0.65
    plain = [m.case for m in rows if m.case.bucket != "hard"]
    assert {case.bucket for case in plain} == {"easy"}
    quoted = 0
    for m in hard:
        (call,) = m.case.calls
        (value,) = call.arguments.values()
        assert value in m.case.user
        assert "hard: " in (m.case.template or "")
        if '"' in m.case.user:
            quoted += 1
            other, this = m.case.user.split('"')[1:3]
            assert value in this and value not in other  # the first request is not the one that is meant
            assert ("gate" in other or "hatch" in other) == (call.name == "switch")  # and is the other tool's
    assert 0.3 < quoted / len(hard) < 0.7
    assert all("unlike portal" in c.user for c in made(recipe, "test") if c.bucket == "hard")


def test_what_is_not_made_hard_is_said_as_without(tmp_path: Path) -> None:
    plain = made(load_recipe(small_recipe(tmp_path, parallel=None)))
    group = {"patterns": ["door"], "train": ["{this}, {room} stays"], "test": ["{this} unlike {room}"]}
    both = made(load_recipe(small_recipe(tmp_path, parallel=None, hard={"share": 1, "groups": [group]})))
    assert {c.bucket for c in both} == {"easy", "hard"}
    for before, after in zip(plain, both, strict=True):
        assert (before == after) == (after.bucket == "easy")


def test_word_lists_of_other_names_are_slots(tmp_path: Path) -> None:
    words = {"train": {"colour": ["red", 7]}, "test": {"colour": ["blue"]}}
    ways = ["paint {room} {colour}"], ["varnish {room} {colour}"]
    recipe = load_recipe(small_recipe(tmp_path, words=words, patterns=patterns(*ways), parallel=None))
    assert {c.user.lower().rstrip("?!. ").split()[-1] for c in made(recipe, "test")} == {"blue"}
    with pytest.raises(UserError, match="pattern 'p': {topic} needs a list 'noun'"):
        load_recipe(small_recipe(tmp_path, words=words, patterns=patterns(["{topic} {room}"], ways[1]), parallel=None))
