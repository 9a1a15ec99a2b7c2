"""`bench shape`: shapes and their random weights, and whole runs over scripted routers and peers."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench.shape
import bench.shape_checkpoint as checkpoints
from bench.cli import main
from bench.peers import PeerRun
from bench.records import Run, Settings, Variant
from bench.run import Outcome
from bench.screen import Screen
from bench.shape import Asked, TrimmedRun, chosen, shape
from bench.shape_checkpoint import make, tensors
from bench.shape_making import Machine
from bench.shape_page import render, tables
from bench.shape_report import validate
from bench.shapes import PRESETS, Shape, changed, of_config, preset
from bench.variants import Missing
from configs import path as config
from export.base import Checkpoint
from export.checkpoint import count_parameters
from router.cases import load_cases
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from runtimes import runtime
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from tests.bench import scripted

SEED = Path(__file__).parents[2] / "models" / "seed" / "base"
TINY = changed(preset("tiny"), {"layers": 2, "hidden": 32, "intermediate": 32, "head_dim": 16})


def test_shapes_have_the_parameters_that_they_are_known_for() -> None:
    assert PRESETS["functiongemma-270m"].parameters == 268_098_176
    assert PRESETS["seed-9m"].parameters == count_parameters(SEED)
    assert of_config(json.loads((SEED / "config.json").read_text()), "seed") == Shape(
        **{**vars(PRESETS["seed-9m"]), "name": "seed"}
    )


def test_every_shape_has_rows_for_the_default_tokenizer() -> None:
    entries = RouterTokenizer.load(SEED / "tokenizer.json").vocab_size
    assert {name: shape.vocab for name, shape in PRESETS.items() if shape.vocab < entries} == {}


def test_sizes_can_be_changed() -> None:
    new = changed(preset("functiongemma-270m"), {"layers": 6, "kv_heads": 2, "vocab": None, "hidden": 640})
    assert new.name == "functiongemma-270m-layers6-kvheads2" and (new.layers, new.kv_heads, new.hidden) == (6, 2, 640)
    assert changed(new, {}) == new


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"layers": 0}, "--layers: 0 is too small; give 1 or more"),
        ({"heads": 3, "kv_heads": 2}, "--heads 3: is no multiple of the 2 of --kv-heads"),
        ({"head_dim": 31}, "--head-dim 31: is odd"),
        ({"seed": -1}, "--weights-seed: -1 is too small; give 0 or more"),
    ],
)
def test_sizes_that_make_no_network(values: dict[str, int | None], told: str) -> None:
    with pytest.raises(UserError, match=told):
        changed(preset("tiny"), values)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make(TINY, None, tmp_path_factory.mktemp("shapes"))


def test_random_weights_are_a_checkpoint(drawn: Checkpoint) -> None:
    import torch
    from transformers import Gemma3ForCausalLM

    assert count_parameters(drawn.folder) == TINY.parameters == sum(int(np.prod(s)) for s in tensors(TINY).values())
    kinds = ["sliding_attention" if TINY.is_local(layer) else "full_attention" for layer in range(TINY.layers)]
    assert drawn.vocab_size == TINY.vocab and drawn.config["layer_types"] == kinds
    net, info = Gemma3ForCausalLM.from_pretrained(drawn.folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), "every weight is there, and no other"
    with torch.inference_mode():
        logits = net(torch.tensor([[2, *range(40, 140)]])).logits
    assert logits.isfinite().all() and 1 < logits.std(dim=-1).mean() < 20
    tokenizer = RouterTokenizer.load(drawn.folder / "tokenizer.json")
    assert tokenizer.vocab_size == RouterTokenizer.load(SEED / "tokenizer.json").vocab_size


def test_a_shape_is_drawn_once(drawn: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    again = make(TINY, None, drawn.folder.parent, progress=said.append)
    assert (again, said) == (drawn, [])
    weights = drawn.folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\0\0")
    assert make(TINY, None, drawn.folder.parent, progress=said.append).sha256 == drawn.sha256 and len(said) == 1
    assert weights.read_bytes() == whole, "the same seed draws the same"
    other = make(changed(TINY, {"seed": 1}), None, drawn.folder.parent)
    assert other.folder != drawn.folder and other.sha256 != drawn.sha256


def test_a_disk_without_room_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(UserError, match="no room for a checkpoint of") as caught:
        make(TINY, None, tmp_path / "work")
    assert "\n" not in str(caught.value) and list((tmp_path / "work").iterdir()) == []


def test_another_tokenizer(tmp_path: Path) -> None:
    """Compressed, and with an added token behind the last row, as Gemma's has one for images."""
    spec = json.loads((SEED / "tokenizer.json").read_text())
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": TINY.vocab, "content": "<image>"})
    file = tmp_path / "tokenizer.json.gz"
    file.write_bytes(gzip.compress(json.dumps(spec).encode()))
    made = make(TINY, file, tmp_path / "work")
    tokenizer = RouterTokenizer.load(made.folder / "tokenizer.json")
    assert tokenizer.vocabulary.find("<image>") is None and tokenizer.vocab_size <= made.vocab_size
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(made.folder, local_files_only=True)
    assert theirs("find scripts", add_special_tokens=False)["input_ids"] == tokenizer.encode_text("find scripts")
    assert theirs.eos_token == "<eos>"


