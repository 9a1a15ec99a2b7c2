"""The process that merges and exports for a bench, so that no exporter's crash or memory is the bench's.

Commands: ``merge`` or ``random`` -> the checkpoint; ``export`` -> the artifact's folder (see `export.pipeline`).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.channel import Emit, serve

if TYPE_CHECKING:
    from export.base import Checkpoint


def merge(
    emit: Emit, *, model: str, work: str, toolset: str, trim: dict[str, Any] | None = None
) -> dict[str, Any]:  # fmt: skip
    from export.pipeline import merge_checkpoint
    from export.trim import trim_checkpoint
    from export.trim_record import Trim
    from router.toolset_load import load_toolset

    def tell(line: str) -> None:
        emit({"line": line})

    tools = load_toolset(toolset)
    found = merge_checkpoint(model, Path(work), toolset=tools.name, progress=tell)
    if trim is not None:
        found = trim_checkpoint(found, Trim(**trim | {"rules": tuple(trim["rules"])}), tools, Path(work), progress=tell)
    return _told(found)


def random(
    emit: Emit, *, shape: dict[str, Any], tokenizer: str | None, work: str, toolset: str,
    trim: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Random weights of a shape (`bench.shape_checkpoint`), cut to what `trim` says."""
    from bench.shape_checkpoint import make
    from bench.shapes import Shape
    from export.trim import trim_checkpoint
    from export.trim_record import Trim
    from router.toolset_load import load_toolset

    def tell(line: str) -> None:
        emit({"line": line})

    found = make(Shape(**shape), Path(tokenizer) if tokenizer else None, Path(work), progress=tell)
    if trim is not None:
        rules = Trim(**trim | {"rules": tuple(trim["rules"])})
        found = trim_checkpoint(found, rules, load_toolset(toolset), Path(work), progress=tell)
    return _told(found)


def _told(found: Checkpoint) -> dict[str, Any]:
    from export.checkpoint import count_parameters

    return {
        "folder": str(found.folder),
        "name": found.name,
        "sha256": found.sha256,
        "config": found.config,
        "parameters": count_parameters(found.folder),
    }


def export(
    emit: Emit, *, source: dict[str, str], config: dict[str, Any], fmt: str, quant: str, out: str, toolset: str,
    created_by: str, plugins: list[str], requests: list[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    from export.base import Checkpoint
    from export.pipeline import export_one
    from router.toolset_load import load_toolset

    for plugin in plugins:
        importlib.import_module(plugin)
    checkpoint = Checkpoint(Path(source["folder"]), source["name"], source["sha256"], config)
    artifact = export_one(
        checkpoint, fmt, quant, Path(out), load_toolset(toolset), created_by, requests=requests, threads=1,
        progress=lambda line: emit({"line": line}),
    )  # fmt: skip
    return {"folder": str(artifact.folder)}


if __name__ == "__main__":
    sys.exit(serve({"merge": merge, "random": random, "export": export}))
