"""An accuracy report for people: ``accuracy.md`` and the tables of it, all from the report's data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bench.accuracy_cases import ALL
from bench.page import remarks, section
from bench.tables import NOT_MEASURED, Table, number, percent, with_interval

METHOD: Final = """## How this was measured

- Every adapter is merged into the base, exported and asked in a process of its own; decoding is greedy.
- exact: tool and all arguments right; tool: the right tools; free: without the grammar. Declined: of the requests that
  no tool serves, the share answered with no call; called: of those that a tool serves, the share answered with a call.
- templates: requests from held-out templates; hard: those of them that are meant to be hard; handwritten: written by
  hand, in two halves; corpus: upstream's development rows of public corpora, which no recipe here trains on. A case is
  in one set; `corpora` and `all` are sums.
- Intervals of 95%: Wilson's; where cases share a template, whole templates are resampled (bootstrap).
- No latency is measured here: see `bench all-runtimes`."""


def render(report: dict[str, Any], *, plot: str | None = None) -> str:
    """The page in Markdown; `plot` is the file name of the picture beside it."""
    parts = [f"# {report['model']}: every adapter on its own toolset", _head(report)]
    if plot:
        parts.append(f"![Calls exactly right by toolset and set]({plot})")
    further = (buckets_table(report), decoding_table(report))
    parts += [section(table, level=2) for table in (*tables(report), *further) if table.rows]
    parts += [_artifacts(report), _remarks(report), METHOD]
    return "\n\n".join(part for part in parts if part) + "\n"


def tables(report: dict[str, Any]) -> list[Table]:
    """What the terminal shows too: accuracy by set, no-call in both directions, and what was not measured."""
    out = [sets_table(report), calls_table(report)]
    rows = tuple((e["toolset"], e["status"], e["reason"]) for e in report["toolsets"] if e["status"] != "measured")
    return out + ([Table(NOT_MEASURED, ("toolset", "status", "reason"), rows)] if rows else [])


def sets_table(report: dict[str, Any]) -> Table:
    """Exact and tool of every toolset and set, with the grammar and without."""
    rows = []
    for toolset, name, modes in entries(report):
        free = modes["unconstrained"]
        figures = modes["grammar"]
        cells = [f"{figures['n']:,}", *_pair(figures), *(_pair(free) if free else ("-", "-"))]
        rows.append((toolset, name, *cells))
    columns = ("toolset", "set", "n", "exact (95% CI)", "tool (95% CI)", "free exact", "free tool")
    return Table("Accuracy by toolset and set", columns, tuple(rows))


def calls_table(report: dict[str, Any]) -> Table:
    """No-call in both directions, over all cases of a toolset."""
    rows = []
    for toolset, name, modes in entries(report):
        if name == ALL:
            rows.append((toolset, *_calls(modes, "declined"), *_calls(modes, "called")))
    columns = ("toolset", "no tool serves", "declined (95% CI)", "free declined", "a tool serves", "called (95% CI)",
               "free called")  # fmt: skip
    return Table("Whether to call at all", columns, tuple(rows))


def buckets_table(report: dict[str, Any]) -> Table:
    """The buckets of every set that has several, with the grammar."""
    rows = []
    for toolset, name, modes in entries(report):
        buckets = modes["grammar"]["by_bucket"]
        if name != ALL and len(buckets) > 1:
            rows += [(toolset, name, bucket, f"{f['n']:,}", *_pair(f)) for bucket, f in sorted(buckets.items())]
    columns = ("toolset", "set", "bucket", "n", "exact (95% CI)", "tool (95% CI)")
    return Table("By bucket, with the grammar", columns, tuple(rows))


def decoding_table(report: dict[str, Any]) -> Table:
    """How much the grammar decides. Milliseconds are left to the JSON: nothing else on the machine was kept still."""
    rows = []
    for entry in report["toolsets"]:
        found = entry["decoding"]
        if found:
            told = (found[key] for key in ("request_tokens", "forced_tokens", "decided_tokens", "mean"))
            rows.append((entry["toolset"], *(number(value, 3) for value in told)))
    columns = ("toolset", "request tokens", "forced by the grammar", "decided by the model", "forward passes")
    return Table("Tokens a request, on average", columns, tuple(rows))


def entries(report: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Toolset, set and its figures by mode, of all sets that were answered with the grammar."""
    for entry in report["toolsets"]:
        for name, modes in entry["sets"].items():
            yield entry["toolset"], name, modes


def where(report: dict[str, Any]) -> str:
    """Runtime, machine and commit in one line."""
    runs = [entry["run"] for entry in report["toolsets"] if entry["run"]]
    runtimes = sorted({run["runtime"] for run in runs})
    machine = report["machine"]
    parts = [
        f"{report['variant']}{f' on {runtimes[0]}' if runtimes else ''}",
        f"{machine['cpu']}, {machine['cores']} cores",
        machine["gpu"] or "",
        f"{machine['os']}, Python {machine['python']}",
        f"{report['created'][:10]}, commit {(report['commit'] or 'none')[:7]}"
        + (" with uncommitted changes" if report["dirty"] else ""),
    ]
    return "; ".join(part for part in parts if part)


def _head(report: dict[str, Any]) -> str:
    corpora = "none" if report["data"] is None else f"`{report['data']}`"
    limit = f", at most {report['limit']:,} rows of a toolset" if report["limit"] else ""
    lines = [f"- {where(report)}", f"- suite: `{report['suite']}`; public corpora: {corpora}{limit}"]
    return "\n".join([*lines, *([f"- command: `{report['command']}`"] if report["command"] else [])])


def _artifacts(report: dict[str, Any]) -> str:
    lines = ["## What was asked", ""]
    for entry in report["toolsets"]:
        run, model, suite = entry["run"], entry["model"], entry["suite"]
        if run is None:
            continue
        adapter = f"adapter `{entry['adapter']}`" if entry["adapter"] else "no adapter"
        versions = ", ".join(f"{name} {value}" for name, value in sorted(run["versions"].items()))
        lines.append(
            f"- {entry['toolset']} (sha256 {entry['toolset_sha256'][:12]}): {model['name']}, {adapter} (model sha256 "
            f"{model['sha256'][:12]}, artifact {(run['artifact_sha256'] or 'none')[:12]}); {suite['cases']:,} cases "
            f"(sha256 {suite['sha256'][:12]}); {run['dtype']} on {run['device']}, threads {run['threads']}; {versions}"
        )
    return "\n".join(lines)


def _remarks(report: dict[str, Any]) -> str:
    return remarks(f"{entry['toolset']}: {note}" for entry in report["toolsets"] for note in entry["notes"])


def _pair(figures: dict[str, Any]) -> tuple[str, str]:
    exact, tool = (with_interval(figures[key], figures[f"{key}_ci95"]) for key in ("exact", "tool"))
    return exact, tool


def _calls(modes: dict[str, Any], key: str) -> tuple[str, str, str]:
    """Number of requests, share with its interval, and the share without the grammar."""
    found = modes["grammar"][key]
    free = (modes["unconstrained"] or {}).get(key)
    if found is None:
        return "0", "-", "-"
    return f"{found['n']:,}", with_interval(found["share"], found["ci95"]), percent(free and free["share"])
