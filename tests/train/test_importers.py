"""What all importers share: upstream files by line and checksum, faults, duplicates, and the folder that is written."""

from __future__ import annotations

import dataclasses
import errno
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.cases import Case, load_cases
from router.toolset import Call, Schema, Tool, Toolset
from router.toolset_load import load_toolset
from runtimes.errors import UserError
from train.data import importers
from train.data.importers import files
from train.data.importers.base import Importer, Options, Row, RowError, Skipped, each, rows, want
from train.data.importers.duplicates import near, near_index
from train.data.importers.store import read_import, toolset_lookup, write_import
from train.data.leakage import normalised

TOOLS = Toolset(
    "made",
    (
        Tool("say", "Say it", Schema("object", properties={"what": Schema("string")}, required=("what",))),
        Tool("stop", "Stop", Schema("object")),
    ),
)


def row(number: int, user: str, split: str = "train", calls: tuple[Call, ...] = (Call("stop", {}),)) -> Row:
    return Row(Case(f"made/{number}", user, calls=calls), split, TOOLS, f"made.json:{number}")  # type: ignore[arg-type]


def source(*items: Row | Skipped, single: bool = True) -> Importer:
    def read(folder: Path, options: Options) -> Iterator[Row | Skipped]:
        yield from items

    return Importer("made", "Made up", "CC0-1.0", "example.org/made", lambda folder: [], read, single)


def test_every_name_is_an_importer_that_says_where_it_comes_from() -> None:
    for name in importers.NAMES:
        found = importers.find(name)
        assert found.name == name
        assert found.licence and "." in found.address
    with pytest.raises(UserError, match="did you mean 'snips'"):
        importers.find("snip")


@pytest.mark.parametrize("name", importers.NAMES)
def test_missing_files_say_where_to_get_them(name: str, tmp_path: Path) -> None:
    importer = importers.find(name)
    with pytest.raises(UserError) as error:
        write_import(importer, tmp_path, tmp_path / "out")
    assert importer.address in str(error.value) and importer.licence in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such folder"):
        write_import(importer, tmp_path / "absent", tmp_path / "out")


def test_rows_of_a_json_document_come_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"skip": [1, {"x": "]"}],\n "a": {\n  "b": [\n   {"n": 1},\n\n   {"n":\n    2}, 3]}}')
    assert list(files.json_rows(path, "a", "b")) == [(f"{path}:4", {"n": 1}), (f"{path}:6", {"n": 2}), (f"{path}:7", 3)]
    assert list(files.json_rows(path, "a", "c", optional=True)) == []
    with pytest.raises(UserError, match="no key 'a.c'"):
        list(files.json_rows(path, "a", "c"))
    path.write_text("[]")
    assert list(files.json_rows(path)) == []


@pytest.mark.parametrize(
    ("text", "line", "wrong"),
    [
        ('{"a": [\n1,\nnope]}', 3, "not JSON"),
        ('{"a": [\n1\n2]}', 3, "',' expected"),
        ('{"a": 7}', 1, r"'\[' expected"),
        ('["a"]', 1, "'{' expected"),
        ('{"a": [1,\n', 2, "not JSON"),
        ("", 1, "'{' expected"),
    ],
)
def test_a_broken_document_is_told_with_its_line(tmp_path: Path, text: str, line: int, wrong: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=wrong) as error:
        list(files.json_rows(path, "a"))
    assert str(error.value).startswith(f"{path}:{line}: ")


def test_bytes_that_are_not_utf8_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'["ok",\n"\xff"]')
    with pytest.raises(UserError, match="not UTF-8") as error:
        list(files.json_rows(path))
    assert str(error.value).startswith(f"{path}:2: ")
    assert [value for _, value in files.json_rows(path, errors="replace")] == ["ok", "\ufffd"]


def test_a_known_file_must_be_the_known_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("known.json", "other.json"):
        (tmp_path / name).write_text("[]")
    importer = dataclasses.replace(source(), files=lambda folder: sorted(folder.glob("*.json")))
    digest = files.sha256(tmp_path / "known.json")
    monkeypatch.setattr(files, "checksums", lambda: {"made": {"known.json": digest}})
    assert files.check(importer, tmp_path) == {"known.json": "verified", "other.json": "unverified"}
    (tmp_path / "known.json").write_text("[1]")
    with pytest.raises(UserError, match="not the file that is known.*--any-version"):
        files.check(importer, tmp_path)
    assert files.check(importer, tmp_path, any_version=True)["known.json"] == "unverified"


def test_the_list_of_checksums_is_well_formed() -> None:
    found = files.checksums()
    assert found.keys() == {"snips", "hwu64", "clinc150", "sgd", "home_assistant"}
    assert all(len(digest) == 64 for paths in found.values() for digest in paths.values())
    assert len(found["snips"]) == 7


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (Call("sing", {}), "missing tool: 'sing' is not in made"),
        (Call("say", {}), "a call breaks its schema: say: what: required, but missing"),
        (Call("say", {"what": 7}), "7 is integer, not a string"),
        (Call("stop", {"what": "x"}), "unknown parameter"),
    ],
)
def test_a_call_that_breaks_its_schema_is_told_with_its_place(call: Call, wrong: str) -> None:
    importer = source(row(1, "fine"), row(2, "bad", calls=(call,)))
    with pytest.raises(UserError, match=wrong) as error:
        list(rows(importer, Path()))
    assert str(error.value).startswith("made.json:2: ")
    kept, left = rows(importer, Path(), keep_going=True)
    assert isinstance(kept, Row) and isinstance(left, Skipped) and left.fault


