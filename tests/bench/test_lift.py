"""`bench lift`: figures worked out by hand, reports compared case by case, scripted models run and compared."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.answering import plain
from bench.cli import main
from bench.lift import build, compare, difference_interval, newcombe, validate
from bench.lift_page import render
from bench.lift_sides import Side, from_report, from_run
from bench.metrics import judge
from bench.records import MODES, Answer
from bench.report import build as build_bench
from bench.report import samples
from bench.stats import mcnemar, wilson
from bench.suites import Suite, digest
from export.base import Checkpoint
from router.cases import Case
from router.toolset import Call, Toolset
from runtimes.errors import UserError
from tests.bench import made, scripted

WORDS = "email report backup invoice note page photo user".split()
MACHINE = {"os": "Linux", "cpu": "A CPU", "cores": 2, "memory_gb": 24.0, "gpu": None, "python": "3.11.7"}


def side(toolset: Toolset, label: Any, wrong: Sequence[int], suite: Suite = made.SUITE, model: str = "a") -> Side:
    """A side that got these cases of `made.CASES` wrong: odd numbers by another tool, even ones by an argument."""
    run = made.run(toolset, "llama_cpp", "gguf-q8_0", 8, timed=0)
    answers = {i: [Call("search_all", {})] if i % 2 else [made.WRONG] for i in wrong}
    for mode in MODES:
        for i, calls in answers.items():
            case = made.CASES[i]
            run.answers[mode][case.id] = Answer(case.id, calls, [], "", None, {}, False)
            run.verdicts[mode][case.id] = judge(case, calls, toolset)
    return from_run(label, f"models/{label}", run, {"name": label, "sha256": model * 64}, MACHINE, suite, toolset)


@pytest.fixture
def pair(kiwi: Toolset) -> tuple[Side, Side]:
    """Of 100 cases base gets 0..29 wrong, tuned 24..33: 24 are won, 4 lost."""
    return side(kiwi, "base", range(30)), side(kiwi, "tuned", range(24, 34), model="b")


def test_newcombe_by_a_published_example() -> None:
    # Fagerland, Lydersen and Laake (2014), airway hyper-responsiveness: 1, 1, 7, 12 give -0.507 to -0.026.
    assert newcombe(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_newcombe_by_hand() -> None:
    # Without any pair in common phi's product is 0 only where a margin is; here 0 right against 0: both are Wilson's.
    low, high = newcombe(0, 0, 0, 10)
    assert (low, high) == pytest.approx((-wilson(0, 10)[1], wilson(0, 10)[1]))
    assert newcombe(0, 0, 0, 0) == (-1.0, 1.0)
    low, high = newcombe(20, 9, 3, 8)
    assert newcombe(20, 3, 9, 8) == pytest.approx((-high, -low)), "the other way round it is mirrored"


def test_newcombe_covers_the_true_difference() -> None:
    rng = random.Random(3)
    hits = 0
    for _ in range(400):
        counts = [0, 0, 0, 0]
        for pick in rng.choices(range(4), weights=(0.5, 0.25, 0.1, 0.15), k=60):
            counts[pick] += 1
        low, high = newcombe(*counts)
        hits += low <= 0.15 <= high
    assert 0.92 <= hits / 400 <= 0.985


def test_shared_templates_widen_the_difference() -> None:
    # Ten templates of ten cases; four are won whole, one is lost whole.
    base = [group == 9 for group in range(10) for _ in range(10)]
    tuned = [group < 4 for group in range(10) for _ in range(10)]
    templates = [group for group in range(10) for _ in range(10)]
    (low, high), method = difference_interval(base, tuned, templates)
    (alone_low, alone_high), alone = difference_interval(base, tuned, list(range(100)))
    assert (method, alone) == ("bootstrap by template", "newcombe")
    assert high - low > 2 * (alone_high - alone_low)
    assert low < 0.3 < high
    assert difference_interval(base, tuned, templates)[0] == (low, high), "seeded"


def test_templates_that_agree_are_counted() -> None:
    found = difference_interval([False] * 20, [True] * 20, [i // 4 for i in range(20)])
    assert found[1] == "newcombe over templates"
    assert found[0] == pytest.approx(newcombe(0, 5, 0, 0))


def test_figures_by_hand(pair: tuple[Side, Side]) -> None:
    found = compare(*pair, made.SUITE, "grammar")
    assert found is not None
    exact, tool = found["overall"]["exact"], found["overall"]["tool"]
    assert found["overall"]["n"] == 100
    assert (exact["base"]["share"], exact["tuned"]["share"]) == (0.70, 0.90)
    assert exact["base"]["ci95"] == list(wilson(70, 100)) and exact["tuned"]["ci95"] == list(wilson(90, 100))
    assert (exact["won"], exact["lost"]) == (24, 4) and exact["difference"] == pytest.approx(0.20)
    assert exact["p"] == mcnemar(24, 4) and exact["p"] == pytest.approx(0.000180, abs=2e-6)
    assert exact["difference_ci95"] == list(newcombe(66, 24, 4, 6))
    # Only odd numbers have another tool: base 15 wrong, tuned 5 (25, 27, 29 wrong in both).
    assert (tool["base"]["share"], tool["tuned"]["share"], tool["won"], tool["lost"]) == (0.85, 0.95, 12, 2)


def test_buckets_add_up(pair: tuple[Side, Side]) -> None:
    found = compare(*pair, made.SUITE, "grammar")
    assert found is not None
    easy, hard = found["by_bucket"]["easy"], found["by_bucket"]["hard"]
    assert (easy["n"], hard["n"]) == (50, 50)
    assert easy["exact"]["won"] == hard["exact"]["won"] == 12 and easy["exact"]["lost"] == hard["exact"]["lost"] == 2
    assert (easy["tool"]["won"], hard["tool"]["won"]) == (0, 12)
    assert easy["tool"]["p"] == 1.0 and easy["tool"]["difference"] == 0.0


def test_won_and_lost_cases_are_named(pair: tuple[Side, Side]) -> None:
    found = compare(*pair, made.SUITE, "grammar")
    assert found is not None
    assert [entry["case"] for entry in found["exact"]["won"]] == [f"c{i:03}" for i in range(24)]
    assert [entry["case"] for entry in found["exact"]["lost"]] == ["c030", "c031", "c032", "c033"]
    assert [entry["case"] for entry in found["tool"]["lost"]] == ["c031", "c033"]
    lost = found["exact"]["lost"][0]
    assert lost["user"] == "find email scripts 30" and lost["bucket"] == "easy"
    assert lost["base"] == lost["gold"] == [made.GOLD.to_dict()] and lost["tuned"] == [made.WRONG.to_dict()]


def test_only_common_cases_count(pair: tuple[Side, Side]) -> None:
    base, tuned = pair
    for case in ("c000", "c099"):  # one won, one right in both
        del tuned.answers["grammar"][case]
    report = build(base, tuned, made.SUITE, mode="grammar")
    overall = report["modes"]["grammar"]["overall"]
    assert overall["n"] == 98 and overall["exact"]["won"] == 23
    assert overall["exact"]["base"]["share"] == pytest.approx(69 / 98)
    assert report["modes"]["unconstrained"]["overall"]["n"] == 100
    assert any("98 of 100 cases" in note for note in report["notes"])


def test_templates_reach_the_intervals(kiwi: Toolset) -> None:
    templates = {case.id: f"t{i // 10}" for i, case in enumerate(made.CASES)}
    suite = Suite("default", made.CASES, digest(made.CASES), ("a.jsonl",), templates)
    found = compare(side(kiwi, "base", range(30), suite), side(kiwi, "tuned", (), suite), suite, "grammar")
    assert found is not None
    assert found["overall"]["exact"]["difference_ci_method"] == "bootstrap by template"
    assert found["overall"]["exact"]["base"]["ci_method"] == "bootstrap by template"


def test_other_cases_or_tools_are_refused(kiwi: Toolset, pair: tuple[Side, Side]) -> None:
    fewer = Suite("other", made.CASES[:99], digest(made.CASES[:99]))
    with pytest.raises(UserError, match="answered different cases"):
        build(pair[0], Side(**(vars(pair[1]) | {"suite": fewer.describe()})), None, mode="grammar")
    with pytest.raises(UserError, match="different toolsets"):
        build(pair[0], Side(**(vars(pair[1]) | {"toolset_sha256": "0" * 64})), None, mode="grammar")


def test_what_a_reader_must_know_is_noted(kiwi: Toolset, pair: tuple[Side, Side]) -> None:
    assert build(*pair, made.SUITE, mode="grammar")["notes"] == []
    same = build(pair[0], side(kiwi, "tuned", ()), None, mode="grammar")["notes"]
    assert any("same weights" in note for note in same) and any("not at hand" in note for note in same)
    other = Side(**(vars(pair[1]) | {"run": pair[1].run | {"artifact": "gguf-q4_0"}}))
    assert any("gguf-q8_0, gguf-q4_0" in note for note in build(pair[0], other, made.SUITE, mode="grammar")["notes"])


def test_the_schema_knows_a_wrong_report(pair: tuple[Side, Side]) -> None:
    report = build(*pair, made.SUITE, mode="grammar")
    assert validate(report)
    report["modes"]["grammar"]["overall"]["exact"]["p"] = 1.5
    with pytest.raises(ValueError, match=r"modes\.grammar\.overall\.exact\.p"):
        validate(report)


def test_the_page_says_it(pair: tuple[Side, Side]) -> None:
    page = render(build(*pair, made.SUITE, mode="grammar"), plot="lift.png")
    low, high = newcombe(66, 24, 4, 6)
    assert f"Exact with the grammar: 70.0% to 90.0% of 100 cases, +20.0 ({100 * low:+.1f} to {100 * high:+.1f})" in page
    assert "| all cases | 100 | 70.0% (60-78) | 90.0% (83-94) | +20.0" in page
    # Odd numbers' other tool lacks a required parameter.
    form = page[page.index("Form, base to tuned, with the grammar") :]
    assert "| all cases | 100 | 100.0% to 100.0% | 85.0% to 95.0%, p = 0.013 | 100.0% to 100.0% |" in form
    assert "## Won: 24 cases" in page and "and 4 more in report.json" in page
    assert "- `c033` (hard) 'find email scripts 33'" in page
    assert page.index("with the grammar\n") < page.index("without the grammar\n")


def written(folder: Path, toolset: Toolset, **wrong: int) -> Path:
    """A finished bench: its report and the answers beside it, variants by name with that many cases wrong."""
    runs = [made.run(toolset, "llama_cpp", name.replace("__", "-"), 8, wrong=n, timed=20) for name, n in wrong.items()]
    folder.mkdir()
    context = made.context(toolset_sha256=toolset.sha256)
    (folder / "report.json").write_text(json.dumps(build_bench(context, runs, None)))
    lines = "".join(json.dumps(line) + "\n" for line in samples(runs, made.SUITE))
    (folder / "samples.jsonl").write_text(lines)
    return folder


def test_two_reports(kiwi: Toolset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(tmp_path / "before", kiwi, gguf__q8_0=30, gguf__f32=7)
    after = written(tmp_path / "after", kiwi, gguf__q8_0=10, gguf__f32=9)
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in made.CASES))
    out = tmp_path / "out"
    argv = ["lift", "--base", str(before), "--tuned", str(after / "report.json"), "--cases", str(cases)]
    assert main([*argv, "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert json.loads(captured.out)["report"] == report and "70.0% to 90.0%" in captured.err
    assert validate(report)
    exact = report["modes"]["grammar"]["overall"]["exact"]
    assert (exact["won"], exact["lost"], exact["base"]["share"]) == (20, 0, 0.7)
    assert report["modes"]["grammar"]["exact"]["won"][0]["user"] == "find email scripts 10"
    assert sorted(path.name for path in out.iterdir()) == [
        "lift.csv", "lift.md", "lift.png", "report.json", "samples.jsonl",
    ]  # fmt: skip
    assert (out / "lift.png").read_bytes().startswith(b"\x89PNG")
    with (out / "lift.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2 * 3 * 5, "modes, all cases and two buckets, metrics"
    assert {row["metric"] for row in rows} == {"exact", "tool", "schema_valid", "syntax_valid", "no_call"}
    total = next(row for row in rows if (row["mode"], row["scope"], row["metric"]) == ("grammar", "overall", "exact"))
    assert (total["bucket"], total["n"], total["won"], total["lost"]) == ("", "100", "20", "0")
    assert float(total["difference"]) == pytest.approx(0.2)
    assert [float(total["difference_low"]), float(total["difference_high"])] == pytest.approx(
        exact["difference_ci95"], abs=1e-6
    )
    assert main([*argv, "--out", str(tmp_path / "f32"), "--variant", "gguf-f32"]) == 0
    other = json.loads((tmp_path / "f32" / "report.json").read_text())
    assert (other["modes"]["grammar"]["overall"]["exact"]["lost"], other["tuned"]["run"]["artifact"]) == (2, "gguf-f32")


def test_reports_without_their_cases(kiwi: Toolset, tmp_path: Path) -> None:
    before, after = written(tmp_path / "a", kiwi, gguf__f16=3), written(tmp_path / "b", kiwi, gguf__f16=1)
    assert main(["lift", "--base", str(before), "--tuned", str(after), "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["base"]["run"]["artifact"] == "gguf-f16", "the only one there is"
    assert report["modes"]["grammar"]["exact"]["won"][0]["user"] is None
    assert any("not at hand" in note for note in report["notes"])


Breaking = Callable[[Path], None]


def _drop_a_line(folder: Path) -> None:
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[1:]))


def _turn_a_verdict(folder: Path) -> None:
    text = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text(text.replace('"exact": true', '"exact": false', 1))


def _garble(folder: Path) -> None:
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join([lines[0], "{half\n", *lines[1:]]))


@pytest.mark.parametrize(
    ("breaking", "expected"),
    [
        (_drop_a_line, "99 answers of gguf-q8_0 (grammar) that do not make the figures of report.json"),
        (_turn_a_verdict, "do not make the figures of report.json"),
        (_garble, "samples.jsonl:2: not an answer as a bench writes it"),
        (lambda folder: (folder / "report.json").write_text("{}"), "not a report of `bench all-runtimes`"),
        (lambda folder: (folder / "report.json").write_text("{"), "not readable as a report"),
    ],
)
def test_broken_reports_are_one_line(
    breaking: Breaking, expected: str, kiwi: Toolset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = written(tmp_path / "a", kiwi, gguf__q8_0=3), written(tmp_path / "b", kiwi, gguf__q8_0=1)
    breaking(broken)
    argv = ["lift", "--base", str(whole), "--tuned", str(broken), "--out", str(tmp_path / "out")]
    _one_line(argv, expected, capsys)
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line(kiwi: Toolset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = written(tmp_path / "report", kiwi, gguf__q8_0=3)
    out = ["--out", str(tmp_path / "out")]
    both = ["lift", "--base", str(report), "--tuned", str(report), *out]
    _one_line(["lift", "--base", "seed", *out], "required: --tuned", capsys)
    _one_line([*both, "--variant", "gguf-f32"], "has no run 'gguf-f32'; there are gguf-q8_0", capsys)
    _one_line([*both, "--base-adapter", "none"], "is a report, whose weights are settled", capsys)
    _one_line([*both, "--suite", "default"], "answered 100 cases of default", capsys)
    _one_line([*both, "--cases", "none.jsonl"], "none.jsonl: no such case file", capsys)
    _one_line([*both[:-1], str(report)], "is not empty", capsys)
    models = ["lift", "--base", str(tmp_path / "nothing"), "--tuned", "seed", "--cache", str(tmp_path / "cache"), *out]
    _one_line([*models, "--variant", "gguf-q8"], "did you mean 'gguf-q8_0'", capsys)
    _one_line([*models, "--runtime", "lama_cpp"], "did you mean 'llama_cpp'", capsys)
    _one_line([*models, "--variant", "safetensors-fp32"], "nothing: no such model folder", capsys)
    (report / "samples.jsonl").unlink()
    file = str(report / "report.json")
    _one_line(["lift", "--base", file, "--tuned", file, *out], "samples.jsonl: missing", capsys)
    assert not (tmp_path / "out").exists()


def _one_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import corpus
    from train.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus(), folder, vocab_size=768)
    return folder / "tokenizer.json"


def _scripted(folder: Path, tokenizer: Path, toolset: Toolset, wrong: set[int], **script: Any) -> Path:
    """An artifact that answers `_cases` but for the wrong ones, which it answers with another word."""
    told = {
        case.user: [Call("search", {"item_type": "script", "query": "find"})] if i in wrong else list(case.calls)
        for i, case in enumerate(_cases())
    }
    scripted.make(folder, tokenizer, toolset, "a", told, **script)
    return folder


def _cases() -> list[Case]:
    gold = [(Call("search", {"item_type": "script", "query": word}),) for word in WORDS]
    return [Case(f"s{i}", f"find {word} scripts", {}, "served", gold[i]) for i, word in enumerate(WORDS)]


def test_two_artifacts_are_run(
    tokenizer: Path, kiwi: Toolset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = _scripted(tmp_path / "one", tokenizer, kiwi, {0, 1, 2, 3, 4})
    tuned = _scripted(tmp_path / "two", tokenizer, kiwi, {4, 5})
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in _cases()))
    argv = ["lift", "--base", str(base), "--cases", str(cases), "--plugin", "tests.bench.scripted", "--threads", "1"]
    out = tmp_path / "out"
    assert main([*argv, "--tuned", str(tuned), "--no-grammar", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert validate(report) and report["mode"] == "unconstrained"
    for mode in ("grammar", "unconstrained"):
        assert [entry["case"] for entry in report["modes"][mode]["exact"]["won"]] == ["s0", "s1", "s2", "s3"]
        assert [entry["case"] for entry in report["modes"][mode]["exact"]["lost"]] == ["s5"]
        assert report["modes"][mode]["overall"]["tool"]["difference"] == 0.0
    assert report["base"]["run"]["runtime"] == "scripted" and report["base"]["run"]["device"] == "cpu"
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert sorted({(row["run"], row["mode"]) for row in rows}) == [
        (run, mode) for run in ("base", "tuned") for mode in ("grammar", "unconstrained")
    ]
    assert "Exact without the grammar: 37.5% to 75.0%" in (out / "lift.md").read_text()
    assert "37.5% to 75.0%" in capsys.readouterr().out

    crashing = _scripted(tmp_path / "three", tokenizer, kiwi, set(), crash_at=12)
    assert main([*argv, "--tuned", str(crashing), "--out", str(tmp_path / "crash")]) == 2
    error = capsys.readouterr().err
    assert "SIGKILL" in error and "the script says: crash" in error and error.count("\n") == 1
    assert not (tmp_path / "crash").exists()


def test_a_report_and_an_artifact(tokenizer: Path, kiwi: Toolset, tmp_path: Path) -> None:
    report = written(tmp_path / "report", kiwi, gguf__q8_0=30)
    # Another word of the request: 'query' is copied, so the grammar allows no other.
    wrong = Call("search", {"item_type": "script", "query": "find"})
    told = {case.user: [wrong] if i in (0, 40) else [made.GOLD] for i, case in enumerate(made.CASES)}
    artifact = scripted.make(tmp_path / "artifact", tokenizer, kiwi, "a", told)
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in made.CASES))
    argv = [
        "lift", "--base", str(report), "--tuned", str(artifact.folder), "--plugin", "tests.bench.scripted", "--threads",
        "1", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(argv) == 2, "the report's suite is not the one that is here"
    assert main([*argv, "--cases", str(cases)]) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    exact = found["modes"]["grammar"]["overall"]["exact"]
    assert (exact["won"], exact["lost"]) == (29, 1) and exact["difference"] == pytest.approx(0.28)
    assert found["modes"]["grammar"]["exact"]["lost"][0]["case"] == "c040"
    assert any("gguf-q8_0, scripted-a" in note for note in found["notes"])


def test_an_artifact_of_other_tools(
    tokenizer: Path, kiwi: Toolset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = str(_scripted(tmp_path / "one", tokenizer, kiwi, set()))
    argv = ["lift", "--base", artifact, "--tuned", artifact, "--toolset", "toolbox", "--out", str(tmp_path / "out")]
    _one_line(argv, "made with toolset kiwi", capsys)


@pytest.mark.slow
def test_a_base_and_its_adapter(
    tiny: Checkpoint, kiwi: Toolset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base alone against an adapter that changes it, both exported here, and then a report against the model."""
    from peft import LoraConfig, get_peft_model
    from transformers import Gemma3ForCausalLM

    net = get_peft_model(
        Gemma3ForCausalLM.from_pretrained(tiny.folder), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    )
    import torch

    torch.manual_seed(0)
    for name, weights in net.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights.data, std=0.5)
    adapter = tmp_path / "adapter"
    net.save_pretrained(adapter)
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in _cases()[:3]))
    common = [
        "--cases", str(cases), "--cache", str(tmp_path / "cache"), "--variant", "safetensors-fp32", "--threads", "1",
    ]  # fmt: skip
    argv = ["lift", "--base", str(tiny.folder), "--tuned", str(tiny.folder), "--tuned-adapter", str(adapter), *common]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert validate(report) and report["modes"]["grammar"]["overall"]["n"] == 3
    assert report["base"]["model"]["sha256"] != report["tuned"]["model"]["sha256"]
    assert report["base"]["run"]["artifact"] == report["tuned"]["run"]["artifact"] == "safetensors-fp32"
    assert not any("same weights" in note for note in report["notes"])


def test_a_failure_does_not_point_at_a_log_that_is_gone() -> None:
    assert plain("crashed in 'answer' (exit code 1); see logs/base.log: Killed") == (
        "crashed in 'answer' (exit code 1); its last line: Killed"
    )
    assert plain("hung in 'open': it was ended; see logs/tuned.log") == "hung in 'open': it was ended"


def test_a_report_with_several_runs_asks_which(kiwi: Toolset, tmp_path: Path) -> None:
    folder = written(tmp_path / "a", kiwi, gguf__q8_0=3, gguf__f32=1)
    with pytest.raises(UserError, match="there are gguf-q8_0, gguf-f32: choose with --variant"):
        from_report("base", folder)
    assert from_report("base", folder, "gguf-f32").run["artifact"] == "gguf-f32"
