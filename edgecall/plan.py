"""What `--to` and `--quant` ask for: a list of (format, quantization), each known to its exporter."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from runtimes.errors import UserError

DEFAULT_FORMATS = ("gguf", "onnx", "coreml", "mlx")


def known() -> dict[str, dict[str, int]]:
    """Format -> its quantizations and their nominal bits, best first."""
    from export.pipeline import EXPORTERS, exporter

    return {fmt: {name: quant.precision for name, quant in exporter(fmt).QUANTS.items()} for fmt in EXPORTERS}


def defaults(fmt: str) -> tuple[str, ...]:
    """The quantizations made where none is asked for."""
    from export.pipeline import exporter

    return tuple(exporter(fmt).DEFAULT_QUANTS)


def routing_quant(fmt: str) -> str:
    """The variant that `edgecall route` makes for itself: 8 bits where the format has them, else its first default."""
    return next((name for name, bits in known()[fmt].items() if bits == 8), defaults(fmt)[0])


def plan(to: str | None, quant: str | None) -> list[tuple[str, str]]:
    """The (format, quantization) pairs that `--to` and `--quant` mean, in the order given, none twice.

    A quantization is written ``q8_0``, for every chosen format that has it, or ``gguf:q8_0``; ``all`` stands for
    all formats or quantizations; a format for which none is named gets its defaults. Raises `UserError`.
    """
    formats = _formats(to)
    table = known()
    chosen: dict[str, list[str]] = {fmt: [] for fmt in formats}
    for entry in _split(quant, "--quant"):
        fmt, colon, name = entry.rpartition(":")
        if colon and fmt not in table:
            raise UserError(f"--quant {entry}: unknown format {fmt!r}; there are {_listed(table)}{_near(fmt, table)}")
        if colon and fmt not in chosen:
            raise UserError(f"--quant {entry}: {fmt} is not among the formats of --to ({', '.join(formats)})")
        places = [fmt] if colon else [f for f in formats if name == "all" or name in table[f]]
        if not places or (colon and name != "all" and name not in table[fmt]):
            raise UserError(_unknown_quant(name, [fmt] if colon else formats, table))
        for place in places:
            chosen[place] += table[place] if name == "all" else [name]
    return [(fmt, name) for fmt in formats for name in dict.fromkeys(chosen[fmt] or defaults(fmt))]


def _formats(to: str | None) -> list[str]:
    table = known()
    names = _split(to, "--to") or list(DEFAULT_FORMATS)
    for name in names:
        if name != "all" and name not in table:
            raise UserError(f"--to {name}: unknown format; there are {_listed(table)} and all{_near(name, table)}")
    return list(dict.fromkeys(fmt for name in names for fmt in (table if name == "all" else [name])))


def _split(text: str | None, option: str) -> list[str]:
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UserError(f"{option} {text!r}: an empty entry; write names with commas between")
    return parts


def _unknown_quant(name: str, formats: Iterable[str], table: Mapping[str, Mapping[str, int]]) -> str:
    allowed = "; ".join(f"{fmt} has {', '.join(table[fmt])}" for fmt in formats)
    return f"--quant {name}: unknown quantization; {allowed}{_near(name, [q for f in formats for q in table[f]])}"


def _listed(table: Iterable[str]) -> str:
    return ", ".join(table)


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
