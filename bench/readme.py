"""The README's tables of results, each made from the committed report that it stands for.

    python -m bench.readme docs/bench/report.json README.md
    python -m bench.readme docs/bench/accuracy.json README.md

The text between a report's two marks in the README is replaced; a test fails where the two differ. The marks of an
accuracy report are put at the end of the section that has the other's, where they are not there yet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.accuracy import SCHEMA as ACCURACY
from bench.accuracy_cases import ALL, CORPORA, HARD, TEMPLATES
from bench.accuracy_page import where
from bench.tables import ms, number, percent, with_interval
from runtimes.errors import UserError

BEGIN: Final = "<!-- made by `make docs` from {source}: do not edit -->"
END: Final = "<!-- end of what is made -->"
SETS: Final = (
    (TEMPLATES, "held-out templates"), (HARD, "hard"), ("handwritten_dev", "by hand, dev"),
    ("handwritten_test", "by hand, test"), (CORPORA, "corpora"),
)  # fmt: skip
CALLS: Final = (("declined", "no tool serves: no call"), ("called", "a tool serves: a call"))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table into the README. Raises `UserError` where a mark is missing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 2:
        raise UserError("usage: python -m bench.readme REPORT.json README.md")
    source, readme = (Path(argument) for argument in arguments)
    text = filled(marked(readme.read_text(encoding="utf-8"), source), source)
    temporary = readme.with_name(f".{readme.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(readme)
    return 0


def filled(text: str, source: Path) -> str:
    """A page with the table of the report at `source` between its marks."""
    begin = BEGIN.format(source=source.as_posix())
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise UserError(f"{source}: the page has no marks '{begin}' and '{END}' to put the table between")
    report = json.loads(source.read_text(encoding="utf-8"))
    table = adapters(report) if report["schema"] == ACCURACY else results(report)
    return f"{before}{begin}\n\n{table}\n\n{END}{after}"


def marked(text: str, source: Path) -> str:
    """The page with marks for an accuracy report: at the end of the section of the first marks, if it has none yet."""
    begin = BEGIN.format(source=source.as_posix())
    at = text.find(END)
    if begin in text or at < 0 or json.loads(source.read_text(encoding="utf-8"))["schema"] != ACCURACY:
        return text
    heading = text.find("\n## ", at)
    section, rest = (text, "") if heading < 0 else (text[:heading], text[heading:])
    return f"{section.rstrip()}\n\n{begin}\n{END}\n{rest}"


def adapters(report: dict[str, Any]) -> str:
    """A row for every toolset that was measured: exact by set, and no-call in both directions."""
    measured = [entry for entry in report["toolsets"] if entry["status"] == "measured"]
    sets = [(name, label) for name, label in SETS if any(name in entry["sets"] for entry in measured)]
    calls = [(key, label) for key, label in CALLS if any(entry["sets"][ALL]["grammar"][key] for entry in measured)]
    head = (
        f"`{report['model']}` on each toolset with the adapter for it ({where(report)}): share of requests whose calls "
        "are exactly right, with its 95% interval, and without the grammar in brackets. The last columns: of the "
        "requests that no tool serves the share answered with no call, of those that one serves the share answered "
        "with a call."
    )
    columns = ["toolset", *(label for _, label in (*sets, *calls))]
    rows = [
        [
            entry["toolset"] if entry["adapter"] else f"{entry['toolset']} (no adapter)",
            *(_share(entry["sets"].get(name), "exact", "exact_ci95") for name, _ in sets),
            *(_share(_part(entry["sets"][ALL], key), "share", "ci95") for key, _ in calls),
        ]
        for entry in measured
    ]
    others = [f"{e['toolset']}: {e['status']}, {e['reason']}." for e in report["toolsets"] if e not in measured]
    return "\n".join([head, "", *_lines(columns, rows), *(["", " ".join(others)] if others else [])])


def results(report: dict[str, Any]) -> str:
    """What was measured where, a row per run, and the reference's buckets with their intervals."""
    machine, suite = report["machines"][0], report["suite"]
    runs = [run for run in report["runs"] if run["accuracy"]]
    of = f" of {suite['of']}" if suite["of"] != suite["cases"] else ""
    timed = sorted({run["latency_ms"]["n"] for run in runs if run["latency_ms"]})
    requests = f"{timed[0]:,} to {timed[-1]:,}" if len(timed) > 1 else "".join(f"{n:,}" for n in timed)
    head = (
        f"Up to {suite['cases']}{of} cases of suite `{suite['name']}`, grammar, prompt prefix cached, {requests} timed "
        f"requests a run{_threads(runs)}; {machine['cpu']}, {machine['cores']} cores, {machine['os']}, "
        f"Python {machine['python']}; {report['started'][:10]}, commit {(report['commit'] or 'none')[:7]}."
        f"{_busy(report['blocks'])}"
    )
    columns = ("runtime", "artifact", "cases", "exact", "right tool", "exact without grammar",
               "same calls as torch fp32", "p50 ms", "p95 ms", "p99 ms", "MB")  # fmt: skip
    lines = [head, "", *_lines(columns, [_row(run) for run in runs])]
    skipped = [run for run in report["runs"] if not run["accuracy"]]
    if skipped:
        lines += ["", " ".join(f"{run['artifact']}: {run['status']}, {run['reason']}." for run in skipped)]
    best = next((run for run in runs if run["artifact"] == "gguf-q8_0"), runs[0])
    lines += ["", f"By bucket, {best['artifact']} (95% intervals; without the grammar in brackets):", ""]
    lines += _lines(("bucket", "n", "exact", "right tool"), _buckets(best))
    return "\n".join(lines)


