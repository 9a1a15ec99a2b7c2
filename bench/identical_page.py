"""A report on identical answers for people: ``identical.md``, and the tables that the terminal shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bench.identical_report import compared
from bench.page import code, model_line, remarks, section, suite_line
from bench.tables import Table, number

EXPENDABLE: Final = ("how", "dtype", "rows")
"""What a narrow terminal does without, first to last."""
MOST: Final = 20
"""Differences that the page lists of one artifact and way; ``identical.json`` has them all."""
LEGEND: Final = (
    "equal: the same tokens as plainly, one by one without guesses on the whole vocabulary; ties: parted at two tokens "
    "whose logits are nearer than the rounding that is documented for what the runtime computes in; different: parted "
    "further apart; left out: cases that plain routing refuses, or whose text the trimmed vocabulary spells otherwise; "
    "margin: the largest distance of two tokens at which answers parted."
)
WAYS: Final = {
    "guess": "with every guess",
    "lanes": "several at once",
    "trim-output": "output trimmed",
    "trim-full": "vocabulary trimmed",
}


def tables(report: dict[str, Any]) -> list[Table]:
    """For every toolset what was compared; what rounding does; what was not compared."""
    found = [_compared(toolset) for toolset in report["toolsets"]]
    return [table for table in (*found, _rounding(report), _missing(report)) if table.rows]


def verdict(report: dict[str, Any]) -> str:
    """What came of it, in one line."""
    if not compared(report["toolsets"]):
        return "NOTHING WAS COMPARED, so nothing is proved: all that was asked for was skipped, left out or failed."
    return "Nothing differs beyond ties." if report["identical"] else "SOMETHING DIFFERS, or could not be compared."


def render(report: dict[str, Any]) -> str:
    """The page in Markdown."""
    head = [f"- code: {code(report)}", f"- run: {report['created']}, {report['seconds']:.0f} s"]
    head += [f"- command: `{report['command']}`"] if report["command"] else []
    for toolset in report["toolsets"]:
        head += [f"- toolset {toolset['toolset']}:", f"  {model_line(toolset['model'])}"]
        head.append(f"  {suite_line(toolset['suite'])}")
    machine = report["machine"]
    head.append(f"- machine: {machine['cpu']}, {machine['cores']} cores; {machine['os']}; Python {machine['python']}")
    parts = [
        "# The same answers, whatever saves passes and bytes",
        "\n".join(head),
        verdict(report),
        LEGEND,
        *(section(table, level=2) for table in tables(report)),
        _beyond_tie(report),
        *_differences(report),
        remarks(f"{run['name']}: {line}" for _, run in _runs(report) for line in run["warnings"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _runs(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for toolset in report["toolsets"]:
        for run in toolset["runs"]:
            yield toolset["toolset"], run


def _compared(toolset: dict[str, Any]) -> Table:
    rows = []
    for run in toolset["runs"]:
        for one in run["comparisons"]:
            if one["status"] == "ok":
                rows.append(
                    (
                        run["name"],
                        WAYS[one["way"]],
                        str(one["n"]),
                        str(one["equal"]),
                        str(one["ties"]),
                        str(one["different"]),
                        str(one["left_out"]),
                        number(one["largest_margin"], 2),
                        one["detail"],
                    )
                )
    columns = ("artifact", "compared", "n", "equal", "ties", "different", "left out", "margin", "how")
    return Table(f"Answers on {toolset['toolset']}", columns, tuple(rows))


def _rounding(report: dict[str, Any]) -> Table:
    rows = []
    for name, run in _runs(report):
        found = run["rounding"]
        if found is not None:
            figures = (number(found[key], 2) for key in ("many", "lanes"))
            parted = number(run["largest_margin"], 2)
            rows.append((name, run["name"], run["dtype"], str(found["rows"]), *figures, parted, f"{run['tie']:g}"))
    note = (
        "By how much the distance of a row's two best logits moved, at most, from a pass over one token to a pass over "
        "the whole completion (many) and to one in a batch (lanes); tie: the distance that the router takes for one"
    )
    columns = ("toolset", "artifact", "dtype", "rows", "many", "lanes", "parted at", "tie")
    return Table("Rounding", columns, tuple(rows), note)


def _beyond_tie(report: dict[str, Any]) -> str:
    """The runs whose rounding is larger than their tie, in one line; empty where there is none."""
    found = []
    for name, run in _runs(report):
        most = max((moved for key, moved in (run["rounding"] or {}).items() if key != "rows" and moved), default=0.0)
        if most and most > run["tie"]:
            found.append(f"{run['name']} on {name} ({number(most, 2)}, tie {run['tie']:g})")
    if not found:
        return ""
    return f"Rounding moved logits further than the tie, and may change an answer, of {', '.join(found)}."


def _missing(report: dict[str, Any]) -> Table:
    rows = []
    for name, run in _runs(report):
        if run["status"] != "ok":
            rows.append((name, run["name"], "all", run["status"], str(run["reason"])))
        rows += [
            (name, run["name"], WAYS[one["way"]], one["status"], str(one["reason"]))
            for one in run["comparisons"]
            if one["status"] != "ok"
        ]
    return Table("Not compared", ("toolset", "artifact", "compared", "status", "reason"), tuple(rows))


def _differences(report: dict[str, Any]) -> Iterator[str]:
    for name, run in _runs(report):
        for one in run["comparisons"]:
            if one["differences"]:
                lines = [f"## {run['name']} on {name}, {WAYS[one['way']]}: answers that part", ""]
                lines += [_difference(entry) for entry in one["differences"][:MOST]]
                if len(one["differences"]) > MOST:
                    lines.append(f"- and {len(one['differences']) - MOST} more in identical.json")
                yield "\n".join(lines)


def _difference(entry: dict[str, Any]) -> str:
    if entry["margin"] is None:
        where = "one ends where the other goes on"
    else:
        mine, other = entry["tokens"]
        kind = "a tie" if entry["tie"] else "NO TIE"
        where = f"at token {entry['at_token']}, {mine!r} or {other!r}, margin {number(entry['margin'], 2)}: {kind}"
    return f"- `{entry['case']}` {entry['user']!r}: {where}; plainly `{entry['plain']}`, else `{entry['other']}`"
