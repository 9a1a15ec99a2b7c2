"""A scaling report for people: ``scaling.md``, and the tables that the terminal shows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from bench.page import code_lines, machine_section, model_line, remarks, section
from bench.tables import Table, ms, number

EXPENDABLE: Final = ("over predicted", "p95 ms", "n", "call tokens", "decided", "names part at")
"""What a narrow terminal does without, first to last."""
TITLES: Final = {
    "tools": "Number of tools",
    "prompt": "Length of the prompt",
    "argument": "Length of the argument",
    "vocabulary": "Size of the vocabulary",
}
UNITS: Final = {"cached_tokens": "cached token", "argument_tokens": "token of the argument", "rows": "row"}
LEGEND: Final = (
    "p50: from the request as a string to the parsed call, the prompt in the cache; floor: the runtime's own API over "
    "the same passes behind as many cached tokens; over floor: p50 over it; predicted: what reading the weights and "
    "the cached keys and values, and multiplying, take at least (bench/predict.py), worked out and not measured. p50 "
    "should grow no more than that does, within 10%. The line a + b x is drawn through the same points "
    "by least squares and tells the slope alone; R2: the share of the variance that it explains."
)


def tables(report: dict[str, Any]) -> list[Table]:
    """One table for every sweep and variant."""
    return [_points(sweep, one) for sweep in report["sweeps"] for one in sweep["variants"] if one["points"]]


def render(report: dict[str, Any], *, plots: Collection[str] = ()) -> str:
    """The page in Markdown; `plots` are the file names of the pictures beside it."""
    parts = [f"# {report['model']['name']}: what grows, and what does not", _head(report), LEGEND]
    for sweep in report["sweeps"]:
        parts.append(f"## {TITLES[sweep['sweep']]}")
        if picture(sweep["sweep"]) in plots:
            parts.append(f"![p50 and floor, with the law]({picture(sweep['sweep'])})")
        parts.append(f"Passes should be {sweep['passes']}. p50 and floors should grow with {_what(sweep)}.")
        parts.append("\n".join(f"- {law(sweep, one)}" for one in sweep["variants"]))
        parts += [section(_points(sweep, one), level=3) for one in sweep["variants"] if one["points"]]
    blocks = [block for sweep in report["sweeps"] for block in sweep["blocks"]]
    runs = {run["artifact"]: run for s in report["sweeps"] for one in s["variants"] for run in one["runs"]}
    told = [run | {"versions": run["versions"] or {}} for run in runs.values()]
    parts += [
        machine_section(report | {"blocks": blocks}, told),
        _remarks(report),
        _METHOD.format(**report["settings"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def picture(sweep: str) -> str:
    """File name of a sweep's picture."""
    return f"scaling-{sweep}.png"


def law(sweep: dict[str, Any], one: dict[str, Any]) -> str:
    """A variant's laws in one line."""
    unit = UNITS[sweep["grows_with"]]
    told = [f"p50 {_line(one['p50_law'], unit)}", f"floor {_line(one['floor_law'], unit)}"]
    if one["growth_over_predicted"] is not None:
        holds = "as the predicted floor does" if one["p50_holds"] else "MORE THAN the predicted floor"
        told.append(f"p50 grows {holds} ({one['growth_over_predicted']:.2f} times as much at most)")
    if one["within_floor"] is not None:
        told.append(_within(one["within_floor"]))
    if one["most_over_floor"] is not None:
        told.append(f"p50 at most {one['most_over_floor']:.2f} times the floor")
    if one["passes_hold"] is not None:
        told.append("passes as they should be" if one["passes_hold"] else "PASSES NOT as they should be")
    if one["points"]:
        told.append("SOMETHING OF THE PROMPT IS COMPUTED AGAIN" if one["prefilled"] else "no prefill in any request")
    return f"{one['variant']}: {'; '.join(told)}"


def _within(found: dict[str, Any]) -> str:
    """The verdict on growing numbers of tools."""
    stays = "stays" if found["holds"] else "does NOT stay"
    return (
        f"from {found['from']} to {found['to']} tools p50 {stays} within 10% of the floor at that cached length "
        f"({found['most_over_floor']:.2f} times it at {found['at']})"
    )


def _points(sweep: dict[str, Any], one: dict[str, Any]) -> Table:
    head = {"tools": "tools", "prompt": "asked for", "argument": "asked for", "vocabulary": "rows"}[sweep["sweep"]]
    rows = []
    for point in one["points"]:
        rows.append(
            (
                f"{point['size']:,}",
                _count(point["cached_tokens"]),
                _count(point["argument_tokens"]),
                _count(point["call_tokens"]),
                _count(point["passes"]),
                _count(point["decided_tokens"]),
                _count(point["names_part_at"]),
                ms(point["p50"]),
                ms(point["p95"]),
                ms(point["floor_p50"]),
                _times(point["over_floor"]),
                ms(point["predicted"]),
                _times(point["over_predicted"]),
                str(point["n"]),
            )
        )
    columns = (
        head, "cached tokens", "argument tokens", "call tokens", "passes", "decided", "names part at", "p50 ms",
        "p95 ms", "floor ms", "over floor", "predicted ms", "over predicted", "n",
    )  # fmt: skip
    return Table(f"{TITLES[sweep['sweep']]}: {one['variant']}", columns, tuple(rows))


def _what(sweep: dict[str, Any]) -> str:
    return {
        "cached_tokens": "the cached tokens, over which every new one attends",
        "argument_tokens": "the tokens of the argument, each of which is decided in a pass of its own",
        "rows": "the rows of the output matrix, which every pass multiplies",
    }[sweep["grows_with"]]


def _line(found: dict[str, Any] | None, unit: str) -> str:
    if found is None:
        return "was not measured at two sizes"
    r2 = "-" if found["r2"] is None else f"{found['r2']:.3f}"
    return f"= {number(found['a'], 3)} ms + {number(1e3 * found['b'], 3)} us for each {unit} (R2 {r2})"


def _head(report: dict[str, Any]) -> str:
    return "\n".join([model_line(report["model"]), *code_lines(report)])


def _remarks(report: dict[str, Any]) -> str:
    notes = list(report["notes"])
    for sweep in report["sweeps"]:
        for one in sweep["variants"]:
            notes += [f"{sweep['sweep']}: {line}" for line in (*one["reasons"], *one["warnings"])]
    return remarks(notes)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


_METHOD: Final = """## How this was measured

- Tools, prompts and arguments are generated (bench/scaling_points.py) and the same call is taken at every size,
  whatever the weights say: wherever the grammar leaves a choice the row is computed and the gold token lifted above all
  others in it. Guessing is off. Vocabularies are random weights of the model's shape with so many rows.
- A process for each variant, one router for each size over the same model; the processes take turns in shuffled blocks,
  and within a turn each size has its requests and then, as often, its floor. {requests} timed requests a size, fewer
  where the time budget did not reach (n). Percentiles: {percentiles}."""
