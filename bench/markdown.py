"""``report.md``: the report for people, complete without the JSON beside it."""

from __future__ import annotations

import json
from typing import Any

from bench.tables import (
    LEGEND,
    Table,
    bucket_table,
    main_tables,
    number,
    parity_table,
    speed_table,
    validity_table,
)

MOST_DISAGREEMENTS = 20
"""Listed per run here; ``report.json`` has them all."""


def render(report: dict[str, Any], *, plot: str | None = None) -> str:
    """The report in Markdown; `plot` is the file name of the picture beside it."""
    parts = [f"# {report['model']['name']} on {report['toolset']}: every runtime, the same cases", _head(report)]
    if plot:
        parts.append(f"![Accuracy against p95 latency]({plot})")
    parts.append("## Results\n\n" + LEGEND)
    parts += [_table(table, level=3) for table in main_tables(report)]
    for table in (bucket_table(report), validity_table(report), parity_table(report), speed_table(report)):
        if table is not None:
            parts.append(_table(table, level=2))
    parts += [_comparisons(report), _disagreements(report), machine_section(report, report["runs"])]
    parts += [_remarks(report), _method(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: dict[str, Any]) -> str:
    suite, settings, model = report["suite"], report["settings"], report["model"]
    size = f", {model['parameters'] / 1e6:.1f}M parameters" if model["parameters"] else ""
    of = f" of {suite['of']}" if suite["of"] != suite["cases"] else ""
    lines = [
        f"- model: {model['name']}{size} (sha256 {model['sha256'][:12]})",
        f"- suite: {suite['name']}, {suite['cases']}{of} cases (sha256 {suite['sha256'][:12]}; "
        + ", ".join(f"{name} {count}" for name, count in sorted(suite["buckets"].items()))
        + ")",
        f"- code: {(report['commit'] or 'no commit')[:12]}{' with uncommitted changes' if report['dirty'] else ''}",
        f"- run: {report['started']} to {report['finished']}{', --quick' if settings['quick'] else ''}",
    ]
    if settings["command"]:
        lines.append(f"- command: `{settings['command']}`")
    return "\n".join(lines)


def machine_section(report: dict[str, Any], runs: list[dict[str, Any]], name: str = "artifact") -> str:
    """Machine, blocks, and the versions that the `runs` told, each called by what stands under `name`."""
    machine, blocks = report["machines"][0], report["blocks"]
    lines = [
        "## Machine",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, GPU: {machine['gpu'] or 'none'}; "
        f"{machine['os']}; Python {machine['python']}.",
    ]
    if blocks:
        busy = [block for block in blocks if block["busy"]]
        calibrations = [block["calibration_ms"] for block in blocks]
        lines += [
            "",
            f"Latency was measured in {len(blocks)} blocks, {len(busy)} of them while the machine was busy with other "
            f"work. The calibration loop took {min(calibrations):.1f} to {max(calibrations):.1f} ms; load average "
            + _range([block["load_average"] for block in blocks])
            + "; cores used by others "
            + _range([block["foreign_cores"] for block in blocks])
            + ".",
        ]
    versions = [
        f"{run[name]}: {', '.join(f'{package} {value}' for package, value in sorted(run['versions'].items()))}; "
        f"{run['dtype']} on {run['device']}, threads {run['threads']}"
        for run in runs
        if run["device"]
    ]
    return "\n".join(lines + [""] + [f"- {line}" for line in versions])


def _remarks(report: dict[str, Any]) -> str:
    notes = [f"- suite: {note}" for note in report["suite"]["notes"]]
    reference = report["reference"]
    if reference is None or reference["status"] != "ok":
        why = reference["reason"] if reference else "torch is not available"
        notes.append(f"- no parity figures: the reference could not run ({why})")
    for run in report["runs"]:
        if run["status"] != "ok":
            stage = f" in {run['stage']}" if run["stage"] else ""
            notes.append(f"- {run['artifact']}: {run['status']}{stage}: {run['reason']}")
        notes += [f"- {run['artifact']}: {warning}" for warning in run["warnings"]]
    return "\n".join(["## Remarks", "", *notes]) if notes else ""


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
    return _table(Table("Pairs of the same precision and device", columns, tuple(rows)), level=2)


def _disagreements(report: dict[str, Any]) -> str:
    lines: list[str] = []
    for run in report["runs"]:
        found = (run["parity"] or {}).get("disagreements") or []
        if not found:
            continue
        lines += ["", f"**{run['artifact']}** calls differently on {len(found)} cases:", ""]
        for entry in found[:MOST_DISAGREEMENTS]:
            lines.append(
                f"- `{entry['case']}` {entry['user']!r}: {_calls(entry['calls'])} where the reference calls "
                f"{_calls(entry['reference_calls'])}; margin {number(entry['reference_margin'], 3)} in the reference, "
                f"{number(entry['margin'], 3)} here"
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
            "from the start of the process to the first answered request.",
        ]
    )


def _table(table: Table, *, level: int) -> str:
    lines = [f"{'#' * level} {table.title}", ""]
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|" + "|".join(" --- " for _ in table.columns) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    if table.note:
        lines += ["", table.note + "."]
    return "\n".join(lines)


def _calls(calls: list[dict[str, Any]] | None) -> str:
    if calls is None:
        return "something unparseable"
    if not calls:
        return "nothing"
    return "; ".join(f"`{c['name']} {json.dumps(c['arguments'], ensure_ascii=False)}`" for c in calls)


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.1f} to {max(known):.1f}" if known else "unknown"
