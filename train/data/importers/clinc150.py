"""CLINC150: ``{"train": [["text", "intent"], …], "val": …, "oos_train": …, "oos_val": …, "test": …, "oos_test": …}``.

Every intent is a tool without parameters. Out-of-scope requests call none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.toolset import Call, Toolset
from router.validate import type_name
from train.data.corpus import make_tool
from train.data.importers.base import Importer, Options, Row, RowError, Skipped, Split, each, squeeze
from train.data.importers.files import json_rows, missing
from train.data.sources import words

FILES: Final = ("data_full.json", "data_full_trainval.json")
"""The upstream file, or the same without its test keys."""
PARTS: Final[dict[str, Split]] = {
    "train": "train", "oos_train": "train", "val": "dev", "oos_val": "dev", "test": "test", "oos_test": "test",
}  # fmt: skip


def files(folder: Path) -> list[Path]:
    for name in FILES:
        if (folder / name).is_file():
            return [folder / name]
    raise missing(folder, " or ".join(FILES), IMPORTER)


def read(folder: Path, options: Options) -> Iterator[Row | Skipped]:
    (path,) = files(folder)
    toolset = _toolset(path)
    known = {tool.name for tool in toolset}
    for part, split in PARTS.items():

        def make(place: str, data: tuple[int, Any], part: str = part, split: Split = split) -> Row:
            number, row = data
            text, intent = _pair(row)
            out_of_scope = part.startswith("oos")
            if not out_of_scope and intent not in known:
                raise RowError("unknown intent", f"{intent!r} is not among the training rows' intents")
            calls = () if out_of_scope else (Call(intent, {}),)
            bucket = "no-call" if out_of_scope else "intent"
            case = Case(f"clinc150/{part}/{number:05d}", squeeze(text), bucket=bucket, calls=calls)
            return Row(case, split, toolset, place)

        rows = json_rows(path, part, optional=split == "test")
        yield from each(((place, (number, row)) for number, (place, row) in enumerate(rows)), make)


def _toolset(path: Path) -> Toolset:
    intents: dict[str, None] = {}
    for _, row in json_rows(path, "train"):
        if isinstance(row, list) and len(row) == 2 and isinstance(row[1], str):
            intents.setdefault(row[1])
    return Toolset("clinc150", tuple(make_tool(name, words(name).capitalize(), {}) for name in intents))


def _pair(row: Any) -> tuple[str, str]:
    if not isinstance(row, list) or len(row) != 2 or not all(isinstance(part, str) for part in row):
        raise RowError("corrupt row", f"a pair of request and intent is expected, not {type_name(row)}")
    return row[0], row[1]


IMPORTER: Final = Importer(
    "clinc150",
    "CLINC150: 150 intents without slots, and requests out of scope",
    "CC-BY-3.0",
    "github.com/clinc/oos-eval (data/data_full.json)",
    files,
    read,
    held_out="`val` and `oos_val`",
)
