"""`bench accuracy`: adapters and cases, figures worked out by hand, scripted models asked, a tiny one exported."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench.accuracy_cases
import bench.accuracy_run
import bench.suites
from bench.accuracy import About, Measured, build, validate
from bench.accuracy_cases import Subject, Wanted, in_order, subject, wanted
from bench.accuracy_page import calls_table, render, sets_table, tables
from bench.accuracy_plot import draw
from bench.answering import Provided
from bench.cli import main
from bench.metrics import call_shares, judge
from bench.records import Answer, Variant
from bench.stats import wilson
from bench.suites import Suite, digest
from configs import path
from export.base import Checkpoint
from router.cases import Case
from router.toolset import Call, Toolset, to_dict
from router.toolset_load import load_toolset
from runtimes.errors import UserError
from tests.bench import made, scripted
from tests.tiny import LIGHTS, corpus

MACHINE = {"os": "Linux", "cpu": "A CPU", "cores": 2, "memory_gb": 24.0, "gpu": None, "python": "3.11.7"}
ABOUT = About("models/mine", "gguf-q8_0", "release", "corpora", 500, MACHINE, "bench accuracy models/mine")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with adapters for kiwi, toolbox and a toolset that nobody knows, and one adapter elsewhere."""
    folder = tmp_path / "mine"
    for name in ("adapter-kiwi", "adapter-toolbox", "adapter-unheard"):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text("{}")
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    (tmp_path / "robot" / "adapter").mkdir(parents=True)
    (tmp_path / "robot" / "adapter" / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder in place of the shipped one: cases and recipes of tests, the suites as they are."""
    folder = tmp_path / "configs"

    def config(*parts: str) -> Path:
        return path(*parts) if parts[0] == "bench" else folder.joinpath(*parts)

    monkeypatch.setattr(bench.suites, "config", config)
    monkeypatch.setattr(bench.accuracy_cases, "config", config)
    return folder


def write_cases(path: Path, cases: list[Case]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in cases))


def test_all_adapters_are_meant_unless_some_are_named(model: Path, tmp_path: Path) -> None:
    assert [(one.name, one.adapter, one.found) for one in wanted(str(model), ())] == [
        ("kiwi", None, True), ("toolbox", None, True), ("unheard", None, True),
    ]  # fmt: skip
    named = wanted(str(model), ("toolbox", "kiwi=none", f"robot={tmp_path / 'robot'}"))
    assert [(one.name, one.adapter) for one in named] == [
        ("toolbox", None), ("kiwi", "none"), ("robot", str(tmp_path / "robot" / "adapter")),
    ]  # fmt: skip
    assert "kiwi" in [one.name for one in wanted("seed", ())]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("toolbx",), "has no adapter for 'toolbx'; it has kiwi, toolbox, unheard; did you mean 'toolbox'?"),
        (("kiwi", "kiwi=none"), "kiwi is there twice; compare two adapters of a toolset with `bench lift`"),
        (("kiwi=",), "'kiwi=' lacks a name or a folder"),
    ],
)
def test_adapters_that_cannot_be_meant(model: Path, names: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError) as raised:
        wanted(str(model), names)
    assert told in str(raised.value)


def test_a_checkpoint_has_no_adapters_of_its_own(model: Path) -> None:
    with pytest.raises(UserError, match="has no adapters of its own; name toolsets with --adapters"):
        wanted(str(model / "base"), ())
    with pytest.raises(UserError, match="no such model folder"):
        wanted(str(model / "nothing"), ())


def test_cases_are_in_one_set_each(model: Path, configs: Path) -> None:
    folder = configs / "cases" / "kiwi"
    rows = [Case(f"t{i}", f"find {i}", {}, ("easy", "hard", "no-call")[i % 3], template=f"t{i % 2}") for i in range(6)]
    write_cases(folder / "templates_test.jsonl", rows)
    write_cases(folder / "handwritten_dev.jsonl", [Case("d", "x")])
    write_cases(folder / "handwritten_test.jsonl", [Case("h", "y", bucket="hard")])
    found = subject(str(model), Wanted("kiwi"), "release", None, None)
    assert found.suite and found.sets
    assert Counter(found.sets.values()) == {"templates": 4, "hard": 2, "handwritten_dev": 1, "handwritten_test": 1}
    assert found.sets["h"] == "handwritten_test", "only templates are told apart by difficulty"
    assert found.adapter == "adapter-kiwi" and found.suite.templates["t3"] == "t1"
    assert in_order(["corpus a", "zoo", "hard", "handwritten_test", "templates"]) == [
        "templates", "hard", "handwritten_test", "zoo", "corpus a",
    ]  # fmt: skip


def test_toolsets_without_cases_have_a_reason(model: Path, configs: Path) -> None:
    unheard = subject(str(model), Wanted("unheard", found=True), "release", None, None)
    assert unheard.suite is None and unheard.reason and "unknown toolset 'unheard'" in unheard.reason
    with pytest.raises(UserError, match="unknown toolset 'unheard'"):
        subject(str(model), Wanted("unheard"), "release", None, None)
    toolbox = subject(str(model), Wanted("toolbox"), "release", None, None)
    assert toolbox.reason == "no handwritten_test.jsonl in configs/cases/toolbox, which suite 'release' needs"
    assert subject(str(model), Wanted("toolbox"), "default", None, None).reason == (
        "no cases of suite 'default' in configs/cases/toolbox"
    )
    write_cases(configs / "cases" / "toolbox" / "handwritten_test.jsonl", [Case("a", "x"), Case("a", "y")])
    with pytest.raises(UserError, match="ids must differ"):
        subject(str(model), Wanted("toolbox"), "release", None, None)


@pytest.fixture
def corpora(tmp_path: Path, configs: Path) -> Path:
    """150 requests of one intent of SNIPS, the first 100 of which are for development, and two for no tool."""
    folder = tmp_path / "corpora"
    (folder / "snips").mkdir(parents=True)
    (folder / "clinc150").mkdir()
    played = [{"data": [{"text": "play "}, {"text": f"a{n}", "entity": "artist"}]} for n in range(150)]
    (folder / "snips" / "train_PlayMusic_full.json").write_text(json.dumps({"PlayMusic": played}))
    asked: dict[str, list[list[str]]] = {
        "train": [["pay it", "pay_bill"]], "val": [["pay my bill", "pay_bill"]], "oos_train": [],
        "oos_val": [["why is the sky blue", "oos"]], "test": [], "oos_test": [],
    }  # fmt: skip
    (folder / "clinc150" / "data_full.json").write_text(json.dumps(asked))
    recipe = {
        "toolset": "assistant", "seed": 3,
        "corpora": [{"source": "snips"}, {"source": "clinc150", "no_call": True}, {"source": "snips", "no_call": True}],
    }  # fmt: skip
    (configs / "data").mkdir(parents=True)
    (configs / "data" / "assistant.yaml").write_text(json.dumps(recipe))
    return folder


def test_corpora_are_sets_by_source(model: Path, configs: Path, corpora: Path) -> None:
    one = Wanted("assistant", "none")
    found = subject(str(model), one, "release", corpora, None)
    assert found.suite and found.sets and found.adapter is None
    assert Counter(found.sets.values()) == {"corpus snips": 200, "corpus clinc150": 2}, "one source is drawn on twice"
    assert len({case.id for case in found.suite.cases}) == 202
    assert any("no handwritten_test.jsonl" in note for note in found.suite.notes)
    few = subject(str(model), one, "release", corpora, 10)
    assert few.suite and few.sets and len(few.suite.cases) == len(few.sets) == 10
    assert few.suite.cases == tuple(bench.suites.order(found.suite.cases)[:10])


def test_corpora_that_are_not_given_are_told(model: Path, configs: Path, corpora: Path) -> None:
    one = Wanted("assistant", "none")
    reason = subject(str(model), one, "release", None, None).reason
    assert reason and reason.endswith("public corpora (snips, clinc150) are left out; give their folder with --data")
    write_cases(configs / "cases" / "assistant" / "handwritten_test.jsonl", [Case("h", "y")])
    found = subject(str(model), one, "release", None, None)
    assert found.suite and [case.id for case in found.suite.cases] == ["h"]
    assert any("are left out" in note for note in found.suite.notes)
    with pytest.raises(UserError, match="snips: no such folder"):
        subject(str(model), one, "release", corpora / "snips", None)


def test_no_call_in_both_directions_by_hand(kiwi: Toolset) -> None:
    served = [Case(f"s{i}", f"find {i}", calls=(made.GOLD,)) for i in range(10)]
    unserved = [Case(f"u{i}", f"hello {i}") for i in range(8)]
    either = Case("e", "perhaps", calls=(made.GOLD,), accept=((),))
    answers: dict[str, list[Call] | None] = {case.id: [made.WRONG] for case in served}  # a call, if not the right one
    answers |= {"s0": [], "s1": None, "e": []}
    answers |= {case.id: [] for case in unserved} | {"u0": [made.GOLD], "u1": None}
    cases = [*served, either, *unserved]
    found = call_shares(cases, {case.id: judge(case, answers[case.id], kiwi) for case in cases})
    assert found["called"] == {"n": 11, "share": 9 / 11, "ci95": list(wilson(9, 11)), "ci_method": "wilson"}
    assert found["declined"] == {"n": 8, "share": 0.75, "ci95": list(wilson(6, 8)), "ci_method": "wilson"}
    assert call_shares(served, {}) == {"declined": None, "called": None}
    verdicts = {case.id: judge(case, answers[case.id], kiwi) for case in unserved}
    shared = call_shares(unserved, verdicts, {case.id: f"t{i // 2}" for i, case in enumerate(unserved)})
    assert shared["declined"]["ci_method"] == "wilson over templates" or "bootstrap" in shared["declined"]["ci_method"]
    assert shared["declined"]["ci95"] != found["declined"]["ci95"], "requests of one template count together"


def measured(toolset: Toolset, *, wrong: int = 10, free: bool = True) -> Measured:
    """Kiwi's run on `made.CASES`: 0..39 templates, of which the odd are hard, 40..59 by hand, then two corpora."""
    run = made.run(toolset, "llama_cpp", "gguf-q8_0", 8, wrong=wrong, timed=0)
    run.opened["max_new_tokens"] = 64
    sets = {}
    for i, case in enumerate(made.CASES):
        own = "hard" if i % 2 else "templates"
        sets[case.id] = own if i < 40 else "handwritten_test" if i < 60 else f"corpus {('snips', 'hwu64')[i % 2]}"
    if not free:
        run.answers["unconstrained"], run.verdicts["unconstrained"] = {}, {}
    else:  # three more are wrong without the grammar, and call nothing
        for case in made.CASES[wrong : wrong + 3]:
            run.answers["unconstrained"][case.id] = Answer(case.id, [], [], "", None, {}, False)
            run.verdicts["unconstrained"][case.id] = judge(case, [], toolset)
    one = Subject(Wanted("kiwi"), toolset, "adapter-kiwi", made.SUITE, sets)
    return Measured(one, run, {"name": "mine", "sha256": "a" * 64, "parameters": 7})


def report_of(toolset: Toolset, **how: Any) -> dict[str, Any]:
    """A report of one toolset that was measured, one without cases and one whose worker failed."""
    without = Measured(Subject(Wanted("robot"), load_toolset("robot"), None, reason="no cases of it"))
    failed = Measured(
        replace(measured(toolset).subject, toolset=load_toolset("home")), reason="crashed in 'answer'", failed=True
    )
    report = build(ABOUT, [measured(toolset, **how), without, failed])
    return json.loads(json.dumps(report))  # type: ignore[no-any-return]


def test_figures_by_hand(kiwi: Toolset) -> None:
    sets = report_of(kiwi)["toolsets"][0]["sets"]
    assert list(sets) == [
        "templates", "hard", "handwritten_test", "corpus hwu64", "corpus snips", "corpora", "all",
    ]  # fmt: skip
    assert {name: modes["grammar"]["n"] for name, modes in sets.items()} == {
        "templates": 20, "hard": 20, "handwritten_test": 20, "corpus hwu64": 20, "corpus snips": 20, "corpora": 40,
        "all": 100,
    }  # fmt: skip
    bound, free = sets["templates"]["grammar"], sets["templates"]["unconstrained"]
    assert (bound["exact"], free["exact"], bound["tool"], free["tool"]) == (0.75, 0.65, 1.0, 0.9)
    assert bound["exact_ci95"] == list(wilson(15, 20)) and bound["exact_ci_method"] == "wilson"
    assert sets["hard"]["unconstrained"]["exact"] == 0.7
    assert sets["corpora"]["grammar"]["exact"] == 1.0 and sets["all"]["grammar"]["exact"] == 0.9
    assert sets["all"]["unconstrained"]["called"]["share"] == 0.97
    assert sets["all"]["grammar"]["called"]["n"] == 100 and sets["all"]["grammar"]["declined"] is None
    assert sets["all"]["grammar"]["by_bucket"]["easy"]["n"] == 50


def test_every_toolset_is_an_entry(kiwi: Toolset) -> None:
    report = report_of(kiwi)
    assert validate(report)
    told = [(entry["toolset"], entry["status"], entry["reason"]) for entry in report["toolsets"]]
    assert told == [
        ("kiwi", "measured", None), ("robot", "not measured", "no cases of it"),
        ("home", "failed", "crashed in 'answer'"),
    ]  # fmt: skip
    first = report["toolsets"][0]
    assert first["run"]["artifact"] == "gguf-q8_0" and first["decoding"]["forced_tokens"] == 9
    assert first["decoding"]["ms_p50"] == 10.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r["toolsets"][0]["sets"]["all"]["grammar"].update(exact=1.5), "exact"),
        (lambda r: r["toolsets"][0]["sets"].pop("all"), "'all' is a required property"),
        (lambda r: r["toolsets"][1].update(reason=None), "reason"),
        (lambda r: r.update(schema="edgecall.accuracy/2"), "schema"),
        (lambda r: r["toolsets"][0].update(note="x"), "note"),
    ],
)
def test_the_schema_knows_a_wrong_report(kiwi: Toolset, change: Any, told: str) -> None:
    report = report_of(kiwi)
    change(report)
    with pytest.raises(ValueError, match=told):
        validate(report)


