"""The report: its figures from what was collected, its schema, its tables, its picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import report as reports
from bench.markdown import render
from bench.plot import draw
from bench.ranking import rank
from bench.report import build, samples, validate
from bench.screen import Screen
from bench.tables import (
    causes_table,
    cold_table,
    fit,
    main_tables,
    number,
    own_code_table,
    parity_table,
    throughput_table,
)
from router.toolset import Toolset
from tests.bench import made

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def runs(kiwi: Toolset) -> list[Any]:
    return made.runs(kiwi)


@pytest.fixture(scope="module")
def report(runs: list[Any]) -> dict[str, Any]:
    return build(made.context(), runs, runs[0])


def test_it_validates(report: dict[str, Any]) -> None:
    assert validate(json.loads(json.dumps(report)))


def test_the_schema_is_one_and_is_strict() -> None:
    schema = json.loads(reports.SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda r: r.pop("runs"), "runs"),
        (lambda r: r["runs"][0].update(status="fine"), r"runs\[0\].status"),
        (lambda r: r["runs"][0]["accuracy"].update(exact=1.5), r"runs\[0\]"),
        (lambda r: r["runs"][0]["latency_ms"].pop("p99"), r"runs\[0\].latency_ms"),
        (lambda r: r.update(extra=1), "extra"),
        (lambda r: r.update(schema="edgecall.report/0"), "schema"),
    ],
)
def test_breaking_the_schema_is_noticed(report: dict[str, Any], change: Any, where: str) -> None:
    broken = json.loads(json.dumps(report))
    change(broken)
    with pytest.raises(ValueError, match=where):
        validate(broken)


def test_contract_fields(report: dict[str, Any]) -> None:
    run = report["runs"][1]
    assert run["artifact"] == "gguf-f32" and run["status"] == "ok" and run["reason"] is None
    assert run["accuracy"]["n"] == 100 and run["accuracy"]["exact"] == 0.96
    assert run["accuracy"]["by_bucket"]["easy"]["n"] == 50
    assert run["latency_ms"]["n"] == 400 and run["latency_ms"]["p99"] is not None
    assert run["latency_ms"]["in_busy_blocks"] == 20
    assert run["overhead"] == pytest.approx(run["latency_ms"]["p50"] / run["floor_ms"]["p50"])
    assert run["overhead_same_request"] == pytest.approx(1.25)
    assert run["parity"]["same_calls"] == 1.0
    assert run["parity"]["reference"] == "torch-fp32"
    assert run["forward_passes"] == {
        "mean": 12, "forced_tokens": 9, "decided_tokens": 11, "request_tokens": 12,
        "by_cause": {"request": 1, "fork": 3, "string": 6, "number": 2},
    }  # fmt: skip
    assert run["size_mb"] == pytest.approx(12.345678)
    assert report["runs"][5]["latency_ms"]["p99"] is None, "40 requests have no p99"


class TestEmulated:
    """A run of a runtime that stands in for another: accuracy and parity count, times are not told."""

    @pytest.fixture
    def found(self, kiwi: Toolset) -> dict[str, Any]:
        reference = made.run(kiwi, "torch", "safetensors-fp32", 32, wrong=4)
        run = made.run(kiwi, "coreml-reference", "coreml-fp32", 32, wrong=4, ms=1)
        run.opened["emulated"] = True
        run.same_calls = {case.id: True for case in made.CASES}
        return build(made.context(), [reference, run], reference)

    def test_has_no_times(self, found: dict[str, Any]) -> None:
        _, run = found["runs"]
        assert (run["artifact"], run["runtime"], run["emulated"]) == ("coreml-reference-fp32", "coreml-reference", True)
        assert run["artifact_path"].endswith("coreml-fp32")
        assert run["accuracy"]["exact"] == 0.96 and run["parity"]["same_calls"] == 1.0
        for key in (
            "latency_ms",
            "first_decision_ms",
            "prefill_tok_s",
            "floor_ms",
            "overhead",
            "load_ms",
            "peak_rss_mb",
        ):
            assert run[key] is None, key
        assert validate(json.loads(json.dumps(found)))

    def test_times_would_break_the_schema(self, found: dict[str, Any]) -> None:
        broken = json.loads(json.dumps(found))
        broken["runs"][1]["latency_ms"] = broken["runs"][0]["latency_ms"]
        with pytest.raises(ValueError, match=r"runs\[1\].latency_ms"):
            validate(broken)

    def test_is_not_ranked_and_has_a_table_of_its_own(self, found: dict[str, Any]) -> None:
        assert [group["order"] for group in found["ranking"]] == [["safetensors-fp32"]]
        assert found["comparisons"][0]["latency_ratio"] is None
        ranked, emulated = main_tables(found)
        assert len(ranked.rows) == 1 and "p95 ms" in ranked.columns
        assert emulated.title.startswith("Emulated") and not {"p50 ms", "p95 ms", "#"} & set(emulated.columns)
        (row,) = emulated.rows
        assert emulated.columns[-1] == "cases" and row[-1] == "100 of 100"
        assert row[:2] == ("coreml-reference", "coreml-reference-fp32") and "100.0%" in row
        assert "times are not a device's" in render(found)


def test_a_run_that_was_cut_short_says_how_far_it_got(kiwi: Toolset) -> None:
    """Also where all that it was asked came out the same: a share alone would pass for the whole suite's."""
    reference = made.run(kiwi, "torch", "safetensors-fp32", 32)
    runs = [
        reference,
        made.run(kiwi, "llama_cpp", "gguf-f32", 32),
        made.run(kiwi, "coreml-reference", "coreml-fp32", 32),
    ]
    runs[2].opened["emulated"] = True
    for run in runs[1:]:
        for mode in ("grammar", "unconstrained"):
            for case in made.CASES[41:]:
                del run.answers[mode][case.id], run.verdicts[mode][case.id]
        run.same_calls = {case.id: True for case in made.CASES[:41]}
    out = build(made.context(), runs, reference)
    ranked, emulated = main_tables(out)
    assert "gguf-f32 was asked 41 of 100 cases" in ranked.note and "safetensors" not in ranked.note
    assert emulated.rows[0][-1] == "41 of 100"
    parity = parity_table(out)
    assert parity is not None and {row[5] for row in parity.rows} == {"100.0% in 41 of 100"}