def test_accepted_calls_are_checked_too() -> None:
    wrong = dataclasses.replace(row(1, "x"), case=Case("made/1", "x", calls=(), accept=((Call("sing", {}),),)))
    with pytest.raises(UserError, match="missing tool"):
        list(rows(source(wrong), Path()))


def test_what_no_router_can_learn_is_left_out_without_a_fault() -> None:
    two = row(1, "stop twice", calls=(Call("stop", {}), Call("stop", {})))
    unwritable = row(2, "say it", calls=(Call("say", {"what": "<end_of_turn>"}),))
    reasons = [item.reason for item in rows(source(two, unwritable), Path()) if isinstance(item, Skipped)]
    assert reasons == ["more calls than a toolset allows", "cannot be written in the wire format"]


def test_fields_of_rows_are_checked() -> None:
    def make(place: str, data: Any) -> Row:
        return row(want(data, "n", int), want(data, "text", str))

    found = list(
        each([("f:1", {"n": 1, "text": "a"}), ("f:2", {"n": True, "text": "a"}), ("f:3", {"n": 2}), ("f:4", [])], make)
    )
    assert isinstance(found[0], Row)
    details = [item.detail for item in found[1:] if isinstance(item, Skipped) and item.fault]
    assert details == [
        "'n' is boolean, not an integer",
        "'text' is missing",
        "an object with 'n' is expected, not array",
    ]
    with pytest.raises(ValueError, match="a bug"):
        list(each([("f:1", {})], lambda place, data: (_ for _ in ()).throw(ValueError("a bug"))))
    with pytest.raises(RowError):
        want(None, "n", int)


def test_a_given_toolset_takes_the_place_of_the_declared_one() -> None:
    other = Toolset("other", TOOLS.tools[:1])
    with pytest.raises(UserError, match="missing tool: 'stop' is not in other"):
        list(rows(source(row(1, "x")), Path(), toolset=other))
    with pytest.raises(UserError, match="bring their own tools"):
        list(rows(source(row(1, "x"), single=False), Path(), toolset=other))


def test_duplicates_of_kept_rows_are_dropped_and_near_ones_counted(tmp_path: Path) -> None:
    importer = source(
        row(1, "please stop the music in the kitchen now"),
        row(2, "Stop the music in the kitchen now, please!"),
        row(3, "something else entirely"),
        row(4, "turn it off"),
        row(5, "Turn it  OFF."),
        row(6, "turn it off", split="dev"),
        row(7, "please stop that music in the kitchen now", split="test"),
        Skipped("made.json:8", "too odd", "why"),
    )
    report = write_import(importer, tmp_path, tmp_path / "out", toolset=None)
    assert report["dropped_from_training"] == {"exact": 1, "normalised": 1}
    assert report["near_duplicates_in_training"]["rows"] == 2
    assert {split: found["rows"] for split, found in report["splits"].items()} == {"train": 3, "dev": 1, "test": 1}
    assert report["left_out"] == {"too odd": {"rows": 1, "first": ["made.json:8: why"]}}
    assert [c.id for c in load_cases(tmp_path / "out" / "train.jsonl")] == ["made/1", "made/2", "made/3"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert load_toolset(tmp_path / "out" / "toolset.json") == TOOLS
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "train.jsonl", "dev.jsonl", "test.jsonl", "toolset.json", "report.json",
    }  # fmt: skip


def test_several_toolsets_come_back_case_by_case(tmp_path: Path) -> None:
    other = Toolset("other", TOOLS.tools[1:], max_calls=2)
    importer = source(row(1, "one"), dataclasses.replace(row(2, "two"), toolset=other), single=False)
    write_import(importer, tmp_path, tmp_path / "out")
    assert [(case.id, toolset) for case, toolset in read_import(tmp_path / "out", "train")] == [
        ("made/1", TOOLS), ("made/2", other),
    ]  # fmt: skip
    with pytest.raises(UserError, match="has no toolset"):
        toolset_lookup(tmp_path / "out" / "toolsets.jsonl")["made/3"]
    write_import(source(row(1, "one")), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "toolsets.jsonl").exists(), "an earlier import's files are gone"
    assert [toolset for _, toolset in read_import(tmp_path / "out", "train")] == [TOOLS]


def test_a_failed_import_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_import(source(row(1, "one")), tmp_path, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    for bad in (
        source(row(1, "two"), Skipped("made.json:2", "corrupt row", fault=True)),
        source(row(1, "two"), row(1, "twice")),
        source(Skipped("made.json:1", "too odd")),
    ):
        with pytest.raises(UserError):
            write_import(bad, tmp_path, out)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_near_requests_are_found_exactly() -> None:
    rng = random.Random(5)
    words = [f"w{i}" for i in range(30)]
    texts = [" ".join(rng.sample(words, rng.randint(1, 9))) for _ in range(120)]
    texts += [" ".join(w for i, w in enumerate(t.split()) if i != 2) for t in texts]

    def share(a: str, b: str) -> float:
        x, y = set(normalised(a).split()), set(normalised(b).split())
        return len(x & y) / len(x | y)

    for threshold in (0.5, 0.8, 1.0):
        index = near_index(texts[:120], threshold)
        for text in texts[120:]:
            found = near(index, text)
            assert set(found) == {other for other in texts[:120] if share(text, other) >= threshold}, text
    assert near(near_index([]), "anything") == []
    assert near(near_index(["a b"]), "...") == []


def test_an_error_of_writing_names_the_file_that_was_wanted(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("before")
    with pytest.raises(OSError, match=r"out\.jsonl") as full, files.replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write, which names none
    assert full.value.filename == str(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError) as missing, files.replacing(tmp_path / "no" / "out.jsonl"):
        pass
    assert missing.value.filename == str(tmp_path / "no" / "out.jsonl")
