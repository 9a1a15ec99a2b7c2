"""The exporters: each turns a merged checkpoint into an artifact. Adding a format is one file here and one line below.

What a module offers is in `export.base`; how an artifact comes about in `export.pipeline`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

from export.base import Checkpoint, Quant, Written
from export.mixed import Scheme, name_of, parse, spec_of
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
    """What a format says about one of its quantizations, or of a mix. Raises `UserError` for an unknown name."""
    module = exporter(fmt)
    quants: dict[str, Quant] = module.QUANTS
    if name in quants:
        return quants[name]
    scheme = scheme_of(fmt)
    if scheme is None:
        raise UserError(f"{fmt} has no quantization {name!r}; there are {', '.join(quants)}{_near(name, quants)}")
    return spec_of(scheme, parse(scheme, name))


def own_name(fmt: str, name: str) -> str:
    """The one name of what a quantization or a mix is, however it was spelled. Raises `UserError` for an unknown."""
    scheme = scheme_of(fmt)
    if scheme is None or name in exporter(fmt).QUANTS:
        quant_of(fmt, name)
        return name
    return name_of(scheme, parse(scheme, name))


def scheme_of(fmt: str) -> Scheme | None:
    """What a format can give to its classes of matrices; None where they all get the same."""
    scheme: Scheme | None = getattr(exporter(fmt), "SCHEME", None)
    return scheme


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


__all__ = ["EXPORTERS", "Checkpoint", "Quant", "Written", "exporter", "own_name", "quant_of", "scheme_of"]