def test_no_runtime_disappears(report: dict[str, Any]) -> None:
    by_name = {run["artifact"]: run for run in report["runs"]}
    assert by_name["coreml-fp32"]["status"] == "skipped"
    assert by_name["coreml-fp32"]["reason"] == "Core ML prediction needs macOS 15; run the bench on a Mac"
    assert by_name["gguf-f16"]["status"] == "failed"
    assert by_name["gguf-f16"]["stage"] == "latency"
    assert by_name["gguf-f16"]["latency_ms"] is None and by_name["gguf-f16"]["accuracy"] is None


def test_ranking_puts_accuracy_before_speed(report: dict[str, Any]) -> None:
    groups = {(group["precision"], group["device"]): group for group in report["ranking"]}
    eight = groups[8, "cpu"]
    assert eight["best"] == "mlx-8bit"
    assert eight["order"] == ["gguf-q8_0", "mlx-8bit"], "one case worse is chance, and faster"
    assert [entry["run"] for entry in eight["less_accurate"]] == ["onnx-int8"], "twelve cases worse is not"
    assert eight["less_accurate"][0]["p"] == pytest.approx(2 / 2**12)
    assert groups[32, "cpu"]["order"] == ["gguf-f32", "onnx-fp32", "safetensors-fp32", "mlx-fp32"]