@pytest.mark.parametrize(
    ("text", "vocab", "told"),
    [
        ("{", 10_240, "not readable as a tokenizer.json"),
        ("[]", 10_240, "not a tokenizer.json with a vocabulary of pieces"),
        (None, 100, "has 10240 entries; give as many or more"),
    ],
)
def test_tokenizers_that_do_not_do(text: str | None, vocab: int, told: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text((SEED / "tokenizer.json").read_text() if text is None else text)
    with pytest.raises(UserError, match=told):
        make(changed(TINY, {"vocab": vocab}), file, tmp_path / "work")
    if text is None:
        with pytest.raises(UserError, match="the seed's tokenizer has 10240 entries"):
            make(changed(TINY, {"vocab": vocab}), None, tmp_path / "work")


def test_what_is_measured() -> None:
    runs = chosen(Settings(variants=("gguf-q8_0", "onnx-int8")), Asked(TINY, trim_tokens=2000, peers=()))
    assert [run.name for run in runs] == [
        "gguf-q8_0", "onnx-int8", "gguf-q8_0@2000", "onnx-int8@2000", "transformers@fp32",
        "llama-cpp-python-naive@q8_0", "llama-cpp-python@q8_0",
    ]  # fmt: skip
    assert [run.worker for run in runs if not isinstance(run, PeerRun)] == ["bench.forced_worker"] * 4
    usual = [run.name for run in chosen(Settings(runtimes=("torch", "llama_cpp", "onnxruntime")), Asked(TINY))]
    assert usual == ["safetensors-fp32", "gguf-f32", "gguf-q8_0", "onnx-fp32", "onnx-int8"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["shape"], "the following arguments are required: --shape"),
        (["shape", "--shape", "functiongemma-270"], "did you mean 'functiongemma-270m'?"),
        (["shape", "--shape", "tiny", "--layers", "-1"], "--layers: -1 is too small; give 1 or more"),
        (
            ["shape", "--shape", "tiny", "--trim-tokens", "10240"],
            "--trim-tokens 10240: the shape has 10240; give fewer",
        ),
        (
            ["shape", "--shape", "tiny", "--trim-tokens", "1"],
            "--trim-tokens 1: toolset kiwi and the calls need ",
        ),
        (["shape", "--shape", "tiny", "--vocab", "10"], "--vocab 10: the seed's tokenizer has 10240 entries"),
        (["shape", "--shape", "tiny", "--context", "10"], "--context 10: case "),
        (["shape", "--shape", "tiny", "--context", "480"], "--context 480: case "),
        (["shape", "--shape", "tiny", "--tokenizer", "none.json"], "--tokenizer none.json: no such file"),
        (["shape", "--shape", "tiny", "--toolset", "home"], "--toolset home: the fixed calls are kiwi's"),
        (["shape", "--shape", "tiny", "--toolset", "kiwy"], "unknown toolset 'kiwy'"),
        (["shape", "--shape", "tiny", "--cases", "none.jsonl"], "none.jsonl: no such case file"),
        (["shape", "--shape", "tiny", "--peers", "lama"], "--peers: unknown peer 'lama'"),
        (["shape", "--shape", "tiny", "--variants", "gguf-q8"], "did you mean 'gguf-q8_0'?"),
        (["shape", "--shape", "tiny", "--threads", "0"], "--threads: 0 is not a number of threads"),
        (["shape", "--shape", "tiny", "--out", "full"], "full: is not empty"),
        (["shape", "--shape", "tiny", "--plugin", "not_there"], "--plugin not_there: there is no such module"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], told: str, refused: Callable[[list[str], str], None]) -> None:
    refused(argv, told)


Measure = Callable[..., Outcome]
MACHINE = Machine({10**6: 2e10, 10**9: 1e10}, {"fp32": 1e11, "int8": None}, {"bandwidth": "by hand"}, 0.5)


def test_bandwidth_of_what_fits_a_cache_is_the_cache_s() -> None:
    assert [MACHINE.bandwidth(size) for size in (1, 10**6, 10**6 + 1, 10**12)] == [2e10, 2e10, 1e10, 1e10]


