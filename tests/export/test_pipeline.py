"""Exporting: complete or absent, found again or replaced, proved, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.base import Checkpoint, Quant
from export.merge import merge_checkpoint
from export.pipeline import export_one, wire_name
from export.proof import _tolerance, verify
from export.proof_file import Header, read_proof, read_whole_proof
from export.proof_requests import default_requests, proof_requests
from router.cases import Case
from router.toolset import Schema, Tool, Toolset
from runtimes import open_model
from runtimes.artifact import Artifact, open_artifact, sha256_file, write_manifest
from runtimes.base import Availability
from runtimes.errors import ArtifactError, UserError
from tests.stress.kill_exports import kill_many
from tests.tiny import LIGHTS, ONE_LIGHT
from tests.unbound import unbound

REQUESTS = ("please on", "off now", "please kitchen", "<end_of_turn> hello")


@pytest.fixture(scope="session")
def source(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return merge_checkpoint(tiny.folder, tmp_path_factory.mktemp("merged"))


@pytest.fixture
def export(source: Checkpoint, tmp_path: Path) -> Callable[..., Artifact]:
    def run(
        quant: str = "fp32", *, toolset: Toolset = LIGHTS, source: Checkpoint = source, cases: list[Case] | None = None
    ) -> Artifact:
        out = tmp_path / "out"
        return export_one(source, "safetensors", quant, out, toolset, requests=REQUESTS, cases=cases or (), threads=1)

    return run


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_an_artifact_is_complete(export: Callable[..., Artifact], source: Checkpoint) -> None:
    artifact = open_artifact(export().folder)
    assert artifact.name == "safetensors-fp32"
    assert artifact.wire == "functiongemma"
    assert artifact.manifest["source"] == {"name": source.name, "sha256": source.sha256, "parameters": 366_848}
    assert artifact.manifest["toolset"]["sha256"] == LIGHTS.sha256
    assert {"torch", "python", "edgecall"} <= artifact.manifest["versions"].keys()
    assert artifact.size_bytes == (artifact.folder / "model.safetensors").stat().st_size
    listed = {entry["path"] for entry in artifact.manifest["files"]}
    present = {p.relative_to(artifact.folder).as_posix() for p in artifact.folder.rglob("*") if p.is_file()}
    assert present - listed == {"manifest.json"}
    assert [p.name for p in artifact.folder.parent.iterdir()] == ["safetensors-fp32"]


def test_the_proof_holds_what_the_reference_said(export: Callable[..., Artifact]) -> None:
    header, rows = read_proof(export())
    assert header.met
    assert header.measured is not None
    assert header.measured["max_abs"] <= header.tolerance == header.format_tolerance
    assert header.measured["same_calls"] == [4, 4]
    assert [row.request for row in rows] == list(REQUESTS)
    assert [call.name for call in rows[0].reference_calls] == ["set_light"]
    for row in rows:
        assert row.calls == row.reference_calls
        assert row.decided
        for decision in row.decided:
            assert len(decision.ids) == 8
            assert list(decision.logits) == sorted(decision.logits, reverse=True)


def test_a_model_that_does_not_end(source: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    """A random model writes free text for ever: the proof says so, and the logits are compared all the same."""
    requests = ("switch kitchen", "find email scripts", "please run it")
    artifact = export_one(source, "safetensors", "fp32", tmp_path, unbound(kiwi), requests=requests, threads=1)
    header, rows = read_proof(artifact)
    endless = [row for row in rows if row.reference_error]
    assert endless
    for row in endless:
        assert row.calls == row.reference_calls == ()
        assert len(row.decided) > 100
    assert verify(artifact, threads=1).status == "proven"


def test_the_proof_is_teacher_forced(export: Callable[..., Artifact], source: Checkpoint) -> None:
    """The recorded logits are those of transformers over prompt and completion, without any of our code."""
    import torch
    from transformers import Gemma3ForCausalLM

    net = Gemma3ForCausalLM.from_pretrained(source.folder, dtype=torch.float32, attn_implementation="eager").eval()
    _, rows = read_proof(export())
    for row in rows:
        with torch.inference_mode():
            logits = net(torch.tensor([[*row.prompt, *row.completion]]), use_cache=False).logits[0]
        for decision in row.decided:
            got = logits[len(row.prompt) + decision.at - 1]
            assert got.topk(8).indices.tolist() == list(decision.ids)
            assert (got[list(decision.ids)] - torch.tensor(decision.logits)).abs().max() < 1e-3


def test_a_second_export_is_a_cache_hit(export: Callable[..., Artifact]) -> None:
    first = export()
    before = (first.folder / "manifest.json").stat()
    assert export() == first
    assert (first.folder / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns


def test_cases_are_for_those_that_measure(export: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    import export.safetensors as writer

    cases, seen = [Case("1", "kitchen")], []
    key, real = export().manifest["key"], writer.write
    assert export(cases=cases).manifest["key"] == key

    def write(*given: Any, cases: list[Case]) -> Any:
        seen.append(cases)
        return real(*given)

    monkeypatch.setattr(writer, "MEASURED", ("fp32",), raising=False)
    monkeypatch.setattr(writer, "write", write)
    assert export(cases=cases).manifest["key"] not in (key, export(cases=[Case("2", "hall")]).manifest["key"])
    assert seen == [cases, [Case("2", "hall")]]


def test_a_changed_byte_is_named_and_mended(export: Callable[..., Artifact]) -> None:
    artifact = export()
    for name in [entry["path"] for entry in artifact.manifest["files"]]:
        flip(artifact.folder / name)
        with pytest.raises(ArtifactError, match=name) as raised:
            open_artifact(artifact.folder)
        assert "\n" not in str(raised.value)
        result = verify(artifact.folder, threads=1)
        assert (result.status, result.checks[0].name) == ("failed", "hashes")
        assert name in result.checks[0].detail
        assert open_artifact(export().folder).manifest["key"] == artifact.manifest["key"]


def test_another_toolset_replaces(export: Callable[..., Artifact]) -> None:
    old = export()
    new = export(toolset=ONE_LIGHT)
    assert new.folder == old.folder
    assert open_artifact(new.folder).manifest["toolset"]["name"] == "one-light"
    assert json.loads(new.toolset.read_text())["name"] == "one-light"


def test_a_failing_exporter_leaves_the_old(export: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    old = export()

    def write(source: Checkpoint, folder: Path, quant: str, toolset: Toolset) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise ZeroDivisionError

    monkeypatch.setattr("export.safetensors.write", write)
    with pytest.raises(ZeroDivisionError):
        export(toolset=ONE_LIGHT)
    assert open_artifact(old.folder).sha256 == old.sha256
    assert [p.name for p in old.folder.parent.iterdir()] == ["safetensors-fp32"]


def test_an_export_that_computes_something_else_is_refused(
    export: Callable[..., Artifact], source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer's window is wrong: the proof finds it, and nothing is kept."""
    import export.safetensors as exporter

    real = exporter.write

    def write(source: Checkpoint, folder: Path, quant: str, toolset: Toolset) -> object:
        return real(replace(source, config={**source.config, "sliding_window": 65}), folder, quant, toolset)

    monkeypatch.setattr(exporter, "write", write)
    with pytest.raises(UserError, match="torch-fp32") as raised:
        export()
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_rounded_export_sets_its_own_tolerance(
    export: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    header, _ = read_proof(export("bf16"))
    measured = header.measured
    assert measured is not None
    assert header.tolerance == pytest.approx(min(4 * measured["max_abs"], header.format_tolerance), rel=0.01)
    tight = Quant(16, "bf16", measured["max_abs"] / 2)
    monkeypatch.setitem(__import__("export.safetensors").safetensors.QUANTS, "bf16", tight)
    shutil.rmtree(export("bf16").folder)
    artifact = export("bf16")
    header, _ = read_proof(artifact)
    assert header.met
    assert header.format_tolerance == tight.logit_tolerance
    assert measured["max_abs"] < header.tolerance < 2 * measured["max_abs"]
    assert verify(artifact.folder, threads=1).status == "proven"


def test_verify_proves_again(export: Callable[..., Artifact]) -> None:
    result = verify(export().folder, device="cpu", threads=1)
    assert result.status == "proven"
    assert result.ok
    assert (result.runtime, result.device) == ("torch", "cpu")
    assert [(check.name, check.ok) for check in result.checks] == [
        ("hashes", True), ("proof", True), ("logits", True), ("probe", True), ("calls", True),
    ]  # fmt: skip


def rewrite(artifact: Artifact, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change one line of the proof and make the manifest's hashes right again."""
    lines = [json.loads(line) for line in artifact.proof.read_text().splitlines()]
    change(lines[number])
    artifact.proof.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seal(artifact)


def seal(artifact: Artifact) -> None:
    """Make the manifest's hashes those of the files as they now are."""
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        path = artifact.folder / entry["path"]
        entry.update(bytes=path.stat().st_size, sha256=sha256_file(path))
    write_manifest(artifact.folder, manifest)


def test_verify_sees_other_logits(export: Callable[..., Artifact]) -> None:
    artifact = export()

    def shift(row: dict[str, Any]) -> None:
        row["decided"][0]["logits"][3] += 0.01

    rewrite(artifact, 1, shift)
    result = verify(artifact.folder, threads=1)
    assert result.status == "failed"
    assert [check.name for check in result.checks if check.ok is False] == ["logits"]


def test_verify_sees_other_calls(export: Callable[..., Artifact]) -> None:
    artifact = export()
    other = [{"name": "status", "arguments": {"room": "hall"}}]
    rewrite(artifact, 2, lambda row: row.update(calls=other))
    result = verify(artifact.folder, threads=1)
    assert [check.name for check in result.checks if check.ok is False] == ["calls"]


def test_verify_sees_a_row_that_no_request_touches(export: Callable[..., Artifact]) -> None:
    """One token's embedding, which is its row of the output too: no request has it, and it is never among the best."""
    from safetensors.numpy import load_file, save_file

    artifact = export()
    _, rows = read_proof(artifact)
    used = {token for row in rows for token in (*row.prompt, *row.completion)}
    best = {token for row in rows for decision in row.decided for token in decision.ids}
    weights = load_file(artifact.folder / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    unseen = next(token for token in range(len(table)) if token not in used | best)
    table[unseen] *= 1.5
    save_file(weights, artifact.folder / "model.safetensors", metadata={"format": "pt"})
    seal(artifact)
    result = verify(artifact.folder, threads=1)
    assert [check.name for check in result.checks if check.ok is False] == ["probe"]


def test_a_probe_has_one_logit_of_each_token(export: Callable[..., Artifact]) -> None:
    artifact = export()
    proof = read_whole_proof(artifact)
    assert proof.probe is not None and proof.header.probe is not None and proof.header.measured is not None
    assert sum(row.size for row in proof.probe.logits) == artifact.vocab_size
    assert proof.header.measured["probe"] <= proof.header.probe

    def cut(line: dict[str, Any]) -> None:
        line["probe"]["logits"].pop()

    rewrite(artifact, -1, cut)
    result = verify(artifact.folder, threads=1)
    assert [check.name for check in result.checks if check.ok is False] == ["proof"]


def test_verify_takes_the_prompt_from_the_proof(export: Callable[..., Artifact], source: Checkpoint) -> None:
    """Also one that today's renderer would write otherwise: the logits are those of the recorded tokens."""
    import torch
    from transformers import Gemma3ForCausalLM

    artifact = export()
    net = Gemma3ForCausalLM.from_pretrained(source.folder, dtype=torch.float32, attn_implementation="eager").eval()

    def shorten(row: dict[str, Any]) -> None:
        row["prompt"] = row["prompt"][:3] + row["prompt"][10:]
        with torch.inference_mode():
            logits = net(torch.tensor([row["prompt"] + row["completion"]]), use_cache=False).logits[0]
        for decision in row["decided"]:
            decision["logits"] = logits[len(row["prompt"]) + decision["at"] - 1][decision["ids"]].tolist()

    rewrite(artifact, 2, shorten)
    assert verify(artifact.folder, threads=1).status == "proven"


def test_verify_says_what_is_wrong_with_a_proof(export: Callable[..., Artifact]) -> None:
    artifact = export()
    rewrite(artifact, 3, lambda row: row.pop("decided"))
    result = verify(artifact.folder, threads=1)
    assert result.status == "failed"
    assert "proof.jsonl:4" in result.checks[-1].detail


@pytest.mark.parametrize(
    ("number", "change", "told"),
    [
        (2, lambda line: line.update(prompt=[]), "an empty prompt"),
        (2, lambda line: line["prompt"].append(-1), "token id -1 is outside the vocabulary"),
        (3, lambda line: line["prompt"].append(999_999), "token id 999999 is outside the vocabulary"),
        (3, lambda line: line["decided"][0]["ids"].__setitem__(0, -2), "token id -2 is outside the vocabulary"),
        (4, lambda line: line.update(prompt=line["prompt"] * 99), "do not fit the context of 1024"),
        (4, lambda line: line["decided"][0].update(ids=[], logits=[]), "without a logit for each of its ids"),
        (6, lambda line: line["probe"]["tokens"].__setitem__(7, 99_999), "token id 99999 is outside the vocabulary"),
        (1, lambda line: line.update(requests=5), "it says 5 requests, the lines behind it have 4"),
        (1, lambda line: line.update(positions=1), "it says 1 positions, the lines"),
    ],
)
def test_a_proof_that_no_model_can_take(export: Callable[..., Artifact], number: int, change: Any, told: str) -> None:
    artifact = export()
    rewrite(artifact, number - 1, change)
    result = verify(artifact.folder, threads=1)
    assert result.status == "failed"
    assert [check.name for check in result.checks if check.ok is False] == ["proof"]
    detail = result.checks[-1].detail
    assert detail.startswith(f"{artifact.proof}:{number}: ") and told in detail and detail.endswith("export again")


def test_a_line_less_than_the_header_says(export: Callable[..., Artifact]) -> None:
    artifact = export()
    lines = artifact.proof.read_text().splitlines(keepends=True)
    artifact.proof.write_text("".join(lines[:2] + lines[3:]))
    seal(artifact)
    result = verify(artifact.folder, threads=1)
    assert (result.status, result.checks[-1].ok) == ("failed", False)
    assert (
        f"{artifact.proof}:1: not a proof (it says 4 requests, the lines behind it have 3)" in result.checks[-1].detail
    )


@pytest.mark.parametrize("prefix_fits", [True, False])
def test_a_model_with_less_room_than_its_manifest_says(
    export: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch, prefix_fits: bool
) -> None:
    """As where a package's range is altered: the line that does not fit is named, not the append that failed."""
    artifact = export()
    _, rows = read_proof(artifact)
    lengths = [len(row.prompt) + len(row.completion) - 1 for row in rows]
    room, line = (max(lengths) - 1, lengths.index(max(lengths)) + 2) if prefix_fits else (20, 1)

    def opened(*given: Any, **options: Any) -> Any:
        model = open_model(*given, **options)
        model.context_length = room
        return model

    monkeypatch.setattr("export.proof_run.open_model", opened)
    result = verify(artifact.folder, threads=1)
    assert result.status == "failed"
    (failed,) = [check for check in result.checks if not check.ok]
    assert failed.name == "proof" and failed.detail.startswith(f"{artifact.proof}:{line}: the model cannot take it (")
    assert failed.detail.endswith("; export again")


def test_verify_of_what_is_no_artifact(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError):
            verify(folder)


def test_a_format_that_cannot_run_here(export: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof then holds the reference's rows, not yet met; where the runtime is, it is made good."""
    with monkeypatch.context() as patch:
        # The reference is torch itself here: only the question whether it may run the artifact is answered with no.
        patch.setattr("export.proof._available", lambda name: Availability(False, reason="needs a Mac", fix="get one"))
        artifact = export()
        header, rows = read_proof(artifact)
        assert (header.met, header.measured) == (False, None)
        assert "needs a Mac" in header.reason
        assert all(row.calls is None and row.decided for row in rows)
        result = verify(artifact.folder)
        assert result.status == "not proven on this machine"
        assert result.ok
        assert result.checks[0].ok
    result = verify(artifact.folder, threads=1)
    assert result.status == "proven"
    assert "reference" in result.checks[-1].detail
    assert read_proof(export())[0].met


def test_core_ml_is_proven_by_its_stand_in(source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off macOS the reference interpreter makes the proof and repeats it, and both say so; what was altered fails."""
    pytest.importorskip("coremltools")
    monkeypatch.setattr("runtimes.coreml.availability", lambda: Availability(False, reason="needs a Mac"))
    artifact = export_one(source, "coreml", "fp32", tmp_path, LIGHTS, requests=REQUESTS, threads=1)
    header, rows = read_proof(artifact)
    assert header.met and header.measured is not None
    assert (header.measured["runtime"], header.measured["emulated"]) == ("coreml-reference", True)
    assert header.measured["same_calls"] == [4, 4] and header.measured["max_abs"] < 1e-3
    assert all(row.calls == row.reference_calls for row in rows)
    result = verify(artifact.folder, threads=1)
    assert (result.status, result.runtime) == ("proven", "coreml-reference")
    said = {check.name: check.detail for check in result.checks}
    assert "coreml-reference" in said["proof"] and "not in coreml itself" in said["logits"]
    weights = artifact.weights / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    content = bytearray(weights.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64], content[middle + 64 : middle + 128] = (
        content[middle + 64 : middle + 128], content[middle : middle + 64],
    )  # fmt: skip
    weights.write_bytes(bytes(content))
    rewrite(artifact, 0, lambda row: None)
    result = verify(artifact.folder, threads=1)
    assert result.status == "failed"
    assert {check.name: check.ok for check in result.checks}["logits"] is False


def test_a_proof_of_a_stand_in_holds_the_runtime_itself_to_the_formats_tolerance() -> None:
    made = Header(True, 0.05, 0.25, measured={"runtime": "coreml-reference"})
    assert (_tolerance(made, "coreml-reference"), _tolerance(made, "coreml")) == (0.05, 0.25)
    assert _tolerance(Header(False, 0.25, 0.25, "needs a Mac"), "coreml") == 0.25


def test_what_is_not_ours_stays(export: Callable[..., Artifact], tmp_path: Path) -> None:
    target = tmp_path / "out" / "safetensors-fp32"
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not an artifact"):
        export()
    assert (target / "thesis.txt").read_text() == "years of work"


def test_unknown_names(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'gguf'"):
        export_one(source, "ggfu", "q8_0", tmp_path, LIGHTS)
    with pytest.raises(UserError, match="did you mean 'bf16'"):
        export_one(source, "safetensors", "bf61", tmp_path, LIGHTS)


def test_a_toolset_that_does_not_fit(export: Callable[..., Artifact], tmp_path: Path) -> None:
    """Declarations longer than the context, and a tool that cannot be written: one line, nothing left."""
    words = "many words about what this tool does and when it should be called " * 60
    long = Toolset("long", (Tool("t", words, Schema("object")),))
    with pytest.raises(UserError, match="context") as raised:
        export(toolset=long)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="escape"):
        export(toolset=Toolset("bad", (Tool("t", "say <escape>", Schema("object")),)))
    assert not list((tmp_path / "out").iterdir())


def test_a_tokenizer_without_control_tokens(source: Checkpoint, tmp_path: Path) -> None:
    data = json.loads((source.folder / "tokenizer.json").read_text())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] != "<escape>"]
    data["model"]["vocab"].pop("<escape>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert wire_name(source.folder / "tokenizer.json") == "functiongemma"
    with pytest.raises(UserError, match="<escape>"):
        wire_name(tmp_path / "tokenizer.json")


def test_default_requests_come_from_the_toolset(kiwi: Toolset) -> None:
    requests = default_requests(kiwi)
    assert len(requests) == len(set(requests)) == 12
    assert requests == default_requests(kiwi)
    for tool in kiwi:
        assert any(tool.name in request for request in requests)
    assert len(default_requests(Toolset("one", (Tool("t", "", Schema("object")),)))) >= 5


def test_more_requests_come_from_cases(kiwi: Toolset) -> None:
    own = default_requests(kiwi, 99)
    cases = [Case(str(number), user) for number, user in enumerate([own[0], *(f"request {i}" for i in range(8))])]
    assert proof_requests(kiwi, 5, cases) == default_requests(kiwi, 5)
    more = [f"request {i}" for i in (0, 2, 4, 6)]  # from all over the file; what is there already is not taken again
    assert proof_requests(kiwi, len(own) + 4, cases) == (*own, *more)
    with pytest.raises(UserError, match=f"the cases give {len(own) + 8}; give a longer file"):
        proof_requests(kiwi, len(own) + 9, cases)


# A full disk. RLIMIT_FSIZE makes every write past a size fail, as a full disk does, without needing one.


@pytest.mark.parametrize("limit", [100, 20_000, 500_000, 1_440_000])
def test_a_file_that_cannot_be_written_whole(export: Callable[..., Artifact], tmp_path: Path, limit: int) -> None:
    old = export(toolset=ONE_LIGHT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(UserError) as raised:
            export()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "disk full" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert open_artifact(old.folder).sha256 == old.sha256
    assert [p.name for p in old.folder.parent.iterdir()] == ["safetensors-fp32"]


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of so many kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs needs root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# The weights take 1,436 kB, what stands beside them about 70, the proof some more.


@pytest.mark.parametrize("small_disk", [600, 1440, 1500, 1530], indirect=True)
def test_a_full_disk(small_disk: Path, source: Checkpoint) -> None:
    with pytest.raises(UserError, match="disk full") as raised:
        export_one(source, "safetensors", "fp32", small_disk / "out", LIGHTS, requests=REQUESTS, threads=1)
    assert "\n" not in str(raised.value)
    assert not [p for p in small_disk.rglob("*") if p.is_file()]


@pytest.mark.parametrize("small_disk", [600, 1440], indirect=True)
def test_a_full_disk_while_merging(small_disk: Path, source: Checkpoint) -> None:
    with pytest.raises(UserError, match="disk full") as raised:
        merge_checkpoint(source.folder, small_disk / "work")
    assert "\n" not in str(raised.value)
    assert not [p for p in small_disk.rglob("*") if p.is_file()]


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
def test_kills_leave_nothing_that_loads(source: Checkpoint, tmp_path: Path) -> None:
    variants = [("safetensors", "fp32"), ("safetensors", "bf16")]
    tally = kill_many(source, (LIGHTS, ONE_LIGHT), variants, tmp_path, n=12, seed=1)
    assert tally.kills == 12
