"""`bench peers`: the router and what people would use instead, on the same cases, turn and turn about, in one run."""

from __future__ import annotations

import difflib
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import peer_server, peers_page, peers_plot, peers_report
from bench.answering import LabelledRun, exportable
from bench.fleet import Fleet, open_all
from bench.folder import check_out, workplace, write_lines
from bench.judging import answers
from bench.metrics import judge
from bench.peer import PEERS, Kind, kind_of, module_of
from bench.plugins import load_plugins
from bench.process import LOADING_S, WorkerFailure, WorkerProcess
from bench.records import Answer, Run, Settings, Variant
from bench.report import git_state, samples
from bench.run import JUDGING, MEASURING, Bench, Outcome, equip, export_all, model_of, suite_asked
from bench.screen import Screen
from bench.timing import latency
from bench.variants import Missing, choose
from export.atomic import write_json
from router.toolset_load import load_toolset
from runtimes.artifact import Artifact
from runtimes.base import default_threads
from runtimes.errors import UserError

STAGES: Final = 4
OURS: Final = ("gguf-q8_0", "onnx-int8", "onnx-fp32", "safetensors-fp32")
MAC: Final = "mlx-lm"
"""The peer that is measured by default on a Mac alone."""
ON_MAC: Final = "mlx-8bit"
WORKER: Final = "bench.peer_worker"


@dataclass(frozen=True)
class Wanted:
    """Which peers are asked, with which llama-server, and whom all are compared with."""

    peers: tuple[str, ...] = ()
    """Where empty, all; those that are not usual are listed as skipped, and so is `MAC` but on a Mac."""
    server: str | None = None
    baseline: str | None = None
    """A contender; None: ours of the same precision."""


@dataclass(eq=False)
class PeerRun(LabelledRun):
    """One peer on one artifact. `source` is the artifact that it opens."""

    peer: str = ""
    source: Variant = field(default_factory=lambda: Variant("", "", "", 0))


def peers(
    settings: Settings,
    wanted: Wanted,
    screen: Screen,
    *,
    out: Path | None = None,
    artifacts: dict[str, Artifact | Missing] | None = None,
) -> Outcome:
    """Measure and write the report. `artifacts` gives made ones by name, and then nothing is exported.

    Raises `UserError` for what can be mended before anything is measured; a contender that fails later is reported.
    """
    settings = replace(settings, threads=settings.threads or default_threads(), modes=("grammar",))
    started, clock = datetime.now(UTC), time.monotonic()
    if out is not None:
        check_out(out)
    load_plugins(settings.plugins)
    runs = contenders(settings, wanted)
    toolset = load_toolset(settings.toolset)
    suite = suite_asked(settings, toolset)
    with workplace(out, started, git_state()[0]) as place:
        bench = Bench(settings, toolset, suite, screen, runs, place.scratch, place.logs)
        bench.deadline = clock + settings.budget_s
        screen.say(
            f"{settings.model} on toolset {toolset.name} beside its peers: "
            f"{sum(run.status == 'ok' for run in runs)} contenders, "
            f"{len(suite.cases)} cases (suite {suite.name}), {settings.takes}"
        )
        model = _provide(bench, wanted, artifacts)
        bench.deadline = max(bench.deadline, time.monotonic() + MEASURING * settings.budget_s)
        with Fleet(place.logs, settings) as fleet:
            _measure(bench, fleet)
        report = peers_report.build(bench.context(model, started), runs, wanted.baseline)
        _write(place.staging, report, bench)
    return Outcome(report, place.target)


def contenders(settings: Settings, wanted: Wanted) -> list[Run]:
    """Ours first, then each peer on the chosen artifacts of its format, or on its usual one where there is none.

    Raises `UserError` for an unknown variant, peer or baseline, and for a llama-server that cannot be run.
    """
    idle = {} if wanted.peers else {name: why for name, kind in PEERS.items() if (why := _idle(name, kind))}
    kinds = {name: kind_of(name) for name in dict.fromkeys(wanted.peers or PEERS)}
    if wanted.server is not None:
        peer_server.find(wanted.server)
    on_mac = MAC in kinds and MAC not in idle
    variants = choose(Settings(variants=settings.variants or (*OURS, *((ON_MAC,) if on_mac else ()))), emulated="never")
    runs: list[Run] = [Run(variant) for variant in variants]
    for name, kind in sorted(kinds.items(), key=lambda one: one[0] in idle):
        found = [variant for variant in variants if variant.format == kind.format and not (kind.made or kind.alone)]
        for source in found[: 1 if name in idle else None] or [exportable(f"{kind.format}-{kind.quant}")]:
            own = Variant(name, kind.made or source.format, source.quant, source.precision)
            run = PeerRun(own, label=f"{name}@{source.quant}", worker=WORKER, peer=name, source=source)
            if name in idle:
                run.skip(idle[name], f"have it measured with --peers {name} (and the others that are wanted)")
            runs.append(run)
    known = [run.name for run in runs if run.status == "ok"]
    if wanted.baseline is not None and wanted.baseline not in known:
        near = difflib.get_close_matches(wanted.baseline, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"--baseline: {wanted.baseline!r} is none of the contenders {', '.join(known)}{hint}")
    return runs


