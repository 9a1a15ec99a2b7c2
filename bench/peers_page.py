"""A peers report for people: ``peers.md``, and the tables that the terminal shows."""

from __future__ import annotations

from typing import Any, Final

from bench.page import head, machine_section, remarks, run_notes, section, times
from bench.tables import Table, ms, number, overhead, percent, with_interval

EXPENDABLE: Final = ("side", "precision", "overhead", "passes", "tool", "n", "baseline")
"""What a narrow terminal does without, first to last."""
LEGEND: Final = (
    "exact: tool and all arguments right; p50/p95: from the request as a string to the parsed calls; times: median of "
    "the contender over that of the baseline, on the cases that both were timed on in the same blocks, with its 95% "
    "interval (paired bootstrap over cases): 3.00 takes three times as long; passes: forward passes of a request; n: "
    "timed requests; overhead: p50 of one request over what the runtime's bare API needs for its passes. '(!)': "
    "significantly less accurate than the baseline (exact McNemar test, 5%): a fast wrong call is worth nothing."
)


def render(report: dict[str, Any], *, plot: str | None = None) -> str:
    """The page in Markdown; `plot` is the file name of the picture beside it."""
    parts = [f"# {report['model']['name']} on {report['toolset']}, and what else would answer", head(report)]
    if plot:
        parts.append(f"![p50 and p95 of every contender]({plot})")
    parts.append("## Results\n\n" + LEGEND)
    parts += [section(table, level=3) for table in tables(report)]
    parts += [
        _calls(report),
        machine_section(report, report["contenders"], "name"),
        _remarks(report),
        _METHOD.format(**report["settings"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def tables(report: dict[str, Any]) -> list[Table]:
    """The contenders, fastest first; those that were not measured; each against each of ours."""
    found = [_contenders(report), _missing(report), _matrix(report)]
    return [table for table in found if table.rows]


def _contenders(report: dict[str, Any]) -> Table:
    ratios = {(entry["contender"], entry["baseline"]): entry for entry in report["ratios"]}
    measured = [entry for entry in report["contenders"] if entry["latency_ms"] and entry["accuracy"]]
    rows = []
    for one in sorted(measured, key=lambda entry: (entry["latency_ms"]["p50"], entry["name"])):
        accuracy, latency = one["accuracy"], one["latency_ms"]
        ratio = ratios.get((one["name"], one["baseline"]))
        worse = ratio and ratio["accuracy"] and ratio["accuracy"]["significant_loss"]
        rows.append(
            (
                one["name"] + ("" if one["status"] == "ok" else f" ({one['status']})"),
                "edgecall" if one["side"] == "ours" else "peer",
                f"{one['precision']}-bit",
                with_interval(accuracy["exact"], accuracy["exact_ci95"]) + (" (!)" if worse else ""),
                percent(accuracy["tool"]),
                ms(latency["p50"]),
                ms(latency["p95"]),
                times(ratio),
                one["baseline"] or "-",
                str(latency["n"]),
                number(one["forward_passes"], 3),
                overhead(one),
            )
        )
    columns = (
        "contender", "side", "precision", "exact (95% CI)", "tool", "p50 ms", "p95 ms", "times (95% CI)", "baseline",
        "n", "passes", "overhead",
    )  # fmt: skip
    return Table("Contenders, fastest first", columns, tuple(rows))


def _missing(report: dict[str, Any]) -> Table:
    rows = [
        (one["name"], one["status"], one["reason"] or "no latency")
        for one in report["contenders"]
        if not (one["latency_ms"] and one["accuracy"])
    ]
    return Table("Not measured", ("contender", "status", "reason"), tuple(rows))


def _matrix(report: dict[str, Any]) -> Table:
    """Every ratio of the report, one column for each yardstick."""
    ratios = {(entry["contender"], entry["baseline"]): entry for entry in report["ratios"]}
    yardsticks = list(dict.fromkeys(entry["baseline"] for entry in report["ratios"] if entry["ratio"] is not None))
    names = [one["name"] for one in report["contenders"]]
    rows = [(name, *(times(ratios.get((name, other))) for other in yardsticks)) for name in names]
    told = tuple(row for row in rows if set(row[1:]) - {"-"})
    return Table("Time of each over that of ...", ("contender", *yardsticks), told if yardsticks else ())


def _calls(report: dict[str, Any]) -> str:
    lines = ["## How each was asked", ""]
    for one in report["contenders"]:
        how = ["with the grammar" if one["grammar"] else "without a grammar"]
        how.append("the prompt's beginning kept" if one["prefix_kept"] else "the whole prompt computed every time")
        lines.append(f"- {one['name']}: {one['call']} ({one['artifact']}); {', '.join(how)}")
    return "\n".join(lines)


def _remarks(report: dict[str, Any]) -> str:
    notes = [f"suite: {note}" for note in report["suite"]["notes"]]
    return remarks(notes + run_notes(report["contenders"], "name"))


_METHOD: Final = """## How this was measured

- Every contender has a process of its own with the same number of threads; the processes stay alive and take turns in
  shuffled blocks. A block draws one list of cases; a contender with less time does its beginning.
- {warmup} warm-up requests, then up to {requests} timed ones, fewer where the time budget did not reach (n).
  Percentiles: {percentiles}.
- All answer greedily, may write as many tokens, and are given the same prompt: as text, except that ours encodes the
  request apart. All completions are read by the same parser. What each peer is told is in docs/peers.md.
- GBNF cannot bind a string to the words of the request, as the router's grammar does where the toolset says so."""
