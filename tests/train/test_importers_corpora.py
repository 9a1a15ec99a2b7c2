"""The importers over the public corpora themselves, where they lie on this machine."""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from router.cases import correct, load_cases
from router.toolset_load import load_toolset
from router.validate import schema_errors
from train.data.importers import find
from train.data.importers.base import Row, Skipped, rows
from train.data.importers.files import check
from train.data.importers.store import read_import, write_import
from train.data.leakage import find_leaks
from train.data.sources import SGD_HELD_OUT

ROOT = Path(__file__).parents[2] / os.environ.get("EDGECALL_CORPORA", "../shared/data")
FOLDERS = {"snips": "snips", "hwu64": "hwu64", "clinc150": "clinc150", "sgd": "sgd", "home_assistant": "ohf-intents"}
GIVEN = {"snips": "assistant", "hwu64": "robot", "home_assistant": "home"}
"""Toolsets that are shipped for a source."""


def folder(name: str) -> Path:
    path = ROOT / FOLDERS[name]
    if not path.is_dir():
        pytest.skip(f"needs the upstream files of {name} in {FOLDERS[name]}/; name their folder in EDGECALL_CORPORA")
    return path


@cache
def read(name: str) -> tuple[list[Row], Counter[str]]:
    found = list(rows(find(name), folder(name)))
    return [r for r in found if isinstance(r, Row)], Counter(s.reason for s in found if isinstance(s, Skipped))


def splits(name: str) -> dict[str, int]:
    return dict(Counter(r.split for r in read(name)[0]))


@pytest.mark.parametrize("name", FOLDERS)
def test_every_file_is_the_known_one(name: str) -> None:
    assert set(check(find(name), folder(name)).values()) == {"verified"}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_gold_call_is_valid_and_ids_differ(name: str) -> None:
    found, _ = read(name)
    assert found and len({r.case.id for r in found}) == len(found)
    for row in found:
        for calls in (row.case.calls, *row.case.accept):
            assert not [e for c in calls for e in schema_errors(c, row.toolset)], row.place
        assert correct(row.case, row.case.calls, row.toolset)


def test_snips_rows() -> None:
    found, left = read("snips")
    assert splits("snips") == {"train": 13_023, "dev": 700}
    assert left == {"a slot is given twice": 61}
    for path in folder("snips").glob("train_*_full.json"):
        ((intent, data),) = json.loads(path.read_text(encoding="utf-8", errors="replace")).items()
        first = {" ".join("".join(s["text"] for s in r["data"]).split()) for r in data[:100]}
        assert {r.case.user for r in found if r.split == "dev" and r.case.bucket == intent} == first
    for row in found:
        assert all(value in row.case.user for value in row.case.calls[0].arguments.values()), row.case.id


def test_hwu64_rows() -> None:
    found, left = read("hwu64")
    assert splits("hwu64") == {"train": 8_452, "dev": 926}
    assert left == {"a slot is given twice": 348, "an entity type too rare to declare": 234}
    assert all((int(r.case.id.removeprefix("hwu64/")) % 10 == 0) == (r.split == "dev") for r in found)


def test_clinc150_rows() -> None:
    found, left = read("clinc150")
    assert splits("clinc150") == {"train": 15_100, "dev": 3_100} and not left
    assert Counter(r.split for r in found if not r.case.calls) == {"train": 100, "dev": 100}
    assert len(found[0].toolset.tools) == 150


def test_sgd_rows() -> None:
    found, _ = read("sgd")
    assert splits("sgd") == {"train": 6 * 1_074, "dev": 6 * 531}
    schema: list[Any] = json.loads((folder("sgd") / "train" / "schema.json").read_text())
    held = {i["name"] for s in schema if s["service_name"] in SGD_HELD_OUT for i in s["intents"]}
    other = {i["name"] for s in schema if s["service_name"] not in SGD_HELD_OUT for i in s["intents"]}
    for row in found:
        assert len(row.toolset.tools) == 5
        if "@" not in row.case.id:
            declared = {t.name for t in row.toolset}
            assert declared <= (held if row.split == "dev" else other)
            said = row.case.user.lower()
            assert all(v.lower() in said for v in row.case.calls[0].arguments.values()), row.case.id


def test_home_assistant_rows() -> None:
    found, left = read("home_assistant")
    assert left == {"a required slot comes from the room that the request is spoken in": 1}
    assert 890 < len({r.case.template for r in found}) < 908, "a few say nothing that another did not"
    assert len({r.case.calls[0].name for r in found}) == 41
    assert not {r.case.template for r in found if r.split == "dev"} & {
        r.case.template for r in found if r.split == "train"
    }


@pytest.mark.parametrize(("name", "toolset"), GIVEN.items())
def test_rows_fit_the_shipped_toolset(name: str, toolset: str) -> None:
    given = load_toolset(toolset)
    assert sum(isinstance(item, Row) for item in rows(find(name), folder(name), toolset=given)) == len(read(name)[0])


@pytest.mark.parametrize(
    ("name", "dropped"),
    [("snips", (18, 16)), ("hwu64", (0, 0)), ("clinc150", (3, 13)), ("sgd", (0, 0)), ("home_assistant", (0, 0))],
)
def test_no_development_request_is_left_in_training(name: str, dropped: tuple[int, int], tmp_path: Path) -> None:
    report = write_import(find(name), folder(name), tmp_path)
    assert tuple(report["dropped_from_training"].values()) == dropped
    train, dev = load_cases(tmp_path / "train.jsonl"), load_cases(tmp_path / "dev.jsonl")
    assert not find_leaks(train, dev)
    assert len(train) == splits(name)["train"] - sum(dropped) and len(dev) == splits(name)["dev"]
    assert sum(1 for _ in read_import(tmp_path, "dev")) == len(dev)
