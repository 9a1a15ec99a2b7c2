"""HWU64: ``{"rasa_nlu_data": {"common_examples": [{"text", "intent", "entities": [{"start", "end", "entity"}]}]}}``.

Intents are tools; entity types are parameters of an intent where at least three of its training requests name them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.toolset import Call, Schema, Toolset
from train.data.corpus import make_tool
from train.data.descriptions import HWU64_INTENTS
from train.data.importers.base import Importer, Options, Row, RowError, Skipped, Split, each, squeeze, want
from train.data.importers.files import json_rows, missing
from train.data.sources import words

FILE: Final = "RasaNlu_Merged_KFold_1.json"
KEYS: Final = ("rasa_nlu_data", "common_examples")
DEVELOPMENT_STEP: Final = 10
"""Every tenth row, counted from the first, is never trained on."""
MIN_REQUESTS: Final = 3
"""Training requests of an intent that must name an entity type for it to be a parameter; rarer ones are slips."""


def files(folder: Path) -> list[Path]:
    if not (folder / FILE).is_file():
        raise missing(folder, FILE, IMPORTER)
    return [folder / FILE]


def read(folder: Path, options: Options) -> Iterator[Row | Skipped]:
    (path,) = files(folder)
    toolset = _toolset(path)
    known = {tool.name: tool.parameters.properties for tool in toolset}

    def make(place: str, data: tuple[int, Any]) -> Row:
        number, row = data
        text, intent = want(row, "text", str), want(row, "intent", str)
        if intent not in known:
            raise RowError("unknown intent", repr(intent))
        arguments: dict[str, Any] = {}
        for entity in want(row, "entities", list):
            name, value = _span(text, entity)
            if name in arguments:
                raise RowError("a slot is given twice", name, fault=False)
            if name not in known[intent]:
                raise RowError("an entity type too rare to declare", f"{name} of {intent}", fault=False)
            arguments[name] = value
        split: Split = "dev" if number % DEVELOPMENT_STEP == 0 else "train"
        calls = (Call(intent, arguments),)
        case = Case(f"hwu64/{number:05d}", squeeze(text), bucket=intent.split("_")[0], calls=calls)
        return Row(case, split, toolset, place)

    yield from each(((place, (number, row)) for number, (place, row) in enumerate(json_rows(path, *KEYS))), make)


def _toolset(path: Path) -> Toolset:
    named: dict[str, Counter[str]] = {intent: Counter() for intent in HWU64_INTENTS}
    for number, (_, row) in enumerate(json_rows(path, *KEYS)):
        if number % DEVELOPMENT_STEP == 0:
            continue
        if isinstance(row, dict) and isinstance(row.get("entities"), list) and row.get("intent") in named:
            types = [entity.get("entity") for entity in row["entities"] if isinstance(entity, dict)]
            if len(set(types)) == len(types):  # the others do not become rows
                named[row["intent"]].update(t for t in types if isinstance(t, str))
    tools = []
    for intent, text in HWU64_INTENTS.items():
        kept = sorted(name for name, n in named[intent].items() if n >= MIN_REQUESTS)
        schemas = {name: Schema("string", description=words(name).capitalize()) for name in kept}
        tools.append(make_tool(intent, text, schemas))
    return Toolset("hwu64", tuple(tools))


def _span(text: str, entity: Any) -> tuple[str, str]:
    start, end, name = want(entity, "start", int), want(entity, "end", int), want(entity, "entity", str)
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise RowError("corrupt row", f"entity {name!r} is not a piece of {text!r}")
    if "value" in entity and entity["value"] != text[start:end]:
        raise RowError("corrupt row", f"entity {name!r} is {entity['value']!r}, but its span says {text[start:end]!r}")
    return name, squeeze(text[start:end])


IMPORTER: Final = Importer(
    "hwu64",
    "HWU64: requests to a home assistant robot, 64 intents with entities",
    "CC-BY-4.0",
    "github.com/xliuhw/NLU-Evaluation-Data "
    "(CrossValidation/out4RasaReal/…_80Train/CrossValidation/KFold_1/merged/RasaNlu_Merged_KFold_1.json)",
    files,
    read,
    held_out="every tenth row of `common_examples` (0, 10, 20, …)",
)
