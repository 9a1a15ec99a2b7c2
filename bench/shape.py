"""`bench shape`: what a router of some shape would cost here, measured with random weights before anybody trains one.

Decoding goes along fixed gold calls (`bench.forced`), peers take the same tokens one by one, and the floor is predicted
from what the machine can read and multiply (`bench.predict`) and told before anything is measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import shape_page, shape_report
from bench.answering import LabelledRun
from bench.fleet import Fleet, Member, open_all
from bench.folder import check_out, workplace, write_lines
from bench.judging import answers
from bench.peer import kind_of
from bench.peers import PeerRun, Wanted, contenders, equip_peer, judge_timed
from bench.predict import few_limit, predicted, weights_of
from bench.records import Run, Settings
from bench.report import git_state, samples
from bench.run import JUDGING, MEASURING, Bench, Outcome, equip
from bench.screen import Screen
from bench.shape_making import (
    Artifacts,
    Machine,
    check_shape,
    dry_passes,
    exported,
    made_checkpoint,
    probe,
    trimmed_checkpoint,
)  # fmt: skip
from bench.shapes import Shape
from bench.suites import Suite, load_files
from bench.timing import latency
from bench.variants import Missing, choose
from configs import path as config
from export.atomic import write_json
from router.toolset_load import load_toolset
from runtimes.artifact import Artifact, sha256_file
from runtimes.base import default_threads
from runtimes.errors import UserError

STAGES: Final = 5
WORKER: Final = "bench.forced_worker"
CASES: Final = "shape.jsonl"
"""Beside the suites: requests of kiwi whose calls are about 22 tokens, behind a prompt of about 400."""
USUAL_PEERS: Final = ("transformers", "llama-cpp-python-naive", "llama-cpp-python")


@dataclass(frozen=True)
class Asked:
    """What is measured beside what `Settings` say."""

    shape: Shape
    tokenizer: Path | None = None
    trim_tokens: int | None = None
    """Measure the shape with its vocabulary cut to so many tokens, too."""
    peers: tuple[str, ...] | None = None
    """None: no peers; empty: `USUAL_PEERS`."""
    masked: bool = True
    """Every decision is masked (`bench.forced`)."""


@dataclass(eq=False)
class TrimmedRun(LabelledRun):
    """One variant of ours whose vocabulary was cut."""

    tokens: int = 0


def shape(
    settings: Settings,
    asked: Asked,
    screen: Screen,
    *,
    out: Path | None = None,
    artifacts: Artifacts | None = None,
    machine: Machine | None = None,
) -> Outcome:
    """Measure and write the report. `artifacts` gives made ones by run, and then none is; `machine` spares the probe.

    Raises `UserError` for what can be mended before anything is measured; a run that fails later is reported.
    """
    settings = replace(settings, threads=settings.threads or default_threads(), modes=("grammar",), proved=())
    started, clock = datetime.now(UTC), time.monotonic()
    if out is not None:
        check_out(out)
    toolset = load_toolset(settings.toolset)
    suite = fixed_cases(settings)
    runs = chosen(settings, asked)
    if artifacts is None:
        check_shape(asked.shape, asked.tokenizer, toolset, suite, asked.trim_tokens)
    with workplace(out, started, git_state()[0]) as place:
        bench = Bench(settings, toolset, suite, screen, runs, place.scratch, place.logs)
        bench.deadline = clock + settings.budget_s
        screen.say(
            f"{asked.shape.name}, {asked.shape.parameters / 1e6:,.1f}M random weights, on toolset {toolset.name}: "
            f"{len(runs)} runs, {len(suite.cases)} fixed calls, {settings.takes}"
        )
        model = bench.stage(
            1,
            STAGES,
            "Make",
            "weights and artifacts; what is there is taken from the cache",
            lambda: _provide(bench, asked, artifacts),
        )
        told = bench.stage(
            2,
            STAGES,
            "Predict",
            "from the memory's bandwidth and the cores' arithmetic, measured now",
            lambda: _predict(bench, asked, machine),
        )
        bench.deadline = max(bench.deadline, time.monotonic() + MEASURING * settings.budget_s)
        with Fleet(place.logs, settings) as fleet:
            _measure(bench, fleet)
        context = bench.context(model, started)
        report = shape_report.build(context, runs, asked.shape, told, masked=asked.masked)
        _write(place.staging, report, bench)
    return Outcome(report, place.target)


def chosen(settings: Settings, asked: Asked) -> list[Run]:
    """Ours, one of 32 bits and one of 8 of every runtime where none are named; the same trimmed; peers.

    Raises `UserError` for an unknown runtime, variant or peer, and for a trimming that trims nothing.
    """
    variants = choose(replace(settings, quick=True), emulated="never")
    tokens = asked.trim_tokens
    if tokens is not None and not 0 < tokens < asked.shape.vocab:
        raise UserError(f"--trim-tokens {tokens}: the shape has {asked.shape.vocab}; give fewer, and at least 1")
    runs: list[Run] = [Run(variant) for variant in variants]
    if tokens is not None:
        runs += [TrimmedRun(v, label=f"{v.artifact}@{tokens}", tokens=tokens) for v in variants]
    for run in runs:
        run.worker, run.more = WORKER, {"masked": asked.masked}
    if asked.peers is not None:
        ours = replace(settings, runtimes=(), variants=tuple(variant.artifact for variant in variants))
        runs += [run for run in contenders(ours, Wanted(asked.peers or USUAL_PEERS)) if isinstance(run, PeerRun)]
    return runs


def fixed_cases(settings: Settings) -> Suite:
    """The fixed calls, or those of ``--cases``. Raises `UserError` for a toolset that has none."""
    if settings.cases is not None:
        return load_files([settings.cases], name=settings.cases.stem)
    if settings.toolset != "kiwi":
        raise UserError(f"--toolset {settings.toolset}: the fixed calls are kiwi's; give calls of its own with --cases")
    return load_files([config("bench", CASES)], name="shape")


def _provide(bench: Bench, asked: Asked, artifacts: Artifacts | None) -> dict[str, Any]:
    """Make what is missing, give each run its artifact or its reason; returns the report's `model`."""
    whole = [run for run in bench.runs if not isinstance(run, TrimmedRun)]
    model = {"name": asked.shape.name, "sha256": "", "parameters": asked.shape.parameters}
    if artifacts is None:
        checkpoint = made_checkpoint(bench, asked.shape, asked.tokenizer)
        model["sha256"] = checkpoint.sha256
        sources = [run.source if isinstance(run, PeerRun) else run.variant for run in whole]
        artifacts = exported(bench, checkpoint, sources)
        if asked.trim_tokens is not None:
            cut = trimmed_checkpoint(bench, asked.shape, asked.tokenizer, checkpoint, asked.trim_tokens)
            trimmed = exported(bench, cut, [run.variant for run in whole if _ours(run)])
            artifacts |= {f"{name}@{asked.trim_tokens}": made for name, made in trimmed.items()}
    for run in bench.runs:
        if isinstance(run, PeerRun):
            _equip_forced(bench, run, artifacts)
            continue
        made = artifacts.get(run.name, Missing("there is no artifact of it", True))
        equip(bench, run, made)
        if isinstance(made, Artifact) and run.status == "ok":
            bench.screen.done(run.name, f"{made.size_bytes / 1e6:8.1f} MB  {made.folder}")
        else:
            (bench.screen.failed if run.status == "failed" else bench.screen.skipped)(run.name, str(run.reason))
    return model


