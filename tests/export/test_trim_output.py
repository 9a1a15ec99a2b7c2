"""Trimming the output alone: the model reads every token and writes some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs import path as config
from export.base import Checkpoint
from export.checkpoint import open_checkpoint
from export.merge import merge_checkpoint
from export.pipeline import export_one
from export.proof import verify
from export.trim import trim_checkpoint
from export.trim_cases import by_spelling
from export.trim_record import Trim, recorded_trim
from router.cases import Case, load_cases
from router.core import Router
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from runtimes.artifact import OUTPUT_IDS, Artifact, open_artifact, write_manifest
from runtimes.errors import ArtifactError, UnavailableError
from runtimes.torch import open_model
from tests.tiny import LIGHTS

CASES = config("cases", "kiwi", "handwritten_dev.jsonl")
TRIM = Trim((), 600, "output")


@pytest.fixture(scope="module")
def trimmed(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return trim_checkpoint(tiny, TRIM, LIGHTS, tmp_path_factory.mktemp("work"))


def test_the_checkpoint_is_whole_and_says_what_is_kept(tiny: Checkpoint, trimmed: Checkpoint, tmp_path: Path) -> None:
    for path in tiny.folder.iterdir():
        assert (trimmed.folder / path.name).read_bytes() == path.read_bytes(), path.name
    assert trimmed.vocab_size == tiny.vocab_size and trimmed.config == tiny.config
    ids = trimmed.output_ids
    assert ids is not None and len(ids) == 600 and tiny.output_ids is None
    full = trim_checkpoint(tiny, Trim((), 600), LIGHTS, tmp_path)
    record, other = recorded_trim(trimmed.folder), recorded_trim(full.folder)
    assert record is not None and other is not None
    assert record | {"form": "full"} == other, "the same tokens"
    assert len({tiny.sha256, trimmed.sha256, full.sha256}) == 3
    assert open_checkpoint(trimmed.folder, name=trimmed.name) == trimmed
    assert trim_checkpoint(tiny, TRIM, LIGHTS, trimmed.folder.parent) == trimmed


@pytest.mark.parametrize(("fmt", "quant"), [("safetensors", "fp32"), ("onnx", "int8")])
def test_an_artifact_is_proved_and_carries_the_ids(
    tiny: Checkpoint, trimmed: Checkpoint, tmp_path: Path, fmt: str, quant: str
) -> None:
    pytest.importorskip("onnxruntime") if fmt == "onnx" else None
    requests = ("please on", "hall 北京")
    whole = export_one(tiny, fmt, quant, tmp_path / "whole", LIGHTS, requests=requests, threads=1)
    artifact = export_one(trimmed, fmt, quant, tmp_path / "out", LIGHTS, requests=requests, threads=1)
    assert artifact.manifest["trim"]["form"] == "output" and artifact.manifest["key"] != whole.manifest["key"]
    assert (artifact.vocab_size, artifact.output_rows) == (tiny.vocab_size, 600)
    assert artifact.output_ids == artifact.folder / OUTPUT_IDS
    assert verify(artifact, threads=1).status == "proven"
    with Router.open(artifact.folder, device="cpu", threads=1) as router:
        result = router.route("kitchen 北京 please")
    assert result.error is None and result.token_ids
    altered = json.loads((artifact.folder / OUTPUT_IDS).read_text())
    (artifact.folder / OUTPUT_IDS).write_text(json.dumps([altered[0] + 1, *altered[1:]]))
    with pytest.raises(ArtifactError, match=OUTPUT_IDS):
        open_artifact(artifact.folder)


def test_a_manifest_must_list_the_ids(trimmed: Checkpoint, tmp_path: Path) -> None:
    made = export_one(trimmed, "safetensors", "fp32", tmp_path, LIGHTS, requests=("on",), threads=1)
    files = [entry for entry in made.manifest["files"] if entry["path"] != OUTPUT_IDS]
    write_manifest(made.folder, made.manifest | {"files": files})
    with pytest.raises(ArtifactError, match=f"{OUTPUT_IDS} is not listed"):
        open_artifact(made.folder)
    write_manifest(made.folder, made.manifest | {"trim": {"form": "output"}})
    with pytest.raises(ArtifactError, match=r"'trim.tokens' is missing"):
        open_artifact(made.folder)


@pytest.mark.parametrize(
    ("fmt", "quant", "why"), [("gguf", "q8_0", "llama.cpp wants as many"), ("coreml", "fp16", "apps read")]
)
def test_formats_that_cannot(trimmed: Checkpoint, tmp_path: Path, fmt: str, quant: str, why: str) -> None:
    pytest.importorskip("gguf" if fmt == "gguf" else "coremltools")
    with pytest.raises(UnavailableError, match=f"cannot export {fmt} .*{why}.*; use --trim-form full") as raised:
        export_one(trimmed, fmt, quant, tmp_path, LIGHTS, threads=1)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_an_exporter_that_does_not_say_so_cannot(
    trimmed: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("export.safetensors.NO_OUTPUT_TRIM")
    with pytest.raises(UnavailableError, match="its exporter does not know how"):
        export_one(trimmed, "safetensors", "fp32", tmp_path, LIGHTS, threads=1)


def test_the_router_makes_the_same_calls(kiwi: Toolset, tmp_path: Path) -> None:
    """The seed, token for token, on requests whose answers need kept tokens alone, whatever they are made of."""
    whole = merge_checkpoint("seed", tmp_path, toolset="kiwi")
    cut = trim_checkpoint(whole, Trim((str(CASES),), form="output"), kiwi, tmp_path)
    kept = set(cut.output_ids or ())
    tokenizer = RouterTokenizer.load(whole.folder / "tokenizer.json")
    manifest = {"format": "safetensors", "quant": "fp32", "weights": ".", "wire": "functiongemma"}
    sizes = {"vocab_size": whole.vocab_size, "context_length": whole.context_length}
    models = [
        open_model(Artifact(s.folder, manifest | sizes | {"trim": recorded_trim(s.folder)}), device="cpu", threads=1)
        for s in (whole, cut)
    ]
    one, other = (Router.from_model(model, tokenizer, kiwi) for model in models)
    same = 0
    for case in [*load_cases(CASES)[:6], Case("foreign", "zymurgy: find email scripts", {"project_path": "/p"})]:
        for grammar in (True, False):
            want = one.route(case.user, case.context, grammar=grammar)
            got = other.route(case.user, case.context, grammar=grammar)
            if kept.issuperset(want.token_ids):
                assert (got.token_ids, got.calls, got.error) == (want.token_ids, want.calls, want.error)
                same += 1
    assert same >= 6 and len(kept) < 0.6 * whole.vocab_size
    assert not kept.issuperset(tokenizer.encode_text("zymurgy"))
    for model in models:
        model.close()


def test_cases_by_what_an_answer_could_copy(tiny: Checkpoint, trimmed: Checkpoint, tmp_path: Path) -> None:
    """The buckets are those of the full form, though requests are tokenized as before."""
    full = trim_checkpoint(tiny, Trim((), 600), LIGHTS, tmp_path)
    cases = [Case("a", "kitchen"), Case("b", "zymurgy publishes"), Case("c", "naïve Köln 北京")]
    assert by_spelling(cases, tiny, trimmed, LIGHTS) == by_spelling(cases, tiny, full, LIGHTS)
    assert len({case.bucket for case in by_spelling(cases, tiny, trimmed, LIGHTS)}) == 3
