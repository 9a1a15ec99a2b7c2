"""What `--to` and `--quant` ask for: a list of (format, quantization), each known to its exporter."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from runtimes.errors import UserError

DEFAULT_FORMATS = ("gguf", "onnx", "coreml", "mlx")


def known() -> dict[str, dict[str, int]]:
    """Format -> its quantizations and their nominal bits, best first."""
    from export import EXPORTERS, exporter

    return {fmt: {name: quant.precision for name, quant in exporter(fmt).QUANTS.items()} for fmt in EXPORTERS}


def defaults(fmt: str) -> tuple[str, ...]:
    """The quantizations made where none is asked for."""
    from export import exporter

    return tuple(exporter(fmt).DEFAULT_QUANTS)


def routing_quant(fmt: str) -> str:
    """The variant that `edgecall route` makes for itself: 8 bits where the format has them, else its first default."""
    return next((name for name, bits in known()[fmt].items() if bits == 8), defaults(fmt)[0])


def plan(to: str | None, quant: str | None) -> list[tuple[str, str]]:
    """The (format, quantization) pairs that `--to` and `--quant` mean, in the order given, none twice.

    A quantization is written ``q8_0``, for every chosen format that has it, or ``gguf:q8_0``; so is a mix
    (`export.mixed`), which comes back under its one name. ``all`` stands for all formats or quantizations; a format for
    which none is named gets its defaults. Raises `UserError`.
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
        asked = [fmt] if colon else formats
        if name == "all":
            for place in asked:
                chosen[place] += table[place]
            continue
        for place, own in _places(name, asked, table).items():
            chosen[place].append(own)
    return [(fmt, name) for fmt in formats for name in dict.fromkeys(chosen[fmt] or defaults(fmt))]


def _places(name: str, formats: Sequence[str], table: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """The formats that have a quantization or mix, and what it is called there."""
    from export import own_name, scheme_of

    base = name.partition("+")[0]
    found = {}
    for fmt in formats:
        scheme = scheme_of(fmt)
        if name in table[fmt]:
            found[fmt] = name
        elif scheme is not None and base in scheme.bases:
            found[fmt] = own_name(fmt, name)
    if not found and "+" in name and any(base in table[fmt] for fmt in formats):
        raise UserError(f"--quant {name}: {', '.join(formats)} has no mixes; give {base} alone")
    if not found:
        raise UserError(_unknown_quant(name, formats, table))
    return found


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
