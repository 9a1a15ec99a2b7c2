"""Readers of the public corpora, from a folder of upstream files that the user names.

Every reader leaves out the rows that are kept for development (never trained on):

=========  ============================================================  ============
snips      the first 100 rows of every ``train_<Intent>_full.json``      CC0-1.0
hwu64      every tenth row of ``common_examples`` (0, 10, 20, …)         CC-BY-4.0
clinc150   ``val`` and ``oos_val``                                       CC-BY-3.0
sgd        dialogues that use one of `SGD_HELD_OUT`, and those schemas   CC-BY-SA-4.0
=========  ============================================================  ============
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from router.toolset import Schema, Tool
from runtimes.errors import UserError
from train.data.corpus import Corpus, Request, Segment, make_tool
from train.data.descriptions import HWU64_INTENTS, SNIPS_INTENTS

ADDRESSES = (
    "github.com/sonos/nlu-benchmark",
    "github.com/xliuhw/NLU-Evaluation-Data",
    "github.com/clinc/oos-eval",
    "github.com/google-research-datasets/dstc8-schema-guided-dialogue",
)
SGD_HELD_OUT = frozenset({"Hotels_3", "Media_1", "Music_2", "RentalCars_2", "Services_3", "Weather_1"})


def read_all(folder: Path, *, dev: bool = False) -> list[Corpus]:
    """Every corpus found under `folder`: the training rows, or the development rows. `UserError` when there is none."""
    readers = {"snips": read_snips, "hwu64": read_hwu64, "clinc150": read_clinc150, "sgd": read_sgd}
    found = [reader(folder / name, dev=dev) for name, reader in readers.items() if (folder / name).is_dir()]
    if not found:
        raise UserError(
            f"{folder}: none of {', '.join(readers)} lies here, a folder each; get them from {', '.join(ADDRESSES)}"
        )
    return found


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; download the corpus again") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); download the corpus again") from None


def words(name: str) -> str:
    """`iot_hue_lightdim`, `BookRestaurant` -> words in lower case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\-]+", " ", name).lower().strip()


def snake(name: str) -> str:
    return words(name).replace(" ", "_")


def read_snips(folder: Path, *, dev: bool = False) -> Corpus:
    tools: dict[str, Tool] = {}
    requests: list[Request] = []
    for path in sorted(folder.glob("train_*_full.json")):
        ((intent, rows),) = _load(path).items()
        name = snake(intent)
        slots: dict[str, Schema] = {}
        for number, row in enumerate(rows):
            segments = tuple(Segment(s["text"], snake(s["entity"]) if "entity" in s else None) for s in row["data"])
            given = [s.slot for s in segments if s.slot]
            if len(set(given)) != len(given):
                continue
            slots.update({s: Schema("string", description=words(s).capitalize()) for s in given})
            if (number < 100) != dev:
                continue
            requests.append(Request(segments, name))
        tools[name] = make_tool(name, SNIPS_INTENTS[intent], slots)
    return Corpus("snips", tools, requests)


def read_hwu64(folder: Path, *, dev: bool = False) -> Corpus:
    rows = _load(folder / "RasaNlu_Merged_KFold_1.json")["rasa_nlu_data"]["common_examples"]
    slots: dict[str, dict[str, Schema]] = {name: {} for name in HWU64_INTENTS}
    requests: list[Request] = []
    for number, row in enumerate(rows):
        segments = _segments(row["text"], [(e["start"], e["end"], e["entity"]) for e in row["entities"]])
        if segments is None:
            continue
        for segment in segments:
            if segment.slot:
                slots[row["intent"]][segment.slot] = Schema("string", description=words(segment.slot).capitalize())
        if (number % 10 == 0) == dev:
            requests.append(Request(segments, row["intent"]))
    tools = {name: make_tool(name, text, slots[name]) for name, text in HWU64_INTENTS.items()}
    return Corpus("hwu64", tools, requests)


def read_clinc150(folder: Path, *, dev: bool = False) -> Corpus:
    data = _load(folder / "data_full_trainval.json")
    tools: dict[str, Tool] = {}
    requests = [Request((Segment(text),), None) for text, _ in data["oos_val" if dev else "oos_train"]]
    for text, intent in data["val" if dev else "train"]:
        if intent not in tools:
            tools[intent] = make_tool(intent, words(intent).capitalize(), {})
        requests.append(Request((Segment(text),), intent))
    return Corpus("clinc150", tools, requests)