@pytest.fixture
def measure(tmp_path: Path, kiwi: Toolset) -> Measure:
    """`measure(script)`: a scripted router that would call wrongly, whole and trimmed, and peers on it."""
    wrong = [Call("execute", {"item_type": "directive", "action": "run", "item_id": "bootstrap"})]
    answers = {case.user: wrong for case in load_cases(config("bench", "shape.jsonl"))}

    def run(script: dict[str, Any], *, peers: tuple[str, ...] = ("parrot",), **more: Any) -> Outcome:
        artifacts: dict[str, Artifact | Missing] = {
            name: scripted.make(tmp_path / name, SEED / "tokenizer.json", kiwi, "a", answers, **script)
            for name in ("scripted-a", "scripted-a@2000")
        }
        settings = Settings(
            variants=("scripted-a",), requests=24, blocks=2, warmup=1, budget_s=600.0, threads=1,
            plugins=("tests.bench.scripted_peer",),
        )  # fmt: skip
        asked = Asked(TINY, trim_tokens=2000, peers=peers, **more)
        return shape(
            settings, asked, Screen(quiet=True), out=tmp_path / "out", artifacts=artifacts, machine=MACHINE
        )  # fmt: skip

    return run


@pytest.mark.parametrize("masked", [False, True])
def test_a_whole_run(masked: bool, measure: Measure, tmp_path: Path) -> None:
    outcome = measure({}, masked=masked)
    report = json.loads((tmp_path / "out" / "shape.json").read_text())
    assert validate(report) and report["masked"] is masked
    assert {path.name for path in outcome.folder.iterdir()} == {"shape.json", "shape.md", "samples.jsonl", "logs"}
    runs = {one["name"]: one for one in report["runs"]}
    assert {name: one["status"] for name, one in runs.items()} == {
        "scripted-a": "ok", "scripted-a@2000": "ok", "parrot@a": "ok",
    }, [one["reason"] for one in runs.values()]  # fmt: skip
    ours, peer = runs["scripted-a"], runs["parrot@a"]
    assert ours["own_code"]["n"] == 24 and peer["own_code"] is None
    assert sum(report["request"]["passes_by_cause"].values()) == pytest.approx(ours["forward_passes"])
    assert ours["latency_ms"]["n"] == peer["latency_ms"]["n"] == 24
    assert ours["predicted"]["p50"] > 0 and peer["predicted"] is None and ours["forcing_ms"] > 0
    assert ours["p50_over_predicted"] == pytest.approx(ours["latency_ms"]["p50"] / ours["predicted"]["p50"])
    same = ours["predicted"]["cases"][ours["floor_ms"]["case"]]
    assert ours["floor_over_predicted"] == pytest.approx(ours["floor_ms"]["p50"] / same, rel=1e-3)
    assert ours["over_size_mb"] == pytest.approx(ours["peak_rss_mb"] - ours["size_mb"])
    assert (runs["scripted-a@2000"]["tokens"], ours["tokens"]) == (2000, None)
    assert peer["forward_passes"] > ours["forward_passes"] > 1
    request = report["request"]
    assert 380 < request["cached_tokens"] < 500 and 21 <= request["call_tokens"] <= 26 and request["calls"] == 12
    assert request["passes"] == request["decided_tokens"], "one decision a pass: no guesses"
    assert [one["bytes"] for one in report["probe"]["bandwidth"]] == [10**6, 10**9]
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert all(row["verdict"]["exact"] for row in rows if row["mode"] == "grammar"), "the gold calls, not the script's"
    assert {(one["contender"], one["baseline"]) for one in report["ratios"]} == {
        ("parrot@a", "scripted-a"), ("parrot@a", "scripted-a@2000"),
    }  # fmt: skip
    assert all(one["ratio"] > 0 for one in report["ratios"])
    page = (tmp_path / "out" / "shape.md").read_text()
    for line in (
        "# tiny-layers2-hidden32-intermediate32-headdim16: what it costs here",
        "12 fixed calls on toolset kiwi",
        "- reading 1 MB again and again: 20.0 GB/s",
        "- int8: not measured",
        "Every row is masked" if masked else "No row is masked (--no-always-mask)",
    ):
        assert line in page
    assert "{" not in page, "nothing left to be filled in"


def test_who_takes_other_calls_has_failed(measure: Measure) -> None:
    outcome = measure({"peer": {"stubborn": True}})
    runs = {one["name"]: one for one in outcome.report["runs"]}
    assert (runs["parrot@a"]["status"], runs["parrot@a"]["stage"]) == ("failed", "take")
    assert runs["parrot@a"]["reason"] == "took other calls than the gold ones in 12 of 12 cases"
    assert runs["scripted-a"]["status"] == "ok" and runs["scripted-a"]["latency_ms"]["n"] == 24


