"""Suites: what they hold, what they say when something is missing, and the fixed subset of `--quick`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.suites import digest, load_files, load_suite, subset, suite_names
from configs import path as config
from runtimes.errors import UserError


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(number: int, bucket: str = "easy", **more: object) -> dict[str, object]:
    return {"id": f"c{number:03}", "user": f"request {number}", "bucket": bucket, "calls": [], **more}


def test_shipped_suites() -> None:
    assert {"default", "release"} <= set(suite_names())
    default, release = load_suite("default", "kiwi"), load_suite("release", "kiwi")
    ids = {case.id for case in default.cases}
    assert ids < {case.id for case in release.cases}
    assert "handwritten_test.jsonl" in release.files
    assert "handwritten_test.jsonl" not in default.files


def test_suite_says_what_is_missing() -> None:
    suite = load_suite("default", "kiwi")
    missing = not config("cases", "kiwi", "templates_test.jsonl").is_file()
    assert any("templates_test.jsonl is not there" in note for note in suite.notes) == missing


def test_unknown_suite_and_toolset_without_cases() -> None:
    with pytest.raises(UserError, match="unknown suite 'nightly'; there are default, release"):
        load_suite("nightly", "kiwi")
    with pytest.raises(UserError, match="no cases for toolset 'nobody'.*--cases FILE"):
        load_suite("default", "nobody")
    with pytest.raises(UserError, match="handwritten_test.jsonl: missing; suite 'release' needs it"):
        load_suite("release", "nobody")


def test_ids_must_differ_across_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.jsonl", [row(1)]), write(tmp_path / "b.jsonl", [row(2), row(1)])
    with pytest.raises(UserError, match=r"b\.jsonl: case id 'c001' is also in .*a\.jsonl"):
        load_files([one, two], name="x")


def test_templates_are_read_beside_the_cases(tmp_path: Path) -> None:
    suite = load_files([write(tmp_path / "a.jsonl", [row(1, template="t1"), row(2)])], name="x")
    assert suite.templates == {"c001": "t1"}
    assert [case.id for case in suite.cases] == ["c001", "c002"]


def test_broken_files_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "user"\n')
    with pytest.raises(UserError, match=r"a\.jsonl:1"):
        load_files([path], name="x")
    with pytest.raises(UserError, match="colour"):
        load_files([write(path, [row(1, template="t", colour="red")])], name="x")
    with pytest.raises(UserError, match="no such case file"):
        load_files([tmp_path / "none.jsonl"], name="x")


def suite_of(tmp_path: Path, rows: list[dict[str, object]], name: str = "s") -> object:
    return load_files([write(tmp_path / f"{name}.jsonl", rows)], name=name)


def test_quick_subset_is_fixed_and_in_proportion(tmp_path: Path) -> None:
    rows = [row(i, "easy" if i < 150 else "hard" if i < 195 else "rare") for i in range(200)]
    suite = load_files([write(tmp_path / "a.jsonl", rows)], name="s")
    small = subset(suite, 40)
    assert len(small.cases) == 40
    assert small.of == 200
    assert small.describe()["buckets"] == {"easy": 30, "hard": 9, "rare": 1}
    assert subset(suite, 40) == small
    assert any("40 of 200" in note for note in small.notes)
    assert small.sha256 == digest(small.cases) != suite.sha256


def test_quick_subset_does_not_depend_on_the_files_order(tmp_path: Path) -> None:
    rows = [row(i) for i in range(100)]
    one = load_files([write(tmp_path / "a.jsonl", rows)], name="s")
    other = load_files([write(tmp_path / "b.jsonl", rows[::-1])], name="s")
    assert {case.id for case in subset(one, 20).cases} == {case.id for case in subset(other, 20).cases}


def test_quick_subset_keeps_a_case_of_every_bucket(tmp_path: Path) -> None:
    rows = [row(i, "big") for i in range(500)] + [row(600 + i, f"small{i}") for i in range(5)]
    small = subset(load_files([write(tmp_path / "a.jsonl", rows)], name="s"), 20)
    assert len(small.describe()["buckets"]) == 6


def test_a_small_suite_is_taken_whole(tmp_path: Path) -> None:
    suite = load_files([write(tmp_path / "a.jsonl", [row(i) for i in range(5)])], name="s")
    assert subset(suite, 96) is suite
