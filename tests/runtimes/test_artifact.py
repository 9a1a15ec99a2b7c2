"""Opening an artifact: a manifest that is not as it was written, or says what cannot be, is told in one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecall.cli import main
from export.proof import verify
from router.wire import WIRES
from runtimes import artifact as artifact_module
from runtimes.artifact import MANIFEST, SCHEMA, open_artifact, sha256_file, write_manifest
from runtimes.errors import ArtifactError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact whose files hold a few bytes: only their hashes matter here."""
    folder = tmp_path / "gguf-q8_0"
    folder.mkdir()
    for name in ("model.gguf", "tokenizer.json", "toolset.json", "proof.jsonl"):
        (folder / name).write_text(f"the content of {name}")
    files = [{"path": p.name, "bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in sorted(folder.iterdir())]
    manifest = {
        "schema": SCHEMA, "format": "gguf", "quant": "q8_0", "precision": 8, "dtype": "q8_0", "weights": "model.gguf",
        "wire": "functiongemma", "context_length": 2048, "vocab_size": 3072,
        "source": {"name": "größer", "sha256": "5" * 64, "parameters": 6825216}, "key": "c8" * 32,
        "command": "edgecall export größer --out out\n", "versions": {"python": "3.11.7"},
        "details": {"worst": 1.25e-05, "safe": True, "layers": {1: None, 10: [], 9: 0.5}}, "files": files,
    }  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as raised:
        open_artifact(folder)
    line = str(raised.value)
    assert line.isprintable() and str(folder) in line, line
    return line


def test_the_hash_is_that_of_the_canonical_json(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    sha256 = manifest.pop("sha256")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert "größer" in text
    assert sha256 == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_the_layout_of_the_json_does_not_matter(folder: Path) -> None:
    path = folder / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(manifest.items())), indent=4))
    assert open_artifact(folder).manifest == manifest


@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit(folder: Path, bit: int) -> None:
    """Every third byte, another third for another bit."""
    path = folder / MANIFEST
    whole = path.read_bytes()
    before = open_artifact(folder).manifest
    refused = 0
    for at in range(bit % 3, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        try:
            after = open_artifact(folder).manifest
        except ArtifactError as error:
            assert str(error).isprintable(), error
            refused += 1
        else:
            assert after == before, at
    assert refused > len(whole) / 4


def without(key: str) -> Change:
    return lambda manifest: manifest.pop(key)


def entry(**values: object) -> Change:
    return lambda manifest: manifest["files"][0].update(values)


def setting(**values: object) -> Change:
    return lambda manifest: manifest.update(values)


LEAVES = "leaves the artifact; do not trust this folder"
CHANGES: tuple[tuple[Change, str], ...] = (
    (setting(schema="edgecall.artifact/0"), "schema is 'edgecall.artifact/0', this version reads"),
    (setting(schema=["edgecall"]), "schema is ['edgecall'], this version reads"),
    (without("schema"), "schema is None, this version reads"),
    (setting(format="ggwf"), "format is 'ggwf', this version knows safetensors, gguf, onnx, mlx, coreml; export again"),
    (setting(format=["gguf"]), "'format' is missing or not str; export again"),
    (setting(wire="x"), "wire is 'x', this version knows functiongemma, gemma4; export again"),
    (setting(precision=7), "precision is 7, this version knows 32, 16, 8, 4; export again"),
    (setting(precision=8.0), "'precision' is missing or not int"),
    (setting(context_length=-5), "context_length is -5, must be positive; export again"),
    (setting(context_length=True), "'context_length' is missing or not int"),
    (setting(vocab_size=0), "vocab_size is 0, must be positive; export again"),
    (without("vocab_size"), "'vocab_size' is missing or not int"),
    (setting(source={}), "'source.name' is missing or not str"),
    (setting(source={"name": "x", "sha256": "5", "parameters": "many"}), "'source.parameters' is missing or not int"),
    (setting(source="seed"), "'source' is missing or not dict"),
    (setting(quant=8), "'quant' is missing or not str"),
    (setting(weights="other.gguf"), "the weights 'other.gguf' are not among its files; export again"),
    (setting(weights="../model.gguf"), "the weights '../model.gguf' are not among its files"),
    (setting(files={}), "'files' is missing or not list"),
    (setting(files=[]), "tokenizer.json is not listed"),
    (setting(files=["model.gguf"]), "'files[0].path' is missing or not str"),
    (entry(path=5), "'files[0].path' is missing or not str"),
    (entry(path="../model.gguf"), f"'../model.gguf' {LEAVES}"),
    (entry(path="a/../../model.gguf"), LEAVES),
    (entry(path="..\\model.gguf"), LEAVES),
    (entry(path="/etc/passwd"), f"'/etc/passwd' {LEAVES}"),
    (entry(path="C:model.gguf"), LEAVES),
    (entry(path="a\nb"), "'a\\nb' leaves"),
    (entry(path="\ud800"), "'\\ud800' leaves"),
    (entry(path="\0"), LEAVES),
    (entry(path=""), "not among its files"),
    (entry(bytes="7"), "'files[0].bytes' is missing or not int"),
    (entry(bytes=None), "'files[0].bytes' is missing or not int"),
    (entry(sha256=7), "'files[0].sha256' is missing or not str"),
    (entry(sha256="0" * 64), "content differs from the manifest's sha256"),
)  # fmt: skip


@pytest.mark.parametrize(("change", "told"), CHANGES, ids=[told for _, told in CHANGES])
def test_a_manifest_made_by_hand(folder: Path, change: Change, told: str) -> None:
    """Its hash is right: what it says cannot be."""
    manifest = open_artifact(folder).manifest
    change(manifest)
    text = json.dumps({key: value for key, value in manifest.items() if key != "sha256"}, sort_keys=True,
                      separators=(",", ":"), ensure_ascii=False)  # fmt: skip
    manifest["sha256"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert told in refusal(folder)


def test_a_file_whose_name_is_too_long(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    manifest["files"].append({"path": "x" * 5000, "bytes": 1, "sha256": "0"})
    write_manifest(folder, manifest)
    assert refusal(folder).endswith("x: missing; export again")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON (maximum recursion depth"),
        ('{"schema": ' + "[" * 980 + "]" * 980 + "}", "export again"),
        (f'{{"schema": "{SCHEMA}", "details": ' + "[" * 980 + "]" * 980 + "}", "export again"),
        ("9" * 5000, "not readable as JSON"),
        ("[]", "schema is None, this version reads"),
        (f'{{"schema": "{SCHEMA}"}}', "lacks its own sha256 (altered, or of an older version); export again"),
        (f'{{"schema": "{SCHEMA}", "sha256": []}}', "altered: its content differs from its own sha256; export again"),
        ('{"schema": "\\ud800"}', "schema is '\\ud800'"),
    ],
)
def test_what_is_no_manifest(folder: Path, text: str, told: str) -> None:
    (folder / MANIFEST).write_text(text)
    assert told in refusal(folder)


def test_the_commands_tell_it_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text(encoding="utf-8").replace("2048", "4096"), encoding="utf-8")
    told = f"{path}: altered: its content differs from its own sha256; export again"
    assert main(["route", "light", "--model", str(folder)]) == 2
    assert capsys.readouterr() == ("", f"edgecall: {told}\n")
    result = verify(folder)
    assert (result.status, [check.detail for check in result.checks]) == ("failed", [told])
    assert main(["verify", str(folder)]) == 2


def test_the_wire_formats_are_the_routers() -> None:
    assert artifact_module.WIRES == tuple(WIRES)