def test_llama_server_is_listed_with_the_reason(measure: Measure) -> None:
    outcome = measure({}, peers=("llama-server",))
    server = next(one for one in outcome.report["runs"] if one["side"] == "peer")
    assert server["status"] == "skipped" and "cannot be told within a request which tokens to take" in server["reason"]
    assert any("cannot be told" in row[-1] for table in tables(outcome.report) for row in table.rows)


def test_what_could_not_be_made_is_told(measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measure({"unavailable": "no such device; get one"}, peers=("parrot",))
    assert {one["status"] for one in outcome.report["runs"] if one["side"] == "ours"} == {"skipped"}
    assert "no such device; get one" in render(outcome.report)
    assert outcome.report["request"] is None and validate(outcome.report)


def test_the_schema_refuses_what_is_not_one(measure: Measure) -> None:
    found = measure({}).report
    for change in (
        {"schema": "edgecall.shape/2"},
        {"surprise": 1},
        {"runs": []},
        {"masked": None},
        {"shape": found["shape"] | {"layers": 0}},
        {"runs": [found["runs"][0] | {"predicted": {"p50": 1}}]},
        {"runs": [found["runs"][0] | {"status": "failed"}]},
    ):
        with pytest.raises(ValueError, match="breaks its schema"):
            validate(found | change)


def test_the_command(
    measure: Measure, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = measure({})
    asked: list[Any] = []

    def run(settings: Settings, given: Asked, screen: Screen, *, out: Path | None) -> Outcome:
        asked.append((settings, given, out))
        return outcome

    monkeypatch.setattr(bench.shape, "shape", run)
    argv = "shape --shape tiny --hidden 128 --weights-seed 3 --trim-tokens 9 --variants x --threads 2 --quick".split()
    assert main([*argv, "--out", str(tmp_path / "new"), "--no-always-mask", "--peers"]) == 0
    text = capsys.readouterr().out
    assert "Runs, fastest first" in text and "shape.json" in text
    settings, given, out = asked[0]
    assert (settings.variants, settings.threads, settings.quick, settings.requests) == (("x",), 2, True, 96)
    assert (given.shape.hidden, given.shape.seed, given.trim_tokens, given.peers, given.masked) == (
        128,
        3,
        9,
        (),
        False,
    )
    assert out == tmp_path / "new" and settings.command.startswith("bench shape --shape tiny --hidden 128")
    assert main(["shape", "--shape", "tiny", "--peers", "a,b", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["report"]["schema"] == "edgecall.shape/1" and "Written to" in captured.err
    assert asked[1][1].peers == ("a", "b") and asked[1][1].masked, "masked where nobody says"


@pytest.mark.slow
@pytest.mark.parametrize(("vocab", "tokens"), [(10_240, 8192), (12_288, 10_500)])
def test_from_nothing_on_llama_cpp(vocab: int, tokens: int, tmp_path: Path) -> None:
    """Weights drawn, cut, exported and measured: what `bench shape` does, on a shape of no size.

    The tokenizer has 10,240 entries: it is cut itself, or unused rows behind it are.
    """
    if not runtime("llama_cpp").availability().available:
        pytest.skip("llama_cpp is not installed")
    settings = Settings(
        variants=("gguf-q8_0",), requests=12, blocks=2, warmup=1, budget_s=600.0, threads=1, device="cpu",
        cache=tmp_path / "cache",
    )  # fmt: skip
    asked = Asked(changed(TINY, {"vocab": vocab}), trim_tokens=tokens)
    outcome = shape(settings, asked, Screen(quiet=True), out=tmp_path / "out", machine=MACHINE)
    whole, cut = outcome.report["runs"]
    assert [(one["name"], one["status"]) for one in (whole, cut)] == [
        ("gguf-q8_0", "ok"),
        (f"gguf-q8_0@{tokens}", "ok"),
    ]
    assert cut["size_mb"] < whole["size_mb"] < 1
    assert all(one["latency_ms"]["n"] == 12 and one["floor_ms"]["p50"] > 0 for one in (whole, cut))
    assert cut["predicted"]["weights_mb"] / whole["predicted"]["weights_mb"] == pytest.approx(
        changed(TINY, {"vocab": tokens}).parameters / changed(TINY, {"vocab": vocab}).parameters, rel=0.01
    )
    proof = next((tmp_path / "cache").glob("*-kiwi-*/gguf-q8_0/proof.jsonl")).read_text().splitlines()
    assert len(proof) == 1 and json.loads(proof[0])["requests"] == 0, "weights that nobody trained prove nothing"


def test_a_trimmed_run_has_a_name_of_its_own() -> None:
    run = TrimmedRun(Variant("llama_cpp", "gguf", "q8_0", 8), label="gguf-q8_0@9", tokens=9)
    assert run.name == "gguf-q8_0@9" and isinstance(run, Run) and os.sep not in run.name