def test_the_page_says_it(kiwi: Toolset, tmp_path: Path) -> None:
    report = report_of(kiwi)
    page = render(report, plot="accuracy.png")
    low, high = (round(100 * x) for x in wilson(15, 20))
    assert f"| kiwi | templates | 20 | 75.0% ({low}-{high}) | 100.0% (84-100) | 65.0% (" in page
    assert "| robot | not measured | no cases of it |" in page and "| home | failed | crashed in 'answer' |" in page
    assert "- command: `bench accuracy models/mine`" in page and "at most 500 rows" in page
    assert "| kiwi | handwritten_test | easy | 10 | 100.0%" in page and "| templates | easy |" not in page
    assert "| kiwi | 12 | 9 | 11 | 12 |" in page
    assert calls_table(report).rows == (("kiwi", "0", "-", "-", "100", "100.0% (96-100)", "97.0%"),)
    assert [table.title for table in tables(report)][-1] == "Not measured"
    assert draw(report, tmp_path / "a.png") and (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert draw(report | {"toolsets": report["toolsets"][1:]}, tmp_path / "b.png") is False


def test_without_the_free_answers(kiwi: Toolset) -> None:
    report = report_of(kiwi, free=False)
    assert validate(report) and report["toolsets"][0]["sets"]["all"]["unconstrained"] is None
    assert [row[-2:] for row in sets_table(report).rows][0] == ("-", "-")
    assert calls_table(report).rows[0][-1] == "-"
    assert render(report)


WORDS = "email report backup invoice".split()
SERVED = [
    Case(f"s{n}", f"find {w} scripts", bucket=("easy", "hard")[n % 2],
         calls=(Call("search", {"item_type": "script", "query": w}),))
    for n, w in enumerate(WORDS)
]  # fmt: skip
HAND = [Case("h0", "hello there"), Case("h1", "find email scripts", calls=SERVED[0].calls)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus(), folder, vocab_size=768)
    return folder / "tokenizer.json"


@pytest.fixture
def provided(
    model: Path, configs: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, Any]]:
    """Scripted artifacts in place of exports: kiwi's gets its second request wrong; toolbox's is told what to do."""
    for name in ("kiwi", "toolbox"):
        write_cases(configs / "cases" / name / "handwritten_test.jsonl", HAND if name == "kiwi" else HAND[:1])
    write_cases(configs / "cases" / "kiwi" / "templates_test.jsonl", SERVED)
    told = {case.user: list(case.calls) for case in (*SERVED, *HAND)}
    told[SERVED[1].user] = [Call("search", {"item_type": "script", "query": "find"})]
    scripts: dict[str, dict[str, Any]] = {"kiwi": {}, "toolbox": {}}

    def provide(source: str, adapter: str | None, variant: Variant, toolset: Toolset, *rest: Any, **more: Any) -> Any:
        answers = told if toolset.name == "kiwi" else {HAND[0].user: []}
        artifact = scripted.make(tmp_path / toolset.name, tokenizer, toolset, "a", answers, **scripts[toolset.name])
        return Provided(artifact, variant, {"name": "mine", "sha256": "a" * 64, "parameters": 7})

    monkeypatch.setattr(bench.accuracy_run, "provide", provide)
    return scripts


