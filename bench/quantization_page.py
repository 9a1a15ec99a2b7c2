"""A quantization report for people: ``quantization.md``, and the tables that the terminal shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bench.page import head, machine_section, remarks, run_notes, section, times
from bench.tables import Table, ms, number, percent, with_interval

EXPENDABLE: Final = ("tool", "times (95% CI)", "won/lost", "embedding", "attention", "mlp")
"""What a narrow terminal does without, first to last."""
LEGEND: Final = (
    "exact: tool and all arguments right, decoded with the grammar; points: exact minus that of the unquantized, same "
    "cases; won/lost: cases that only it, or only the unquantized got right; p: exact McNemar test, two-sided; times: "
    "its median time over the unquantized's, case by case in the same blocks (paired bootstrap); front: no other of "
    "the format is as small, as exact and as fast and better in one of them; times of two count as different where the "
    "interval of their ratio excludes 1."
)
_COLUMNS: Final = (
    "#", "artifact", "embedding", "attention", "mlp", "MB", "exact (95% CI)", "tool", "points (95% CI)", "won/lost",
    "p", "p50 ms", "times (95% CI)",
)  # fmt: skip
_METHODS: Final = {
    "grid": "all combinations of {types}",
    "descent": "a greedy descent over {types}: of the three steps that lower one class by one type it took the one "
    "that saves most bytes for each call lost",
}


def render(report: dict[str, Any], *, plot: str | None = None) -> str:
    """The page in Markdown; `plot` is the file name of the picture beside it."""
    parts = [
        f"# What {report['model']['name']} loses by being smaller, on {report['toolset']}",
        head(report, cases="cases"),
    ]
    parts.append("\n".join(f"- {line}" for line in advice(report)))
    if plot:
        parts.append(f"![Exact calls against size and p50]({plot})")
    parts.append("## Results\n\n" + LEGEND)
    parts += [section(table, level=3) for table in tables(report)]
    references = [one for entry in report["formats"] for one in entry["candidates"] if one["test"] is None]
    measured = [one for one in references if one["accuracy"]]
    parts += [_method(report), machine_section(report, measured), _remarks(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def tables(report: dict[str, Any]) -> list[Table]:
    """Of every format its Pareto front, all that were tried, and what could not be measured."""
    found = []
    for entry, order in zip(report["formats"], numbered(report), strict=True):
        front = {place: one for place, one in order.items() if one["front"]}
        found.append(Table(f"{entry['format']}: the Pareto front", _COLUMNS, _rows(front)))
        found.append(Table(f"{entry['format']}: all {len(order)} that were measured", _COLUMNS, _rows(order)))
        missing = [one for one in entry["candidates"] if one["status"] != "ok" or not one["accuracy"]]
        rows = tuple((one["artifact"], one["status"], one["reason"] or "no answers") for one in missing)
        found.append(Table(f"{entry['format']}: not measured", ("artifact", "status", "reason"), rows))
    return [table for table in found if table.rows]


def numbered(report: Mapping[str, Any]) -> list[dict[int, dict[str, Any]]]:
    """Of every format the candidates that answered, by their number in tables and picture, the smallest first."""
    out: list[dict[int, dict[str, Any]]] = []
    for entry in report["formats"]:
        known = [one for one in entry["candidates"] if one["accuracy"] and one["size_mb"]]
        ordered = sorted(known, key=lambda one: (one["size_mb"], -one["accuracy"]["exact"]))
        out.append(dict(enumerate(ordered, 1 + sum(map(len, out)))))
    return out


def advice(report: dict[str, Any]) -> list[str]:
    """One line for every format: what to take, and the command that makes it."""
    lines = []
    for entry in report["formats"]:
        by_name = {one["artifact"]: one for one in entry["candidates"]}
        best, reference = by_name[entry["recommended"]], by_name[entry["reference"]]
        if best is reference:
            lines.append(
                f"{entry['format']}: stay with {reference['quant']} ({number(reference['size_mb'], 3)} MB); all "
                f"that is smaller loses more than {report['lose_points']:g} points, or significantly"
            )
            continue
        p50 = f", p50 {ms(best['latency_ms']['p50'])} ms" if best["latency_ms"] else ""
        lines.append(
            f"{entry['format']}: take {best['quant']}: {number(best['size_mb'], 3)} MB instead of "
            f"{number(reference['size_mb'], 3)}, exact {percent(best['accuracy']['exact'])} instead of "
            f"{percent(reference['accuracy']['exact'])} (p = {best['test']['p']:.2g}){p50}; it is the smallest that "
            f"loses neither more than {report['lose_points']:g} points nor significantly: "
            f"`edgecall export MODEL --to {entry['format']} --quant {best['quant']}`"
        )
    return lines


def _rows(candidates: Mapping[int, dict[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(_row(place, one) for place, one in candidates.items())


def _row(place: int, one: Mapping[str, Any]) -> tuple[str, ...]:
    test, accuracy = one["test"], one["accuracy"]
    points = "-"
    if test is not None:
        low, high = (100 * bound for bound in test["difference_ci95"])
        points = f"{100 * test['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
    return (
        str(place),
        one["artifact"] + ("" if one["status"] == "ok" else f" ({one['status']})"),
        *(_class(one, kind) for kind in ("embedding", "attention", "mlp")),
        number(one["size_mb"], 3),
        with_interval(accuracy["exact"], accuracy["exact_ci95"]),
        percent(accuracy["tool"]),
        points,
        "-" if test is None else f"{test['won']}/{test['lost']}",
        "-" if test is None else f"{test['p']:.2g}",
        "-" if one["latency_ms"] is None else ms(one["latency_ms"]["p50"]),
        times(one["times"]),
    )


def _class(one: Mapping[str, Any], kind: str) -> str:
    """What a class was given, and in brackets what it is stored in where the format fell back on something else."""
    given = str(one["classes"][kind])
    stored = sorted((one["stored"] or {}).get(kind, {}))
    told = [name for name in stored if name.removesuffix("g64").removesuffix("g32") != given and name != given]
    return f"{given} ({', '.join(stored)})" if told and given != "q4_k_m" else given


def _method(report: dict[str, Any]) -> str:
    settings = report["settings"]
    lines = ["## How this was measured", ""]
    for entry in report["formats"]:
        how = _METHODS[entry["method"]].format(types=", ".join(entry["types"]))
        lines.append(f"- {entry['format']}: {how}; beside {entry['reference']} tried: {len(entry['candidates']) - 1}.")
        if entry["path"]:
            lines.append(f"  It went {' → '.join(entry['path'])}.")
    kept = sum(one["kept"] for entry in report["formats"] for one in entry["candidates"])
    untimed = sum(not one["latency_ms"] for entry in report["formats"] for one in entry["candidates"])
    if kept:
        lines.append(f"- The answers of {kept} were kept from an earlier run over the same artifacts, cases and code.")
    if untimed:
        lines.append(f"- {untimed} were not timed (`--timed` says how many are) and so have no place on the front.")
    lines += [
        f"- p50: all at once, a process each, taking turns in shuffled blocks; {settings['warmup']} warm-up requests, "
        f"then up to {settings['requests']} timed ones on {settings['threads']} threads, the toolset's prefix cached.",
        "- Intervals of shares: Wilson; of differences: Newcombe; templates that cases share are resampled whole.",
        "- The best of many on the same cases looks better than it is: confirm it on cases that chose nothing, with "
        "`bench lift --base ARTIFACT --tuned ARTIFACT --cases FILE`.",
    ]
    return "\n".join(lines)


def _remarks(report: dict[str, Any]) -> str:
    notes = [f"suite: {note}" for note in report["suite"]["notes"]]
    return remarks(notes + run_notes((one for entry in report["formats"] for one in entry["candidates"]), "artifact"))