def read_sgd(folder: Path, *, dev: bool = False) -> Corpus:
    """User turns whose call is fully stated, and as `partial` those that say some of it.

    Fully: every slot of the state is said in this turn, and none that the intent requires is missing. Partly: one slot
    or more is said as it stands, and every slot that this turn adds to the state is said.
    """
    services = {s["service_name"]: s for s in _load(folder / "train" / "schema.json")}
    kept = {n: s for n, s in services.items() if (n in SGD_HELD_OUT) == dev}
    tools = {
        _sgd_name(n, i["name"]): _sgd_tool(s, i, _sgd_name(n, i["name"])) for n, s in kept.items() for i in s["intents"]
    }
    whole: list[Request] = []
    partial: dict[str, Request] = {}
    for path in sorted((folder / "train").glob("dialogues_*.json")):
        for dialogue in _load(path):
            if bool(SGD_HELD_OUT & set(dialogue["services"])) != dev:
                continue
            earlier: dict[str, dict[str, Any]] = {}
            for turn in (t for t in dialogue["turns"] if t["speaker"] == "USER"):
                for request, complete in _sgd_turn(turn, kept, earlier):
                    if complete:
                        whole.append(request)
                    else:
                        partial[request.text] = request
                earlier = {f["service"]: f["state"]["slot_values"] for f in turn["frames"]}
    names = list(services)
    renames = []
    for path in sorted(folder.glob("sgd_x/v*/train/schema.json")):
        variant = _load(path)
        renames.append(
            {
                _sgd_name(n, i["name"]): _sgd_tool(variant[names.index(n)], j, snake(j["name"]))
                for n, s in kept.items()
                for i, j in zip(s["intents"], variant[names.index(n)]["intents"], strict=True)
            }
        )
    return Corpus("sgd", tools, whole, renames, list(partial.values()))


def _sgd_name(service: str, intent: str) -> str:
    return f"{snake(intent)}.{service.lower()}"


def _sgd_tool(service: dict[str, Any], intent: dict[str, Any], name: str) -> Tool:
    slots = {s["name"]: s for s in service["slots"]}
    wanted = [*intent["required_slots"], *intent["optional_slots"]]
    parameters = {
        s: Schema(
            "string",
            description=slots[s]["description"],
            enum=tuple(slots[s]["possible_values"])
            if slots[s]["is_categorical"] and not all(v.isdigit() for v in slots[s]["possible_values"])
            else None,
            copy=None if slots[s]["is_categorical"] else "span",
        )
        for s in wanted
    }
    return make_tool(name, intent["description"], parameters, tuple(intent["required_slots"]))


def _sgd_turn(
    turn: dict[str, Any], services: dict[str, Any], earlier: dict[str, dict[str, Any]]
) -> list[tuple[Request, bool]]:
    """What a turn asks for, and whether it says all of it; `earlier`: the state before it, by service."""
    if len(turn["frames"]) > 1:
        return []
    (frame,) = turn["frames"]
    service, state = frame["service"], frame["state"]
    if service not in services:
        return []
    intents = {i["name"]: i for i in services[service]["intents"]}
    intent = intents.get(state["active_intent"])
    segments = _segments(turn["utterance"], [(s["start"], s["exclusive_end"], s["slot"]) for s in frame["slots"]])
    if intent is None or segments is None:
        return []
    said = {s.slot for s in segments if s.slot}
    values: dict[str, list[str]] = state["slot_values"]
    spoken = {
        slot: found
        for slot, wordings in values.items()
        if slot not in said
        and (found := next((v for v in wordings if _occurs(v, turn["utterance"])), None)) is not None
    }
    if not said | spoken.keys() <= {*intent["required_slots"], *intent["optional_slots"]}:
        return []
    name = _sgd_name(service, intent["name"])
    if values.keys() <= said | spoken.keys() and set(intent["required_slots"]) <= said | spoken.keys():
        return [(Request(segments, name, dict(spoken)), True)]
    added = {slot for slot, wordings in values.items() if wordings != earlier.get(service, {}).get(slot)}
    if said and added <= said | spoken.keys():
        return [(Request(segments, name, {slot: spoken[slot] for slot in spoken if slot in added}), False)]
    return []


def _occurs(value: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(value.lower())}\b", text.lower()) is not None


def _segments(text: str, spans: list[tuple[int, int, str]]) -> tuple[Segment, ...] | None:
    """Cut `text` at the spans; None where they overlap or one slot is given twice."""
    segments: list[Segment] = []
    position = 0
    if len({slot for _, _, slot in spans}) != len(spans):
        return None
    for start, end, slot in sorted(spans):
        if start < position or end <= start:
            return None
        if start > position:
            segments.append(Segment(text[position:start]))
        segments.append(Segment(text[start:end], slot))
        position = end
    if position < len(text):
        segments.append(Segment(text[position:]))
    return tuple(segments)