def argv(model: Path, out: Path, *more: str) -> list[str]:
    plugin = ("--plugin", "tests.bench.scripted", "--variant", "scripted-a", "--threads", "1")
    return ["accuracy", str(model), "--out", str(out), *plugin, *more]


def test_adapters_are_asked_one_after_another(
    provided: dict[str, Any], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(argv(model, out, "--json")) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)["report"]
    assert report == json.loads((out / "report.json").read_text()) and validate(report)
    by_name = {entry["toolset"]: entry for entry in report["toolsets"]}
    assert [entry["status"] for entry in report["toolsets"]] == ["measured", "measured", "not measured"]
    kiwi = by_name["kiwi"]["sets"]
    for mode in ("grammar", "unconstrained"):
        exact = {name: (modes[mode]["n"], modes[mode]["exact"]) for name, modes in kiwi.items()}
        assert exact == {"templates": (2, 1.0), "hard": (2, 0.5), "handwritten_test": (2, 1.0), "all": (6, 5 / 6)}
        assert kiwi["all"][mode]["declined"]["share"] == kiwi["all"][mode]["called"]["share"] == 1.0
    assert by_name["toolbox"]["sets"]["all"]["grammar"]["n"] == 1
    assert "unknown toolset 'unheard'" in by_name["unheard"]["reason"] and "unheard" in told.err
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 7 and {row["toolset"] for row in rows} == {"kiwi", "toolbox"}
    wrong = [row for row in rows if not row["verdict"]["exact"]]
    assert [(row["case"], row["set"]) for row in wrong] == [("s1", "hard")] * 2
    assert sorted(path.name for path in out.iterdir()) == [
        "accuracy.md", "accuracy.png", "report.json", "samples.jsonl",
    ]  # fmt: skip
    assert main(argv(model, out)) == 2 and "is not empty" in capsys.readouterr().err


