"""The whole bench over scripted runtimes: right and wrong ones, slow ones, and ones that crash or hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.records import Settings, Variant
from bench.report import validate
from bench.run import Outcome, all_runtimes
from bench.screen import Screen
from bench.variants import Missing
from router.cases import Case
from router.toolset import Call, Toolset
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from tests.bench import scripted

REFERENCE = Variant("scripted", "scripted", "a", 32)
WORDS = "email report backup invoice note page photo user project registry script entry".split()


def cases() -> list[Case]:
    made = [
        Case(
            f"s{i:02}", f"find {word} scripts", {"project_path": "/p"}, "served",
            (Call("search", {"item_type": "script", "query": word}),),
        )
        for i, word in enumerate(WORDS)
    ]  # fmt: skip
    return [*made, Case("u00", "what is the weather", {}, "no-call", ())]


def answers(wrong: int = 0) -> dict[str, list[Call]]:
    """What a scripted router answers: the gold calls, but another word of the request for the first `wrong` cases."""
    out = {}
    for index, case in enumerate(cases()):
        calls = list(case.calls)
        if index < wrong:
            calls = [Call("search", {"item_type": "script", "query": "find"})]
        out[case.user] = calls
    return out


Bench = Callable[..., Outcome]


@pytest.fixture
def bench(tmp_path: Path, small_tokenizer: Path, kiwi: Toolset) -> Bench:
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in cases()))

    def run(scripts: dict[str, dict[str, Any] | Missing], out: str = "out", **more: Any) -> Outcome:
        artifacts: dict[str, Artifact | Missing] = {}
        for quant, script in scripts.items():
            if isinstance(script, Missing):
                artifacts[f"scripted-{quant}"] = script
                continue
            folder = tmp_path / f"scripted-{quant}"
            told = script.pop("answers", None) or answers(script.pop("wrong", 0))
            artifacts[folder.name] = scripted.make(folder, small_tokenizer, kiwi, quant, told, **script)
        settings = Settings(
            runtimes=("scripted",), variants=tuple(artifacts), cases=file, requests=26, blocks=2, warmup=2,
            budget_s=600.0, threads=1, plugins=("tests.bench.scripted",),
        )  # fmt: skip
        return all_runtimes(
            replace(settings, **more), Screen(quiet=True), out=tmp_path / out, artifacts=artifacts, reference=REFERENCE
        )

    return run


def by_name(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {run["artifact"].removeprefix("scripted-"): run for run in outcome.report["runs"]}


def test_two_runtimes(bench: Bench) -> None:
    outcome = bench({"a": {}, "b": {"noise": 0.5}}, cold=1)
    runs = by_name(outcome)
    assert {run["status"] for run in runs.values()} == {"ok"}
    assert validate(json.loads((outcome.folder / "report.json").read_text()))
    for run in runs.values():
        assert run["accuracy"]["n"] == run["accuracy_unconstrained"]["n"] == 13
        assert run["accuracy"]["exact"] == run["accuracy_unconstrained"]["exact"] == 1.0
        assert set(run["accuracy"]["by_bucket"]) == {"served", "no-call"}
        assert run["latency_ms"]["n"] == 26 and run["latency_ms"]["p99"] is None
        assert run["latency_ms"]["min"] > 0
        assert run["floor_ms"]["n"] == 8, "a third of a turn's 13 requests, in each of two blocks"
        assert run["overhead"] is not None and run["prefill_tok_s"] > 0 and run["decode_tok_s"] > 0
        assert run["throughput"]["lanes"] == 1 and run["throughput"]["alone_per_s"] > 0
        assert run["cold_start_ms"] > run["load_ms"] > 0
        assert run["peak_rss_mb"] is None or run["peak_rss_mb"] > 10
        assert run["forward_passes"]["mean"] >= 1
        assert sum(run["forward_passes"]["by_cause"].values()) == pytest.approx(run["forward_passes"]["mean"])
        assert run["first_call_ms"]["saved"] is None and run["first_call_ms"]["computed"]["n"] == 1
        assert run["first_call_ms"]["computed"]["wall_ms"] > run["first_call_ms"]["computed"]["import_ms"] > 0
        assert run["own_code"]["n"] == 26 and 0 < run["own_code"]["share_p50"] < 1
        assert run["versions"] == {"scripted": "1.0"}
    parity = runs["b"]["parity"]
    assert parity["same_calls"] == 1.0 and parity["same_calls_n"] == 13
    assert parity["max_abs_logit"] > 0.5 and parity["mean_kl"] < 1e-3 and parity["top1_agreement"] == 1.0
    assert parity["by_kind"]["gold"]["rows"] > 100 and parity["by_kind"]["random"]["rows"] > 0
    assert runs["a"]["parity"] is None
    assert outcome.report["ranking"][0]["best"] in ("scripted-a", "scripted-b")
    assert len(outcome.report["blocks"]) == 2
    assert outcome.report["blocks"][0]["calibration_ms"] > 0


def test_a_runtime_that_compares_devices_runs_on_each(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device is a run of its own, in its own group of the ranking; what is narrower runs where it did."""
    monkeypatch.setattr(scripted, "compared_devices", lambda: ("cpu", "gpu"), raising=False)
    outcome = bench({"b": {}, "e": {}})
    runs = by_name(outcome)
    assert {name: (run["device"], run["status"]) for name, run in runs.items()} == {
        "b@cpu": ("cpu", "ok"), "b@gpu": ("gpu", "ok"), "e": ("cpu", "ok"),
    }  # fmt: skip
    assert all(run["accuracy"]["exact"] == 1.0 and run["latency_ms"]["n"] == 26 for run in runs.values())
    groups = {(group["precision"], group["device"]) for group in outcome.report["ranking"]}
    assert groups == {(32, "cpu"), (32, "gpu"), (8, "cpu")}
    assert "scripted-b@gpu" in (outcome.folder / "report.md").read_text(encoding="utf-8")


