"""`bench peers`: who contends, ratios worked out by hand, and whole runs over scripted routers and peers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench.peers
from bench.cli import main
from bench.metrics import judge
from bench.peer import PEERS
from bench.peers import MAC, ON_MAC, OURS, PeerRun, Wanted, contenders, peers
from bench.peers_page import render, tables
from bench.peers_plot import draw
from bench.peers_report import build, compare, paired_times, validate
from bench.records import Answer, Run, Settings, Timed, Variant
from bench.run import Outcome
from bench.screen import Screen
from bench.variants import Missing
from router.cases import Case
from router.toolset import Call, Toolset
from runtimes.artifact import Artifact
from tests.bench import made, scripted, stub_server
from tests.bench.scripted_peer import KINDS

REAL = tuple(name for name in PEERS if name not in KINDS)


def names(status: str = "ok", **options: Any) -> list[str]:
    variants = options.pop("variants", ())
    return [run.name for run in contenders(Settings(variants=variants), Wanted(**options)) if run.status == status]


def test_ours_and_all_peers_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.peers, "PEERS", {name: PEERS[name] for name in REAL})
    on_linux = [
        *OURS, "transformers@fp32", "transformers-cache@fp32", "optimum@fp32", "llama-cpp-python@q8_0",
        "llama-cpp-python-gbnf@q8_0", "llama-server@q8_0", "llama-server-fa-off@q8_0", "llama-server-plain@q8_0",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "platform", "linux")
    assert names() == on_linux
    idle = ["transformers-bf16@bf16", "llama-cpp-python-naive@q8_0"]
    assert names("skipped") == [*idle, "mlx-lm@8bit"]
    for run in contenders(Settings(), Wanted()):
        if run.status == "skipped":
            assert (
                run.reason
                and run.fix == f"have it measured with --peers {run.variant.runtime} (and the others that are wanted)"
            )
    monkeypatch.setattr(sys, "platform", "darwin")
    assert names() == [*OURS, ON_MAC, *on_linux[len(OURS) :], "mlx-lm@8bit"] and names("skipped") == idle


def test_who_is_named_is_measured_and_nobody_else_is_listed() -> None:
    assert names(peers=("llama-cpp-python-naive",)) == [*OURS, "llama-cpp-python-naive@q8_0"]
    assert names("skipped", peers=("llama-cpp-python-naive",)) == []
    assert names(peers=("transformers", "transformers-bf16")) == [
        *OURS, "transformers@fp32", "transformers-bf16@bf16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "device", "there"),
    [
        ("transformers", "cuda:1", True), ("llama-cpp-python-gbnf", "metal", True), ("optimum", "cpu", True),
        ("optimum", "cuda", False), ("llama-server", "metal", False), ("llama-server", "auto", True),
        ("mlx-lm", "cuda", True), ("transformers", "ane", False),
    ],
)  # fmt: skip
def test_devices_that_a_peer_can_be_put_on(name: str, device: str, there: bool) -> None:
    assert PEERS[name].runs_on(device) is there


def test_peers_open_what_was_chosen_of_their_format() -> None:
    assert names(peers=(MAC,)) == [*OURS, ON_MAC, "mlx-lm@8bit"]
    assert names(peers=("llama-server", "transformers"), variants=("gguf-f32", "gguf-q8_0")) == [
        "gguf-f32", "gguf-q8_0", "llama-server@f32", "llama-server@q8_0", "transformers@fp32",
    ]  # fmt: skip
    runs = contenders(Settings(variants=("safetensors-bf16",)), Wanted(("transformers", "optimum")))
    assert [(run.name, run.variant.precision) for run in runs] == [
        ("safetensors-bf16", 16), ("transformers@bf16", 16), ("optimum@fp32", 32),
    ]  # fmt: skip
    assert isinstance(runs[2], PeerRun) and runs[2].source.artifact == "safetensors-fp32"
    assert runs[2].variant == Variant("optimum", "onnx", "fp32", 32)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["peers"], "the following arguments are required: MODEL"),
        (["peers", "seed", "--peers", "lama-server"], "unknown peer 'lama-server'; there are transformers"),
        (["peers", "seed", "--peers", "lama-server"], "did you mean 'llama-server'?"),
        (["peers", "seed", "--variants", "gguf-q8"], "did you mean 'gguf-q8_0'?"),
        (["peers", "seed", "--baseline", "gguf-q4_0"], "--baseline: 'gguf-q4_0' is none of the contenders gguf-q8_0"),
        (["peers", "seed", "--llama-server", "no/where"], "--llama-server no/where: no such file"),
        (["peers", "seed", "--threads", "0"], "--threads: 0 is not a number of threads"),
        (["peers", "seed", "--budget", "-1"], "--budget: -1 is not positive"),
        (["peers", "seed", "--suite", "nightly"], "unknown suite 'nightly'"),
        (["peers", "seed", "--cases", "none.jsonl"], "none.jsonl: no such case file"),
        (["peers", "seed", "--toolset", "kiwy"], "unknown toolset 'kiwy'"),
        (["peers", "seed", "--out", "full"], "full: is not empty"),
        (["peers", "seed", "--plugin", "not_there"], "--plugin not_there: there is no such module"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], told: str, refused: Callable[[list[str], str], None]) -> None:
    refused(argv, told)


def timed_run(name: str, times: list[tuple[str, float, int]]) -> Run:
    run = made.Run(Variant("torch", *name.split("-"), 32))
    run.timed = [Timed(case, ms, None, block, []) for case, ms, block in times]
    return run


def test_times_are_paired_by_case_and_block() -> None:
    one = timed_run("gguf-f32", [("a", 1, 0), ("a", 3, 0), ("a", 8, 1), ("b", 5, 0), ("c", 7, 1), ("c", 9, 2)])
    two = timed_run("onnx-fp32", [("a", 10, 0), ("a", 40, 2), ("b", 50, 0), ("b", 70, 1), ("c", 20, 1), ("c", 60, 2)])
    # a: block 0 alone, median of 1 and 3; b: block 0; c: blocks 1 and 2.
    assert paired_times(one, two) == ({"a": 2, "b": 5, "c": 8}, {"a": 10, "b": 50, "c": 40}, 4)
    assert paired_times(two, one) == ({"a": 10, "b": 50, "c": 40}, {"a": 2, "b": 5, "c": 8}, 4)


def test_ratios_by_hand(kiwi: Toolset) -> None:
    one = made.run(kiwi, "llama_cpp", "gguf-q8_0", 8, wrong=0, timed=0)
    two = made.run(kiwi, "torch", "safetensors-fp32", 32, wrong=9, timed=0)
    cases = [case.id for case in made.CASES[:5]]
    one.timed = [Timed(case, 2.0, None, 0, []) for case in cases]
    two.timed = [Timed(case, ms, None, 0, []) for case, ms in zip(cases, (2.0, 4.0, 6.0, 8.0, 200.0), strict=True)]
    found = compare(one, two)
    # Medians 6 and 2. Of five draws the median is the least value with probability 5.8%, and so is the largest: both
    # lie beyond the 2.5% on either side, and the interval runs from the one to the other.
    assert (found["ratio"], found["ci95"], found["cases"], found["requests"]) == (3.0, [1.0, 100.0], 5, 5)
    assert found["accuracy"] == {
        "n": 100,
        "a_only": 9,
        "b_only": 0,
        "p": pytest.approx(2 / 2**9),
        "significant_loss": True,
    }
    two.timed = [replace(timed, ms=3 * timed.ms) for timed in one.timed]
    assert compare(one, two)["ci95"] == [3.0, 3.0], "every pair alike: nothing to resample"
    two.timed.pop()
    assert compare(one, two)["ratio"] is None, "four cases say nothing"


def peer_run(toolset: Toolset, name: str, quant: str, precision: int, **how: Any) -> PeerRun:
    source = made.run(toolset, name, f"{PEERS[name].made or PEERS[name].format}-{quant}", precision, **how)
    out = PeerRun(source.variant, label=f"{name}@{quant}", peer=name, artifact=source.artifact)
    out.opened, out.timed = source.opened, source.timed
    out.answers["grammar"] = {
        case: replace(answer, stats={"forward_passes": 40, "pass_sizes": [], "total_ms": 1.0})
        for case, answer in source.answers["grammar"].items()
    }
    out.verdicts["grammar"] = source.verdicts["grammar"]
    return out


@pytest.fixture
def runs(kiwi: Toolset) -> list[Run]:
    """Ours in 8 and 32 bits, four peers: one slow, one wrong, one that is not there, one that failed."""
    ours = [
        made.run(kiwi, "llama_cpp", "gguf-q8_0", 8, wrong=5, ms=10),
        made.run(kiwi, "onnxruntime", "onnx-fp32", 32, wrong=4, ms=20),
        made.run(kiwi, "torch", "safetensors-fp32", 32, wrong=4, ms=50),
    ]
    for run in ours:
        run.answers["unconstrained"].clear(), run.verdicts["unconstrained"].clear()
    there = [
        peer_run(kiwi, "transformers", "fp32", 32, wrong=4, ms=200, timed=100),
        peer_run(kiwi, "llama-cpp-python", "q8_0", 8, wrong=30, ms=40),
        peer_run(kiwi, "optimum", "fp32", 32, wrong=4, ms=80),
    ]
    absent = PeerRun(Variant("llama-server", "gguf", "q8_0", 8), label="llama-server@q8_0", peer="llama-server")
    absent.skip("there is no llama-server on PATH", "build it")
    broken = PeerRun(Variant("mlx-lm", "mlx", "8bit", 8), label="mlx-lm@8bit", peer="mlx-lm")
    broken.fail("crashed in 'turn' (signal SIGSEGV)", "latency")
    return [*ours, *there, absent, broken]


def report(runs: list[Run], baseline: str | None = None) -> dict[str, Any]:
    settings = Settings(command="bench peers seed", threads=1)
    found = build(made.context(settings=settings), runs, baseline)
    assert validate(found)
    return found


def test_each_is_compared_with_ours_of_its_kind(runs: list[Run]) -> None:
    found = report(runs)
    assert {one["name"]: one["baseline"] for one in found["contenders"]} == {
        "gguf-q8_0": None,
        "onnx-fp32": None,
        "safetensors-fp32": None,
        "transformers@fp32": "safetensors-fp32",
        "llama-cpp-python@q8_0": "gguf-q8_0",
        "optimum@fp32": "onnx-fp32",
        "llama-server@q8_0": "gguf-q8_0",
        "mlx-lm@8bit": "gguf-q8_0",
    }
    ratios = {(one["contender"], one["baseline"]): one for one in found["ratios"]}
    assert len(ratios) == 3 * 7, "each against each of ours"
    slow = ratios["transformers@fp32", "gguf-q8_0"]
    assert slow["ci95"][0] < slow["ratio"] < slow["ci95"][1] and 15 < slow["ratio"] < 25
    assert slow["cases"] == slow["requests"] == 20, "of its 100 requests those that both had in the same block"
    assert ratios["llama-cpp-python@q8_0", "gguf-q8_0"]["accuracy"]["significant_loss"]
    assert ratios["llama-server@q8_0", "gguf-q8_0"]["ratio"] is None
    back = ratios["gguf-q8_0", "onnx-fp32"]["ratio"]
    assert back == pytest.approx(1 / ratios["onnx-fp32", "gguf-q8_0"]["ratio"])


def test_a_baseline_for_all(runs: list[Run]) -> None:
    found = report(runs, "transformers@fp32")
    told = {one["name"]: one["baseline"] for one in found["contenders"]}
    assert told.pop("transformers@fp32") is None and set(told.values()) == {"transformers@fp32"}
    assert len(found["ratios"]) == 4 * 7, "a peer may be one beside ours"


def test_what_an_entry_says(runs: list[Run]) -> None:
    entries = {one["name"]: one for one in report(runs)["contenders"]}
    ours, peer = entries["gguf-q8_0"], entries["transformers@fp32"]
    assert (ours["side"], ours["grammar"], ours["prefix_kept"], ours["artifact"]) == ("ours", True, True, "gguf-q8_0")
    assert (peer["side"], peer["grammar"], peer["prefix_kept"]) == ("peer", False, False)
    assert (peer["artifact"], entries["optimum@fp32"]["artifact"]) == ("safetensors-fp32", "safetensors-fp32")
    assert (ours["forward_passes"], peer["forward_passes"]) == (12, 40)
    assert ours["overhead"] == pytest.approx(ours["latency_ms"]["p50"] / 8.0) and peer["overhead"] is None
    low, high = peer["latency_ms"]["p50_ci95"]
    assert low < peer["latency_ms"]["p50"] < high
    assert peer["accuracy"]["exact"] == 0.96 and "by_bucket" not in peer["accuracy"]
    assert entries["llama-server@q8_0"]["reason"] == "there is no llama-server on PATH; build it"
    assert entries["mlx-lm@8bit"]["stage"] == "latency"


def test_the_schema_refuses_what_is_not_one(runs: list[Run]) -> None:
    found = report(runs)
    for change in (
        {"schema": "edgecall.peers/2"},
        {"surprise": 1},
        {"contenders": []},
        {"ratios": [found["ratios"][0] | {"ratio": 0}]},
        {"contenders": [found["contenders"][0] | {"side": "theirs"}]},
        {"contenders": [found["contenders"][-1] | {"reason": None}]},
    ):
        with pytest.raises(ValueError, match="breaks its schema"):
            validate(found | change)


def test_the_page(runs: list[Run]) -> None:
    found = report(runs)
    page = render(found, plot="peers.png")
    assert page.startswith("# seed on kiwi") and "![p50 and p95 of every contender](peers.png)" in page
    first, missing, matrix = tables(found)
    assert [row[0] for row in first.rows] == [
        "gguf-q8_0", "onnx-fp32", "llama-cpp-python@q8_0", "safetensors-fp32", "optimum@fp32", "transformers@fp32",
    ]  # fmt: skip
    by_name = {row[0]: dict(zip(first.columns, row, strict=True)) for row in first.rows}
    assert by_name["llama-cpp-python@q8_0"]["exact (95% CI)"].startswith("70.0% (60-78) (!)")
    assert by_name["transformers@fp32"]["exact (95% CI)"].startswith("96.0%")
    assert by_name["gguf-q8_0"]["times (95% CI)"] == by_name["gguf-q8_0"]["baseline"] == "-"
    assert by_name["gguf-q8_0"]["overhead"].endswith("x") and by_name["gguf-q8_0"]["passes"] == "12"
    assert missing.rows == (
        ("llama-server@q8_0", "skipped", "there is no llama-server on PATH; build it"),
        ("mlx-lm@8bit", "failed", "crashed in 'turn' (signal SIGSEGV)"),
    )
    assert matrix.columns == ("contender", "gguf-q8_0", "onnx-fp32", "safetensors-fp32")
    told = dict(zip(matrix.columns, next(row for row in matrix.rows if row[0] == "gguf-q8_0"), strict=True))
    assert told["gguf-q8_0"] == "-" and told["onnx-fp32"].startswith("0.")
    for line in (
        "- transformers@fp32: transformers generate (safetensors-fp32); without a grammar, the whole prompt computed",
        "- mlx-lm@8bit: failed in latency: crashed in 'turn' (signal SIGSEGV)",
        "- command: `bench peers seed`",
        "- 10 warm-up requests, then up to 1000 timed ones",
    ):
        assert line in page
    assert "{" not in page, "nothing left to be filled in"


def test_the_picture(runs: list[Run], tmp_path: Path) -> None:
    found = report(runs)
    assert draw(found, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes()[:4] == b"\x89PNG" and len(list(tmp_path.iterdir())) == 1
    nothing = [one | {"latency_ms": None} for one in found["contenders"]]
    assert not draw(found | {"contenders": nothing}, tmp_path / "none.png")
    assert len(tables(found | {"contenders": nothing})) >= 1


WORDS = "email report backup invoice note page photo user".split()
CASES = [
    Case(
        f"s{i}", f"find {word} scripts", {"project_path": "/p"}, "served",
        (Call("search", {"item_type": "script", "query": word}),),
    )
    for i, word in enumerate(WORDS)
] + [Case("u0", "what is the weather", {}, "no-call")]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import corpus
    from train.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus(), folder, vocab_size=768)
    return folder / "tokenizer.json"


Bench = Callable[..., Outcome]


@pytest.fixture
def run_peers(tmp_path: Path, tokenizer: Path, kiwi: Toolset, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """`run_peers(script)`: one scripted router, and the peers asked for on its artifact."""
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in CASES))

    def run(script: dict[str, Any], wanted: Wanted, **more: Any) -> Outcome:
        gold = {case.user: list(case.calls) for case in CASES}
        one = scripted.make(tmp_path / "scripted-a", tokenizer, kiwi, "a", gold, **script)
        artifacts: dict[str, Artifact | Missing] = {one.name: one, **more.pop("artifacts", {})}
        settings = Settings(
            variants=("scripted-a",), cases=file, requests=18, blocks=2, warmup=2, budget_s=600.0, threads=1,
            plugins=("tests.bench.scripted_peer",), **more,
        )  # fmt: skip
        return peers(settings, wanted, Screen(quiet=True), out=tmp_path / "out", artifacts=artifacts)

    return run


def by_name(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in outcome.report["contenders"]}


def test_the_device_is_chosen_and_who_cannot_follow_is_told(run_peers: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "parrot", replace(KINDS["parrot"], devices=("cpu", "perch")))
    outcome = run_peers({}, Wanted(("parrot", "preparing-parrot")), device="perch")
    found = by_name(outcome)
    assert found["scripted-a"]["device"] == "perch" and found["parrot@a"]["status"] == "ok"
    assert found["preparing-parrot@a"]["status"] == "skipped"
    assert found["preparing-parrot@a"]["reason"] == "it is measured on cpu alone; compare it with --device cpu"


def test_who_is_not_asked_by_default_is_listed_with_the_reason(
    run_peers: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = replace(KINDS["preparing-parrot"], unusual="it builds a nest first")
    monkeypatch.setattr(bench.peers, "PEERS", {"parrot": KINDS["parrot"], "preparing-parrot": idle})
    found = by_name(run_peers({}, Wanted()))
    assert found["parrot@a"]["status"] == "ok"
    assert found["preparing-parrot@a"]["status"] == "skipped"
    assert found["preparing-parrot@a"]["reason"].startswith("it builds a nest first; have it measured with --peers pre")


def test_a_whole_run(run_peers: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_CLOSED", str(tmp_path / "closed"))
    script = {"peer": {"wrong": 2, "delay_ms": 5}}
    outcome = run_peers(script, Wanted(("parrot", "preparing-parrot")))
    assert outcome.folder == tmp_path / "out"
    written = {path.name for path in outcome.folder.iterdir()}
    assert {"peers.json", "peers.md", "peers.png", "samples.jsonl"} <= written and "scratch" not in written
    assert validate(json.loads((outcome.folder / "peers.json").read_text()))
    found = by_name(outcome)
    assert {name: one["status"] for name, one in found.items()} == {
        "scripted-a": "ok", "parrot@a": "ok", "preparing-parrot@a": "ok",
    }  # fmt: skip
    ours, parrot = found["scripted-a"], found["parrot@a"]
    assert ours["accuracy"]["exact"] == 1.0 and ours["floor_ms"]["p50"] > 0 and ours["overhead"] is not None
    assert parrot["accuracy"]["exact"] == pytest.approx(7 / 9) and parrot["accuracy"]["missed_calls"] == 2
    assert parrot["accuracy"]["n"] == 9 and parrot["latency_ms"]["n"] == 18 and parrot["floor_ms"] is None
    assert parrot["versions"] == {"parrot": "1.0"} and parrot["threads"] == 1 and parrot["dtype"] == "words"
    assert parrot["max_new_tokens"] == ours["max_new_tokens"], "as many tokens for all"
    assert parrot["forward_passes"] > ours["forward_passes"] > 1
    assert parrot["cold_start_ms"] > 0 and parrot["warnings"] == []
    ratio = next(one for one in outcome.report["ratios"] if one["contender"] == "parrot@a")
    assert ratio["cases"] == 9 and ratio["requests"] == 18 and ratio["ratio"] > 0
    assert [len(block["order"]) for block in outcome.report["blocks"]] == [3, 3]
    rows = [json.loads(line) for line in (outcome.folder / "samples.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["run"] == "parrot@a" and row["mode"] == "grammar"]) == 9
    wrong = next(row for row in rows if row["run"] == "parrot@a" and row["case"] == "s0")
    assert wrong["calls"] == [] and wrong["output"].startswith("I do not know") and not wrong["verdict"]["exact"]
    assert (tmp_path / "closed").exists(), "a peer is closed when its worker ends"
    assert (tmp_path / "preparing-parrot-a" / "nest").exists()


@pytest.mark.parametrize(
    ("peer", "status", "stage", "reason"),
    [
        ({"crash_at": 5}, "failed", "accuracy", "crashed in 'answer' (signal SIGKILL)"),
        ({"fail_at": 5}, "failed", "accuracy", "the parrot is tired; let it rest"),
        ({"fail_at": 1}, "failed", "open", "the parrot is tired; let it rest"),
        ({"unavailable": "no perch; buy one"}, "skipped", None, "no perch; buy one"),
    ],
)
def test_a_peer_that_cannot_is_told(
    peer: dict[str, Any], status: str, stage: str | None, reason: str, run_peers: Bench
) -> None:
    outcome = run_peers({"peer": peer}, Wanted(("parrot",)))
    ours, parrot = outcome.report["contenders"]
    assert (parrot["status"], parrot["stage"]) == (status, stage) and reason in parrot["reason"]
    assert parrot["latency_ms"] is None
    assert ours["status"] == "ok" and ours["latency_ms"]["n"] == 18
    assert reason in (outcome.folder / "peers.md").read_text()


def test_a_peer_that_is_not_installed_is_told(run_peers: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PARROT", "1")
    parrot = by_name(run_peers({}, Wanted(("parrot",))))["parrot@a"]
    assert (parrot["status"], parrot["fix"]) == ("skipped", "catch one")
    assert parrot["reason"] == "there is no parrot here; catch one"


def test_a_peer_whose_own_export_fails_is_told(run_peers: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_TWIGS", "1")
    parrot = by_name(run_peers({}, Wanted(("preparing-parrot",))))["preparing-parrot@a"]
    assert (parrot["status"], parrot["stage"]) == ("failed", "export") and "no twigs for the nest" in parrot["reason"]


@pytest.mark.parametrize(
    ("missing", "status"),
    [
        (Missing("export failed: the disk is full", False), "failed"),
        (Missing("cannot be exported here: no tools; get some", True), "skipped"),
    ],
)
def test_a_peer_without_its_artifact_is_told(missing: Missing, status: str, run_peers: Bench) -> None:
    found = by_name(run_peers({}, Wanted(("parrot",)), artifacts={"scripted-a": missing}))
    assert {one["status"] for one in found.values()} == {status}
    assert found["parrot@a"]["reason"] == f"its artifact scripted-a: {missing.reason}"


def test_answers_without_an_end_are_wrong(run_peers: Bench) -> None:
    parrot = by_name(run_peers({"peer": {"endless": True}}, Wanted(("parrot",))))["parrot@a"]
    assert parrot["accuracy"]["exact"] == parrot["accuracy"]["syntax_valid"] == 0
    assert parrot["latency_ms"]["n"] == 18 and parrot["forward_passes"] == 99


def test_llama_server_in_a_whole_run(run_peers: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that knows two of the answers and reads prompts byte by byte."""
    from router.render import render_call, render_suffix

    answers = {f"{case.user}{render_suffix()}": render_call(Call("search", {"item_type": "script", "query": word}))
               for case, word in zip(CASES[:2], WORDS, strict=False)}  # fmt: skip
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    program = tmp_path / "stub"
    program.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{stub_server.__file__}" "{tmp_path / "answers.json"}" closes "$@"\n'
    )
    program.chmod(0o755)
    stand_in = replace(PEERS["llama-server"], format="scripted", quant="a")
    monkeypatch.setitem(PEERS, "llama-server", stand_in)
    found = by_name(run_peers({}, Wanted(("llama-server",), server=str(program))))
    server = found["llama-server@a"]
    assert server["status"] == "ok", server["reason"]
    assert server["accuracy"]["exact"] == pytest.approx(3 / 9), "two calls, and one request that needs none"
    assert server["latency_ms"]["n"] == 18 and server["versions"] == {"llama-server": "b7-stub"}
    assert server["warnings"] == ["its tokenizer reads 9 of 9 prompts otherwise than the router's"]
    assert server["forward_passes"] == 7 and server["grammar"]


