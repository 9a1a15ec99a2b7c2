"""Contract 2: an export is a self-contained folder. Here it is read and its structure and hashes checked.

Making one (staging, proof, rename) is `export`'s work; `manifest.json` is written last, so a folder without it is
not an artifact. The manifest has the hash of every other file and, as ``sha256``, its own: that of its canonical JSON
(sorted keys, no spaces, UTF-8) without this entry.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from runtimes.errors import ArtifactError

SCHEMA = "edgecall.artifact/1"
MANIFEST = "manifest.json"
PROOF = "proof.jsonl"
TOKENIZER = "tokenizer.json"
TOOLSET = "toolset.json"
OUTPUT_IDS = "output_ids.json"
"""The token ids that the output matrix has rows for, where its vocabulary was trimmed in the output alone."""
STAGING_PREFIX = ".tmp-"
"""Folders so named are exports in the making, or what a killed one left."""

WIRES = ("functiongemma", "gemma4")
"""Names of the wire formats in `router.wire`, which nothing in this room may import."""

_PRECISIONS = (32, 16, 8, 4)

_REQUIRED: dict[str, type] = {
    "schema": str,
    "sha256": str,
    "format": str,
    "quant": str,
    "precision": int,
    "weights": str,
    "wire": str,
    "context_length": int,
    "vocab_size": int,
    "source": dict,
    "files": list,
    "versions": dict,
    "details": dict,
}
_FILE: dict[str, type] = {"path": str, "bytes": int, "sha256": str}
_SOURCE: dict[str, type] = {"name": str, "sha256": str, "parameters": int}


@dataclass(frozen=True)
class Artifact:
    """A checked export folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def format(self) -> str:
        return str(self.manifest["format"])

    @property
    def quant(self) -> str:
        return str(self.manifest["quant"])

    @property
    def name(self) -> str:
        """Format and quantization, e.g. ``gguf-q8_0``."""
        return f"{self.format}-{self.quant}"

    @property
    def precision(self) -> int:
        """Nominal bits of a weight: 32, 16, 8 or 4."""
        return int(self.manifest["precision"])

    @property
    def weights(self) -> Path:
        """The weights: a file, or a folder for formats that are folders (MLX, safetensors, Core ML)."""
        return self.folder / str(self.manifest["weights"])

    @property
    def tokenizer(self) -> Path:
        return self.folder / TOKENIZER

    @property
    def toolset(self) -> Path:
        return self.folder / TOOLSET

    @property
    def proof(self) -> Path:
        return self.folder / PROOF

    @property
    def wire(self) -> str:
        return str(self.manifest["wire"])

    @property
    def context_length(self) -> int:
        return int(self.manifest["context_length"])

    @property
    def vocab_size(self) -> int:
        return int(self.manifest["vocab_size"])

    @property
    def output_ids(self) -> Path | None:
        """Where it lies which ids the output matrix has rows for; None where it has one for each."""
        return self.folder / OUTPUT_IDS if self._trim.get("form") == "output" else None

    @property
    def output_rows(self) -> int:
        """Rows of the output matrix."""
        return self.vocab_size if self.output_ids is None else int(self._trim["tokens"])

    @property
    def _trim(self) -> dict[str, Any]:
        return dict(self.manifest.get("trim") or {})

    @property
    def size_bytes(self) -> int:
        """Bytes of the weight files alone."""
        root = str(self.manifest["weights"])
        return sum(
            int(f["bytes"])
            for f in self.manifest["files"]
            if f["path"] == root or f["path"].startswith(root + "/") or root == "."
        )

    @property
    def sha256(self) -> str:
        """One hash over all files' hashes, in path order: names the artifact's content."""
        lines = sorted(f"{f['sha256']}  {f['path']}" for f in self.manifest["files"])
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def is_artifact(folder: Path) -> bool:
    """Whether `folder` claims to be an artifact (has a manifest)."""
    return (folder / MANIFEST).is_file()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest` with its own hash as ``folder/manifest.json``."""
    plain = json.loads(json.dumps(manifest))  # as it will be read: keys are strings
    text = json.dumps(plain | {"sha256": _own_sha256(plain)}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def open_artifact(folder: str | Path, *, check: Literal["hashes", "sizes"] = "hashes") -> Artifact:
    """Read and check an artifact. Raises `ArtifactError` naming the file that is wrong.

    `check="sizes"` leaves out the hashing, for callers that verified the folder a moment ago.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such artifact folder; make one with `edgecall export`")
    if folder.name.startswith(STAGING_PREFIX):
        raise ArtifactError(f"{folder}: left by an export that did not finish; make one with `edgecall export`")
    if not path.is_file():
        raise ArtifactError(f"{folder}: not an artifact ({MANIFEST} is missing); make one with `edgecall export`")
    manifest = _read_manifest(path)
    _check_manifest(path, manifest)
    artifact = Artifact(folder, manifest)
    for entry in manifest["files"]:
        _check_file(folder / entry["path"], entry, hashes=check == "hashes")
    return artifact


def _own_sha256(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest as it was written: an object of our schema with its own hash."""
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if schema != SCHEMA:
            raise ArtifactError(f"{path}: schema is {schema!r}, this version reads {SCHEMA!r}; export again")
        sha256 = _own_sha256(manifest)
    except (ValueError, RecursionError, OSError) as error:
        raise ArtifactError(f"{path}: not readable as JSON ({error}); export again") from None
    if "sha256" not in manifest:
        raise ArtifactError(f"{path}: lacks its own sha256 (altered, or of an older version); export again")
    if manifest["sha256"] != sha256:
        raise ArtifactError(f"{path}: altered: its content differs from its own sha256; export again")
    return manifest


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """What a manifest with a right hash may still have wrong: types, and values that nothing here can use."""
    from runtimes import FORMATS

    _check_types(path, "", manifest, _REQUIRED)
    _check_types(path, "source.", manifest["source"], _SOURCE)
    for key, known in (("format", FORMATS), ("wire", WIRES), ("precision", _PRECISIONS)):
        if manifest[key] not in known:
            names = ", ".join(map(str, known))
            raise ArtifactError(f"{path}: {key} is {manifest[key]!r}, this version knows {names}; export again")
    for key in ("context_length", "vocab_size"):
        if manifest[key] < 1:
            raise ArtifactError(f"{path}: {key} is {manifest[key]}, must be positive; export again")
    for number, entry in enumerate(manifest["files"]):
        _check_types(path, f"files[{number}].", entry, _FILE)
        if not _is_inside(entry["path"]):
            raise ArtifactError(f"{path}: file path {entry['path']!r} leaves the artifact; do not trust this folder")
    listed = {entry["path"] for entry in manifest["files"]}
    needed = [TOKENIZER, TOOLSET, PROOF]
    if "trim" in manifest:
        _check_types(path, "trim.", manifest["trim"], {"form": str, "tokens": int})
        needed += [OUTPUT_IDS] if manifest["trim"]["form"] == "output" else []
    for name in needed:
        if name not in listed:
            raise ArtifactError(f"{path}: {name} is not listed; export again")
    weights = manifest["weights"]
    if weights != "." and not any(name == weights or name.startswith(weights + "/") for name in listed):
        raise ArtifactError(f"{path}: the weights {weights!r} are not among its files; export again")


def _check_types(path: Path, where: str, data: Any, kinds: dict[str, type]) -> None:
    for key, kind in kinds.items():
        if not isinstance(data, dict) or type(data.get(key)) is not kind:  # a bool is no int
            raise ArtifactError(f"{path}: {where + key!r} is missing or not {kind.__name__}; export again")


def _is_inside(name: str) -> bool:
    """Whether `name` is a relative path that stays in its folder, on every system."""
    windows = PureWindowsPath(name)  # knows both kinds of slash
    return name.isprintable() and ".." not in windows.parts and not windows.anchor


def _check_file(path: Path, entry: dict[str, Any], *, hashes: bool) -> None:
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise ArtifactError(f"{path}: missing; export again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ArtifactError(f"{path}: {size} bytes, the manifest says {entry['bytes']}; export again")
    if hashes and sha256_file(path) != entry["sha256"]:
        raise ArtifactError(f"{path}: content differs from the manifest's sha256; export again")
