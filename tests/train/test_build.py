"""Building a recipe: what is written does not depend on blocks, memory, or on what goes wrong."""

from __future__ import annotations

import errno
import json
import random
import resource
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecall.cli import main
from router.cases import Case, load_cases
from router.toolset import Call
from runtimes.errors import UserError
from tests.train.recipes import patterns, small_recipe
from train.data import blocks
from train.data.blocks import Block, Row, made_here, make_block, split_blocks, to_row
from train.data.build import build_data, replacing_all, training_cases
from train.data.leakage import HeldOut, Sieve
from train.data.recipe import Split, load_recipe

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
FILES = {"train.jsonl", "dev.jsonl", "test.jsonl", "toolset.json", "report.json"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("size", [7, 60, 5000])
def test_a_build_is_the_splits_row_for_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool, size: int
) -> None:
    monkeypatch.setattr(blocks, "ROWS", size)
    recipe = load_recipe(small_recipe(tmp_path, strict=strict))
    against = tmp_path / "against.jsonl"
    louder = [Case(f"x{n}", c.user.upper() + "!") for n, c in enumerate(training_cases(recipe, "train")) if n < 9]
    against.write_text("".join(json.dumps(c.to_dict()) + "\n" for c in louder))
    report = build_data(recipe, tmp_path / "out", [against])
    for split in SPLITS:
        expected = [json.dumps(c.to_dict(), ensure_ascii=False) for c in training_cases(recipe, split, louder)]
        assert (tmp_path / "out" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines() == expected
        assert report[split]["rows"] == len(expected) > 30
        assert sum(report[split]["by_tool"].values()) == len(expected)
    assert len(list(training_cases(recipe, "train"))) > report["train"]["rows"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert content(tmp_path / "out").keys() == FILES


def test_blocks_can_be_made_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", 41)
    recipe = load_recipe(small_recipe(tmp_path))
    parts = list(split_blocks(recipe, "train"))
    assert [(b.start, b.stop) for b in parts][-2:] == [(246, 287), (287, 300)]
    shuffled = random.Random(0).sample(parts, len(parts))
    made = {block.start: make_block(recipe, block) for block in shuffled}
    whole = make_block(recipe, Block("train", 0, 300))
    assert [row for start in sorted(made) for row in made[start]] == whole
    assert len({row.id for row in whole}) == 300


def test_memory_does_not_grow_with_the_training_rows(tmp_path: Path) -> None:
    recipe = load_recipe(small_recipe(tmp_path))

    def peak(number: int) -> int:
        def source(split: Split) -> Iterator[list[Row]]:
            if split != "train":
                yield from made_here(recipe)(split)
                return
            for start in range(0, number, 50):
                yield [
                    to_row(Case(f"c{n}", f"number {n} " + "long " * 200, calls=(Call("switch", {}),)))
                    for n in range(start, start + 50)
                ]

        tracemalloc.start()
        try:
            assert build_data(recipe, tmp_path / "out", [], source)["train"]["rows"] == number
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(250)
    assert peak(4000) < few + 300_000  # the rows that came in addition take 4 MB on disk


@pytest.mark.parametrize("strict", [True, False])
def test_a_template_of_the_test_side_stops_a_build(tmp_path: Path, strict: bool) -> None:
    ways = patterns(["(dim|darken) {room}", "(fade|mute) {room}"], ["paint {room}"])
    recipe = load_recipe(small_recipe(tmp_path, patterns=ways, parallel=None, strict=strict))
    (pattern,) = recipe.patterns
    both = {"train": pattern.templates["train"], "test": pattern.templates["test"] + pattern.templates["train"][1:]}
    held = replace(
        pattern, name="held", weight={"train": 0.0, "test": 0.0}, templates=both
    )  # never drawn, held all the same
    with pytest.raises(UserError, match=r"training rows have a template .* \(template '\(fade\|mute\) \{room\}' of"):
        build_data(replace(recipe, patterns=(pattern, held)), tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


def test_the_report_counts_what_training_gives_away(tmp_path: Path) -> None:
    ways = patterns(["please (light|dim) the {room} now and keep it so", "light {room}"], ["make {room} shine"])
    slots = {"room": {"kind": "digits", "train": ["den ##"], "test": ["east den ##"]}}
    path = small_recipe(
        tmp_path, patterns=ways, slots=slots, parallel=None, strict=False, rows=dict.fromkeys(SPLITS, 60)
    )
    against = tmp_path / "against.jsonl"
    against.write_text(json.dumps(Case("a", "now please light the den 12 and keep it so").to_dict()) + "\n")
    report = build_data(load_recipe(path), tmp_path / "out", [against])
    by_name = {entry.pop("test"): entry for entry in report["leaks"]}
    assert list(by_name) == ["dev.jsonl", "test.jsonl", "against.jsonl"]
    assert by_name["against.jsonl"] == {"rows": 1, "exact": 0, "normalised": 0, "near": 1, "template": 0, "wording": 0}
    assert {"template", "wording"}.isdisjoint(by_name["dev.jsonl"])
    assert all(entry["exact"] == entry["normalised"] == 0 for entry in by_name.values())
    held = by_name["test.jsonl"]
    assert held["rows"] == report["test"]["rows"] and held["template"] == 0


def test_a_validation_request_is_not_trained_on(tmp_path: Path) -> None:
    recipe = load_recipe(small_recipe(tmp_path))

    def source(split: Split) -> Iterator[list[Row]]:
        yield from made_here(recipe)(split)
        if split == "train":
            user = next(training_cases(recipe, "dev")).user + "!!"
            yield [to_row(Case("bad", user))._replace(user="other", normal="other")]

    with pytest.raises(UserError, match="1 held-out requests were about to be trained on"):
        build_data(recipe, tmp_path / "out", [], source)


def test_half_of_a_joined_request_may_not_have_a_held_out_template() -> None:
    held = HeldOut(templates={"sum {a} + {b}": "pattern p"})
    for template in (
        "q: get {x} + p: sum {a} + {b}",
        "q: get {x} + p: sum {a} + {b} + r: go",
        "p: sum {a} + {b} + q: get {x}",
        "r: sum {a} + {b}",
    ):
        leak = held.leak(Case("t", "text", template=template))
        assert leak is not None and (leak.kind, leak.test_id) == ("template", "pattern p")
    assert held.leak(Case("t", "text", template="q: sum {a}")) is None
    assert held.leak(Case("t", "text")) is None


def test_a_held_out_wording_never_comes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doors = patterns(["bolt {door}", "please seal {door}"], ["seal the {door}", "bar {door}"])
    doors[0].update(name="door", call="lock", arguments={"door": "{door}"})
    both = [*patterns(["light {room}"], ["brighten {room}"]), *doors]
    parallel = {"share": 0.5, "patterns": ["p", "door"], "joiners": [" and "]}
    recipe = load_recipe(small_recipe(tmp_path, patterns=both, parallel=parallel))
    build_data(recipe, tmp_path / "out", [])
    train = load_cases(tmp_path / "out" / "train.jsonl")
    assert any(" and " in case.user for case in train)
    assert not any("seal" in case.user for case in train)  # alone, and as one half
    before = content(tmp_path / "out")
    monkeypatch.setattr(Sieve, "passes", lambda self, user, wordings: True)
    with pytest.raises(UserError, match=r"first shed-train-\d+ \(wording 'seal' of shed-test-\d+\).*nothing written"):
        build_data(recipe, tmp_path / "out", [])
    assert content(tmp_path / "out") == before


def test_a_test_request_among_the_training_rows_stops_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(small_recipe(tmp_path))

    def source(split: Split) -> Iterator[list[Row]]:
        yield from made_here(recipe)(split)
        if split == "train":  # a worker that says of its row what is not so
            user = next(training_cases(recipe, "test")).user.title()
            yield [to_row(Case("bad", user))._replace(user="other", normal="other")]

    with pytest.raises(UserError, match=r"1 held-out requests were about to be trained on.*; nothing written"):
        build_data(recipe, tmp_path / "out", [], source)
    assert not (tmp_path / "out").exists()


def test_without_training_rows_nothing_is_written(tmp_path: Path) -> None:
    recipe = load_recipe(small_recipe(tmp_path, rows={"train": 0, "dev": 5, "test": 5}))
    with pytest.raises(UserError, match="no training row is left"):
        build_data(recipe, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def built(tmp_path: Path) -> tuple[Path, Path, dict[str, bytes]]:
    """A recipe, the folder that it was built into, and what lies there."""
    path = small_recipe(tmp_path)
    build_data(load_recipe(path), tmp_path / "out", [])
    small_recipe(tmp_path, seed=6)  # built again, it would be other rows
    return path, tmp_path / "out", content(tmp_path / "out")


@pytest.mark.parametrize("broken", SPLITS)
def test_a_failure_leaves_what_was_there(built: tuple[Path, Path, dict[str, bytes]], broken: Split) -> None:
    path, out, before = built
    recipe = load_recipe(path)

    def source(split: Split) -> Iterator[list[Row]]:
        yield from made_here(recipe)(split)
        if split == broken:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_data(recipe, out, [], source)
    assert content(out) == before


@pytest.mark.parametrize("limit", [0, 3_000, 30_000])
def test_a_full_disk_is_one_line(
    built: tuple[Path, Path, dict[str, bytes]], capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    path, out, before = built
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        code = main(["data", "build", str(path), "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert code == 2 and error.startswith(f"edgecall: {out}: File too large; ") and error.count("\n") == 1
    assert content(out) == before


@pytest.mark.parametrize("failing", ["train.jsonl", "test.jsonl", "report.json"])
def test_the_files_take_their_places_together(
    built: tuple[Path, Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path, out, before = built
    rename = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if self.name.startswith(".tmp-") and Path(target).name == failing:
            raise OSError(errno.EACCES, "Permission denied", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="Permission denied"):
        build_data(load_recipe(path), out, [])
    assert content(out) == before


def test_a_folder_in_a_files_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="b: is a folder; move it away"), replacing_all(tmp_path, ["a", "b"]) as files:
        files["a"].write("new")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is no folder"), replacing_all(tmp_path / "file", ["a"]):
        pass