def test_cases_that_were_only_timed_are_judged(kiwi: Toolset) -> None:
    from bench.peers import judge_timed
    from bench.run import Bench as State

    run = PeerRun(Variant("parrot", "scripted", "a", 32), label="parrot@a", peer="parrot")
    run.timed = [Timed(case.id, 1.0, None, 0, [made.GOLD]) for case in made.CASES[:4]]
    run.answers["grammar"]["c000"] = Answer("c000", [made.WRONG], [], "", None, {}, False)
    run.verdicts["grammar"]["c000"] = judge(made.CASES[0], [made.WRONG], kiwi)
    state = State(Settings(), kiwi, made.SUITE, Screen(quiet=True), [run], Path(), Path())
    judge_timed(state, run)
    assert {case: verdict.exact for case, verdict in run.verdicts["grammar"].items()} == {
        "c000": False, "c001": True, "c002": True, "c003": True,
    }  # fmt: skip


def test_the_command(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(settings: Settings, wanted: Wanted, screen: Screen, *, out: Path | None) -> Outcome:
        asked.append((settings, wanted, out))
        return Outcome(report(runs if settings.quick else runs[:7]), tmp_path)

    monkeypatch.setattr(bench.peers, "peers", run)
    (tmp_path / "peers.json").write_text("{}")
    argv = "peers m --toolset t.yaml --suite release --peers a,b --variants x --threads 2 --quick --budget 9".split()
    argv += ["--out", str(tmp_path / "new"), "--llama-server", "s", "--baseline", "x"]
    assert main(argv) == 1, "one contender failed"
    text = capsys.readouterr().out
    assert "Contenders, fastest first" in text and "Not measured" in text and "peers.json" in text
    settings, wanted, out = asked[0]
    assert (settings.model, settings.toolset, settings.suite) == ("m", "t.yaml", "release")
    assert (settings.variants, settings.threads, settings.budget_s, settings.quick) == (("x",), 2, 9.0, True)
    assert (wanted, out) == (Wanted(("a", "b"), "s", "x"), tmp_path / "new")
    assert settings.command.startswith("bench peers m --toolset t.yaml")
    assert main(["peers", "m", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["report"]["schema"] == "edgecall.peers/1" and "Written to" in captured.err
    assert asked[1][0].requests == 1000 > settings.requests
