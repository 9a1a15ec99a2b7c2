"""The exporters: each turns a merged checkpoint into an artifact. Adding a format is one file here and one line below.

What a module offers is in `export.base`; how an artifact comes about in `export.pipeline`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

from export.base import Checkpoint, Quant, Written
from runtimes.errors import UserError

EXPORTERS: dict[str, str] = {
    "safetensors": "export.safetensors",
    "gguf": "export.gguf",
    "onnx": "export.onnx",
    "mlx": "export.mlx",
    "coreml": "export.coreml",
}


def exporter(fmt: str) -> ModuleType:
    """The exporter module of a format, imported now. Raises `UserError` for an unknown name."""
    if fmt not in EXPORTERS:
        raise UserError(f"unknown format {fmt!r}; there are {', '.join(EXPORTERS)}{_near(fmt, EXPORTERS)}")
    return importlib.import_module(EXPORTERS[fmt])


def quant_of(fmt: str, name: str) -> Quant:
    """What a format says about one of its quantizations. Raises `UserError` for an unknown name."""
    quants: dict[str, Quant] = exporter(fmt).QUANTS
    if name not in quants:
        raise UserError(f"{fmt} has no quantization {name!r}; there are {', '.join(quants)}{_near(name, quants)}")
    return quants[name]


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


__all__ = ["EXPORTERS", "Checkpoint", "Quant", "Written", "exporter", "quant_of"]
