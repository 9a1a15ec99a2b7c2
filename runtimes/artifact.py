"""Contract 2: an export is a self-contained folder. Here it is read and its structure and hashes checked.

Making one (staging, proof, rename) is `export`'s work; `manifest.json` is written last, so a folder without it is
not an artifact.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runtimes.errors import ArtifactError

SCHEMA = "edgecall.artifact/1"
MANIFEST = "manifest.json"
PROOF = "proof.jsonl"
TOKENIZER = "tokenizer.json"
TOOLSET = "toolset.json"
STAGING_PREFIX = ".tmp-"
"""Folders so named are exports in the making, or what a killed one left."""

_REQUIRED: dict[str, type] = {
    "schema": str,
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


def open_artifact(folder: str | Path, *, check: Literal["hashes", "sizes"] = "hashes") -> Artifact:
    """Read and check an artifact. Raises `ArtifactError` naming the file that is wrong.

    `check="sizes"` leaves out the hashing, for callers that verified the folder a moment ago.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such artifact folder")
    if folder.name.startswith(STAGING_PREFIX):
        raise ArtifactError(f"{folder}: left by an export that did not finish; make one with `edgecall export`")
    if not path.is_file():
        raise ArtifactError(f"{folder}: not an artifact ({MANIFEST} is missing); make one with `edgecall export`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: not readable as JSON ({error}); export again") from None
    _check_manifest(path, manifest)
    artifact = Artifact(folder, manifest)
    for entry in manifest["files"]:
        _check_file(folder / entry["path"], entry, hashes=check == "hashes")
    if not artifact.weights.exists():
        raise ArtifactError(f"{artifact.weights}: the weights are missing; export again")
    return artifact


def _check_manifest(path: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactError(f"{path}: schema is {found!r}, this version reads {SCHEMA!r}; export again")
    for key, kind in _REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise ArtifactError(f"{path}: {key!r} is missing or not {kind.__name__}; export again")
    listed: set[str] = set()
    for entry in manifest["files"]:
        if not isinstance(entry, dict) or not {"path", "bytes", "sha256"} <= entry.keys():
            raise ArtifactError(f"{path}: an entry of 'files' lacks path, bytes or sha256; export again")
        relative = Path(str(entry["path"]))
        if relative.is_absolute() or ".." in relative.parts:
            raise ArtifactError(f"{path}: file path {entry['path']!r} leaves the artifact; do not trust this folder")
        listed.add(str(entry["path"]))
    for name in (TOKENIZER, TOOLSET, PROOF):
        if name not in listed:
            raise ArtifactError(f"{path}: {name} is not listed; export again")


def _check_file(path: Path, entry: dict[str, Any], *, hashes: bool) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: missing; export again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ArtifactError(f"{path}: {size} bytes, the manifest says {entry['bytes']}; export again")
    if hashes and sha256_file(path) != entry["sha256"]:
        raise ArtifactError(f"{path}: content differs from the manifest's sha256; export again")
