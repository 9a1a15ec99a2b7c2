"""`bench scaling`: what is generated, the laws by hand, and whole runs over a scripted router."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bench.scaling
from bench.cli import main
from bench.forced import BlankModel, ForcedRouted
from bench.laws import Line, fit
from bench.predict import Size, Weights, read_bytes
from bench.records import Answer, Run, Settings, Timed, Variant
from bench.report import Context
from bench.run import Outcome
from bench.scaling import Asked, scaling
from bench.scaling_floor import growth, predicted_ms, within
from bench.scaling_page import render, tables
from bench.scaling_plot import draw
from bench.scaling_points import (
    CALLED,
    QUICK_SIZES,
    SIZES,
    SWEEPS,
    Sweep,
    argument_tokens,
    branches,
    points,
    tools,
)
from bench.scaling_report import Measured, build, passes_hold, row, validate
from bench.screen import Screen
from bench.shape_making import Machine
from bench.shapes import Shape, preset
from bench.variants import Missing
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from runtimes import runtime
from runtimes.artifact import Artifact
from tests.bench import made, scripted

SEED = Path(__file__).parents[2] / "models" / "seed" / "base" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer() -> RouterTokenizer:
    return RouterTokenizer.load(SEED)


def test_tools_differ_and_begin_alike() -> None:
    many = tools(256)
    assert len({tool.name for tool in many}) == len({tool.description for tool in many}) == 256
    assert tools(5).tools == many.tools[:5] and many.tools[0].name == CALLED
    with pytest.raises(ValueError, match="257 tools cannot be made"):
        tools(257)


def test_names_part_at_two_places_at_most() -> None:
    assert [branches(tools(count)) for count in (1, 2, 16, 17, 256)] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_sizes_come_out_as_asked(sweep: Sweep, tokenizer: RouterTokenizer) -> None:
    found = points(sweep, SIZES[sweep], tokenizer)
    assert len({point.id for point in found}) == len(found) == (1 if sweep == "vocabulary" else len(SIZES[sweep]))
    for point in found:
        if sweep == "tools":
            assert len(point.toolset.tools) == point.size
        if sweep == "prompt":
            assert point.size - 2 <= len(tokenizer.prefix_ids(point.toolset)) <= point.size
        assert argument_tokens(point.case, tokenizer) in (
            range(point.size - 1, point.size + 1) if sweep == "argument" else range(3, 5)
        )
    assert set(QUICK_SIZES[sweep]) < set(SIZES[sweep])


def passes_of(sweep: Sweep, size: int, tokenizer: RouterTokenizer) -> dict[str, Any]:
    point = points(sweep, [size], tokenizer)[0]
    routed = ForcedRouted(BlankModel(tokenizer.vocab_size, 32_768), tokenizer, point.toolset)
    routed.limit_to([point.case])
    event = routed.route(point.case)
    prefix, passes = routed.passes_of(point.case)
    assert passes[0].start == len(prefix), "nothing of the prompt is computed again"
    assert event["token_ids"] == routed.gold_ids(point.case)
    return {
        "passes": event["stats"]["forward_passes"],
        "argument_tokens": argument_tokens(point.case, tokenizer),
        "names_part_at": branches(point.toolset),
    }


@pytest.mark.parametrize("sweep", ["tools", "prompt", "argument"])
def test_passes_grow_as_they_should(sweep: Sweep, tokenizer: RouterTokenizer) -> None:
    rows = [passes_of(sweep, size, tokenizer) for size in QUICK_SIZES[sweep]]
    assert passes_hold(sweep, rows) is True
    assert (len({one["passes"] for one in rows}) == 1) == (sweep == "prompt")


def test_passes_that_do_not_hold() -> None:
    def rows(*passes: int, **more: list[int]) -> list[dict[str, Any]]:
        empty = {"argument_tokens": 4, "names_part_at": 0}
        return [{**empty, "passes": p, **{k: v[i] for k, v in more.items()}} for i, p in enumerate(passes)]

    assert passes_hold("prompt", rows(5, 5)) and passes_hold("prompt", rows(5, 6)) is False
    assert passes_hold("vocabulary", rows(5)) is None
    assert passes_hold("tools", rows(5, 6, 7, names_part_at=[0, 1, 2]))
    assert passes_hold("tools", rows(5, 5, 5, names_part_at=[0, 1, 2])), "a fork may cost no pass"
    assert passes_hold("tools", rows(5, 7, names_part_at=[0, 1])) is False
    assert passes_hold("tools", rows(5, 4, names_part_at=[0, 1])) is False
    assert passes_hold("argument", rows(5, 9, argument_tokens=[4, 8]))
    assert passes_hold("argument", rows(5, 8, argument_tokens=[4, 8])) is False


def test_lines_by_hand() -> None:
    exact = fit([1, 2, 4], [5, 7, 11])
    assert exact is not None and (exact.a, exact.b, exact.r2) == (pytest.approx(3), pytest.approx(2), pytest.approx(1))
    # Means 1 and 2: b = (1*2 + 1*3) / 2, a = 2 - 2.5; residuals 0.5, -1 and 0.5 against 2, 1 and 3.
    rough = fit([0, 1, 2], [0, 1, 5])
    assert rough is not None and (rough.a, rough.b) == (pytest.approx(-0.5), pytest.approx(2.5))
    assert rough.r2 == pytest.approx(1 - 1.5 / 14)
    assert fit([1, 2], [3, 3]) == Line(3.0, 0.0, None), "nothing to explain"
    assert fit([2, 2], [1, 9]) is None and fit([], []) is None
    assert Line(1.0, 2.0, 1.0).at(3) == 7


TINY = Shape("tiny", 8, 16, 2, 2, 1, 4, 10_240, window=64, pattern=2)
MACHINE = Machine({10**6: 2e10, 10**9: 1e10}, {"fp32": 1e11, "int8": None}, {"bandwidth": "by hand"}, 0.5)


def test_what_a_point_should_cost(tokenizer: RouterTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum over its passes of weights and cache over the bandwidth of arrays as large; nothing off the CPU."""
    weights = Weights(900_000)
    monkeypatch.setattr("bench.scaling_floor.weights_of", lambda artifact, variant: weights)
    monkeypatch.setattr(Artifact, "output_rows", TINY.vocab)
    point = points("tools", [4], tokenizer)[0]
    run = run_of(point, [2.0], [1.0])
    sizes = [Size(95, 16), Size(111, 10), Size(121, 1)]
    by_hand = sum(read_bytes(TINY, size, weights, 2) for size in sizes) / 2e10
    assert predicted_ms(run, point.id, TINY, MACHINE) == pytest.approx(1e3 * by_hand)
    assert predicted_ms(run, point.id, None, MACHINE) is None and predicted_ms(run, point.id, TINY, None) is None
    assert predicted_ms(run, "another", TINY, MACHINE) is None
    run.opened["device"] = "cuda"
    assert predicted_ms(run, point.id, TINY, MACHINE) is None


