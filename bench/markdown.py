"""``report.md``: the report for people, complete without the JSON beside it."""

from __future__ import annotations

from typing import Any

from bench.page import head, machine_section, remarks, run_notes, section, told_calls
from bench.tables import (
    LEGEND,
    Table,
    bucket_table,
    causes_table,
    cold_table,
    main_tables,
    number,
    own_code_table,
    parity_table,
    speed_table,
    throughput_table,
    validity_table,
)

MOST_DISAGREEMENTS = 20
"""Listed per run here; ``report.json`` has them all."""


def render(report: dict[str, Any], *, plot: str | None = None) -> str:
    """The report in Markdown; `plot` is the file name of the picture beside it."""
    parts = [
        f"# {report['model']['name']} on {report['toolset']}: every runtime, the same cases",
        head(report, buckets=True),
    ]
    if plot:
        parts.append(f"![Accuracy against p95 latency]({plot})")
    parts.append("## Results\n\n" + LEGEND)
    parts += [section(table, level=3) for table in main_tables(report)]
    tables = (
        bucket_table,
        validity_table,
        parity_table,
        speed_table,
        own_code_table,
        causes_table,
        throughput_table,
        cold_table,
    )
    parts += [section(table, level=2) for make in tables if (table := make(report)) is not None]
    parts += [_comparisons(report), _disagreements(report), machine_section(report, report["runs"])]
    parts += [_remarks(report), _method(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _remarks(report: dict[str, Any]) -> str:
    notes = [f"suite: {note}" for note in report["suite"]["notes"]]
    reference = report["reference"]
    if reference is None or reference["status"] != "ok":
        why = reference["reason"] if reference else "torch is not available"
        notes.append(f"no parity figures: the reference could not run ({why})")
    return remarks(notes + run_notes(report["runs"], "artifact"))


def _comparisons(report: dict[str, Any]) -> str:
    """Pairs within a group of the ranking; the others are in the JSON."""
    groups = [{*group["order"], *(e["run"] for e in group["less_accurate"])} for group in report["ranking"]]
    rows = []
    for pair in report["comparisons"]:
        if not any({pair["a"], pair["b"]} <= group for group in groups):
            continue
        test, ratio = pair["accuracy"], pair["latency_ratio"]
        times = "-" if ratio is None else f"{ratio['median']:.2f} ({ratio['ci95'][0]:.2f}-{ratio['ci95'][1]:.2f})"
        rows.append(
            (pair["a"], pair["b"], str(test["n"]), str(test["a_only"]), str(test["b_only"]), f"{test['p']:.2g}", times)
        )
    if not rows:
        return ""
    columns = ("a", "b", "cases", "only a right", "only b right", "p (McNemar)", "time of b / a (95% CI)")
    return section(Table("Pairs of the same precision and device", columns, tuple(rows)), level=2)


def _disagreements(report: dict[str, Any]) -> str:
    lines: list[str] = []
    for run in report["runs"]:
        found = (run["parity"] or {}).get("disagreements") or []
        if not found:
            continue
        lines += ["", f"**{run['artifact']}** calls differently on {len(found)} cases:", ""]
        for entry in found[:MOST_DISAGREEMENTS]:
            lines.append(
                f"- `{entry['case']}` {entry['user']!r}: {told_calls(entry['calls'])} where the reference calls "
                f"{told_calls(entry['reference_calls'])}; margin {number(entry['reference_margin'], 3)} in the "
                f"reference, {number(entry['margin'], 3)} here"
            )
        if len(found) > MOST_DISAGREEMENTS:
            lines.append(f"- and {len(found) - MOST_DISAGREEMENTS} more in report.json")
    if not lines:
        return ""
    intro = (
        "Margins are logits of the reference's token over the other at the first decision that differs: small ones are "
        "near-ties that rounding decides."
    )
    return "\n".join(["## Disagreements with the reference", "", intro, *lines])


def _method(report: dict[str, Any]) -> str:
    settings = report["settings"]
    return "\n".join(
        [
            "## How this was measured",
            "",
            "- An emulated run (coreml-reference) answers the same cases in an interpreter of the format. It "
            "proves graph, weights and number formats; its times are not a device's and are not told.",
            "- Every run has a process of its own; the processes stay alive and take turns in shuffled blocks.",
            f"- Latency: {settings['warmup']} warm-up requests, then up to {settings['requests']} timed ones (fewer "
            "where the time budget did not reach: see requests), the toolset's prefix already in the cache. "
            f"Percentiles: {settings['percentiles']}.",
            "- Intervals: Wilson; where cases share a template, templates are resampled (bootstrap). Pairs: exact "
            "McNemar test on the same cases.",
            "- Floor: one typical request's passes through the runtime's own API, in the same blocks.",
            "- Answers marked `checked` in samples.jsonl were decoded along a guess in one pass instead of pass by "
            "pass, which makes the same decisions; slow runtimes get through the whole suite this way.",
            "- Parity: teacher-forced logits over the gold completions, the reference's own outputs and random tokens "
            "past the sliding window (these for the largest difference only). Top-1 leaves out rows whose two best "
            "reference logits lie within 0.01.",
            "- Prefill is measured from an empty cache, decode one token at a time behind a prompt. Cold start runs "
            "from the start of the bench's process to the first answered request: its imports and cases are in it. "
            "What a program of one's own takes has a table of its own, where it was measured.",
            "- Requests a second: the same requests one by one, at once (`Router.route_many`) where the runtime "
            "computes several sequences together, and one by one again.",
        ]
    )
