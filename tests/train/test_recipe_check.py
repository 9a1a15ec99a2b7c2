"""What is wrong with a recipe is told before a row is made: file, line, what, and what was perhaps meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtimes.errors import UserError
from tests.train.recipes import small_recipe
from train.data.build import build_data, training_cases
from train.data.recipe import load_recipe

DOOR = {"kind": "digits", "train": ["gate ##"], "test": ["portal ##"]}

Edit = Callable[[dict[str, Any]], Any]


def broken(folder: Path, edit: Edit) -> str:
    """The line that a recipe is refused with once it is edited."""
    path = small_recipe(folder)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False, width=1000))
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:") and "\n" not in message
    return message


def first(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["patterns"][0]
    return found


FAULTS: list[tuple[Edit, str]] = [
    (lambda d: d.update(pattens=d.pop("patterns")), "recipe: unknown key 'pattens'; did you mean 'patterns'?"),
    (lambda d: first(d).update(buckt="hard"), "pattern 'lamp': unknown key 'buckt'; did you mean 'bucket'?"),
    (lambda d: d["parallel"].update(join=[]), "parallel: unknown key 'join'; did you mean 'joiners'?"),
    (lambda d: d["slots"]["room"].update(kinds=1), "slots: room: unknown key 'kinds'; did you mean 'kind'?"),
    (lambda d: first(d).pop("weight"), "pattern 'lamp': 'weight' is missing; configs/examples/shop/recipe.yaml"),
    (lambda d: first(d).pop("name"), "pattern 1 of the list: 'name' is missing"),
    (lambda d: d["rows"].pop("dev"), "rows: 'dev' is missing"),
    (lambda d: d["rows"].update(train="many"), "rows: train: a whole number is expected, not 'many' (string)"),
    (lambda d: d.update(patterns=3), "patterns: a list is expected, not 3 (integer)"),
    (lambda d: first(d)["train"].append("{roon} on"), "pattern 'lamp': no slot {roon}; did you mean '{room}'?"),
    (lambda d: first(d)["test"].append("<cna> light {room}"), "pattern 'lamp': no macro <cna>; there are none"),
    (lambda d: first(d)["train"].append("{Room} on"), "pattern 'lamp': '{Room}' is no slot"),
    (lambda d: first(d)["train"].append("(a|b {room}"), "pattern 'lamp': an open bracket in"),
    (lambda d: first(d)["train"].append({"light": "{room}"}), "'light' is followed by a colon; quote the whole"),
    (lambda d: first(d)["train"].append(True), "a template: text is expected, not True (boolean); quote it"),
    (lambda d: first(d).update(train=[]), "pattern 'lamp': no template under 'train'"),
    (lambda d: first(d).update(call="swich"), "no tool 'swich' in toolset shed; did you mean 'switch'?"),
    (lambda d: first(d).update(arguments={"rom": "{room}"}), "switch has no parameter 'rom'; did you mean 'room'?"),
    (lambda d: first(d)["train"].append({"x {room}": {"rom": "y"}}), "switch has no parameter 'rom'"),
    (lambda d: first(d).update(arguments={}), "pattern 'lamp': switch requires 'room', which has no argument"),
    (lambda d: first(d).update(arguments={"room": 4}), "a call would break toolset shed: switch: room: 4 is integer"),
    (lambda d: first(d).update(arguments={"room": "{rooom}"}), "no template of the pattern says {rooom}; did you mean"),
    (lambda d: first(d).update(calls=[]), "pattern 'lamp': one of 'call' (a tool, or null"),
    (lambda d: d["patterns"][1].update(name="lamp"), "pattern 'lamp': this name is taken by an earlier one"),
    (lambda d: d["parallel"].update(patterns=["lamb"]), "parallel: no pattern 'lamb'; did you mean 'lamp'?"),
    (lambda d: d["parallel"].update(calls=[2, 3]), "parallel: 3 calls in one request, where toolset shed allows 2"),
    (lambda d: d["parallel"].update(share=3), "parallel: share: 3 is above 1"),
    (lambda d: d.update(macros={"a": ["x <a>"]}), "macro <a>: every way to say it holds itself"),
    (lambda d: d.update(macros={"a": [True]}), "macro <a>: text is expected, not True (boolean); quote it"),
    (lambda d: d["slots"]["room"].update(train=["{hall}"]), "slots: room: no slot {hall}"),
    (lambda d: d["slots"]["door"].update(train=["the {door}"]), "slots: door: every way to say it holds itself"),
    (lambda d: d["slots"].update(day={"kind": "date"}), "slots: day: dates are counted from the context's"),
    (lambda d: d["slots"].update(n={"kind": "number", "low": 9, "high": 2}), "slots: n: low 9 is above high 2"),
    (lambda d: d.update(context={"city": ["oslo"]}), "context: toolset shed neither shows nor binds 'city'"),
    (lambda d: d.update(shared=["rooms"]), "shared: there is no slot or list 'rooms'; did you mean 'room'?"),
    (lambda d: first(d).update(modifiers={"how": "manner"}), "pattern 'lamp': no modifiers 'manner'"),
    (lambda d: first(d).update(types=["big"]), "pattern 'lamp': no type 'big'"),
    (lambda d: first(d)["test"].append(first(d)["train"][0]), "is in train and in test; the sides need templates"),
    (lambda d: d.update(words={"train": {"noun": ["box"]}, "test": {"noun": ["Box"]}}), "words: noun: 'box' is in"),
    (lambda d: d.update(types={"a": {s: {"one": ["x"]} for s in ("train", "test")}}), "types: 'x' is in train"),
    (
        lambda d: d.update(
            modifiers={"m": {"argument": "room", "skip": 0.5, "values": {"a": {"train": ["x"], "test": ["X"]}}}}
        ),
        "modifiers: m: 'x' is in train and in test",
    ),
    (lambda d: d.update(hard={"share": 1, "groups": [{"patterns": ["lamp"], "train": ["x"], "test": ["y"]}]}),
     "hard: a frame needs {this}"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "said"), FAULTS, ids=[said[:40] for _, said in FAULTS])
def test_a_mistake_is_one_line(tmp_path: Path, edit: Edit, said: str) -> None:
    assert said in broken(tmp_path, edit)


def test_the_line_is_that_of_the_entry(tmp_path: Path) -> None:
    message = broken(tmp_path, lambda d: first(d)["train"].append("{roon} on"))
    lines = (tmp_path / "shed-recipe.yaml").read_text().splitlines()
    number = int(message.removeprefix(f"{tmp_path / 'shed-recipe.yaml'}:").split(":")[0])
    assert "{roon} on" in lines[number - 1]
    path = tmp_path / "twice.yaml"
    path.write_text("toolset: kiwi\nseed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="twice.yaml:3: the key 'seed' is given twice"):
        load_recipe(path)


TOOLS = """\
name: bulbs
max_calls: 1
tools:
  - name: paint
    description: Set a colour.
    parameters: {type: object, properties: {colour: {type: string, enum: [red, blue]}}, required: [colour]}