def test_groups_are_by_precision_and_device(kiwi: Toolset) -> None:
    a, b = made.run(kiwi, "torch", "safetensors-fp32", 32), made.run(kiwi, "mlx", "mlx-fp32", 32)
    b.opened["device"] = "metal"
    assert [(g["precision"], g["device"]) for g in rank([a, b])] == [(32, "cpu"), (32, "metal")]


def test_every_pair_is_compared(report: dict[str, Any]) -> None:
    pairs = {(pair["a"], pair["b"]): pair for pair in report["comparisons"]}
    assert len(pairs) == 7 * 6 // 2
    pair = pairs["gguf-q8_0", "onnx-int8"]
    assert (pair["accuracy"]["a_only"], pair["accuracy"]["b_only"]) == (11, 0)
    assert pair["accuracy"]["significant_loss"]
    low, high = pair["latency_ratio"]["ci95"]
    assert low < pair["latency_ratio"]["median"] < high
    assert 0.7 < pair["latency_ratio"]["median"] < 0.95


def test_without_a_reference_there_is_no_parity(kiwi: Toolset) -> None:
    lone = made.run(kiwi, "llama_cpp", "gguf-f32", 32)
    out = build(made.context(), [lone], None)
    assert out["reference"] is None and out["runs"][0]["parity"] is None
    assert validate(json.loads(json.dumps(out)))
    assert "no parity figures" in render(out)


def test_samples_hold_every_answer_and_every_timed_request(runs: list[Any]) -> None:
    rows = list(samples(runs, made.SUITE))
    assert sum(row["mode"] == "latency" for row in rows) == sum(len(run.timed) for run in runs)
    answers = [row for row in rows if row["mode"] == "grammar" and row["run"] == "gguf-f32"]
    assert len(answers) == 100
    assert {"output", "calls", "verdict", "stats", "bucket", "checked"} <= answers[0].keys()
    json.dumps(rows)


def test_markdown_tells_all(report: dict[str, Any]) -> None:
    text = render(report, plot="p.png")
    for expected in (
        "gguf-q8_0", "Core ML prediction needs macOS 15", "signal SIGSEGV", "![Accuracy", "McNemar",
        "onnx-int8 is less accurate than mlx-8bit", "calls differently on 12 cases",
        "1 of them while the machine was busy",
    ):  # fmt: skip
        assert expected in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("| ")]
    assert widths, "there are tables"


def test_passes_are_told_by_cause(report: dict[str, Any], kiwi: Toolset) -> None:
    table = causes_table(report)
    assert table is not None and table.columns == ("artifact", "request", "fork", "string", "number", "all")
    assert table.rows[0] == ("safetensors-fp32", "1", "3", "6", "2", "12")
    assert f"## {table.title}" in render(report)
    silent = made.run(kiwi, "llama_cpp", "gguf-f32", 32)
    for answer in silent.answers["grammar"].values():
        answer.stats.pop("pass_causes", None)
    out = build(made.context(), [silent], None)
    assert out["runs"][0]["forward_passes"]["by_cause"] is None and causes_table(out) is None
    assert validate(json.loads(json.dumps(out)))


def test_first_calls_of_fresh_processes_are_told(kiwi: Toolset) -> None:
    one = {
        "n": 3, "wall_ms": 420.0, "cpu_ms": 330.0, "import_ms": 210.0, "import_cpu_ms": 200.0, "open_ms": 60.0,
        "request_ms": 15.0, "wall_range_ms": [400.0, 700.0],
    }  # fmt: skip
    keeps, not_so = made.run(kiwi, "llama_cpp", "gguf-f32", 32), made.run(kiwi, "torch", "safetensors-fp32", 32)
    keeps.first_call = {"n": 3, "saved": one, "computed": one | {"wall_ms": 480.0}}
    not_so.first_call = {"n": 3, "saved": None, "computed": one}
    out = build(made.context(), [keeps, not_so, made.run(kiwi, "mlx", "mlx-fp32", 32)], None)
    assert validate(json.loads(json.dumps(out)))
    assert [run["first_call_ms"] is None for run in out["runs"]] == [False, False, True]
    table = cold_table(out)
    assert table is not None and f"## {table.title}" in render(out)
    assert table.rows == (
        ("gguf-f32", "3", "420 (400-700)", "330", "480 (400-700)", "330", "210"),
        ("safetensors-fp32", "3", "-", "-", "420 (400-700)", "330", "210"),
    )


