"""What the pages for people have in common: the lines at their heads, tables, the machine, remarks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bench.tables import Table


def head(report: Mapping[str, Any], *, cases: str = "suite", buckets: bool = False) -> str:
    """Model, cases, code and command of a report made with `bench.report.head`; `cases` is what its suite is called."""
    return "\n".join(
        [model_line(report["model"]), suite_line(report["suite"], cases, buckets=buckets), *code_lines(report)]
    )


def model_line(model: Mapping[str, Any]) -> str:
    """Name, number of parameters and hash."""
    size = f", {model['parameters'] / 1e6:.1f}M parameters" if model["parameters"] else ""
    return f"- model: {model['name']}{size} (sha256 {model['sha256'][:12] or 'unknown'})"


def suite_line(suite: Mapping[str, Any], label: str = "suite", *, buckets: bool = False) -> str:
    """Name, number of cases and hash; with how many of them lie in each bucket, if wanted."""
    of = f" of {suite['of']}" if suite.get("of", suite["cases"]) != suite["cases"] else ""
    told = ", ".join(f"{name} {count}" for name, count in sorted(suite["buckets"].items())) if buckets else ""
    parts = "; ".join(part for part in (f"sha256 {suite['sha256'][:12]}", told) if part)
    return f"- {label}: {suite['name']}, {suite['cases']}{of} cases ({parts})"


def code_lines(report: Mapping[str, Any]) -> list[str]:
    """Which code ran, when, and by which command."""
    settings = report["settings"]
    lines = [
        f"- code: {code(report)}",
        f"- run: {report['started']} to {report['finished']}{', --quick' if settings['quick'] else ''}",
    ]
    return lines + ([f"- command: `{settings['command']}`"] if settings["command"] else [])


def code(report: Mapping[str, Any]) -> str:
    """The commit, and whether files differed from it."""
    return f"{(report['commit'] or 'no commit')[:12]}{' with uncommitted changes' if report['dirty'] else ''}"


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


def remarks(notes: Iterable[str]) -> str:
    """The section of what else is to be said; empty where that is nothing."""
    lines = [f"- {note}" for note in notes]
    return "\n".join(["## Remarks", "", *lines]) if lines else ""


def run_notes(runs: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """Why runs did not end well, and what they warned of; each is called by what stands under `name`."""
    notes = []
    for one in runs:
        if one["status"] != "ok":
            stage = f" in {one['stage']}" if one.get("stage") else ""
            notes.append(f"{one[name]}: {one['status']}{stage}: {one['reason']}")
        notes += [f"{one[name]}: {warning}" for warning in one["warnings"]]
    return notes


def section(table: Table, *, level: int) -> str:
    """A table under a heading of so many ``#``, its note behind it."""
    lines = [f"{'#' * level} {table.title}", ""]
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|" + "|".join(" --- " for _ in table.columns) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    if table.note:
        lines += ["", table.note + "."]
    return "\n".join(lines)


def told_calls(calls: list[dict[str, Any]] | None) -> str:
    """What was called, in one line; `calls` as a report has them, None for what could not be read."""
    if calls is None:
        return "something unparseable"
    if not calls:
        return "nothing"
    return "; ".join(f"`{c['name']} {json.dumps(c['arguments'], ensure_ascii=False)}`" for c in calls)


def times(ratio: Mapping[str, Any] | None) -> str:
    """A ratio of times with its interval."""
    if ratio is None or ratio["ratio"] is None:
        return "-"
    low, high = ratio["ci95"]
    return f"{ratio['ratio']:.2f} ({low:.2f}-{high:.2f})"


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.1f} to {max(known):.1f}" if known else "unknown"