def test_what_is_written(bench: Bench) -> None:
    outcome = bench({"a": {}})
    names = {path.name for path in outcome.folder.iterdir()}
    assert {"report.json", "report.md", "samples.jsonl"} <= names
    assert "scratch" not in names
    assert [path for path in outcome.folder.parent.iterdir() if path.name.startswith(".tmp-")] == []
    rows = [json.loads(line) for line in (outcome.folder / "samples.jsonl").read_text().splitlines()]
    by_mode = {mode: [row for row in rows if row["mode"] == mode] for mode in ("grammar", "unconstrained", "latency")}
    assert [len(by_mode[mode]) for mode in by_mode] == [13, 13, 26]
    found = next(row for row in by_mode["grammar"] if row["case"] == "s00")
    assert found["verdict"]["exact"] and "call:search" in found["output"]
    assert found["stats"]["forward_passes"] >= 1 and found["stats"]["total_ms"] > 0


def test_differences_are_listed_with_margins(bench: Bench) -> None:
    runs = by_name(bench({"a": {}, "b": {"wrong": 3}}))
    assert runs["b"]["accuracy"]["exact"] == pytest.approx(10 / 13)
    parity = runs["b"]["parity"]
    assert parity["same_calls"] == pytest.approx(10 / 13)
    assert sorted(entry["case"] for entry in parity["disagreements"]) == ["s00", "s01", "s02"]
    for entry in parity["disagreements"]:
        assert entry["reference_margin"] > 20, "the script is sure of itself"
        assert entry["margin"] < -20
        assert entry["calls"] != entry["reference_calls"]
        assert len(entry["tokens"]) == 2
    assert parity["accuracy_vs_reference"]["a_only"] == 3 and parity["accuracy_vs_reference"]["b_only"] == 0
    assert parity["top1_agreement"] < 1 and parity["top1_differences"]


