"""The process that merges and exports for a bench, so that no exporter's crash or memory is the bench's.

Commands: ``merge`` -> the checkpoint; ``export`` -> the artifact's folder (see `export.pipeline`).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from bench.channel import Emit, serve


def merge(
    emit: Emit, *, model: str, work: str, toolset: str, trim: dict[str, Any] | None = None
) -> dict[str, Any]:  # fmt: skip
    from export.checkpoint import count_parameters
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
    return {
        "folder": str(found.folder),
        "name": found.name,
        "sha256": found.sha256,
        "config": found.config,
        "parameters": count_parameters(found.folder),
    }


def export(
    emit: Emit, *, source: dict[str, str], config: dict[str, Any], fmt: str, quant: str, out: str, toolset: str,
    created_by: str, plugins: list[str],
) -> dict[str, Any]:  # fmt: skip
    from export.base import Checkpoint
    from export.pipeline import export_one
    from router.toolset_load import load_toolset

    for plugin in plugins:
        importlib.import_module(plugin)
    checkpoint = Checkpoint(Path(source["folder"]), source["name"], source["sha256"], config)
    artifact = export_one(
        checkpoint, fmt, quant, Path(out), load_toolset(toolset), created_by, threads=1,
        progress=lambda line: emit({"line": line}),
    )  # fmt: skip
    return {"folder": str(artifact.folder)}


if __name__ == "__main__":
    sys.exit(serve({"merge": merge, "export": export}))