def test_what_grows_is_held_against_what_should() -> None:
    def rows(*ratios: float | None) -> list[dict[str, Any]]:
        return [{"over_predicted": ratio} for ratio in ratios]

    assert growth(rows(2.0, 2.0, 2.1)) == pytest.approx(1.05)
    assert growth(rows(2.0, 1.5, 1.8)) == pytest.approx(0.9), "what is fixed weighs less where the floor is high"
    assert growth(rows(2.0, 3.0, 2.0)) == 1.5 and growth(rows(None, 2.0)) is None and growth(rows()) is None


def test_up_to_64_tools_p50_is_near_the_floor() -> None:
    def rows(*found: tuple[int, float | None]) -> list[dict[str, Any]]:
        return [{"size": size, "over_floor": ratio} for size, ratio in found]

    assert within(rows((1, 1.02), (16, 1.09), (64, 1.04), (256, 1.5))) == {
        "from": 1, "to": 64, "most_over_floor": 1.09, "at": 16, "holds": True,
    }  # fmt: skip
    far = within(rows((1, 1.02), (32, 1.2), (64, None)))
    assert far is not None and (far["to"], far["at"], far["holds"]) == (32, 32, False)
    assert within(rows((128, 1.0))) is None


def run_of(point: Any, times: list[float], floors: list[float]) -> Run:
    run = Run(Variant("llama_cpp", "gguf", "q8_0", 8), artifact=made.artifact("gguf-q8_0"))
    stats = {
        "cached_tokens": 95, "request_tokens": 16, "forward_passes": 5, "decided_tokens": 5, "pass_sizes": [16, 10, 1],
        "first_position": 95, "sizes": [[95, 16, 1, None], [111, 10, 1, None], [121, 1, 1, None]],
    }  # fmt: skip
    run.answers["grammar"][point.id] = Answer(point.id, [], [1] * 17, "", None, stats, False)
    run.timed = [Timed(point.id, ms, None, 0, []) for ms in times]
    run.floor = {"ms": [[0, ms] for ms in floors] + [[1, 1e9]]}
    run.opened = {"device": "cpu", "dtype": "q8_0", "threads": 1, "versions": {"llama-cpp-python": "1"}}
    return run