def _idle(name: str, kind: Kind) -> str:
    """Why a peer is not measured where nobody names it; empty for one that is."""
    if name == MAC and sys.platform != "darwin":
        return "off a Mac it runs some twenty times slower than it is meant to"
    return kind.unusual


def _provide(bench: Bench, wanted: Wanted, artifacts: dict[str, Artifact | Missing] | None) -> dict[str, Any]:
    """Export what is missing and note who cannot run; returns the report's `model`."""
    begun = time.monotonic()
    bench.screen.stage(1, STAGES, "Export", "what is missing; the rest is taken from the cache")
    if artifacts is None:
        asked = [run for run in bench.runs if run.status == "ok"]
        sources = [run.source if isinstance(run, PeerRun) else run.variant for run in asked]
        artifacts, model = export_all(bench, list(dict.fromkeys(sources)))
    else:
        model = model_of(artifacts)
    for run in bench.runs:
        if run.status != "ok":
            bench.screen.skipped(run.name, f"{run.reason}; {run.fix}")
        elif isinstance(run, PeerRun):
            equip_peer(bench, run, wanted, artifacts.get(run.source.artifact, Missing("there is none", True)))
        else:
            equip(bench, run, artifacts.get(run.variant.artifact, Missing("there is no artifact of it", True)))
    bench.stages_s["export"] = time.monotonic() - begun
    return model


def equip_peer(bench: Bench, run: PeerRun, wanted: Wanted, made: Artifact | Missing) -> None:
    """Give a peer what it opens, or its reason for not running here."""
    settings, screen = bench.settings, bench.screen
    kind = kind_of(run.peer)
    module = module_of(kind)
    state = module.availability(wanted.server)
    if not kind.runs_on(settings.device):
        run.skip(f"it is measured on {' and '.join(kind.devices)} alone", "compare it with --device cpu")
        screen.skipped(run.name, f"{run.reason}; {run.fix}")
    elif not state.available:
        run.skip(state.reason, state.fix)
        screen.skipped(run.name, f"{state.reason}; {state.fix}")
    elif isinstance(made, Missing):
        reason = f"its artifact {run.source.artifact}: {made.reason}"
        run.skip(reason) if made.unavailable else run.fail(reason, "export")
    else:
        run.artifact = made
        run.more = {
            "log": str(bench.logs / f"{run.name}-program.log"),
            "patience_s": settings.silence_s * 0.8,
            "prepared": None,
            "server": wanted.server,
        }
        if hasattr(module, "prepare"):
            _prepare(bench, run, made)


def _prepare(bench: Bench, run: PeerRun, source: Artifact) -> None:
    """Let a peer make its own export, beside the artifacts, in a process that does nothing else."""
    folder = source.folder.parent / f"{run.peer}-{run.source.quant}"
    worker = WorkerProcess(f"export-{run.name}", bench.logs / f"export-{run.name}.log", module=WORKER, threads=1)
    try:
        with bench.screen.progress() as bars:
            worker.call(
                "prepare", silence=LOADING_S, on_event=lambda event: bars.describe(run.name, event["line"]),
                peer=run.peer, source=str(source.folder), folder=str(folder), plugins=list(bench.settings.plugins),
            )  # fmt: skip
        worker.close()
    except WorkerFailure as failure:
        run.fail(f"its own export failed: {failure}", "export")
        bench.screen.failed(run.name, str(failure))
    finally:
        worker.kill()
    run.more["prepared"] = str(folder)


def _measure(bench: Bench, fleet: Fleet) -> None:
    members = bench.stage(
        2, STAGES, "Open", "one process for each; load, then a first request", lambda: open_all(bench, fleet)
    )
    detail = f"{len(bench.suite.cases)} cases, each contender as it decodes"
    deadline = time.monotonic() + bench.left * JUDGING
    bench.stage(3, STAGES, "Accuracy", detail, lambda: answers(bench, members, None, deadline))
    alive = [member for member in members if member.alive]
    latency(bench, 4, STAGES, alive)
    for run in bench.runs:
        if isinstance(run, PeerRun):
            judge_timed(bench, run)


def judge_timed(bench: Bench, run: Run) -> None:
    """Answers that came on the clock, for cases that the time for accuracy did not reach."""
    cases = {case.id: case for case in bench.suite.cases}
    known = run.answers["grammar"]
    for timed in run.timed:
        if timed.case not in known:
            known[timed.case] = Answer(timed.case, timed.calls, [], "", None, {}, False)
            run.verdicts["grammar"][timed.case] = judge(cases[timed.case], timed.calls, bench.toolset)


def _write(folder: Path, report: dict[str, Any], bench: Bench) -> None:
    peers_report.validate(report)
    drawn = peers_plot.draw(report, folder / "peers.png")
    write_json(folder / "peers.json", report)
    page = peers_page.render(report, plot="peers.png" if drawn else None)
    (folder / "peers.md").write_text(page, encoding="utf-8")
    write_lines(folder / "samples.jsonl", samples(bench.runs, bench.suite))
