"""optimum's `ORTModelForCausalLM`: its own export of the checkpoint, run by its own `generate` on ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.peer import Opening, Peer
from bench.peer_transformers import Generating
from export.atomic import staged
from runtimes.artifact import Artifact
from runtimes.base import Availability
from runtimes.errors import UserError

PACKAGES: Final = ("optimum", "optimum-onnx", "onnxruntime", "transformers")
RECORD: Final = "exported.json"
"""Written last into an export: the checkpoint and the versions that made it."""


def availability(server: str | None) -> Availability:
    """Whether optimum's exporter and ONNX Runtime are installed and fit each other."""
    from export.onnx import availability as exporter_availability

    return exporter_availability().with_package("onnxruntime", 'pip install "edgecall[onnx]"')


def prepare(source: Artifact, folder: Path, progress: Callable[[str], None]) -> None:
    """Export `source`, a safetensors artifact, into `folder` as `from_pretrained(export=True)` does it, unless that is
    what lies there.
    """
    record = {"source": source.sha256, "versions": {name: version(name) for name in PACKAGES}}
    if _recorded(folder) == record:
        return
    progress("optimum exports the checkpoint")
    from optimum.onnxruntime import ORTModelForCausalLM

    with staged(folder) as staging:
        ORTModelForCausalLM.from_pretrained(source.folder, export=True, local_files_only=True).save_pretrained(staging)
        (staging / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def open_peer(opening: Opening) -> Peer:
    """Open the export that `prepare` made."""
    if opening.prepared is None:
        raise UserError("optimum: there is no export of the checkpoint; it is made before the peer is opened")
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    options = SessionOptions()
    options.intra_op_num_threads = opening.threads
    net = ORTModelForCausalLM.from_pretrained(opening.prepared, session_options=options, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(opening.artifact.folder, local_files_only=True)
    return Generating(net, tokenizer, opening, None, dtype="fp32", threads=opening.threads, packages=PACKAGES)


def _recorded(folder: Path) -> object:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
