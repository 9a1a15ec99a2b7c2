"""Artifacts of the tiny model for tests of runtimes: written by the exporter, without the proof (it needs a router)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from export import exporter
from export.base import Checkpoint, Written
from export.checkpoint import count_parameters
from router.toolset import Toolset
from runtimes import RUNTIMES, is_emulated, prover, runtime
from runtimes.artifact import SCHEMA, Artifact

if TYPE_CHECKING:
    from export.coreml_mil import Package

Maker = Callable[[str, str], Artifact]

PART = 512
"""Rows of a part of the output matrix in the export for the Neural Engine: 768 make two, the second one shorter."""


@dataclass(frozen=True)
class Neural:
    """A checkpoint, and its export for the Neural Engine."""

    source: Checkpoint
    artifact: Artifact

    @cached_property
    def package(self) -> Package:
        from export.coreml_mil import Package

        return Package(self.artifact.weights)


def variants() -> Iterator[tuple[str, str, str]]:
    """Every registered runtime with its format and each of that one's quantizations; a module that cannot be imported
    fails its test. A stand-in gets those of 16 bits and more: the narrower ones differ in constants that it computes
    when it loads them. tests/export/test_coreml_quant.py holds their logits, and the state after appends and rewinds,
    against PyTorch at a fraction of the time. Nor does it get the one for the Neural Engine, whose every pass is over
    the whole cache: a smaller network's goes through splits and rewinds in tests/runtimes/test_coreml_package.py."""
    for name in RUNTIMES:
        try:
            fmt = runtime(name).FORMAT
            least = 16 if is_emulated(name) else 0
            left_out = ("ane",) if is_emulated(name) else ()
            for quant, spec in exporter(fmt).QUANTS.items():
                if spec.precision >= least and quant not in left_out:
                    yield name, fmt, quant
        except ImportError:
            yield name, "not", "importable"


def bare_artifact(source: Checkpoint, folder: Path, fmt: str, quant: str, weights: str) -> Artifact:
    """An artifact in `folder` whose manifest has no more than runtimes need."""
    sizes = {"context_length": source.context_length, "vocab_size": source.vocab_size}
    return Artifact(folder, {"format": fmt, "quant": quant, "weights": weights, **sizes})


def write_artifact(source: Checkpoint, fmt: str, quant: str, folder: Path, toolset: Toolset) -> Artifact:
    """Write the weights and what a runtime reads beside them; skip, with the reason, where that cannot be done here,
    or nothing here opens them."""
    module = exporter(fmt)
    for state in (module.availability(), runtime(prover(fmt)).availability()):
        if not state.available:
            pytest.skip(f"{fmt}: {state.reason}; {state.fix}")
    folder.mkdir(parents=True)
    written: Written = module.write(source, folder, quant, toolset)
    shutil.copyfile(source.folder / "tokenizer.json", folder / "tokenizer.json")
    spec = module.QUANTS[quant]
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {
        "schema": SCHEMA,
        "format": fmt,
        "quant": quant,
        "precision": spec.precision,
        "dtype": spec.dtype,
        "weights": written.weights,
        "wire": "functiongemma",
        "context_length": source.context_length,
        "vocab_size": source.vocab_size,
        "source": {"name": source.name, "sha256": source.sha256, "parameters": count_parameters(source.folder)},
        "versions": written.versions,
        "details": written.details,
        "files": [{"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size} for p in paths],
    }
    return Artifact(folder, manifest)
