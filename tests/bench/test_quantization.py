"""`bench quantization`: search, tests and fronts on figures made by hand, kept answers, whole scripted runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench.quantization_run
from bench.answering import exportable
from bench.quantization import Candidate, Search, build, compare, front, loses, recommend, validate
from bench.quantization_answers import keep, path_of, restore
from bench.quantization_cmd import types_asked
from bench.quantization_page import advice, numbered, render, tables
from bench.quantization_plot import draw
from bench.quantization_run import Asked, dev_cases, quantization, to_time
from bench.quantization_search import Tried, descend, grid, types_of
from bench.records import Run, Settings
from bench.run import Outcome
from bench.screen import Screen
from bench.stats import mcnemar
from bench.variants import Missing, choose
from export import scheme_of
from export.mixed import Mix, Scheme, name_of, parse
from router.cases import Case
from router.toolset import Call, Toolset
from router.toolset_load import load_toolset
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from tests.bench import made, scripted
from tests.tiny import corpus


def scheme(fmt: str) -> Scheme:
    found = scheme_of(fmt)
    assert found is not None
    return found


GGUF = scheme("gguf")


def test_types_are_in_the_formats_order() -> None:
    assert types_of(GGUF) == ("q8_0", "q5_0", "q4_0")
    assert types_of(GGUF, ("q4_0", "q6_k", "f16")) == ("f16", "q6_k", "q4_0")
    assert types_of(scheme("onnx")) == ("int8", "dynamic8", "int4")
    with pytest.raises(UserError, match="--types q9: gguf has f32, f16, bf16"):
        types_of(GGUF, ("q8_0", "q9"))
    with pytest.raises(UserError, match="the embedding can have none of these"):
        types_of(scheme("onnx"), ("dynamic8",))


def test_the_grid_leaves_out_what_the_embedding_cannot_have() -> None:
    assert len(grid(GGUF, ("q8_0", "q5_0", "q4_0"))) == 27
    mixes = grid(scheme("onnx"), ("int8", "dynamic8", "int4"))
    assert len(mixes) == 2 * 3 * 3 == len(set(mixes))
    assert mixes[0] == Mix(("int8", "int8", "int8"))
    assert not any(mix.of("embedding") == "dynamic8" for mix in mixes)


BITS = {"q8_0": 8, "q5_0": 5, "q4_0": 4}
WEIGHTS = {"embedding": 100, "attention": 10, "mlp": 60}


def figures(lost: Callable[[Mix], int], bounds: int = 99) -> tuple[list[Mix], Any]:
    """A measure by hand: bytes by the bits, `lost` of 100 cases; out of bounds past `bounds`. And what it was asked."""
    asked: list[Mix] = []

    def measure(mixes: Sequence[Mix]) -> list[Tried | None]:
        asked.extend(mixes)
        sizes = [sum(WEIGHTS[kind] * BITS[mix.of(kind)] for kind in WEIGHTS) for mix in mixes]
        return [Tried(size, 100 - lost(mix), lost(mix) > bounds) for size, mix in zip(sizes, mixes, strict=True)]

    return asked, measure


def named(mixes: Sequence[Mix]) -> list[str]:
    return [name_of(GGUF, mix) for mix in mixes]


def test_the_descent_takes_the_most_bytes_for_each_call_lost() -> None:
    cost = {"embedding": 5, "attention": 0, "mlp": 1}
    steps = ("q8_0", "q5_0", "q4_0")
    asked, measure = figures(lambda mix: sum(cost[kind] * steps.index(mix.of(kind)) for kind in cost))
    path = descend(GGUF, steps, measure)
    # Attention costs nothing and so comes first, though it saves least; then 180 bytes for 1 call, 60 for 1, and the
    # embedding's 300 for 5 and 100 for 5.
    assert [mix.types for mix in path] == [
        ("q8_0", "q8_0", "q8_0"), ("q8_0", "q5_0", "q8_0"), ("q8_0", "q4_0", "q8_0"), ("q8_0", "q4_0", "q5_0"),
        ("q5_0", "q4_0", "q5_0"), ("q5_0", "q4_0", "q4_0"), ("q4_0", "q4_0", "q4_0"),
    ]  # fmt: skip
    assert asked[:4] == [
        Mix(("q8_0", "q8_0", "q8_0")), Mix(("q5_0", "q8_0", "q8_0")), Mix(("q8_0", "q5_0", "q8_0")),
        Mix(("q8_0", "q8_0", "q5_0")),
    ]  # fmt: skip
    assert len(set(asked)) < 27, "a part of the grid"


def test_the_descent_ends_where_every_step_is_out_of_bounds() -> None:
    asked, measure = figures(lambda mix: 4 * (mix.of("embedding") != "q8_0") + 4 * (mix.of("mlp") != "q8_0"), bounds=3)
    assert named(descend(GGUF, ("q8_0", "q5_0"), measure)) == ["q8_0", "q8_0+attention=q5_0"]
    assert Mix(("q5_0", "q5_0", "q8_0")) in asked, "it was looked at"


def test_a_mix_that_cannot_be_measured_is_no_step() -> None:
    def measure(mixes: Sequence[Mix]) -> list[Tried | None]:
        return [
            None if mix.of("mlp") == "q4_0" else Tried(100 - 10 * mix.types.count("q4_0"), 9, False) for mix in mixes
        ]

    assert named(descend(GGUF, ("q8_0", "q4_0"), measure))[-1] == "q8_0+embedding=q4_0+attention=q4_0"
    assert len(descend(GGUF, ("q8_0", "q4_0"), lambda mixes: [None] * len(mixes))) == 1


def candidate(kiwi: Toolset, quant: str, *, wrong: int, size: int, ms: float, timed: int = 400) -> Candidate:
    """A candidate that got the first `wrong` cases wrong. All draw the same noise, so that ratios are those of `ms`."""
    run = made.run(kiwi, "llama_cpp", "gguf-f32", 8, wrong=wrong, ms=ms, timed=timed)
    run.variant = replace(run.variant, quant=quant)
    assert run.artifact is not None
    files = [{"path": "model.bin", "bytes": size, "sha256": "0" * 64}]
    details = {"classes": {"embedding": {"q8_0": 1}, "mlp": {"q4_0": 3}}}
    run.artifact = Artifact(Path(quant), run.artifact.manifest | {"quant": quant, "files": files, "details": details})
    run.opened["max_new_tokens"] = 64
    return Candidate(parse(GGUF, quant), run)


@pytest.fixture
def search(kiwi: Toolset) -> Search:
    """Of 100 cases the unquantized gets 10 wrong; the mixes are named for what they are."""
    known = [
        ("q8_0", 10, 800, 6.0),  # as exact
        ("q8_0+mlp=q4_0", 11, 600, 5.0),  # one lost
        ("q4_0+embedding=q8_0", 13, 550, 5.0),  # three lost, not significant
        ("q4_0", 22, 500, 4.0),  # twelve lost
        ("q5_0", 14, 650, 7.0),  # beaten in all
    ]
    found = [candidate(kiwi, name, wrong=wrong, size=size * 10_000, ms=ms) for name, wrong, size, ms in known]
    reference = candidate(kiwi, "f32", wrong=10, size=32_000_000, ms=20.0)
    return Search("gguf", "grid", ("q8_0", "q4_0"), reference, found)


def test_against_the_unquantized_by_hand(search: Search) -> None:
    test = compare(search.reference.run, search.candidates[3].run, {})
    assert test is not None
    assert (test["n"], test["won"], test["lost"]) == (100, 0, 12)
    assert test["difference"] == pytest.approx(-0.12) and test["p"] == mcnemar(12, 0) == pytest.approx(2 / 2**12)
    assert test["difference_ci_method"] == "newcombe"
    assert loses(test, 1.0) == (True, True) and loses(test, 12.0) == (False, True)
    three = compare(search.reference.run, search.candidates[2].run, {})
    assert loses(three, 3.0) == (False, False) and loses(three, 2.9) == (True, False), "three lost are chance"
    shared = compare(search.reference.run, search.candidates[3].run, {case.id: case.id[:3] for case in made.CASES})
    assert shared is not None and "template" in shared["difference_ci_method"]


def test_the_front_by_hand(search: Search, kiwi: Toolset) -> None:
    """f32 is as exact as q8_0, larger and slower; q5_0 is larger, worse and slower than the mixes."""
    assert front(search.all) == {"gguf-q8_0", "gguf-q8_0+mlp=q4_0", "gguf-q4_0+embedding=q8_0", "gguf-q4_0"}
    noisy = candidate(kiwi, "q5_1", wrong=11, size=6_100_000, ms=4.99)  # faster by less than chance, larger
    for index, timed in enumerate(noisy.run.timed):
        noisy.run.timed[index] = replace(timed, ms=timed.ms * (1.2 if index % 2 else 0.83))
    assert "gguf-q5_1" not in front([*search.all, noisy])
    faster = candidate(kiwi, "q5_1", wrong=11, size=6_100_000, ms=3.0)
    assert "gguf-q5_1" in front([*search.all, faster]), "larger than another as exact, but faster"
    untimed = candidate(kiwi, "q4_1", wrong=0, size=1, ms=1.0, timed=0)
    assert "gguf-q4_1" not in front([*search.all, untimed])


def report_of(search: Search, lose: float = 1.0) -> dict[str, Any]:
    context = made.context(settings=Settings(command="bench quantization", threads=1))
    return build(context, [search], lose=lose, limit=None)


def test_what_is_recommended(search: Search) -> None:
    def chosen(lose: float) -> str:
        return str(report_of(search, lose)["formats"][0]["recommended"])

    assert chosen(1.0) == "gguf-q8_0+mlp=q4_0"
    assert chosen(0.5) == "gguf-q8_0", "one of 100 lost is a point"
    assert chosen(3.0) == "gguf-q4_0+embedding=q8_0"
    assert chosen(50.0) == "gguf-q4_0+embedding=q8_0", "twelve lost are within bounds, and significant"
    search.candidates[0].run.fail("crashed", "latency")
    assert chosen(0.5) == "gguf-f32", "what failed is not recommended"
    assert recommend([], 1.0) is None


def test_the_report_keeps_its_schema_and_the_page_says_what_to_do(search: Search, tmp_path: Path) -> None:
    broken = candidate(load_toolset("kiwi"), "q4_1", wrong=0, size=1, ms=1.0, timed=0)
    broken.run.answers["grammar"], broken.run.verdicts["grammar"], broken.run.artifact = {}, {}, None
    broken.run.fail("export failed: no such tensor", "export")
    search.candidates.append(broken)
    report = report_of(search)
    assert validate(report)
    assert [one["artifact"] for one in numbered(report)[0].values()] == [
        "gguf-q4_0", "gguf-q4_0+embedding=q8_0", "gguf-q8_0+mlp=q4_0", "gguf-q5_0", "gguf-q8_0", "gguf-f32",
    ]  # fmt: skip
    page = render(report, plot="quantization.png")
    assert "`edgecall export MODEL --to gguf --quant q8_0+mlp=q4_0`" in page
    assert "6 MB instead of 32, exact 89.0% instead of 90.0% (p = 1), p50 " in page
    assert "| 1 | gguf-q4_0 |" in page and "-12.0 (" in page and "0/12" in page
    assert "q4_1: failed in export: export failed: no such tensor" in page
    titles = [table.title for table in tables(report)]
    assert titles == ["gguf: the Pareto front", "gguf: all 6 that were measured", "gguf: not measured"]
    assert "gguf-q5_0" not in {row[1] for row in tables(report)[0].rows}
    assert [list(found) for found in numbered({"formats": report["formats"] * 2})] == [[*range(1, 7)], [*range(7, 13)]]
    assert draw(report, tmp_path / "plot.png") and (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"
    report["formats"][0]["recommended"] = "gguf-f32"
    assert advice(report)[0].startswith("gguf: stay with f32 (32 MB); all that is smaller loses more than 1 points")
    with pytest.raises(ValueError, match="breaks its schema"):
        validate(report | {"lose_points": -1})


def test_a_narrow_fallback_is_told(search: Search) -> None:
    page = render(report_of(search))
    assert "| q6_k (q8_0) | q4_0 | q4_0 |" in page, "the preset's embedding is stored in something else here"


def test_the_front_of_size_and_exact_is_timed_first(search: Search) -> None:
    assert [one.run.name for one in to_time(search, 2)] == ["gguf-f32", "gguf-q4_0", "gguf-q4_0+embedding=q8_0"]
    assert [one.run.name for one in to_time(search, 9)][1:] == [
        "gguf-q4_0", "gguf-q4_0+embedding=q8_0", "gguf-q8_0+mlp=q4_0", "gguf-q8_0", "gguf-q5_0",
    ]  # fmt: skip
    search.candidates.append(candidate(load_toolset("kiwi"), "q4_1+mlp=q4_0", wrong=30, size=5_100_000, ms=1.0))
    last = [one.run.name for one in to_time(search, 9)][-2:]
    assert last == ["gguf-q5_0", "gguf-q4_1+mlp=q4_0"], "what has one type throughout comes before what is smaller"


def test_every_bench_knows_a_mix_by_name() -> None:
    found = exportable("gguf-q8_0+mlp=q4_0+attention=q8_0")
    assert (found.runtime, found.artifact, found.precision) == ("llama_cpp", "gguf-q8_0+mlp=q4_0", 4)
    twice = choose(Settings(variants=("onnx-int8", "onnx-int8+mlp=int8", "mlx-8bit+embedding=6bit")))
    assert [variant.artifact for variant in twice] == ["onnx-int8", "mlx-8bit+embedding=6bit"]
    with pytest.raises(UserError, match="gguf: q8_0[+]mlp=q4: mlp cannot be 'q4'"):
        exportable("gguf-q8_0+mlp=q4")
    with pytest.raises(UserError, match="unknown variant 'onnx-q8_0[+]mlp=q4_0'; there are"):
        exportable("onnx-q8_0+mlp=q4_0")


# Answers that are kept


def test_kept_answers_come_back_as_they_were(kiwi: Toolset, tmp_path: Path) -> None:
    run = made.run(kiwi, "llama_cpp", "gguf-q8_0", 8, wrong=3)
    run.warnings = ["a warning"]
    settings = Settings(cache=tmp_path, threads=1)
    path = path_of(run, made.SUITE, kiwi.sha256, settings)
    keep(path, run, made.SUITE)
    assert len(run.timed) == 400, "times are not kept, nor lost"
    again = Run(run.variant, artifact=run.artifact)
    assert restore(path, again, made.SUITE)
    assert again.answers["grammar"] == run.answers["grammar"] and again.verdicts["grammar"] == run.verdicts["grammar"]
    assert again.warnings == ["a warning"] and again.opened["versions"] == {"llama_cpp": "1.0"} and not again.timed
    path.write_text(path.read_text()[:-300])
    assert not restore(path, Run(run.variant), made.SUITE), "half a file"
    path.unlink()
    del run.answers["grammar"]["c001"]
    keep(path, run, made.SUITE)
    assert not path.exists(), "answers to a part of the cases are not kept"


def test_kept_answers_are_those_of_the_same_thing(kiwi: Toolset, tmp_path: Path) -> None:
    run = made.run(kiwi, "llama_cpp", "gguf-q8_0", 8)
    settings = Settings(cache=tmp_path, threads=1)
    base = path_of(run, made.SUITE, kiwi.sha256, settings)
    assert path_of(run, made.SUITE, kiwi.sha256, settings) == base
    assert path_of(run, replace(made.SUITE, sha256="0"), kiwi.sha256, settings) != base
    assert path_of(run, made.SUITE, "0", settings) != base
    assert path_of(run, made.SUITE, kiwi.sha256, replace(settings, threads=2)) != base
    assert run.artifact is not None
    files = [{"path": "model.bin", "bytes": 1, "sha256": "1" * 64}]
    run.artifact = Artifact(run.artifact.folder, run.artifact.manifest | {"files": files})
    assert path_of(run, made.SUITE, kiwi.sha256, settings) != base


# Whole runs


def search_for(word: str) -> Call:
    return Call("search", {"item_type": "script", "query": word})


WORDS = ("email", "backup", "invoice", "report", "photo", "note", "page", "user")
CASES = tuple(
    Case(f"s{i}", f"find {word} scripts", {"project_path": "/p"}, "easy", (search_for(word),))
    for i, word in enumerate(WORDS)
)
WRONG: dict[str, int] = {"a": 0, "e": 7, "a+embedding=e": 0, "a+mlp=e": 1, "a+attention=e": 7, "e+attention=a": 1}
"""How many of `CASES` each mix gets wrong."""
PADDING = {"a": 3000, "e": 0, "a+embedding=e": 1500, "a+mlp=e": 2000, "a+attention=e": 2800, "e+attention=a": 500}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus(), folder, vocab_size=768, seed=0)
    return folder / "tokenizer.json"


@pytest.fixture
def run_search(
    tmp_path: Path, tokenizer: Path, kiwi: Toolset, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """`run_search(out)`: a descent over scripted artifacts, of which one mix cannot be made."""
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in CASES))
    artifacts: dict[str, Artifact | Missing] = {}
    for quant, wrong in WRONG.items():
        answers: dict[str, list[Call]] = {
            case.user: [search_for("find") if i < wrong else case.calls[0]] for i, case in enumerate(CASES)
        }
        one = scripted.make(
            tmp_path / f"scripted-{quant}", tokenizer, kiwi, quant, answers, padding="x" * PADDING[quant]
        )  # fmt: skip
        artifacts[one.name] = one
    artifacts["scripted-e+mlp=a"] = Missing("export failed: no such tensor", False)

    def run(out: str, **more: Any) -> Outcome:
        settings = Settings(
            cases=file, requests=16, blocks=2, warmup=1, budget_s=600.0, threads=1, cache=tmp_path / "cache",
            plugins=("tests.bench.scripted",),
        )  # fmt: skip
        asked = Asked(("scripted",), (("scripted", ("a", "e")),), most=more.pop("most", 4), timed=2, lose=1.0)
        return quantization(settings, asked, Screen(quiet=True), out=tmp_path / out, artifacts=artifacts)

    return run


def test_a_descent_and_a_second_run_that_asks_nothing(
    run_search: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run_search("first")
    entry = outcome.report["formats"][0]
    assert validate(outcome.report) and entry["method"] == "descent" and entry["reference"] == "scripted-a"
    # Of the first steps the embedding saves 1500 bytes and loses nothing. From there attention cannot be made, and the
    # last step loses seven of eight, which is significant.
    assert entry["path"] == ["scripted-a", "scripted-a+embedding=e", "scripted-e+attention=a"]
    found = {one["artifact"]: one for one in entry["candidates"]}
    assert found["scripted-e+mlp=a"]["status"] == "failed" and "no such tensor" in found["scripted-e+mlp=a"]["reason"]
    assert found["scripted-e"]["test"]["lost"] == 7 and found["scripted-e"]["test"]["p"] == mcnemar(7, 0)
    assert found["scripted-a+embedding=e"]["accuracy"]["exact"] == 1.0
    assert entry["recommended"] == "scripted-a+embedding=e", "one of eight lost is more than a point"
    timed = {name for name, one in found.items() if one["latency_ms"]}
    assert len(timed) == 3 and "scripted-a" in timed
    assert all(found[name]["latency_ms"]["n"] >= 16 for name in timed)
    assert not any(one["kept"] for one in found.values())
    for name in ("quantization.md", "report.json", "samples.jsonl", "quantization.png"):
        assert (outcome.folder / name).is_file(), name
    assert not (outcome.folder / "scratch").exists()
    assert json.loads((outcome.folder / "report.json").read_text()) == outcome.report

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(bench.quantization_run, "ask", never)
    again = run_search("second").report["formats"][0]
    assert again["path"] == entry["path"] and again["recommended"] == entry["recommended"]
    assert {one["artifact"]: one["accuracy"] for one in again["candidates"]} == {
        name: one["accuracy"] for name, one in found.items()
    }
    assert all(one["kept"] for one in again["candidates"] if one["accuracy"])


def test_nothing_to_compare_with(
    run_search: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(run: Run, *arguments: Any, **options: Any) -> None:
        run.fail("crashed in 'open'", "open")
        raise UserError(f"{run.name}: crashed in 'open'")

    monkeypatch.setattr(bench.quantization_run, "ask", fails)
    with pytest.raises(UserError, match="scripted-a: crashed in 'open'; there is nothing to compare with"):
        run_search("out")
    assert not (tmp_path / "out").exists()


def test_cases_that_choose(kiwi: Toolset) -> None:
    suite = dev_cases(Settings(suite=""), kiwi, None)
    assert suite.name == "handwritten_dev" and suite.files == ("handwritten_dev.jsonl",)
    assert len(dev_cases(Settings(suite=""), kiwi, 20).cases) == 20
    with pytest.raises(UserError, match="no handwritten_dev.jsonl in configs/cases/nowhere; give cases"):
        dev_cases(Settings(suite=""), replace(kiwi, name="nowhere"), None)


def test_types_by_format() -> None:
    assert types_asked("q8_0,q4_0", ("gguf",)) == (("gguf", ("q8_0", "q4_0")),)
    assert types_asked("gguf:q8_0,onnx:int8,gguf:q4_0", ("gguf", "onnx")) == (
        ("gguf", ("q8_0", "q4_0")), ("onnx", ("int8",)),
    )  # fmt: skip
    assert types_asked(None, ("gguf",)) == ()
    with pytest.raises(UserError, match="--types q8_0: say of which format, as in gguf:q8_0"):
        types_asked("q8_0", ("gguf", "onnx"))
    with pytest.raises(UserError, match=r"--types mlx:8bit: mlx is not among the formats of --formats \(gguf\)"):
        types_asked("mlx:8bit", ("gguf",))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--formats", "coreml"], "--formats coreml: has no mixed precisions; there are gguf, onnx, mlx"),
        (["--lose", "-1"], "--lose: -1 is not a number of points of exact that may be lost; give 0 or more"),
        (["--lose", "nan"], "--lose: nan is not a number of points"),
        (["--lose", "inf"], "--lose: inf is not a number of points"),
        (["--types", "q9"], "--types q9: gguf has f32"),
        (["--limit", "0"], "--limit: 0 is not positive"),
        (["--out", "full"], "full: is not empty"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], told: str, refused: Callable[[list[str], str], None]) -> None:
    refused(["quantization", *argv], told)
