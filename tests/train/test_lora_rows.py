"""What an adapter is trained on where rows come from files: what is held back, left out and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.cases import Case
from router.toolset import Call
from runtimes.errors import UserError
from tests.tiny import LIGHTS
from train.loop import LoopConfig
from train.lora import LoraConfig
from train.lora_rows import HELD_BACK, lora_rows

CONFIG = LoraConfig(
    toolset="lights", loop=LoopConfig(steps=0, learning_rate=1e-3), train_files=["mine.jsonl"], dev_files=[]
)
GOOD = Call("set_light", {"room": "kitchen", "on": True})


def row(number: int, user: str | None = None, calls: tuple[Call, ...] = ()) -> dict[str, Any]:
    return Case(id=str(number), user=user or f"request {number}", calls=calls).to_dict()


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def test_every_twentieth_row_validates(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", *(row(n) for n in range(1, 3 * HELD_BACK)))
    train, dev, record = lora_rows(CONFIG, tmp_path / "lora.yaml", LIGHTS, None, {})
    assert [case.id for case in dev] == [str(HELD_BACK), str(2 * HELD_BACK)]
    assert len(train) == 3 * HELD_BACK - 3 and not {c.id for c in train} & {c.id for c in dev}
    assert record["files"] == [{"file": "mine.jsonl", "rows": 3 * HELD_BACK - 1}]
    assert record["train"]["rows"] == len(train) and record["dev"]["rows"] == 2


def test_what_is_validated_or_tested_with_is_not_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", row(1, "Lights on!"), row(2, "dim it"), row(3, "go away"))
    write(tmp_path / "held.jsonl", row(1, "DIM it."), row(2, "louder"))
    config = replace(CONFIG, dev_files=["held.jsonl"])
    tests = {tmp_path / "test.jsonl": [Case(id="t", user="lights on"), Case(id="u", user="Louder?")]}
    train, dev, record = lora_rows(config, tmp_path / "lora.yaml", LIGHTS, None, tests)
    assert [case.user for case in train] == ["go away"]
    assert [case.user for case in dev] == ["DIM it."]
    assert record["against"] == [{"file": "test.jsonl", "rows": 2}]


def test_files_beside_a_recipe(tmp_path: Path) -> None:
    import configs

    place = Path(configs.__file__).parent / "examples" / "shop" / "train.yaml"
    from router.toolset_load import load_toolset

    toolset = load_toolset(place.parent / "tools.yaml")
    write(tmp_path / "mine.jsonl", row(1, "nothing that anybody serves"))
    alone = replace(CONFIG, recipe="recipe.yaml", train_files=[])
    both = replace(alone, train_files=[str(tmp_path / "mine.jsonl")])
    train, dev, _ = lora_rows(alone, place, toolset, None, {})
    more, same, record = lora_rows(both, place, toolset, None, {})
    assert len(more) == len(train) + 1 and more[-1].user == "nothing that anybody serves"
    assert [c.id for c in same] == [c.id for c in dev]
    assert record["files"] == [{"file": "mine.jsonl", "rows": 1}] and "seed" in record


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{not json", "mine.jsonl:2: not JSON"),
        (row(2, calls=(Call("set_light", {"room": 3, "on": True}),)), "mine.jsonl:2: 2: a call breaks toolset"),
        (row(2, calls=(Call("boil_egg", {}),)), "boil_egg"),
        (row(2, calls=(GOOD,) * 9), "mine.jsonl:2: 2: 9 calls, where toolset lights allows"),
        ({"id": "2", "user": "x"}, "mine.jsonl:2: 'calls' is missing"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, bad: dict[str, Any] | str, said: str) -> None:
    write(tmp_path / "mine.jsonl", row(1, calls=(GOOD,)), bad)
    with pytest.raises(UserError) as caught:
        lora_rows(CONFIG, tmp_path / "lora.yaml", LIGHTS, None, {})
    assert said in str(caught.value) and "mine.jsonl:2" in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set recipe .* or train_files"):
        lora_rows(replace(CONFIG, train_files=[]), tmp_path / "lora.yaml", LIGHTS, None, {})
    write(tmp_path / "mine.jsonl", row(1), row(2))
    with pytest.raises(UserError, match="name dev_files as well"):
        lora_rows(CONFIG, tmp_path / "lora.yaml", LIGHTS, None, {})
    write(tmp_path / "held.jsonl", row(1, "another"))
    tested = {tmp_path / "t.jsonl": [Case(id="a", user="request 1"), Case(id="b", user="request 2")]}
    with pytest.raises(UserError, match="no row is left to train with"):
        lora_rows(replace(CONFIG, dev_files=["held.jsonl"]), tmp_path / "lora.yaml", LIGHTS, None, tested)
    with pytest.raises(UserError, match="a list of names is expected"):
        replace(CONFIG, train_files="mine.jsonl")