def test_our_own_code_is_told(report: dict[str, Any], kiwi: Toolset) -> None:
    own = report["runs"][1]["own_code"]
    assert own["n"] == 400 and own["share_p50"] == pytest.approx(0.1)
    assert own["share_quartiles"] == pytest.approx([0.1, 0.1])
    p50 = report["runs"][1]["latency_ms"]["p50"]
    assert own["ms_p50"] == pytest.approx(0.1 * p50) and own["grammar_ms_p50"] == pytest.approx(0.05 * p50)
    table = own_code_table(report)
    assert table is not None and table.rows[1][:3] == ("gguf-f32", "400", "10.0% (10.0-10.0)")
    assert f"## {table.title}" in render(report)
    silent = made.run(kiwi, "llama_cpp", "gguf-f32", 32)
    silent.timed = [replace(timed, parts=None) for timed in silent.timed]
    out = build(made.context(), [silent], None)
    assert out["runs"][0]["own_code"] is None and own_code_table(out) is None
    assert validate(json.loads(json.dumps(out)))


def test_terminal_tables_fit(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(record=True, width=160, file=open("/dev/null", "w"))
    Screen(console).tables(report)
    text = console.export_text()
    assert "gguf-q8_0" in text and "96.0%" in text and "Core ML prediction needs macOS 15" in text
    assert max(len(line) for line in text.splitlines()) <= 160


def test_tables_rank_and_mark(report: dict[str, Any]) -> None:
    eight = next(table for table in main_tables(report) if table.title == "8-bit on cpu")
    assert [(row[0], row[2]) for row in eight.rows] == [("1", "gguf-q8_0"), ("2", "mlx-8bit"), ("-", "onnx-int8")]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_tables_are_made_to_fit(report: dict[str, Any], width: int) -> None:
    for table in main_tables(report)[:2]:
        small = fit(table, width)
        assert {"#", "artifact", "exact (95% CI)", "p95 ms"} <= set(small.columns)
        assert all(len(row) == len(small.columns) for row in small.rows)
        widest = [max(len(cell) for cell in column) for column in zip(small.columns, *small.rows, strict=True)]
        assert sum(widest) + 3 * len(widest) + 1 <= width
    assert fit(table, 200) == table


def test_numbers_are_short() -> None:
    assert number(None, 2) == "-"
    assert number(0.00012345, 2) == "1.2e-04"
    assert number(123456.0, 3) == "123,000"
    assert number(3.14159, 3) == "3.14"
    assert number(0.0, 2) == "0"


def test_picture(report: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    assert draw(report, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"], "no temporary file stays"


def test_no_picture_without_figures(tmp_path: Path) -> None:
    assert not draw({"runs": [{"accuracy": None, "latency_ms": None}]}, tmp_path / "plot.png")


def test_requests_a_second_stand_one_by_one_and_at_once(report: dict[str, Any]) -> None:
    table = throughput_table(report)
    assert table is not None and table.rows[0][1:] == ("40", "90", "180", "2.00x", "8", "100.0%")
    assert "## Requests a second" in render(report)
    older = json.loads(json.dumps(report))  # of before the answers were compared, and of a runtime without batches
    del older["runs"][0]["throughput"]["same_calls"]
    older["runs"][1]["throughput"].update(lanes=1, together_per_s=None, same_calls=None)
    older["runs"][2]["throughput"] = None
    assert validate(older)
    found = throughput_table(older)
    assert found is not None and found.rows[0][-1] == "-" and found.rows[1][3:] == ("-", "-", "-", "-")
    assert len(found.rows) == len(table.rows) - 1
