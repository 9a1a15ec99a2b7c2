"""Artifacts that `edgecall route` makes for itself, kept under ``~/.cache/edgecall``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgecall.progress import Say
from edgecall.version import __version__
from runtimes.artifact import Artifact, is_artifact, open_artifact
from runtimes.console import need
from runtimes.errors import ArtifactError, UserError

if TYPE_CHECKING:
    from export.checkpoint import Parts
    from router.toolset import Toolset


def cache_folder() -> Path:
    """``$EDGECALL_CACHE``, or ``edgecall`` under ``$XDG_CACHE_HOME`` or ``~/.cache``. It need not exist."""
    own = os.environ.get("EDGECALL_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgecall"


def artifact_of(
    model: str, fmt: str, quant: str, toolset: Toolset, say: Say, *, threads: int | None = None
) -> Artifact:
    """The artifact of `model` in the cache, made there on first use.

    A hit reads no weights but the artifact's own, so it needs none of the export packages. Raises `UserError` where
    one has to be made and cannot be.
    """
    from export import own_name
    from export.checkpoint import locate

    quant = own_name(fmt, quant)
    parts = locate(model, toolset=toolset.name)
    out = cache_folder() / "artifacts" / f"{parts.name}-{_fingerprint(parts, toolset)}"
    target = out / f"{fmt}-{quant}"
    if is_artifact(target):
        try:
            return open_artifact(target)
        except ArtifactError as error:
            say(f"edgecall: {error}")
    return _make(model, parts, fmt, quant, out, toolset, say, threads)


def _make(
    model: str, parts: Parts, fmt: str, quant: str, out: Path, toolset: Toolset, say: Say, threads: int | None
) -> Artifact:
    from export.pipeline import export_one, merge_checkpoint

    try:
        need("torch", "transformers", "safetensors", extra="export")
    except UserError as error:
        raise UserError(
            f"no {fmt}-{quant} of {parts.name} in {cache_folder()}, and it cannot be made here: {error}; "
            "or give an artifact folder made elsewhere with --model"
        ) from None
    say(f"edgecall: making {fmt}-{quant} of {parts.name} in {out} (once)")
    source = merge_checkpoint(model, cache_folder() / "merged", toolset=toolset.name, progress=say)
    command = f"edgecall route --model {model} --quant {quant} --toolset {toolset.name}"
    return export_one(source, fmt, quant, out, toolset, command, threads=threads, progress=say)


def _fingerprint(parts: Parts, toolset: Toolset) -> str:
    """Names what an export depends on without reading weights: files by path, size and time; tools by content."""
    import export

    folders = [parts.base, *([parts.adapter] if parts.adapter else [])]
    code = Path(export.__file__).parent.glob("*.py")
    lines = [__version__, toolset.sha256, *_stats(code)]
    for folder in folders:
        lines += [str(folder.resolve()), *_stats(p for p in folder.iterdir() if p.is_file())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _stats(paths: Iterable[Path]) -> list[str]:
    return sorted(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths)