"""


def test_a_row_that_breaks_its_toolset_stops_build_and_training(tmp_path: Path) -> None:
    (tmp_path / "bulbs.yaml").write_text(TOOLS)
    pattern = {
        "name": "paint", "weight": 1, "call": "paint", "arguments": {"colour": "{colour}"},
        "train": ["paint it {colour}", "{colour} light"], "test": ["make it {colour}"],
    }  # fmt: skip
    colours = {"train": {"red": ["crimson"], "bleu": ["navy"]}, "test": {"red": ["rosy"], "blue": ["azure"]}}
    rows = {"train": 40, "dev": 0, "test": 4}
    recipe = {"toolset": "bulbs.yaml", "seed": 1, "rows": rows, "slots": {"colour": colours}, "patterns": [pattern]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    said = (
        r"recipe.yaml:\d+: pattern 'paint': a call of '.*navy.*' breaks toolset bulbs: paint: colour: 'bleu' is not one"
    )
    with pytest.raises(UserError, match=said):
        build_data(load_recipe(path), tmp_path / "out", [])
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=said):
        list(training_cases(load_recipe(path), "train"))


def test_what_both_sides_say_on_purpose_is_named(tmp_path: Path) -> None:
    both = {"train": ["hall ##"], "test": ["hall ##"], "kind": "digits"}
    path = small_recipe(tmp_path, slots={"room": both, "door": DOOR}, shared=["room"])
    assert load_recipe(path).shared == {"room"}
