"""SNIPS, HWU64, CLINC150 and SGD, on small files of our own in the upstream forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.toolset import Call
from runtimes.errors import UserError
from train.data.importers import find
from train.data.importers.base import Options, Row, Skipped, rows
from train.data.importers.store import read_import, write_import


def write(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return path


def imported(name: str, folder: Path, **options: Any) -> tuple[list[Row], list[Skipped]]:
    found = list(rows(find(name), folder, Options(**options), keep_going=True))
    return [r for r in found if isinstance(r, Row)], [s for s in found if isinstance(s, Skipped)]


# SNIPS


def rating(title: str, *more: dict[str, str]) -> dict[str, Any]:
    return {"data": [{"text": "give "}, {"text": title, "entity": "object_name"}, {"text": "  five stars "}, *more]}


def test_snips_keeps_upstream_names_and_its_first_hundred_rows(tmp_path: Path) -> None:
    four = {"text": "four", "entity": "rating_value"}
    data = [rating(f"Novel  Number {i}") for i in range(102)] + [rating("Again", four, four)]
    write(tmp_path / "train_RateBook_full.json", {"RateBook": data})
    write(tmp_path / "validate_RateBook.json", {"RateBook": [rating("Unseen")]})
    found, left = imported("snips", tmp_path)
    assert [r.split for r in found] == ["dev"] * 100 + ["train"] * 2 + ["test"]
    assert found[101].case.id == "snips/train/RateBook/0101"
    assert found[101].case.user == "give Novel Number 101 five stars"
    assert found[101].case.calls == (Call("RateBook", {"object_name": "Novel Number 101"}),)
    tool = found[0].toolset.tool("RateBook")
    assert tool is not None and list(tool.parameters.properties) == ["object_name", "rating_value"]
    assert tool.parameters.required == ()
    assert [(s.reason, s.fault) for s in left] == [("a slot is given twice", False)]


def test_snips_bytes_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    text = json.dumps({"RateBook": [rating("Caf@")]}).encode().replace(b"@", b"\xe9")
    (tmp_path / "train_RateBook_full.json").write_bytes(text)
    (row,), _ = imported("snips", tmp_path)
    assert row.case.calls[0].arguments["object_name"] == "Caf\ufffd"


def test_snips_faults_name_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "train_RateBook_full.json", {"RateBook": [rating("Fine"), {"data": [{"entity": "x"}]}]})
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if '"x"' in text) - 3
    with pytest.raises(UserError, match="corrupt row: 'text' is missing") as error:
        list(rows(find("snips"), tmp_path))
    assert str(error.value).startswith(f"{path}:{line}: ")
    write(tmp_path / "train_RateBook_full.json", {"Other": []})
    with pytest.raises(UserError, match="no key 'RateBook'"):
        list(rows(find("snips"), tmp_path))
    write(tmp_path / "train_Dance_full.json", {"Dance": []})
    with pytest.raises(UserError, match="not an intent of SNIPS"):
        list(rows(find("snips"), tmp_path))


# HWU64


def example(text: str, intent: str, **entities: str) -> dict[str, Any]:
    spans = [
        {"start": text.index(v), "end": text.index(v) + len(v), "value": v, "entity": k} for k, v in entities.items()
    ]
    return {"text": text, "intent": intent, "entities": spans}


def hwu64(folder: Path, *examples: dict[str, Any]) -> None:
    write(folder / "RasaNlu_Merged_KFold_1.json", {"rasa_nlu_data": {"common_examples": list(examples)}})


def test_hwu64_keeps_every_tenth_row_and_declares_what_three_requests_name(tmp_path: Path) -> None:
    alarms = [example(f"wake me up at {i} sharp", "alarm_set", time=str(i)) for i in range(23)]
    rare = [example("wake me in Rome at 7", "alarm_set", time="7", place_name="Rome")] * 2
    hwu64(tmp_path, *alarms, *rare, example("say something funny", "general_joke"))
    found, left = imported("hwu64", tmp_path)
    assert [r.case.id for r in found if r.split == "dev"] == ["hwu64/00000", "hwu64/00010", "hwu64/00020"]
    assert found[-1].case.calls == (Call("general_joke", {}),)
    assert found[5].case.calls == (Call("alarm_set", {"time": "5"}),)
    toolset = found[0].toolset
    assert len(toolset.tools) == 64
    alarm = toolset.tool("alarm_set")
    assert alarm is not None and list(alarm.parameters.properties) == ["time"]
    assert [s.reason for s in left] == ["an entity type too rare to declare"] * 2


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"text": "hm", "intent": "alarm_set"}, "'entities' is missing"),
        (example("hm", "alarm_unset"), "unknown intent: 'alarm_unset'"),
        ({**example("at 5", "alarm_set"), "entities": [{"start": 3, "end": 9, "entity": "time"}]}, "is not a piece of"),
        (
            {**example("at 5", "alarm_set"), "entities": [{"start": 0, "end": 2, "value": "5", "entity": "time"}]},
            "its span says",
        ),
        ("wake me", "an object with 'text' is expected"),
    ],
)
def test_hwu64_faults_are_told(tmp_path: Path, row: Any, wrong: str) -> None:
    hwu64(tmp_path, example("say something funny", "general_joke"), row)
    with pytest.raises(UserError, match=wrong) as error:
        list(rows(find("hwu64"), tmp_path))
    assert "RasaNlu_Merged_KFold_1.json:" in str(error.value)


# CLINC150


def test_clinc150_out_of_scope_is_no_call(tmp_path: Path) -> None:
    data = {
        "train": [["how far is the moon", "distance"], ["is it wet outside", "weather_now"]],
        "val": [["how far is mars", "distance"]],
        "oos_train": [["why do cats purr", "oos"]],
        "oos_val": [["who painted that", "oos"]],
        "test": [["is it dry", "weather_now"]],
        "oos_test": [],
    }
    write(tmp_path / "data_full.json", data)
    found, left = imported("clinc150", tmp_path)
    assert not left
    assert {(r.case.user, r.split, len(r.case.calls)) for r in found} == {
        ("how far is the moon", "train", 1), ("is it wet outside", "train", 1), ("why do cats purr", "train", 0),
        ("how far is mars", "dev", 1), ("who painted that", "dev", 0), ("is it dry", "test", 1),
    }  # fmt: skip
    assert {r.case.bucket for r in found if not r.case.calls} == {"no-call"}
    assert [t.name for t in found[0].toolset] == ["distance", "weather_now"]
    data["val"].append(["which way", "directions"])
    write(tmp_path / "data_full.json", data)
    with pytest.raises(UserError, match="'directions' is not among the training rows' intents"):
        list(rows(find("clinc150"), tmp_path))
    del data["val"]
    write(tmp_path / "data_full.json", data)
    with pytest.raises(UserError, match="no key 'val'"):
        list(rows(find("clinc150"), tmp_path))


# SGD


def service(name: str, city: str, *intents: str) -> dict[str, Any]:
    slots = [
        {"name": city, "description": "City", "is_categorical": False, "possible_values": []},
        {"name": f"{city}_kind", "description": "Kind", "is_categorical": True, "possible_values": ["Big", "Small"]},
    ]
    made = [
        {"name": i, "description": i, "required_slots": [city], "optional_slots": {f"{city}_kind": ""}} for i in intents
    ]
    return {"service_name": name, "description": name, "slots": slots, "intents": made}


def dialogue(
    number: int, name: str, say: str, parameters: dict[str, str], state: dict[str, list[str]]
) -> dict[str, Any]:
    user = {
        "speaker": "USER", "utterance": say,
        "frames": [{"service": name, "slots": [], "actions": [{"act": "INFORM"}],
                    "state": {"active_intent": f"Find{name}", "slot_values": state}}],
    }  # fmt: skip
    call = {"service": name, "service_call": {"method": f"Find{name}", "parameters": parameters}}
    system = {"speaker": "SYSTEM", "utterance": "ok", "frames": [call]}
    return {"dialogue_id": f"1_{number:05d}", "services": [name], "turns": [user, system]}


TRAINING = ("Events_1", "Homes_1", "Travel_1", "Flights_1", "Buses_1")
HELD_OUT = ("Weather_1", "Media_1", "Music_2", "Hotels_3", "Services_3")


@pytest.fixture()
def sgd(tmp_path: Path) -> Path:
    names = (*TRAINING, *HELD_OUT)
    write(tmp_path / "train/schema.json", [service(n, "city", f"Find{n}", f"Book{n}") for n in names])
    renamed = [service(n, "town", f"Look{n}", f"Get{n}") for n in names]
    write(tmp_path / "sgd_x/v1/train/schema.json", renamed)
    mixed = dialogue(5, "Events_1", "find it in rome", {"city": "Rome"}, {})
    mixed["services"] = ["Events_1", "Weather_1"]
    found = [
        dialogue(0, "Events_1", "Anything in san  jose?", {"city": "San Jose"}, {"city": ["SJ"]}),
        dialogue(
            1,
            "Weather_1",
            "Weather in SF please, BIG one",
            {"city": "San Francisco", "city_kind": "Big"},
            {"city": ["SF"]},
        ),
        dialogue(2, "Events_1", "What about tomorrow?", {"city": "Oslo"}, {"city": ["Oslo"]}),
        dialogue(3, "Homes_1", "A home, 12 rooms", {"city": "1"}, {"city": ["1"]}),
        dialogue(4, "Homes_1", "Just do it", {}, {}),
        mixed,
    ]
    write(tmp_path / "train/dialogues_001.json", found)
    return tmp_path


def test_sgd_takes_turns_that_state_the_whole_call(sgd: Path) -> None:
    found, left = imported("sgd", sgd)
    assert [r.case.id for r in found] == [
        "sgd/1_00000/00", "sgd/1_00000/00@v1", "sgd/1_00001/00", "sgd/1_00001/00@v1",
    ]  # fmt: skip
    assert [s.reason for s in left] == [
        "not stated in the turn", "not stated in the turn", "a call without parameters",
        "a training service in a development dialogue",
    ]  # fmt: skip
    first, renamed, held, held_renamed = found
    assert first.split == "train" and held.split == held_renamed.split == "dev"
    assert first.case.calls == (Call("FindEvents_1", {"city": "san jose"}),)
    assert renamed.case.calls == (Call("LookEvents_1", {"town": "san jose"}),)
    assert held.case.calls == (Call("FindWeather_1", {"city": "SF", "city_kind": "Big"}),)
    assert held.case.accept == ((Call("FindWeather_1", {"city": "San Francisco", "city_kind": "Big"}),),)
    assert first.case.bucket == "values only" and renamed.case.bucket == "values only, v1"


def test_sgd_declares_five_tools_of_one_portion(sgd: Path) -> None:
    found, _ = imported("sgd", sgd)
    for row in found:
        portion = HELD_OUT if row.split == "dev" else TRAINING
        services = [tool.name.removeprefix(prefix) for tool in row.toolset for prefix in ("Find", "Book", "Look", "Get")
                    if tool.name.startswith(prefix)]  # fmt: skip
        assert len(row.toolset.tools) == 5
        assert set(services) <= set(portion)
        own = row.case.calls[0].name.removeprefix("Find").removeprefix("Look")
        assert services.count(own) == 1, "the other four are of other services"
    assert [r.toolset for r in imported("sgd", sgd)[0]] == [r.toolset for r in found]
    assert [r.toolset.tools for r in imported("sgd", sgd, seed=1)[0]] != [r.toolset.tools for r in found]


def test_sgd_on_disk(sgd: Path, tmp_path: Path) -> None:
    report = write_import(find("sgd"), sgd, tmp_path / "out", any_version=True)
    assert report["splits"]["dev"]["rows"] == 2
    for case, toolset in read_import(tmp_path / "out", "dev"):
        assert toolset.tool(case.calls[0].name) is not None


def test_sgd_faults_are_told(sgd: Path) -> None:
    path = sgd / "train/dialogues_001.json"
    write(path, [dialogue(0, "Events_1", "find it in rome", {"village": "Rome"}, {})])
    with pytest.raises(UserError, match="'village' is no slot of FindEvents_1") as error:
        list(rows(find("sgd"), sgd))
    assert str(error.value).startswith(f"{path}:2: ")
    write(path, [dialogue(0, "Trains_9", "find it in rome", {"city": "Rome"}, {})])
    with pytest.raises(UserError, match="missing tool: 'FindTrains_9' is no intent of 'Trains_9'"):
        list(rows(find("sgd"), sgd))
    write(path, [{"turns": 3}])
    with pytest.raises(UserError, match="a dialogue with 'services' and 'turns' is expected"):
        list(rows(find("sgd"), sgd))
    write(sgd / "sgd_x/v1/train/schema.json", [service("Events_1", "town", "Look")])
    with pytest.raises(UserError, match="does not rename"):
        list(rows(find("sgd"), sgd))
    write(sgd / "train/schema.json", [{"service_name": "x"}])
    with pytest.raises(UserError, match="not a schema of services"):
        list(rows(find("sgd"), sgd))