def entry(point: Any, times: list[float], floors: list[float]) -> dict[str, Any]:
    return row(point, 0, run_of(point, times, floors), size=4, rows=10_240, argument=4, parts=0)


def test_the_entry_of_a_point(tokenizer: RouterTokenizer) -> None:
    point = points("argument", [4], tokenizer)[0]
    found = entry(point, [3.0, 5.0, 4.0], [2.0, 2.5, 1.5])
    assert (found["n"], found["p50"], found["floor_p50"], found["over_floor"]) == (3, 4.0, 2.0, 2.0)
    assert (found["appended_tokens"], found["call_tokens"], found["prefilled"]) == (27, 17, False)
    bare = row(point, 0, Run(Variant("llama_cpp", "gguf", "q8_0", 8)), size=4, rows=10_240, argument=4, parts=0)
    assert (bare["p50"], bare["passes"], bare["prefilled"], bare["n"]) == (None, None, None, 0)


@pytest.fixture
def report(tokenizer: RouterTokenizer) -> dict[str, Any]:
    """Two sizes of an argument on one variant, another that was skipped."""
    point = points("argument", [4], tokenizer)[0]
    rows = [entry(point, [4.0] * 9, [3.0] * 9), entry(point, [8.0] * 9, [4.0] * 9) | {"size": 8, "argument_tokens": 8}]
    rows[1]["passes"] = 9
    rows = [
        one | {"predicted": ms, "over_predicted": one["p50"] / ms} for one, ms in zip(rows, (2.0, 3.0), strict=True)
    ]
    runs = [run_of(point, [], [])]
    skipped = Run(Variant("onnxruntime", "onnx", "int8", 8))
    skipped.skip("onnxruntime is not installed", "install it")
    measured = [
        Measured("argument", "gguf-q8_0", rows, runs, made.context().blocks),
        Measured("argument", "onnx-int8", [], [skipped], made.context().blocks),
    ]
    context: Context = made.context(settings=Settings(command="bench scaling", threads=1))
    found = build(context, measured, masked=False, notes=["tools-256: left out"], machine=MACHINE)
    assert validate(found)
    return found


def test_what_a_report_says(report: dict[str, Any], tmp_path: Path) -> None:
    (sweep,) = report["sweeps"]
    ours, other = sweep["variants"]
    assert ours["p50_law"] == {"a": pytest.approx(0), "b": pytest.approx(1), "r2": pytest.approx(1)}
    assert ours["floor_law"]["b"] == pytest.approx(0.25) and ours["most_over_floor"] == 2.0
    assert ours["passes_hold"] is True and ours["prefilled"] is False
    assert ours["growth_over_predicted"] == pytest.approx(4 / 3) and ours["p50_holds"] is False
    assert ours["within_floor"] is None, "of tools alone"
    assert report["probe"]["compute_gop_s"] == {"fp32": 100.0, "int8": None}
    assert other["status"] == "skipped" and other["p50_law"] is None and other["passes_hold"] is None
    drawn = draw(report, tmp_path)
    assert drawn == ["scaling-argument.png"] and [p.name for p in tmp_path.iterdir()] == drawn
    assert (tmp_path / drawn[0]).read_bytes()[:4] == b"\x89PNG"
    page = render(report, plots=drawn)
    for line in (
        "# seed: what grows, and what does not",
        "![p50 and floor, with the law](scaling-argument.png)",
        "1,000 us for each token of the argument (R2 1.000)",
        "p50 grows MORE THAN the predicted floor (1.33 times as much at most)",
        "passes as they should be; no prefill in any request",
        "- tools-256: left out",
        "- argument: onnx-int8: onnxruntime is not installed",
    ):
        assert line in page
    assert "{" not in page and len(tables(report)) == 1


