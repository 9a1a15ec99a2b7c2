"""A report as tables of text: shared by the terminal and ``report.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from router.causes import CAUSES


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


NOT_MEASURED = "Not measured"
EMULATED = "Emulated: what the artifact computes, not how fast its runtime is"
_TIMES = ("#", "p50 ms", "p95 ms", "p99 ms", "overhead", "RSS MB")
COLUMNS = (
    "#", "runtime", "artifact", "exact (95% CI)", "tool", "free exact", "same calls",
    "p50 ms", "p95 ms", "p99 ms", "overhead", "size MB", "RSS MB",
)  # fmt: skip

EXPENDABLE = ("RSS MB", "size MB", "runtime", "tool", "overhead", "p99 ms", "free exact", "p50 ms")
"""What a narrow terminal does without, first to last; the report has it all."""

LEGEND = (
    "exact: tool and all arguments right, decoded with the grammar; tool: the right tool; free exact: without the "
    "grammar; same calls: share of cases answered as torch in 32 bits answers them; p50/p95/p99: from the request as a "
    "string to the parsed calls; overhead: p50 of one request over what the runtime's bare API needs for its passes; "
    "#: rank by p95 among those not significantly less accurate than the group's best ('-': less accurate)."
)


def main_tables(report: dict[str, Any]) -> list[Table]:
    """One table per precision and device, in the order of the ranking; runs without a rank follow in their own."""
    runs = {run["artifact"]: run for run in report["runs"]}
    tables: list[Table] = []
    shown: set[str] = set()
    for group in report["ranking"]:
        order = [(str(place), name) for place, name in enumerate(group["order"], 1)]
        order += [("-", entry["run"]) for entry in group["less_accurate"]]
        shown.update(name for _, name in order)
        rows = tuple(_row(place, runs[name]) for place, name in order)
        notes = [
            f"{entry['run']} is less accurate than {group['best']} (p = {entry['p']:.2g})"
            for entry in group["less_accurate"]
        ]
        for _, name in order:
            answered = runs[name]["accuracy"]["n"]
            if answered < report["suite"]["cases"]:
                notes.append(f"{name} was asked {reached(answered, report)} cases")
        tables.append(Table(f"{group['precision']}-bit on {group['device']}", COLUMNS, rows, "; ".join(notes)))
    emulated = [run for run in runs.values() if run["emulated"] and run["accuracy"]]
    if emulated:
        shown.update(run["artifact"] for run in emulated)
        plain = _without_times(Table(EMULATED, COLUMNS, tuple(_row("-", run) for run in emulated)))
        told = tuple(
            (*row, reached(run["accuracy"]["n"], report)) for row, run in zip(plain.rows, emulated, strict=True)
        )
        tables.append(Table(plain.title, (*plain.columns, "cases"), told))
    rest = [run for name, run in runs.items() if name not in shown]
    if rest:
        rows = tuple((run["runtime"], run["artifact"], run["status"], run["reason"] or "no latency") for run in rest)
        tables.append(Table(NOT_MEASURED, ("runtime", "artifact", "status", "reason"), rows))
    return tables


def reached(n: int, report: dict[str, Any]) -> str:
    """How many cases of how many a run got to: slow ones are cut short."""
    return f"{n} of {report['suite']['cases']}"


def _without_times(table: Table) -> Table:
    kept = [i for i, column in enumerate(table.columns) if column not in _TIMES]
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    return Table(table.title, tuple(table.columns[i] for i in kept), rows, table.note)


def fit(table: Table, width: int, expendable: Sequence[str] = EXPENDABLE) -> Table:
    """The table without its least telling columns, as many as it takes to be no wider than `width` characters."""
    columns = list(range(len(table.columns)))
    for dropped in expendable:
        needed = sum(max(len(table.columns[i]), *(len(row[i]) for row in table.rows)) + 3 for i in columns) + 1
        if needed <= width:
            break
        columns = [i for i in columns if table.columns[i] != dropped]
    rows = tuple(tuple(row[i] for i in columns) for row in table.rows)
    return Table(table.title, tuple(table.columns[i] for i in columns), rows, table.note)


def bucket_table(report: dict[str, Any]) -> Table | None:
    """Exact share of every bucket, with and without the grammar."""
    runs = [run for run in report["runs"] if run["accuracy"]]
    buckets = sorted({bucket for run in runs for bucket in run["accuracy"]["by_bucket"]})
    if not buckets:
        return None
    rows = []
    for run in runs:
        free = run["accuracy_unconstrained"]
        cells = []
        for bucket in buckets:
            entry = run["accuracy"]["by_bucket"].get(bucket)
            other = free["by_bucket"].get(bucket) if free else None
            cells.append(f"{percent(entry and entry['exact'])} / {percent(other and other['exact'])}")
        rows.append((run["artifact"], *cells))
    first = runs[0]["accuracy"]["by_bucket"]
    heads = tuple(f"{bucket} (n={first[bucket]['n']})" if bucket in first else bucket for bucket in buckets)
    return Table("Exact by bucket: with grammar / without", ("artifact", *heads), tuple(rows))


def validity_table(report: dict[str, Any]) -> Table | None:
    """Syntax, schema and no-call, where the grammar does not decide them: unconstrained."""
    rows = []
    for run in report["runs"]:
        free, bound = run["accuracy_unconstrained"], run["accuracy"]
        if free and bound:
            figures = [percent(free[key]) for key in ("syntax_valid", "schema_valid", "tool", "no_call")]
            rows.append((run["artifact"], str(free["n"]), *figures, percent(bound["no_call"])))
    columns = ("artifact", "n", "syntax valid", "schema valid", "tool", "no call right", "no call right, with grammar")
    return Table("Without the grammar", columns, tuple(rows)) if rows else None


def parity_table(report: dict[str, Any]) -> Table | None:
    """How far each run's logits and calls are from the reference's."""
    rows = []
    for run in report["runs"]:
        parity = run["parity"]
        if parity is None:
            continue
        versus = parity.get("accuracy_vs_reference")
        loss = "-" if versus is None else f"{versus['a_only']} / {versus['b_only']} (p = {versus['p']:.2g})"
        rows.append(
            (
                run["artifact"],
                number(parity["max_abs_logit"], 2),
                number(parity["mean_kl"], 2),
                percent(parity["top1_agreement"], 2),
                str(parity.get("top1_rows", "-")),
                f"{percent(parity['same_calls'])} in {reached(parity.get('same_calls_n', 0), report)}",
                loss,
            )
        )
    columns = ("artifact", "max logit diff", "mean KL", "top-1", "rows", "same calls", "lost / won cases")
    return Table("Parity with torch in 32 bits", columns, tuple(rows)) if rows else None


def speed_table(report: dict[str, Any]) -> Table | None:
    """Everything about time and memory that the main table has no room for."""
    rows = []
    for run in report["runs"]:
        latency, passes = run["latency_ms"], run["forward_passes"]
        if latency is None:
            continue
        first, floor = run["first_decision_ms"], run["floor_ms"]
        rows.append(
            (
                run["artifact"],
                f"{latency['n']}",
                ms(latency["mean"]),
                f"{ms(latency['min'])} to {ms(latency['max'])}",
                ms(first and first["p50"]),
                ms(floor and floor["p50"]),
                ms(floor and floor["request_p50"]),
                number(passes and passes["mean"], 3),
                number(run["prefill_tok_s"], 3),
                number(run["decode_tok_s"], 3),
                ms(run["load_ms"]),
                ms(run["cold_start_ms"]),
            )
        )
    columns = (
        "artifact", "requests", "mean ms", "range ms", "first decision ms", "floor ms", "same request ms", "passes",
        "prefill tok/s", "decode tok/s", "load ms", "cold start ms",
    )  # fmt: skip
    return Table("Speed", columns, tuple(rows)) if rows else None


def causes_table(report: dict[str, Any]) -> Table | None:
    """What the forward passes of a request were made for."""
    rows = []
    for run in report["runs"]:
        passes = run["forward_passes"]
        causes = passes and passes.get("by_cause")
        if causes:
            rows.append((run["artifact"], *(number(causes[cause], 3) for cause in CAUSES), number(passes["mean"], 3)))
    note = (
        "Means over the cases that were routed pass by pass; a pass counts for the first decision that it makes. "
        "request: the user's turn; fork: which tool, which of an enumeration, whether an argument follows; string, "
        "number: a token of a value"
    )
    return Table("Passes of a request by cause", ("artifact", *CAUSES, "all"), tuple(rows), note) if rows else None


def cold_table(report: dict[str, Any]) -> Table | None:
    """From the start of a process to its first call."""
    rows = []
    for run in report["runs"]:
        found = run.get("first_call_ms")
        if found is not None:
            cells = [str(found["n"])]
            for one in (found["saved"], found["computed"]):
                low, high = one["wall_range_ms"] if one else (None, None)
                cells += [f"{ms(one['wall_ms'])} ({ms(low)}-{ms(high)})", ms(one["cpu_ms"])] if one else ["-", "-"]
            rows.append((run["artifact"], *cells, ms(found["computed"]["import_ms"])))
    note = (
        "Fresh processes that import what `Router.open` needs, open the artifact (hashes checked) and route one "
        "request; from the start of the process to the call, median (and range) of the clock, and processor time. '-': "
        "the runtime keeps no prefix"
    )
    columns = (
        "artifact", "processes", "prefix restored: ms", "CPU ms", "prefix computed: ms", "CPU ms", "of it imports ms",
    )  # fmt: skip
    return Table("A cold process to its first call", columns, tuple(rows), note) if rows else None


def own_code_table(report: dict[str, Any]) -> Table | None:
    """How much of a request is not the model's passes."""
    rows = []
    for run in report["runs"]:
        own = run.get("own_code")
        if own is not None:
            rows.append(
                (
                    run["artifact"],
                    str(own["n"]),
                    own_share(own),
                    *(number(own[key], 3) for key in ("ms_p50", "grammar_ms_p50", "tokenize_ms_p50")),
                )
            )
    note = (
        "Of the timed requests; share: what is not spent within the runtime's passes, over the whole request, median "
        "with quartiles"
    )
    columns = ("artifact", "requests", "share of a request", "own ms", "grammar ms", "tokenizing ms")
    return Table("Our own code around the passes", columns, tuple(rows), note) if rows else None


