"""`edgecall train card`: the committed card is what the command gives; tables; what is missing is named in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.lift import build as build_lift
from bench.report import build
from edgecall.cli import main
from export.checkpoint import Parts
from export.merge import RECORD, inputs_sha256, recorded_inputs
from router.toolset import Toolset
from runtimes.errors import UserError
from tests.bench import made
from train.card.facts import read_facts
from train.card.page import card, write_card
from train.card.prose import Prose, read_prose
from train.card.tables import LOSSES, buckets, losses, rows_by_tool, table

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / "models" / "seed"
Change = Callable[[dict[str, Any]], object]


def weights(path: Path, count: int) -> None:
    """A safetensors file of `count` zeros: 8 bytes with the header's length, the header, the data."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * count))


def edit(path: Path, change: Change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with a base of 7 weights and an adapter of 5."""
    folder = tmp_path / "router"
    base, adapter = folder / "base", folder / "adapter-kiwi"
    base.mkdir(parents=True)
    adapter.mkdir()
    (base / "config.json").write_text((SEED / "base" / "config.json").read_text())
    weights(base / "model.safetensors", 7)
    stage = {"name": "language", "steps": 1500, "learning_rate": 0.001, "text": ["utterances", "prose"], "weights": {},
             "recipes": [], "rows_per_step": 2, "row_tokens": 1280, "swap": 0.5, "seed": 3, "step": 1000,
             "validation": 2.5}  # fmt: skip
    tools = stage | {"name": "tools", "text": [], "weights": {"snips": 0.4, "recipes": 0.6}, "recipes": ["kiwi.yaml"]}
    (base / "stages.json").write_text(
        json.dumps({"sources": {"snips": 1234, "home_assistant": None}, "stages": [stage, tools]})
    )
    for name in ("tools", "language"):
        (base / f"loss-{name}.png").write_bytes(b"")
    for name in ("adapter_config.json", "training.json"):
        (adapter / name).write_text((SEED / "adapter-kiwi" / name).read_text())
    weights(adapter / "adapter_model.safetensors", 5)
    events = [{"step": 10 * n, "loss": 2.0 / n} for n in range(1, 41)]
    events += [{"step": 10 * n, "validation": abs(n - 26) / 100 + 0.5} for n in range(1, 41)]
    (adapter / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (adapter / "loss.png").write_bytes(b"")
    trained = json.loads((adapter / "training.json").read_text())
    split = {"rows": 90, "by_tool": {"search": 1070, "load": 20, "load+search": 3, "search+search": 4, "no call": 5}}
    data = {"toolset": "kiwi", "seed": 7, "corpora": ["clinc150"], "against": [{"file": "a.jsonl", "rows": 100}],
            "train": split | {"sha256": trained["data"]["sha256"]}, "dev": {"by_tool": {"search": 9}}}  # fmt: skip
    (adapter / "data.json").write_text(json.dumps(data))
    return folder


@pytest.fixture
def report(tmp_path: Path, kiwi: Toolset, model: Path) -> Path:
    """A report of eight runs that measured that model."""
    runs = made.runs(kiwi)
    trained = json.loads((model / "adapter-kiwi" / "training.json").read_text())
    known = {"name": "router", "sha256": "a" * 64, "parameters": 7}
    context = made.context(toolset_sha256=trained["toolset"]["sha256"], model=known)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(build(context, runs, runs[0])))
    return path


@pytest.fixture
def lift(tmp_path: Path, kiwi: Toolset, report: Path) -> Path:
    from tests.bench.test_lift import side

    sides = side(kiwi, "base", range(30)), side(kiwi, "tuned", range(24, 34), model="a")
    path = tmp_path / "lift.json"
    path.write_text(json.dumps(build_lift(*sides, made.SUITE, mode="grammar", command="bench lift")))
    sha = json.loads(report.read_text())["toolset_sha256"]
    edit(path, lambda d: d.update(toolset_sha256=sha))
    return path


@pytest.fixture
def accuracy(tmp_path: Path, kiwi: Toolset, report: Path) -> Path:
    """An accuracy report of that model: kiwi measured, two more toolsets without figures."""
    from tests.bench.test_accuracy import report_of

    path = tmp_path / "accuracy.json"
    found = report_of(kiwi)
    found["toolsets"][0]["toolset_sha256"] = json.loads(report.read_text())["toolset_sha256"]
    path.write_text(json.dumps(found))
    return path


def text_of(model: Path, report: Path, *lifts: Path) -> str:
    return card(read_facts(model, [report], lifts), model)


def test_the_committed_card_is_what_the_command_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    accuracy = Path("docs/bench/accuracy.json")
    facts = read_facts(
        Path("models/seed"), [Path("docs/bench/report.json")], [], accuracy if accuracy.exists() else None
    )
    written = Path("models/seed/README.md").read_text(encoding="utf-8")
    assert card(facts, Path("models/seed")) == written, "run `make docs`"


def test_the_card_of_a_base_alone() -> None:
    said = card(read_facts(SEED / "base", [], []), SEED / "base")
    front = said.split("---")[1]
    assert "library_name: transformers" in front and "lora" not in front
    assert "## How the base was trained" in said and "![Loss of the base](loss-matching.png)" in said


def test_word_vectors_that_the_base_began_with_are_named(model: Path, report: Path) -> None:
    assert "The embedding started" not in text_of(model, report)
    vectors = {"file": "glove.txt", "sha256": "abc", "words": 60_000, "dimensions": 100}
    edit(model / "base" / "stages.json", lambda d: d.update(vectors=vectors))
    said = "The embedding started from the 100-dimensional vectors of 60,000 words in `glove.txt` (sha256 `abc`)."
    assert said in text_of(model, report)


def test_which_rows_chose_the_checkpoints(model: Path, report: Path) -> None:
    assert "Checkpoints were chosen" not in text_of(model, report), "the stages do not say it"
    stages = model / "base" / "stages.json"
    edit(stages, lambda d: [stage.update(validation_rows="held_out") for stage in d["stages"]])
    assert "\nCheckpoints were chosen by rows that were withheld from training.\n" in text_of(model, report)
    edit(stages, lambda d: d["stages"][1].update(validation_rows="development"))
    said = text_of(model, report)
    assert "withheld from training (in `language`); by the corpora's development rows, of which figures are " in said
    assert "given as well (in `tools`)." in said


def test_every_section_says_what_the_files_say(model: Path, report: Path) -> None:
    (model / "card.yaml").write_text("license: apache-2.0\nlanguage: en\nabout: What it is.\nlimits: Not for pilots.\n")
    text = text_of(model, report)
    for line in (
        "# router\n\nWhat it is.",
        "| language | text: utterances, prose | 1,500 | 2 x 1,280 | 0.001 | 3 | 2.5000 (step 1,000) |",
        "| tools | snips 40%, recipes 60% (recipes: kiwi.yaml) |",
        "| 1,234 | CC0-1.0 | github.com/sonos/nlu-benchmark",
        "expanded | - | CC-BY-4.0 |",
        "language reference | - | PSF-2.0 |",
        "![Loss of the base](base/loss-language.png)\n![Loss of the base](base/loss-tools.png)",
        "![Loss of adapter-kiwi](adapter-kiwi/loss.png)",
        "| adapted | q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj: 5 weights |",
        "CC-BY-3.0",
        "coreml-fp32 (coreml): skipped, Core ML prediction needs macOS 15; run the bench on a Mac.",
        "gguf-f16 (llama_cpp): failed, crashed in 'turn' (signal SIGSEGV)",
        "- kiwi: requests of `a.jsonl` (100), compared",
        "## Limits\n\nNot for pilots.\n\n- kiwi: the last step",
        "- kiwi: weakest on bucket easy, 94.0% exact (n 50).",
    ):
        assert line in text, line
    assert "several calls was trained on" not in text, "seven such rows were"
    assert "was still falling" in text, "the committed run's best step is its last"


def test_an_adapter_that_was_trained_for_a_quantization_says_so(model: Path, report: Path) -> None:
    assert "trained under" not in text_of(model, report)
    edit(model / "adapter-kiwi" / "training.json", lambda d: d["config"].update(quantize="q4_0"))
    assert "| trained under | the rounding of GGUF's q4_0 |" in text_of(model, report)


def test_accuracy_by_bucket_has_n_and_intervals_with_and_without_the_grammar(model: Path, report: Path) -> None:
    (adapter,) = read_facts(model, [report], []).adapters
    lines = buckets(adapter).splitlines()
    run = next(r for r in adapter.report["runs"] if r["artifact"] == "gguf-q8_0")
    entry, free = run["accuracy"]["by_bucket"]["hard"], run["accuracy_unconstrained"]["by_bucket"]["hard"]
    (hard,) = [line for line in lines if line.startswith("| hard ")]
    low, high = (round(100 * x) for x in entry["exact_ci95"])
    assert hard.startswith(f"| hard | 50 | {100 * entry['exact']:.1f}% ({low}-{high}) |")
    low, high = (round(100 * x) for x in free["tool_ci95"])
    assert hard.endswith(f"| {100 * free['tool']:.1f}% ({low}-{high}) |")
    assert lines[2].startswith("| **all** | 100 | 95.0% (")


def test_a_run_has_its_latency_and_size_and_no_figure_is_made_up(model: Path, report: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        run = data["runs"][1]
        run.update(latency_ms=None, accuracy_unconstrained=None, parity=None, size_mb=None)

    edit(report, change)
    text = text_of(model, report)
    assert "| llama_cpp | gguf-f32 | 96.0% | 100.0% | - | - | - | - | - | - | - |" in text
    run = json.loads(report.read_text())["runs"][2]
    assert f"| {run['latency_ms']['p50']:.1f} | {run['latency_ms']['p95']:.1f} |" in text


def test_rows_by_tool_adds_up_requests_of_several_calls(model: Path, report: Path) -> None:
    (adapter,) = read_facts(model, [report], []).adapters
    assert rows_by_tool(adapter).splitlines()[2:] == [
        "| `load` | 20 | 0 |",
        "| `search` | 1,070 | 9 |",
        "| no call | 5 | 0 |",
        "| several calls | 7 | 0 |",
    ]


def test_losses_are_few_and_have_the_first_the_best_and_the_last(model: Path, report: Path) -> None:
    (adapter,) = read_facts(model, [report], []).adapters
    lines = losses(adapter).splitlines()[2:]
    assert 10 <= len(lines) <= LOSSES
    assert lines[0] == "| 10 | 2.0000 | 0.7500 |" and lines[-1] == "| 400 | 0.0500 | 0.6400 |"
    assert "| 260 | 0.0769 | 0.5000 |" in lines


def test_what_a_resumed_run_logged_again_counts_once(model: Path, report: Path) -> None:
    log = model / "adapter-kiwi" / "log.jsonl"
    with log.open("a") as out:
        out.write('{"step": 400, "validation": 0.1234}\n')
    (adapter,) = read_facts(model, [report], []).adapters
    assert losses(adapter).splitlines()[-1] == "| 400 | 0.0500 | 0.1234 |"


def test_cells_keep_their_columns() -> None:
    assert table(("a", "b"), [("x|y", "1\n2")]).splitlines()[2] == "| x\\|y | 1 2 |"


def test_front_matter_is_what_the_hub_reads(model: Path, report: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    (model / "card.yaml").write_text("license: mit\nlanguage: [en, de]\ntags: [tools, lora]\n")
    data = hub.ModelCard(text_of(model, report)).data
    assert (data.license, data.language, data.tags) == ("mit", ["en", "de"], ["tools", "lora"])
    assert (data.library_name, data.pipeline_tag, data.base_model) == ("peft", "text-generation", None)


@pytest.mark.parametrize(
    "named", ["google/functiongemma-270m-it", "/c/hub/models--google--functiongemma-270m-it/snapshots/39ec/"]
)
def test_an_adapter_alone_names_its_base_on_the_hub(model: Path, report: Path, named: str) -> None:
    adapter = model / "adapter-kiwi"
    (model / "base" / "config.json").unlink()
    edit(adapter / "adapter_config.json", lambda d: d.update(base_model_name_or_path=named))
    text = text_of(adapter, report)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "google/functiongemma-270m-it"
    assert "| base | `google/functiongemma-270m-it`: on the hub |" in text
    assert "## How the base was trained" not in text


def test_an_adapter_alone_finds_the_base_beside_it(model: Path, report: Path) -> None:
    text = text_of(model / "adapter-kiwi", report)
    assert "| base | `base`: `Gemma3ForCausalLM`, 7 weights, bfloat16, width 256, 8 layers, 4 query heads" in text
    assert "![Loss of the base](../router/base/" not in text and "](../base/loss-tools.png)" in text
    assert "base_model" not in yaml.safe_load(text.split("---\n")[1])


def test_the_lift_is_told_where_it_is_given(model: Path, report: Path, lift: Path) -> None:
    assert "Against the base" not in text_of(model, report)
    text = text_of(model, report, lift)
    assert "### Against the base of adapter-kiwi\n\nExact with the grammar: 70.0% to 90.0% of 100 cases" in text


@pytest.mark.parametrize(
    "path",
    ["adapter-kiwi/training.json", "adapter-kiwi/log.jsonl", "adapter-kiwi/data.json",
     "adapter-kiwi/adapter_config.json", "adapter-kiwi/adapter_model.safetensors", "base/config.json",
     "base/stages.json", "base/model.safetensors"],
)  # fmt: skip
def test_a_missing_file_is_named_in_one_line(
    model: Path, report: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / path).unlink()
    out = model / "README.md"
    out.write_text("before")
    assert main(["train", "card", str(model), "--report", str(report), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert path.replace("base/model.", "base/model*.") in error and "missing" in error
    assert out.read_text() == "before" and sorted(p.name for p in model.iterdir() if p.name.startswith(".")) == []


def test_all_that_is_missing_is_named_at_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "adapter-kiwi" / "log.jsonl").unlink()
    edit(model / "adapter-kiwi" / "training.json", lambda d: d["best"].pop("step"))
    edit(model / "base" / "stages.json", lambda d: d["stages"][1].pop("steps"))
    argv = ["train", "card", str(model), "--report", str(tmp_path / "none.json"), "--out", str(tmp_path / "card.md")]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("log.jsonl is missing", "training.json lacks 'best.step'", "lacks 'steps' in stage 1", "none.json is"):
        assert part in line, part
    assert not (tmp_path / "card.md").exists()


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("report", lambda d: d.update(toolset="home"), "no --report about toolset 'kiwi'"),
        ("report", lambda d: d.update(toolset_sha256="0" * 64), "about another kiwi than"),
        ("report", lambda d: d.update(schema="edgecall.lift/1"), "expected 'edgecall.report/1'"),
        ("report", lambda d: d["model"].update(parameters=8), "measured 8 weights"),
        ("report", lambda d: d["model"].update(trim={"form": "output"}), "with a trimmed vocabulary"),
        ("report", lambda d: d["model"].update(inputs_sha256="0" * 64), "measured other weights"),
        ("report", lambda d: d.pop("machines"), "breaks its schema"),
        ("report", lambda d: [r.update(accuracy=None) for r in d["runs"]], "no run with an accuracy"),
        ("data", lambda d: d["train"].update(sha256="0" * 64), "counts other rows"),
        ("data", lambda d: d.update(corpora=["enron"]), "names the source 'enron', of which no licence is known"),
        ("lift", lambda d: d["tuned"]["model"].update(sha256="0" * 64), "compares another model"),
        ("lift", lambda d: d.update(toolset="home"), "which no adapter here was trained for"),
    ],
)
def test_what_belongs_to_another_model_is_refused(
    model: Path, report: Path, lift: Path, file: str, change: Change, told: str
) -> None:
    edit({"report": report, "lift": lift, "data": model / "adapter-kiwi" / "data.json"}[file], change)
    with pytest.raises(UserError) as raised:
        read_facts(model, [report], [lift])
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_an_accuracy_report_stands_beside_the_other(model: Path, report: Path, accuracy: Path) -> None:
    plain = text_of(model, report)
    text = card(read_facts(model, [report], [], accuracy), model)
    assert "### Accuracy of adapter-kiwi" not in plain
    start, end = text.index("### Accuracy of adapter-kiwi"), text.index("## Never trained on")
    assert text[:start] + text[end:] == plain, "and takes nothing from it"
    section = text[start:end]
    assert "100 cases (sha256" in section and "gguf-q8_0 on llama_cpp; A CPU, 2 cores" in section
    assert "| templates | 20 | 75.0% (53-89) | 100.0% (84-100) | 65.0% (43-82) | 90.0% (70-97) |" in section
    assert "| **all** | 100 | 90.0% (" in section and "| a tool serves: a call | 100 | 100.0% (96-100) |" in section


def test_an_accuracy_report_is_enough(model: Path, accuracy: Path) -> None:
    text = card(read_facts(model, [], [], accuracy), model)
    assert "### Accuracy of adapter-kiwi" in text and "### Scores" not in text
    assert "- kiwi: weakest on bucket easy, 90.0% exact (n 50)." in text
    assert "the scores rest on" not in text
    assert main(["train", "card", str(model), "--accuracy", str(accuracy), "--out", str(model / "README.md")]) == 0
    assert (model / "README.md").read_text() == text
    with pytest.raises(UserError, match="no --report about toolset 'kiwi'"):
        read_facts(model, [], [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["toolsets"][0].update(toolset_sha256="0" * 64), "about another kiwi than"),
        (lambda d: d["toolsets"][0]["model"].update(inputs_sha256="0" * 64), "measured other weights"),
        (lambda d: d.update(schema="edgecall.report/1"), "expected 'edgecall.accuracy/1'"),
        (lambda d: d["toolsets"][0].pop("sets"), "breaks its schema"),
        (lambda d: d["toolsets"][0].update(adapter=None), "no --report about toolset 'kiwi'"),
        (lambda d: d["toolsets"].pop(0), "no --report about toolset 'kiwi'"),
    ],
)
def test_an_accuracy_report_of_another_model_is_refused(model: Path, accuracy: Path, change: Change, told: str) -> None:
    edit(accuracy, change)
    with pytest.raises(UserError) as raised:
        read_facts(model, [], [], accuracy)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_two_reports_about_one_toolset_are_refused(model: Path, report: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    again.write_text(report.read_text())
    with pytest.raises(UserError, match="are both about kiwi: give one"):
        read_facts(model, [report, again], [])


def test_a_broken_line_of_the_log_is_named(model: Path, report: Path) -> None:
    log = model / "adapter-kiwi" / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    with pytest.raises(UserError, match=r"log\.jsonl:2 is no event"):
        read_facts(model, [report], [])
    log.write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(UserError, match="has no validation loss"):
        read_facts(model, [report], [])


def test_a_report_of_the_same_weights_is_told_by_what_was_merged(model: Path, report: Path, tmp_path: Path) -> None:
    parts = Parts("router", model / "base", model / "adapter-kiwi")
    (tmp_path / RECORD).write_text(json.dumps({"key": inputs_sha256(parts)}))
    found = recorded_inputs(tmp_path)
    edit(report, lambda d: d["model"].update(inputs_sha256=found))
    read_facts(model, [report], [])
    weights(model / "adapter-kiwi" / "adapter_model.safetensors", 6)
    with pytest.raises(UserError, match="measured other weights"):
        read_facts(model, [report], [])
    assert recorded_inputs(tmp_path / "nowhere") is None


def test_the_card_is_written_where_it_is_asked_for(model: Path, report: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "card.md"
    assert write_card(model, [report], [], out) == out
    assert "](../router/base/loss-tools.png)" in out.read_text()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("licence: mit", "unknown key 'licence'; did you mean 'license'?"),
        ("language: [no]", "'language' must be a list of texts; put quotes"),
        ("limits: 3", "'limits' must be a text"),
        ("- a", "a mapping is expected"),
        ("a: [", "cannot read it"),
    ],
)
def test_card_yaml_is_checked(tmp_path: Path, text: str, told: str) -> None:
    assert read_prose(tmp_path) == Prose()
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        read_prose(tmp_path)
    assert told in str(raised.value)