def test_a_worker_that_dies_costs_its_own_toolset_alone(
    provided: dict[str, Any], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provided["toolbox"]["crash_at"] = 3
    out = tmp_path / "out"
    assert main(argv(model, out, "--adapters", "kiwi,toolbox", "--no-free")) == 1
    report = json.loads((out / "report.json").read_text())
    assert validate(report)
    kiwi, toolbox = report["toolsets"]
    assert kiwi["sets"]["all"]["grammar"]["n"] == 6 and kiwi["sets"]["all"]["unconstrained"] is None
    assert toolbox["status"] == "failed" and "SIGKILL" in toolbox["reason"] and "logs/" not in toolbox["reason"]
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {(row["toolset"], row["mode"]) for row in rows} == {("kiwi", "grammar")}
    assert "FAILED" in capsys.readouterr().out


def test_an_interrupted_run_leaves_nothing(
    provided: dict[str, Any],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*arguments: Any, **named: Any) -> None:
        assert list(tmp_path.glob(".tmp-*/scratch")), "there is something to leave behind"
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.accuracy_run, "ask", interrupted)
    assert main(argv(model, tmp_path / "out")) == 130
    assert capsys.readouterr().err == "bench: interrupted\n"
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".tmp-*"))


def test_mistakes_are_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for more, told in (
        (("--suite", "nightly"), "--suite: unknown suite 'nightly'; there are default, release"),
        (("--adapters", "kiwy"), "did you mean 'kiwi'?"),
        (("--variant", "gguf-q8"), "did you mean 'gguf-q8_0'"),
        (("--data", str(tmp_path / "none")), "none: no such folder"),
        (("--limit", "0"), "--limit: 0 is not positive"),
        (("--adapters", f"robot={tmp_path / 'robot'}"), "nothing to measure: robot: no handwritten_test.jsonl"),
        (("--adapters", f"kiwi={tmp_path}"), "no PEFT adapter"),
        (("--adapters", f"kiwi,{path('toolsets', 'kiwi.yaml')}=none"), "kiwi is the toolset of two of them"),
    ):
        assert main(argv(model, out, *more)) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
    assert main(["accuracy", str(tmp_path / "no-model"), "--out", str(out)]) == 2
    assert "no-model: no such model folder" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("trim", [(), ("--trim-vocab", "english", "--trim-tokens", "600")], ids=["whole", "trimmed"])
