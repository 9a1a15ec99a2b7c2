"""SNIPS: ``{"<Intent>": [{"data": [{"text": …}, {"text": …, "entity": …}, …]}, …]}``, one file per intent.

Intents are tools and slots parameters under upstream's names. Values are as written, runs of spaces collapsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.toolset import Call, Schema, Toolset
from runtimes.errors import UserError
from train.data.corpus import make_tool
from train.data.descriptions import SNIPS_INTENTS
from train.data.importers.base import Importer, Options, Row, RowError, Skipped, Split, each, squeeze, want
from train.data.importers.files import json_rows, missing
from train.data.sources import words

DEVELOPMENT_ROWS: Final = 100
"""Rows at the start of every training file that are never trained on."""

_NAME: Final = re.compile(r"(train|validate)_([A-Za-z]+?)(_full)?\.json")


def files(folder: Path) -> list[Path]:
    """``train_<Intent>_full.json`` and, if they are there, ``validate_<Intent>.json`` (the test portion)."""
    found = sorted([*folder.glob("train_*_full.json"), *folder.glob("validate_*.json")])
    if not any(path.name.startswith("train_") for path in found):
        raise missing(folder, "train_<Intent>_full.json", IMPORTER)
    return found


def read(folder: Path, options: Options) -> Iterator[Row | Skipped]:
    found = [(path, *_kind(path)) for path in files(folder)]
    toolset = _toolset([(path, intent) for path, side, intent in found if side == "train"])
    for path, side, intent in found:

        def make(place: str, data: tuple[int, Any], side: str = side, intent: str = intent) -> Row:
            number, row = data
            user, arguments = _utterance(row)
            split: Split = "test" if side == "validate" else "dev" if number < DEVELOPMENT_ROWS else "train"
            case = Case(f"snips/{side}/{intent}/{number:04d}", user, bucket=intent, calls=(Call(intent, arguments),))
            return Row(case, split, toolset, place)

        rows = json_rows(path, intent, errors="replace")
        yield from each(((place, (number, row)) for number, (place, row) in enumerate(rows)), make)


def _kind(path: Path) -> tuple[str, str]:
    found = _NAME.fullmatch(path.name)
    if not found or found.group(2) not in SNIPS_INTENTS:
        raise UserError(f"{path}: not an intent of SNIPS; there are {', '.join(SNIPS_INTENTS)}")
    return found.group(1), found.group(2)


def _toolset(found: list[tuple[Path, str]]) -> Toolset:
    tools = []
    for path, intent in found:
        slots: dict[str, None] = {}
        for _, row in json_rows(path, intent, errors="replace"):
            pieces = row.get("data") if isinstance(row, dict) else None
            for piece in pieces if isinstance(pieces, list) else []:
                if isinstance(piece, dict) and isinstance(piece.get("entity"), str):
                    slots.setdefault(piece["entity"])
        schemas = {slot: Schema("string", description=words(slot).capitalize()) for slot in slots}
        tools.append(make_tool(intent, SNIPS_INTENTS[intent], schemas))
    return Toolset("snips", tuple(tools))


def _utterance(row: Any) -> tuple[str, dict[str, Any]]:
    """The request and its slots."""
    text = ""
    arguments: dict[str, Any] = {}
    for piece in want(row, "data", list):
        said = want(piece, "text", str)
        text += said
        if "entity" in piece:
            slot = want(piece, "entity", str)
            if slot in arguments:
                raise RowError("a slot is given twice", slot, fault=False)
            if not said.strip():
                raise RowError("a slot without words", slot, fault=False)
            arguments[slot] = squeeze(said)
    return squeeze(text), arguments


IMPORTER: Final = Importer(
    "snips",
    "SNIPS: requests to a voice assistant, 7 intents with slots",
    "CC0-1.0",
    "github.com/sonos/nlu-benchmark (2017-06-custom-intent-engines)",
    files,
    read,
    held_out="the first 100 rows of every training file",
)