def _equip_forced(bench: Bench, run: PeerRun, artifacts: Artifacts) -> None:
    if not kind_of(run.peer).forced:
        run.skip("it cannot be told within a request which tokens to take", "compare on a trained model: bench peers")
        bench.screen.skipped(run.name, f"{run.reason}; {run.fix}")
        return
    equip_peer(bench, run, Wanted(), artifacts.get(run.source.artifact, Missing("there is none", True)))
    run.more["forced"] = True


def _predict(bench: Bench, asked: Asked, machine: Machine | None) -> shape_report.Told:
    """The floor of every run of ours, told on the screen."""
    runs = [run for run in bench.runs if _ours(run) and run.status == "ok" and run.artifact is not None]
    told = shape_report.Told()
    weights, dry = {}, {}
    for run in runs:
        assert run.artifact is not None
        weights[run.name] = own = weights_of(run.artifact, run.variant)
        key = sha256_file(run.artifact.tokenizer), few_limit(run.artifact, own)
        if key not in dry:
            dry[key] = dry_passes(run.artifact, bench, key[1])
        told.passes[run.name] = dry[key]
    sizes = set().union(*(own.reads for own in weights.values()))
    found = machine or probe(asked.shape, sizes, bench.settings.threads or 1, bench.logs)
    told.machine = found
    for run in runs:
        assert run.artifact is not None
        own = weights[run.name]
        cut = replace(asked.shape, vocab=run.artifact.output_rows)
        rates = found.rates(run.variant, own)
        told.predicted[run.name] = predicted(cut, told.passes[run.name], run.variant, own, rates)
    bench.screen.table(shape_page.prediction(told))
    return told


def _measure(bench: Bench, fleet: Fleet) -> None:
    members = bench.stage(
        3, STAGES, "Open", "one process for each; load, then a first request", lambda: open_all(bench, fleet)
    )
    deadline = time.monotonic() + bench.left * JUDGING
    bench.stage(
        4,
        STAGES,
        "Take",
        "every fixed call once: passes, memory, and that the tokens taken are the gold ones",
        lambda: answers(bench, members, None, deadline),
    )
    _check(bench, members)
    alive = [member for member in members if member.alive]
    latency(bench, 5, STAGES, alive)
    for member in alive:
        judge_timed(bench, member.run)
    _check(bench, alive)


def _check(bench: Bench, members: list[Member]) -> None:
    """A run that took other calls than the gold ones was not measured on the same work: it failed."""
    for member in members:
        run = member.run
        wrong = sum(not right for right in run.exact().values())
        if wrong and run.status == "ok":
            run.fail(f"took other calls than the gold ones in {wrong} of {len(run.exact())} cases", "take")
            bench.screen.failed(run.name, str(run.reason))
            member.process.kill()


def _ours(run: Run) -> bool:
    return not isinstance(run, PeerRun)


def _write(folder: Path, report: dict[str, Any], bench: Bench) -> None:
    shape_report.validate(report)
    write_json(folder / "shape.json", report)
    (folder / "shape.md").write_text(shape_page.render(report), encoding="utf-8")
    write_lines(folder / "samples.jsonl", samples(bench.runs, bench.suite))