def test_a_tiny_model_is_exported_and_asked(
    tiny: Checkpoint, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trim: tuple[str, ...]
) -> None:
    """The base alone on a toolset of its own, from the checkpoint to the report."""
    lights = tmp_path / "lights.json"
    lights.write_text(json.dumps(to_dict(LIGHTS)))
    gold = (Call("status", {"room": "hall"}),)
    write_cases(
        configs / "cases" / "lights" / "handwritten_test.jsonl",
        [Case("a", "what is on in the hall", calls=gold), Case("b", "sing")],
    )
    out = tmp_path / "out"
    command = [
        "accuracy", str(tiny.folder), "--adapters", f"{lights}=none", "--variant", "safetensors-fp32", "--threads", "1",
        "--cache", str(tmp_path / "cache"), "--out", str(out), "--json", *trim,
    ]  # fmt: skip
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    (entry,) = report["toolsets"]
    assert validate(report) and (entry["toolset"], entry["adapter"]) == ("lights", None)
    assert entry["run"]["artifact_sha256"] and entry["decoding"]["mean"] > 0
    model = entry["model"]
    assert model["trim"]["tokens"] == 600 and model["name"] == "tiny0-trim" if trim else model["inputs_sha256"]
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    exact = [row["verdict"]["exact"] for row in rows if row["mode"] == "grammar"]
    assert entry["sets"]["all"]["grammar"]["exact"] == sum(exact) / 2
    assert all(row["verdict"]["schema_valid"] for row in rows if row["mode"] == "grammar" and row["error"] is None)


def test_a_suite_remembers_where_its_cases_come_from(tmp_path: Path) -> None:
    write_cases(tmp_path / "a.jsonl", [Case("x", "1")])
    write_cases(tmp_path / "b.jsonl", [Case("y", "2")])
    found = bench.suites.load_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], name="mine")
    assert found.origins == {"x": "a.jsonl", "y": "b.jsonl"}
    assert found == Suite("mine", found.cases, digest(found.cases), found.files, {}, found.origins)
