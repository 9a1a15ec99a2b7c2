"""`edgecall data report`: what is counted is what the files hold, and every kind of leak is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.cases import Case
from router.toolset import Call, to_dict
from router.toolset_load import load_toolset
from runtimes.errors import UserError
from train.data.leak_counts import wording
from train.data.report import quantiles, source_of
from train.data_cli import main


def load(name: str, **more: str) -> Call:
    return Call("load", {"item_type": "script", "item_id": name, **more})


def write(path: Path, cases: list[Case]) -> Path:
    path.write_text("".join(json.dumps(c.to_dict()) + "\n" for c in cases))
    return path


def report(tmp_path: Path, train: list[Case], test: list[Case]) -> dict[str, Any]:
    out = tmp_path / "out"
    files = [str(write(tmp_path / f"{name}.jsonl", cases)) for name, cases in (("train", train), ("test", test))]
    assert main(["report", "--train", files[0], "--test", files[1], "--toolset", "kiwi", "--out", str(out)]) == 0
    data: dict[str, Any] = json.loads((out / "report.json").read_text())
    return data


def test_rows_and_coverage_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = [
        Case("1", "open script a", calls=(load("a", source="user"),)),
        Case("2", "Open script A!", calls=(load("A"),), bucket="hard"),
        Case("3", "open b", calls=(load("b", source="user", destination="project"),)),
        Case("4", "hello"),
    ]
    found = report(tmp_path, train, [Case("9", "good day")])["train"][0]
    assert found["rows"] == 4
    assert found["by_tool"] == {"load": 3, "no call": 1}
    assert found["by_bucket"] == {"all": 3, "hard": 1}
    assert found["by_source"] == {"(no name)": 4}
    assert found["repeated_requests"] == 1
    assert found["optional_given"] == {"load": {"source": 0.6667, "destination": 0.3333}}
    assert found["enum_values"]["load.source"] == {"project": 0, "user": 2, "registry": 0}
    assert 0 < found["request_tokens"]["p50"] <= found["request_tokens"]["max"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| load.source | registry | - | - |" in text
    assert json.loads(capsys.readouterr().out)["rows"][str(tmp_path / "train.jsonl")] == 4


def test_every_kind_of_leak_is_seen_and_the_worst_is_counted(tmp_path: Path) -> None:
    train = [
        Case("1", "open the big script now"),
        Case("2", "SHOW: the list, again!", template="p: show {x} again"),
        Case("3", "please find one two three four"),
        Case("4", "fetch apple", template="p: fetch {name}"),
        Case("5", "kindly bring pear", template="p: kindly bring {name}"),
    ]
    test = [
        Case("a", "open the big script now", template="p: fetch {name}"),
        Case("b", "show the list again"),
        Case("c", "please find one two three five four"),
        Case("d", "fetch some melon", template="p: fetch {name}"),
        Case("e", "kindly bring the plum script over", template="q: kindly bring the {name} {one}"),
        Case("f", "nothing of the kind", template="q: nothing {x}"),
    ]
    (leak,) = report(tmp_path, train, test)["leakage"]
    kinds = ("exact", "normalised", "near", "template", "wording")
    assert [leak[kind] for kind in kinds] == [1, 1, 1, 1, 1]
    assert leak["test_rows"] == 6
    assert leak["examples"]["near"] == [["please find one two three five four", "please find one two three four"]]
    assert leak["examples"]["wording"][0][0] == "kindly bring the plum script over"


def test_a_row_that_breaks_its_toolset_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    bad = Case("2", "open b", calls=(Call("load", {"item_type": "boat", "item_id": "b"}),))
    with pytest.raises(UserError, match=r"train\.jsonl:2: 2: a call breaks toolset kiwi: .*'boat'"):
        report(tmp_path, [Case("1", "hello"), bad], [Case("9", "good day")])
    assert not (tmp_path / "out").exists()


def test_a_file_is_trained_on_or_not(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", [Case("1", "hello")]))
    with pytest.raises(UserError, match=r"a\.jsonl: given twice"):
        main(["report", "--train", path, "--test", path, "--toolset", "kiwi", "--out", str(tmp_path / "out")])


def test_every_file_has_its_own_toolset_and_is_held_against_all_tests(tmp_path: Path) -> None:
    built = [tmp_path / name for name in ("kiwi", "robot")]
    for number, (folder, name) in enumerate(zip(built, ("kiwi", "toolbox"), strict=True)):
        folder.mkdir()
        (folder / "toolset.json").write_text(json.dumps(to_dict(load_toolset(name))))
        call = (load("a"), Call("get_weather", {"city": "Rome"}))[number]
        write(folder / "train.jsonl", [Case(f"{name}-train-00001", "open a in Rome", calls=(call,))])
    tests = [write(tmp_path / f"{n}.jsonl", [Case(f"kiwi-hd-{n}", f"{n}", calls=(load("b"),))]) for n in "xy"]
    files = ["--train", *(str(folder / "train.jsonl") for folder in built), "--test", *map(str, tests)]
    assert main(["report", *files, "--toolset", "kiwi", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["toolsets"] == ["kiwi", "toolbox"] and len(found["leakage"]) == 4
    assert [file["by_source"] for file in found["train"]] == [{"kiwi-train": 1}, {"toolbox-train": 1}]
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.startswith("# Data for kiwi, toolbox\n") and "| kiwi-hd-x | 0 | 0 | 1 | 0 |" in text
    with pytest.raises(UserError, match=r"x\.jsonl: no toolset\.json .* say which with --toolset"):
        main(["report", *files, "--out", str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("case", "source"),
    [
        ("kiwi-train-00012", "kiwi-train"),
        ("snips/train/Rate/0001", "snips"),
        ("sgd/1_00000/02@v1", "sgd"),
        ("7", "(no name)"),
    ],
)
def test_where_a_case_is_from(case: str, source: str) -> None:
    assert source_of(case) == source


def test_wording_and_quantiles() -> None:
    assert wording("load: <open> (the|my) {name} {one} {source}") == ""
    assert wording("x: please grab {name} off the shelf") == "grab off shelf"
    assert quantiles({}) == {}  # type: ignore[arg-type]
    assert quantiles(dict.fromkeys(range(1, 101), 1)) == {"p50": 50, "p95": 95, "max": 100}  # type: ignore[arg-type]
