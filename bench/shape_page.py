"""A shape report for people: ``shape.md``, and the tables that the terminal shows."""

from __future__ import annotations

from typing import Any, Final

from bench.page import code_lines, machine_section, remarks, run_notes, section, times
from bench.predict import Size
from bench.shape_report import Told
from bench.tables import Table, ms, number, own_share

EXPENDABLE: Final = ("load ms", "own code", "precision", "n", "size MB", "floor/predicted", "p50/predicted")
"""What a narrow terminal does without, first to last."""
LEGEND: Final = (
    "p50/p95: from the request as a string to the parsed calls; passes: forward passes of a request; predicted ms: "
    "what reading the weights and multiplying take at least on this machine, told before measuring; floor ms: what the "
    "runtime's own API takes for one request's passes in the tightest loop; overhead: p50 over floor; RSS MB: peak of "
    "the process with the model and its cache; over size: without the weights on disk; own code: share of a request "
    "that is not spent within the runtime's passes, median with quartiles."
)


def prediction(told: Told) -> Table:
    """What is told before anything is measured."""
    rows = []
    for name, one in told.predicted.items():
        sizes = sorted(told.passes[name].values(), key=len)
        typical = sizes[len(sizes) // 2]
        rows.append(
            (
                name,
                number(one["weights_mb"], 4),
                f"{one['bandwidth_gb_s']:.1f}",
                f"{one['compute_gop_s']:,.0f} {one['compute']}",
                _passes(typical),
                one["bound"],
                ms(one["p50"]),
            )
        )
    machine = told.machine
    note = "; ".join(f"{kind}: {how}" for kind, how in machine.how.items() if how)
    columns = ("run", "weights MB", "GB/s", "Gop/s", "passes of a request", "bound by", "predicted ms")
    return Table("Floor predicted for the CPU, before measuring", columns, tuple(rows), note)


def tables(report: dict[str, Any]) -> list[Table]:
    """The runs, those that were not measured, and every peer against every run of ours."""
    found = [_runs(report), _missing(report), _ratios(report)]
    return [table for table in found if table.rows]


def render(report: dict[str, Any]) -> str:
    """The page in Markdown."""
    shape, settings = report["shape"], report["settings"]
    parts = [
        f"# {shape['name']}: what it costs here, before anybody trains it",
        _head(report),
        "## Results\n\n" + LEGEND,
        *(section(table, level=3) for table in tables(report)),
        _probe(report),
        machine_section(report, report["runs"], "name"),
        remarks(run_notes(report["runs"], "name")),
        _METHOD.format(
            **settings,
            masking=_MASKED if report["masked"] else _NOT_MASKED,
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _runs(report: dict[str, Any]) -> Table:
    rows = []
    for one in sorted(
        (one for one in report["runs"] if one["latency_ms"]), key=lambda one: (one["latency_ms"]["p50"], one["name"])
    ):
        latency, floor = one["latency_ms"], one["floor_ms"]
        rows.append(
            (
                one["name"] + ("" if one["status"] == "ok" else f" ({one['status']})"),
                f"{one['precision']}-bit",
                number(one["size_mb"], 4),
                number(one["peak_rss_mb"], 4),
                number(one["over_size_mb"], 3),
                ms(one["load_ms"]),
                ms(latency["p50"]),
                ms(latency["p95"]),
                str(latency["n"]),
                number(one["forward_passes"], 3),
                ms(one["predicted"] and one["predicted"]["p50"]),
                _factor(one["p50_over_predicted"]),
                ms(floor and floor["p50"]),
                _factor(one["floor_over_predicted"]),
                _factor(one["overhead"]),
                own_share(one["own_code"]),
            )
        )
    columns = (
        "run", "precision", "size MB", "RSS MB", "over size", "load ms", "p50 ms", "p95 ms", "n", "passes",
        "predicted ms", "p50/predicted", "floor ms", "floor/predicted", "overhead", "own code",
    )  # fmt: skip
    return Table("Runs, fastest first", columns, tuple(rows))


def _missing(report: dict[str, Any]) -> Table:
    rows = [
        (one["name"], one["status"], one["reason"] or "no latency") for one in report["runs"] if not one["latency_ms"]
    ]
    return Table("Not measured", ("run", "status", "reason"), tuple(rows))


def _ratios(report: dict[str, Any]) -> Table:
    """The time of every peer over that of every run of ours."""
    ratios = {(entry["contender"], entry["baseline"]): entry for entry in report["ratios"]}
    ours = list(dict.fromkeys(entry["baseline"] for entry in report["ratios"] if entry["ratio"] is not None))
    peers = list(dict.fromkeys(entry["contender"] for entry in report["ratios"]))
    rows = tuple((peer, *(times(ratios.get((peer, one))) for one in ours)) for peer in peers)
    return Table("Time of each peer over that of ... (95% CI)", ("run", *ours), rows if ours else ())


def _head(report: dict[str, Any]) -> str:
    shape, request = report["shape"], report["request"]
    lines = [
        f"- shape: width {shape['hidden']}, MLP {shape['intermediate']}, {shape['layers']} layers (every "
        f"{shape['pattern']}. global, window {shape['window']}), {shape['heads']} heads and {shape['kv_heads']} of "
        f"keys and values of width {shape['head_dim']}, {shape['vocab']:,} rows, context {shape['context']:,}: "
        f"{shape['parameters'] / 1e6:,.1f}M random weights (seed {shape['seed']})",
    ]
    if request:
        lines.append(
            f"- request: {request['calls']} fixed calls on toolset {report['toolset']}; {request['prompt_tokens']:.0f} "
            f"tokens of prompt, {request['cached_tokens']:.0f} of them cached; calls of {request['call_tokens']:.0f} "
            f"tokens, {request['decided_tokens']:.0f} of them decided, in {request['passes']:.0f} passes (medians)"
        )
        causes = request.get("passes_by_cause")
        if causes:
            told = ", ".join(f"{cause} {number(mean, 2)}" for cause, mean in causes.items())
            lines.append(f"- passes by cause (means): {told}")
    return "\n".join([*lines, *code_lines(report)])


def _probe(report: dict[str, Any]) -> str:
    probe = report["probe"]
    lines = ["## What the prediction was made of", ""]
    lines += [
        f"- reading {number(one['bytes'] / 1e6, 3)} MB again and again: {one['gb_s']:.1f} GB/s"
        for one in probe["bandwidth"]
    ]
    for kind, rate in probe["compute_gop_s"].items():
        told = "not measured" if rate is None else f"{rate:,.0f} Gop/s"
        lines.append(f"- {kind}: {told} ({probe['how'].get(kind)})")
    if probe["load_average"] is not None:
        lines.append(f"- load average when this was measured: {probe['load_average']}")
    for one in report["runs"]:
        if one["forcing_ms"] is not None:
            lines.append(f"- {one['name']}: of a request, {one['forcing_ms']:.3f} ms went into lifting the gold tokens")
    return "\n".join(lines)


def _passes(sizes: list[Size]) -> str:
    few = sum(size.ids is not None for size in sizes)
    told = f"{len(sizes)} of {', '.join(str(size.tokens) for size in sizes)} tokens"
    return f"{told}; {few} over few ids" if few else told


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


_MASKED: Final = (
    "Every row is masked: a token that the grammar does not allow is lifted above the gold one, so that the decoder "
    "computes the mask and searches what it leaves (--no-always-mask leaves that out)."
)
_NOT_MASKED: Final = (
    "No row is masked (--no-always-mask): the decoder computes the grammar's mask where the best token is not allowed, "
    "which the gold one, on top, never is."
)
_METHOD: Final = """## How this was measured

- Weights are random, calls are given: wherever the grammar leaves a choice the row of logits is computed, the gold
  token lifted above all others in it, and the decoder takes it as it would take any best token. Jump-forward and passes
  are those of a real request with these calls; guessing is off. {masking}
- Peers take the same tokens one by one, each after its row was computed and its own best token found.
- Every run has a process of its own with the same number of threads; the processes stay alive and take turns in
  shuffled blocks. {warmup} warm-up requests, then up to {requests} timed ones, fewer where the time budget did not
  reach (n). Percentiles: {percentiles}.
- The prediction: for every pass the longer of reading weights and cached keys and values at the measured bandwidth, and
  of its operations at the measured rate; formulas in bench/predict.py. Of a runtime it knows whether it multiplies in
  int8, and whether it computes the logits of few ids alone where the grammar leaves few."""
