"""`edgecall export` and `edgecall verify`, on a tiny random router."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import export.pipeline as pipeline
from export.base import Checkpoint
from runtimes.artifact import open_artifact
from runtimes.base import Availability
from runtimes.errors import UserError
from tests.edgecall.conftest import Ran

Cli = Callable[..., Ran]


@pytest.fixture
def export(cli: Cli, tiny: Checkpoint, lamps: Path, tmp_path: Path) -> Cli:
    """``export("--to", "gguf")`` of the tiny router into ``tmp_path / "out"``, one thread."""
    out = str(tmp_path / "out")
    model, toolset = str(tiny.folder), str(lamps)
    return lambda *options: cli("export", model, "--out", out, "--threads", "1", "--toolset", toolset, *options)


@pytest.fixture(scope="module")
def exported(tiny: Checkpoint, lamps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A safetensors artifact: needs torch alone."""
    from router.toolset_load import load_toolset

    out = tmp_path_factory.mktemp("exported")
    return pipeline.export_one(tiny, "safetensors", "fp32", out, load_toolset(lamps), threads=1).folder


class TestExport:
    def test_artifacts_and_where_they_are(self, export: Cli, tmp_path: Path) -> None:
        ran = export("--to", "safetensors", "--quant", "fp32,bf16", "--json")
        made = json.loads(ran.out)
        assert ran.code == 0
        assert [(m["artifact"], m["proof"], m["error"]) for m in made] == [
            ("safetensors-fp32", "met", None),
            ("safetensors-bf16", "met", None),
        ]
        for entry in made:
            artifact = open_artifact(entry["folder"])
            assert artifact.folder == tmp_path / "out" / entry["artifact"]
            assert artifact.manifest["command"].startswith("edgecall export ")
            assert f"writing {artifact.folder}\n" in ran.err
        again = export("--to", "safetensors", "--quant", "fp32")
        assert again.code == 0 and f"{tmp_path / 'out' / 'safetensors-fp32'} is up to date\n" in again.err
        assert str(tmp_path / "out" / "safetensors-fp32") in again.out.replace("\n", "").replace(" ", "")

    def test_one_that_fails_does_not_stop_the_others(
        self, export: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _fail(monkeypatch, "bf16", UserError("bf16 is out of order; use fp32"))
        ran = export("--to", "safetensors", "--quant", "bf16,fp32")
        assert ran.code == 2
        assert ran.err.splitlines()[-1] == "edgecall: safetensors-bf16: bf16 is out of order; use fp32"
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["safetensors-fp32"]

    def test_a_bug_in_one_keeps_its_traceback_and_the_others(
        self, export: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _fail(monkeypatch, "bf16", ZeroDivisionError("oops"))
        ran = export("--to", "safetensors", "--quant", "bf16,fp32")
        assert ran.code == 1
        assert "Traceback (most recent call last)" in ran.err
        last = "edgecall: safetensors-bf16: ZeroDivisionError: oops (a bug; the traceback is above)"
        assert ran.err.splitlines()[-1] == last
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["safetensors-fp32"]

    def test_an_exporter_that_is_not_here(self, export: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        import export.safetensors as writer

        gone = Availability(False, reason="torch is not installed", fix='pip install "edgecall[export]"')
        monkeypatch.setattr(writer, "availability", lambda: gone)
        ran = export("--to", "safetensors", "--quant", "fp32")
        assert (ran.code, ran.err.splitlines()[-1]) == (
            2,
            "edgecall: safetensors-fp32: cannot export safetensors: torch is not installed; "
            'pip install "edgecall[export]"',
        )

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (["--to", "tflite"], "--to tflite: unknown format; there are "),
            (["--to", "gguf", "--quant", "q9_9"], "--quant q9_9: unknown quantization; gguf has f32, f16, q8_0, "),
            (["--toolset", "kiwis"], "unknown toolset 'kiwis'"),
            (["--adapter", "nowhere"], "nowhere: no PEFT adapter"),
            (["--trim-tokens", "600"], "--trim-tokens says how to trim, not by what; give --trim-vocab english or"),
            (["--trim-cases", "x.jsonl"], "--trim-cases needs --trim-vocab"),
            (["--proof-requests", "0"], "--proof-requests 0: is not positive"),
            (
                ["--proof-requests", "99"],
                "--proof-requests 99: toolset 'lamps' and the cases give 7; give a",
            ),
            (["--to", "coreml", "--cases", "none.jsonl"], "none.jsonl: no such case file"),
            (["--to", "gguf,coreml", "--quant", "f16,coreml:fp32", "--cases", "x"], "--cases x: nothing here measures"),
            (["--trim-vocab", "english", "--trim-tokens", "0"], "--trim-tokens 0: is not positive"),
            (["--trim-vocab", "englich"], "--trim-vocab englich: no such file; give 'english'"),
            (["--trim-vocab", "english", "--trim-cases", "none.jsonl"], "none.jsonl: no such case file"),
        ],
    )
    def test_mistakes_are_one_line_and_make_nothing(
        self, export: Cli, tmp_path: Path, options: list[str], line: str
    ) -> None:
        ran = export(*options)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(f"edgecall: {line}") and ran.err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_so_many_requests_in_the_proof(self, export: Cli, tmp_path: Path) -> None:
        from export.proof_file import read_proof

        users = ["kitchen lit", "hall dark", "lit"]
        cases = tmp_path / "cases.jsonl"
        cases.write_text("".join(json.dumps({"id": user, "user": user, "calls": []}) + "\n" for user in users))
        ran = export("--to", "safetensors", "--proof-requests", "9", "--cases", str(cases))
        assert ran.code == 0, ran.err
        _, rows = read_proof(open_artifact(tmp_path / "out" / "safetensors-fp32"))
        assert len(rows) == 9 and [row.request for row in rows][-2:] == users[:2]

    def test_float16_is_measured_on_the_cases(
        self, export: Cli, tiny: Checkpoint, lamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("coremltools")
        from export import coreml
        from router.cases import load_cases
        from router.toolset_load import load_toolset

        seen: list[list[list[int]]] = []

        def enough(net: Any, sequences: list[list[int]], *rest: Any) -> Any:
            seen.append(sequences)
            raise UserError("seen enough")

        monkeypatch.setattr(coreml, "_into_float16", enough)
        cases = tmp_path / "cases.jsonl"
        calls = [{"name": "switch", "arguments": {"room": "kitchen", "state": "dark"}}]
        cases.write_text(json.dumps({"id": "a", "user": "kitchen dark", "calls": calls}) + "\n")
        for options in (["--cases", str(cases)], []):
            ran = export("--to", "coreml", "--quant", "fp16", *options)
            assert ran.err.splitlines()[-1] == "edgecall: coreml-fp16: seen enough"
        with_cases, without = seen
        toolset = load_toolset(lamps)
        assert with_cases == coreml.samples(tiny, toolset, load_cases(cases))[1] != without
        assert len(with_cases) == 2 and without == coreml.samples(tiny, toolset)[1]

    def test_a_trimmed_vocabulary(self, export: Cli, tmp_path: Path) -> None:
        cases = tmp_path / "cases.jsonl"
        rows = [{"id": "a", "user": "kitchen", "calls": []}, {"id": "b", "user": "naïve “café”", "calls": []}]
        cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = ["--to", "safetensors", "--trim-vocab", "english", "--trim-tokens", "600", "--trim-cases", str(cases)]
        ran = export(*options)
        assert ran.code == 0, ran.err
        artifact = open_artifact(tmp_path / "out" / "safetensors-fp32")
        assert artifact.vocab_size == 600 and artifact.manifest["trim"]["form"] == "full"
        told = tmp_path / "out" / "trim-cases.jsonl"
        assert f"requests of 2 cases after trimming: 1 kept-tokens, 0 smaller-pieces, 1 needs-bytes; {told}" in ran.err
        assert [json.loads(line)["bucket"] for line in told.read_text().splitlines()] == ["kept-tokens", "needs-bytes"]
        assert "up to date" in export(*options).err
        assert "up to date" not in export("--to", "safetensors").err
        assert "trim" not in open_artifact(artifact.folder).manifest

    def test_an_output_that_is_trimmed_alone(self, export: Cli, tmp_path: Path) -> None:
        trim = ["--trim-vocab", "english", "--trim-tokens", "600", "--trim-form", "output"]
        ran = export("--to", "safetensors,gguf", "--quant", "fp32,f32", *trim)
        told = (
            "edgecall: gguf-f32: cannot export gguf with fewer output rows alone: llama.cpp wants as many output rows "
        )
        assert ran.code == 2 and ran.err.splitlines()[-1].startswith(told)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["safetensors-fp32"]
        assert open_artifact(tmp_path / "out" / "safetensors-fp32").output_rows == 600

    def test_no_such_model(self, cli: Cli, tmp_path: Path) -> None:
        ran = cli("export", "no-such-model", "--out", str(tmp_path / "out"))
        assert (ran.code, ran.out) == (2, "") and ran.err.startswith("edgecall: no-such-model: no such model folder")

    def test_a_file_where_the_folder_should_be(self, export: Cli, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        ran = export("--to", "safetensors", "--quant", "fp32")
        assert ran.code == 2 and "Traceback" not in ran.err
        assert (tmp_path / "out").read_text() == "mine"

    def test_without_torch_the_extra_is_named(
        self, export: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import importlib.util

        original = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else original(name))
        told = 'edgecall: torch is not installed; it comes with an extra: pip install "edgecall[export]"\n'
        assert export("--to", "gguf") == Ran(2, "", told)


class TestVerify:
    def test_proven(self, cli: Cli, exported: Path) -> None:
        ran = cli("verify", str(exported), "--threads", "1")
        assert (ran.code, ran.err) == (0, "")
        first, *checks = ran.out.splitlines()
        assert first == f"{exported}: proven (torch on cpu)"
        assert [line.split()[:2] for line in checks] == [
            [n, "ok"] for n in ("hashes", "proof", "logits", "probe", "calls")
        ]

    def test_json(self, cli: Cli, exported: Path) -> None:
        (result,) = json.loads(cli("verify", str(exported), "--threads", "1", "--json").out)
        assert (result["status"], result["artifact"], result["runtime"]) == ("proven", "safetensors-fp32", "torch")
        assert all(check["ok"] for check in result["checks"])

    def test_not_proven_here_is_said_and_no_failure(
        self, cli: Cli, exported: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import runtimes.torch as torch_runtime

        gone = Availability(False, reason="needs another machine", fix="get one")
        monkeypatch.setattr(torch_runtime, "availability", lambda: gone)
        ran = cli("verify", str(exported))
        assert ran.code == 0
        assert ran.out.splitlines()[0] == f"{exported}: not proven on this machine"
        assert "needs another machine" in ran.out

    def test_a_changed_byte_fails_and_the_next_is_still_verified(
        self, cli: Cli, exported: Path, tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad"
        shutil.copytree(exported, bad)
        tokenizer = (bad / "tokenizer.json").read_bytes()
        (bad / "tokenizer.json").write_bytes(tokenizer.replace(b"a", b"b", 1))
        ran = cli("verify", str(bad), str(exported), "--threads", "1")
        assert ran.code == 2
        heads = [line for line in ran.out.splitlines() if not line.startswith(" ")]
        assert heads == [f"{bad}: failed", f"{exported}: proven (torch on cpu)"]
        assert f"hashes    FAILED  {bad / 'tokenizer.json'}: content differs" in ran.out

    def test_no_artifact_is_one_line(self, cli: Cli, exported: Path, tmp_path: Path) -> None:
        ran = cli("verify", str(tmp_path), str(exported), "--threads", "1")
        assert (ran.code, ran.out.splitlines()[0]) == (2, f"{exported}: proven (torch on cpu)")
        told = f"edgecall: {tmp_path}: not an artifact (manifest.json is missing); make one with `edgecall export`"
        assert ran.err.splitlines()[-1] == told

    def test_a_precision_is_for_what_is_emulated(self, cli: Cli, exported: Path) -> None:
        ran = cli("verify", str(exported), "--precision", "float32")
        told = "edgecall: --precision is for coreml artifacts; safetensors-fp32 is none, leave it out\n"
        assert ran == Ran(2, "", told)
        ran = cli("verify", str(exported), "--precision", "float32", "--runtime", "torch")
        told = "edgecall: torch: computes as it does; --precision is for coreml-reference\n"
        assert (ran.code, ran.err) == (2, told)

    def test_a_runtime_of_another_format(self, cli: Cli, exported: Path) -> None:
        ran = cli("verify", str(exported), "--runtime", "llama_cpp")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("edgecall: ") and ran.err.count("\n") == 1


def _fail(monkeypatch: pytest.MonkeyPatch, quant: str, error: Exception) -> None:
    original = pipeline.export_one

    def failing(source: Checkpoint, fmt: str, asked: str, *rest: Any, **options: Any) -> Any:
        if asked == quant:
            raise error
        return original(source, fmt, asked, *rest, **options)

    monkeypatch.setattr(pipeline, "export_one", failing)