def test_a_crash_is_its_own(bench: Bench) -> None:
    outcome = bench({"a": {}, "b": {"crash_at": 60}, "c": {}})
    runs = by_name(outcome)
    assert runs["b"]["status"] == "failed" and runs["b"]["stage"] == "accuracy"
    assert "SIGKILL" in runs["b"]["reason"] and "the script says: crash" in runs["b"]["reason"]
    assert 0 < runs["b"]["accuracy"]["n"] < 13, "answers before the crash are kept"
    assert runs["b"]["latency_ms"] is None
    assert runs["a"]["status"] == runs["c"]["status"] == "ok"
    assert runs["c"]["parity"]["same_calls"] == 1.0
    assert (outcome.folder / "logs" / "scripted-b.log").read_text().strip()


def test_a_crash_while_opening(bench: Bench) -> None:
    runs = by_name(bench({"a": {}, "b": {"crash_at": 1}}))
    assert (runs["b"]["status"], runs["b"]["stage"]) == ("failed", "open")
    assert runs["a"]["status"] == "ok" and runs["a"]["latency_ms"]["n"] == 26


def test_a_hang_is_ended(bench: Bench) -> None:
    runs = by_name(bench({"a": {}, "b": {"hang_at": 60}}, silence_s=3.0))
    assert runs["b"]["status"] == "failed" and "said nothing for 3 s" in runs["b"]["reason"]
    assert runs["a"]["status"] == "ok"


def test_the_reference_failing_leaves_the_others_without_parity(bench: Bench) -> None:
    outcome = bench({"a": {"crash_at": 1}, "b": {}})
    runs = by_name(outcome)
    assert outcome.report["reference"]["status"] == "failed"
    assert runs["b"]["status"] == "ok" and runs["b"]["parity"] is None
    assert runs["b"]["latency_ms"]["n"] == 26 and runs["b"]["floor_ms"]["n"] > 0


def test_what_cannot_run_here_is_skipped(bench: Bench) -> None:
    runs = by_name(
        bench(
            {
                "a": {},
                "b": {"unavailable": "no device 'warp' here; use cpu"},
                "c": Missing("cannot be exported here: tools are missing; pip install tools", True),
                "d": Missing("export failed: the disk is full", False),
            }
        )
    )
    assert (runs["b"]["status"], runs["b"]["reason"]) == ("skipped", "no device 'warp' here; use cpu")
    assert runs["c"]["status"] == "skipped" and "pip install tools" in runs["c"]["reason"]
    assert runs["d"]["status"] == "failed" and runs["d"]["stage"] == "export"
    assert runs["a"]["status"] == "ok"


def test_a_slow_runtime_sees_every_case_and_fewer_requests(bench: Bench) -> None:
    runs = by_name(bench({"a": {}, "b": {"delay_ms": 30, "wrong": 2}}, requests=200, budget_s=12.0))
    slow, fast = runs["b"], runs["a"]
    assert slow["accuracy"]["n"] == slow["accuracy_unconstrained"]["n"] == 13
    assert slow["accuracy_unconstrained"]["checked"] > 0
    assert slow["accuracy"]["exact"] == pytest.approx(11 / 13), "a wrong guess does not make it right"
    assert slow["accuracy"]["routed"] + slow["accuracy"]["checked"] == 13
    assert 20 <= slow["latency_ms"]["n"] < 200
    assert fast["accuracy"]["checked"] == 0, "the reference is always routed"


def test_an_existing_report_is_not_touched(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("{}")
    with pytest.raises(UserError, match="is not empty"):
        bench({"a": {}})
    assert (tmp_path / "out" / "report.json").read_text() == "{}"


def test_an_interruption_leaves_nothing(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.run as module

    seen = []

    def interrupt(*arguments: Any) -> None:
        seen.extend(member.process for member in arguments[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "latency", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench({"a": {}})
    assert seen and not any(process.alive for process in seen)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")] == []


def test_unknown_names_are_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="unknown variant 'scripted-z'; there are scripted-a"):
        bench({}, variants=("scripted-z",))
    with pytest.raises(UserError, match="unknown runtime 'scriptd'.*did you mean 'scripted'"):
        bench({}, runtimes=("scriptd",), variants=())