def test_the_schema_refuses_what_is_not_one(report: dict[str, Any]) -> None:
    sweep = report["sweeps"][0]
    ours = sweep["variants"][0]
    for change in (
        {"schema": "edgecall.scaling/2"},
        {"surprise": 1},
        {"sweeps": []},
        {"sweeps": [sweep | {"sweep": "weather"}]},
        {"sweeps": [sweep | {"variants": [ours | {"p50_law": {"a": 1}}]}]},
        {"sweeps": [sweep | {"variants": [ours | {"points": [ours["points"][0] | {"size": 0}]}]}]},
    ):
        with pytest.raises(ValueError, match="breaks its schema"):
            validate(report | change)


Measure = Callable[..., Outcome]


@pytest.fixture
def measure(tmp_path: Path, kiwi: Toolset) -> Measure:
    """`measure(sizes)`: sweeps over a scripted router that wants no call at all."""

    def run(sizes: dict[Sweep, tuple[int, ...]], **script: Any) -> Outcome:
        artifacts: dict[str, Artifact | Missing] = {
            name: scripted.make(tmp_path / name, SEED, kiwi, "a", {}, **script)
            for name in ("scripted-a", *(f"scripted-a@{rows}" for rows in sizes.get("vocabulary", ())))
        }
        settings = Settings(
            variants=("scripted-a",), requests=4, blocks=2, warmup=1, budget_s=600.0, threads=1, quick=True,
            plugins=("tests.bench.scripted",),
        )  # fmt: skip
        return scaling(settings, Asked(sizes), Screen(quiet=True), out=tmp_path / "out", artifacts=artifacts)

    return run


def test_a_whole_run(measure: Measure, tmp_path: Path) -> None:
    sizes: dict[Sweep, tuple[int, ...]] = {
        "tools": (1, 17, 128), "prompt": (64, 128), "argument": (4, 9), "vocabulary": (1000, 12_288, 16_384),
    }  # fmt: skip
    outcome = measure(sizes)
    report = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert validate(report)
    sweeps = {one["sweep"]: one["variants"][0] for one in report["sweeps"]}
    assert list(sweeps) == list(sizes)
    found = {name: [point["size"] for point in one["points"]] for name, one in sweeps.items()}
    assert found == {"tools": [1, 17], "prompt": [64, 128], "argument": [4, 9], "vocabulary": [12_288, 16_384]}
    assert [note.split(":")[0] for note in report["notes"]] == ["tools-128", "vocabulary"]
    assert "takes 7,9" in report["notes"][0] and "1,000 left out, the tokenizer has 10,240" in report["notes"][1]
    for one in sweeps.values():
        assert one["status"] == "ok", one["reasons"]
        assert one["passes_hold"] is True and one["prefilled"] is False and one["most_over_floor"] > 0
        for point in one["points"]:
            assert point["n"] == 4 and point["p50"] > 0 and point["floor_p50"] > 0
            assert point["appended_tokens"] <= point["request_tokens"] + point["call_tokens"], "no prefill"
        assert one["p50_law"] is not None and one["floor_law"] is not None
    verdict = sweeps["tools"]["within_floor"]
    assert (verdict["from"], verdict["to"]) == (1, 17) and verdict["holds"] is (verdict["most_over_floor"] <= 1.1)
    assert "of the floor at that cached length" in (tmp_path / "out" / "scaling.md").read_text()
    assert report["probe"] is None, "artifacts were given: nobody knows their shape"
    passes = [point["passes"] for point in sweeps["tools"]["points"]]
    assert passes[1] - passes[0] == 2 == sweeps["tools"]["points"][1]["names_part_at"]
    assert [len(one["runs"]) for one in sweeps.values()] == [1, 1, 1, 2]
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * sum(len(one["points"]) for one in sweeps.values())
    assert {row["run"] for row in rows} == {"scripted-a", "scripted-a@12288", "scripted-a@16384"}
    written = {path.name for path in outcome.folder.iterdir()} - {"logs"}
    assert written == {"scaling.json", "scaling.md", "samples.jsonl", *(f"scaling-{name}.png" for name in sizes)}


