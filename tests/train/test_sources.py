"""The corpora's readers, on small files in the upstream forms: development rows never reach training."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from runtimes.errors import UserError
from train.data.corpus import realise
from train.data.mixture import Mixture
from train.data.sources import SGD_HELD_OUT, read_all, read_clinc150, read_hwu64, read_sgd, read_snips
from train.data.synthetic import Store
from train.data.words import Words


def write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture()
def data(tmp_path: Path) -> Path:
    row = lambda i: {"data": [{"text": "rate "}, {"text": f"book {i}", "entity": "object_name"}, {"text": " five"}]}  # noqa: E731
    write(tmp_path / "snips/train_RateBook_full.json", {"RateBook": [row(i) for i in range(130)]})
    text = "wake me at {} am"
    examples = [
        {"text": text.format(i), "intent": "alarm_set", "entities": [{"start": 11, "end": 12, "entity": "time"}]}
        for i in range(9)
    ] + [{"text": "tell me a joke", "intent": "general_joke", "entities": []}] * 12
    write(tmp_path / "hwu64/RasaNlu_Merged_KFold_1.json", {"rasa_nlu_data": {"common_examples": examples}})
    clinc = {
        "train": [["how far", "distance"]],
        "val": [["how near", "distance"]],
        "oos_train": [["hm", "oos"]],
        "oos_val": [["ah", "oos"]],
    }
    write(tmp_path / "clinc150/data_full_trainval.json", clinc)
    service = lambda n: {  # noqa: E731
        "service_name": n, "description": "x",
        "slots": [{"name": "city", "description": "City", "is_categorical": False, "possible_values": []}],
        "intents": [{"name": "FindIt", "description": "Find", "required_slots": ["city"], "optional_slots": {}}],
    }  # fmt: skip
    write(tmp_path / "sgd/train/schema.json", [service("Events_1"), service("Weather_1")])
    turn = lambda n: {  # noqa: E731
        "speaker": "USER", "utterance": "Find it in Oslo",
        "frames": [{"service": n, "slots": [{"slot": "city", "start": 11, "exclusive_end": 15}],
                    "state": {"active_intent": "FindIt", "slot_values": {"city": ["Oslo"]}}}],
    }  # fmt: skip
    write(
        tmp_path / "sgd/train/dialogues_001.json",
        [{"services": [n], "turns": [turn(n)]} for n in ("Events_1", "Weather_1")],
    )
    return tmp_path


def test_development_rows_are_kept_apart(data: Path) -> None:
    for reader, name in ((read_snips, "snips"), (read_hwu64, "hwu64"), (read_clinc150, "clinc150"), (read_sgd, "sgd")):
        train, dev = (reader(data / name, dev=flag) for flag in (False, True))
        assert train.requests and dev.requests, name
        if name != "sgd":
            texts = {r.text for r in train.requests if "joke" not in r.text}
            assert not texts & {r.text for r in dev.requests}, name
    assert len(read_snips(data / "snips").requests) == 30
    assert {r.tool for r in read_sgd(data / "sgd").requests} == {"find_it.events_1"}
    assert {r.tool for r in read_sgd(data / "sgd", dev=True).requests} == {"find_it.weather_1"}
    assert "Weather_1" in SGD_HELD_OUT


def test_slots_become_arguments(data: Path) -> None:
    corpus = read_hwu64(data / "hwu64")
    request = next(r for r in corpus.requests if r.tool == "alarm_set")
    text, (call,) = realise(corpus, request, random.Random(1), swap=0.0)
    assert call.arguments["time"] in text


def test_blocks_are_a_function_of_seed_and_number(data: Path) -> None:
    corpora = read_all(data)
    words = Words([r.text for c in corpora for r in c.requests])
    weights = {"snips": 1.0, "hwu64": 1.0, "synthetic": 2.0}
    mixture = Mixture(corpora, words, weights, seed=3)
    assert [mixture.block(n, rows=5) for n in range(20)] == [
        Mixture(corpora, words, weights, seed=3).block(n, rows=5) for n in range(20)
    ]


def test_every_call_of_a_block_is_declared(data: Path) -> None:
    corpora = read_all(data)
    mixture = Mixture(
        corpora, Words([r.text for c in corpora for r in c.requests]), {"snips": 1.0, "sgd": 1.0, "synthetic": 3.0}
    )
    for number in range(60):
        block = mixture.block(number, rows=8)
        for text, calls in block.rows:
            for call in calls:
                tool = block.toolset.tool(call.name)
                assert tool is not None, (text, call)
                assert call.arguments.keys() <= tool.parameters.properties.keys(), (text, call)


def test_invented_assistants_copy_what_was_said() -> None:
    words = Words(["please find the quarterly report now", "who ate all of the cheese"])
    rng = random.Random(0)
    for _ in range(200):
        store = Store(rng, words)
        text, calls = store.request(rng)
        for call in calls:
            ident = call.arguments.get(store.id_key)
            if ident is not None:
                assert ident in text or ident.replace("_", " ") in text


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of snips"):
        read_all(tmp_path)