def own_share(own: dict[str, Any] | None) -> str:
    """The median share of a request that is not the model's, with its quartiles."""
    if own is None:
        return "-"
    low, high = own["share_quartiles"]
    return f"{percent(own['share_p50'])} ({100 * low:.1f}-{100 * high:.1f})"


def throughput_table(report: dict[str, Any]) -> Table | None:
    """Requests a second one by one and side by side, and whether the answers are the same."""
    rows = []
    for run in report["runs"]:
        found = run.get("throughput")
        if found is None:
            continue
        alone, together = found["alone_per_s"], found["together_per_s"]
        rows.append(
            (
                run["artifact"],
                str(found["requests"]),
                number(alone, 3),
                number(together, 3),
                f"{together / alone:.2f}x" if together and alone else "-",
                str(found["lanes"]) if together else "-",
                percent(found.get("same_calls")),
            )
        )
    columns = ("artifact", "requests", "one by one /s", "at once /s", "ratio", "lanes", "same calls")
    return Table("Requests a second", columns, tuple(rows)) if rows else None


def percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def with_interval(share: float | None, interval: Sequence[float] | None) -> str:
    """A share and its interval, in percent."""
    if share is None or interval is None:
        return percent(share)
    low, high = interval
    return f"{percent(share)} ({100 * low:.0f}-{100 * high:.0f})"


def ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def number(value: float | None, digits: int) -> str:
    """A number to that many significant digits, thousands grouped."""
    if value is None:
        return "-"
    if value and abs(value) < 1e-3:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def overhead(run: dict[str, Any]) -> str:
    """One request's p50 over its floor."""
    found = run["overhead_same_request"]
    return "-" if found is None else f"{found:.2f}x"


def _row(place: str, run: dict[str, Any]) -> tuple[str, ...]:
    accuracy, free, latency, parity = (
        run["accuracy"], run["accuracy_unconstrained"], run["latency_ms"], run["parity"],
    )  # fmt: skip
    return (
        place,
        run["runtime"],
        run["artifact"] + ("" if run["status"] == "ok" else f" ({run['status']})"),
        with_interval(accuracy["exact"], accuracy["exact_ci95"]),
        percent(accuracy["tool"]),
        percent(free and free["exact"]),
        percent(parity and parity["same_calls"]),
        *(ms(latency and latency[key]) for key in ("p50", "p95", "p99")),
        overhead(run),
        number(run["size_mb"], 3),
        number(run["peak_rss_mb"], 3),
    )