def test_a_run_that_fails_is_told(measure: Measure) -> None:
    outcome = measure({"prompt": (64, 128)}, crash_at=9)
    one = outcome.report["sweeps"][0]["variants"][0]
    assert one["status"] == "failed" and "crashed in" in one["reasons"][0]
    assert validate(outcome.report) and all(point["p50"] is None for point in one["points"])
    assert "crashed in" in (outcome.folder / "scaling.md").read_text()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["scaling", "--sweeps", "tools,weather"], "--sweeps: unknown sweep 'weather'; there are tools, prompt"),
        (["scaling", "seed", "--shape", "tiny"], "seed and --shape tiny: give one of the two"),
        (["scaling", "--layers", "3"], "--layers changes a shape; name one with --shape"),
        (["scaling", "--tokenizer", "t.json"], "--tokenizer changes a shape; name one with --shape"),
        (["scaling", "--shape", "tiny", "--vocab", "10"], "--vocab 10: the seed's tokenizer has 10240 entries"),
        (["scaling", "--shape", "tiny", "--context", "30"], "--context 30: toolset kiwi, which exports hold, takes "),
        (["scaling", "--shape", "tinny"], "did you mean 'tiny'?"),
        (["scaling", "--variants", "gguf-q8"], "did you mean 'gguf-q8_0'?"),
        (["scaling", "--requests", "0"], "--requests: 0 is not positive"),
        (["scaling", "--out", "full"], "full: is not empty"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], told: str, refused: Callable[[list[str], str], None]) -> None:
    refused(argv, told)


def test_the_command(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(settings: Settings, given: Asked, screen: Screen, *, out: Path | None) -> Outcome:
        asked.append((settings, given, out))
        return Outcome(report, tmp_path)

    monkeypatch.setattr(bench.scaling, "scaling", run)
    assert main("scaling --quick --sweeps argument,tools --threads 1 --always-mask".split()) == 0
    text = capsys.readouterr().out
    assert "Length of the argument: gguf-q8_0" in text and "passes as they should be" in text
    settings, given, _ = asked[0]
    assert list(given.sizes) == ["tools", "argument"] and given.sizes["tools"] == QUICK_SIZES["tools"]
    assert (settings.model, settings.requests, given.shape, given.masked) == ("seed", 40, None, True)
    assert main(["scaling", "--shape", "tiny", "--context", "512", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["schema"] == "edgecall.scaling/1"
    assert asked[1][1].shape.context == 512 and asked[1][1].sizes == SIZES
    failed = report["sweeps"][0]["variants"][0] | {"status": "failed"}
    report["sweeps"][0]["variants"][0] = failed
    assert main(["scaling"]) == 1


@pytest.mark.slow
def test_from_nothing_on_llama_cpp(tmp_path: Path) -> None:
    """Random weights of two vocabularies, and a context longer than llama.cpp's default asks for."""
    if not runtime("llama_cpp").availability().available:
        pytest.skip("llama_cpp is not installed")
    settings = Settings(
        variants=("gguf-q8_0",), requests=4, blocks=2, warmup=1, budget_s=600.0, threads=1, device="cpu",
        cache=tmp_path / "cache",
    )  # fmt: skip
    sizes: dict[Sweep, tuple[int, ...]] = {"tools": (1, 4), "vocabulary": (10_240, 12_288)}
    outcome = scaling(settings, Asked(sizes, preset("tiny")), Screen(quiet=True), out=tmp_path / "out")
    for sweep in outcome.report["sweeps"]:
        (one,) = sweep["variants"]
        assert one["status"] == "ok" and one["passes_hold"] is True and not one["prefilled"], one["reasons"]
        assert all(point["n"] == 4 and point["floor_p50"] > 0 for point in one["points"])
        assert len(one["points"]) == 2