def _part(modes: dict[str, Any], key: str) -> dict[str, Any] | None:
    """One figure of every mode; None where there is none."""
    found = {mode: figures and figures[key] for mode, figures in modes.items()}
    return found if found["grammar"] else None


def _share(modes: dict[str, Any] | None, key: str, interval: str) -> str:
    """How many, the share with its interval, and that without the grammar."""
    if modes is None:
        return "-"
    found, free = modes["grammar"], modes["unconstrained"]
    share, _, bounds = with_interval(found[key], found[interval]).partition(" ")
    return f"{share} of {found['n']:,} {bounds}" + (f" [{percent(free[key])}]" if free else "")


def _threads(runs: Sequence[dict[str, Any]]) -> str:
    """How many threads the runs had, each by its own account; nothing where none gives one."""
    told = sorted({run["threads"] for run in runs if run["threads"]})
    if not told:
        return ""
    return f", {told[0]}{f' to {told[-1]}' if len(told) > 1 else ''} thread{'s' if told[-1] > 1 else ''}"


def _busy(blocks: Sequence[dict[str, Any]]) -> str:
    """A sentence on the blocks whose times others' work may have raised; nothing where there were none."""
    busy = sum(bool(block["busy"]) for block in blocks)
    if not busy:
        return ""
    return (
        f" {busy} of the {len(blocks)} blocks were timed while the machine was busy with other work: times may be high."
    )


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    accuracy, free, latency, parity = (
        run["accuracy"], run["accuracy_unconstrained"], run["latency_ms"], run["parity"],
    )  # fmt: skip
    same = percent(parity["same_calls"]) if parity else "reference" if run["artifact"] == "safetensors-fp32" else "-"
    return (
        run["runtime"],
        run["artifact"],
        f"{accuracy['n']:,}",
        percent(accuracy["exact"]),
        percent(accuracy["tool"]),
        percent(free and free["exact"]),
        same,
        *(ms(latency and latency[key]) for key in ("p50", "p95", "p99")),
        number(run["size_mb"], 3),
    )


def _buckets(run: dict[str, Any]) -> list[tuple[str, ...]]:
    free = (run["accuracy_unconstrained"] or {"by_bucket": {}})["by_bucket"]
    rows = []
    for name, entry in sorted(run["accuracy"]["by_bucket"].items()):
        cells = [
            with_interval(entry[key], entry[f"{key}_ci95"]) + (f" [{percent(free[name][key])}]" if name in free else "")
            for key in ("exact", "tool")
        ]
        rows.append((name, str(entry["n"]), *cells))
    return rows


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *rows)]


if __name__ == "__main__":
    sys.exit(main())
