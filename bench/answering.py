"""One model as one artifact, and its answers to a suite: what `bench lift`, `accuracy` and `unseen` have in common."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fleet import Fleet
from bench.folder import write_cases
from bench.judging import answers
from bench.process import WorkerFailure
from bench.records import Run, Settings, Variant
from bench.run import Bench
from bench.screen import Screen
from bench.suites import Suite
from bench.variants import Missing, choose, export, made_from
from export.checkpoint import count_parameters
from export.pipeline import merge_checkpoint
from export.trim import trim_checkpoint
from router.toolset import Toolset
from runtimes import runtime
from runtimes.artifact import Artifact
from runtimes.errors import UserError


@dataclass(eq=False)
class LabelledRun(Run):
    """A run called by what it stands for, so that several of one variant have logs and lines of their own."""

    label: str = ""

    @property
    def name(self) -> str:
        return self.label


@dataclass(frozen=True)
class Provided:
    """An artifact that is to be run, how, and the report's entry on its model."""

    artifact: Artifact
    variant: Variant
    model: dict[str, Any]


def exportable(name: str, runtime_name: str | None = None) -> Variant:
    """The variant called `name`. Raises `UserError` where there is none, or `runtime_name` has none of it."""
    return choose(Settings(runtimes=(runtime_name,) if runtime_name else (), variants=(name,)))[0]


def check_runs_here(variant: Variant, source: str) -> None:
    """Raise `UserError` where the variant's runtime cannot run on this machine."""
    state = runtime(variant.runtime).availability()
    if not state.available:
        raise UserError(f"{source}: {variant.runtime} cannot run here: {state.reason}; {state.fix}")


def provide(
    source: str,
    adapter: str | None,
    variant: Variant,
    toolset: Toolset,
    settings: Settings,
    screen: Screen,
    logs: Path,
    *,
    label: str,
    part: str | None = None,
) -> Provided:
    """A model merged and exported to where `bench all-runtimes` keeps its own; nothing is made that is there.

    `settings.toolset` names `toolset`; `part` is what the model calls its adapter for it, where that is not its name.
    Raises `UserError`.
    """
    with screen.progress() as bars:

        def tell(line: str) -> None:
            bars.describe("merge", line)

        work = settings.cache / "merged"
        checkpoint = merge_checkpoint(source, work, adapter=adapter, toolset=part or toolset.name, progress=tell)
        if settings.trim:
            checkpoint = trim_checkpoint(checkpoint, settings.trim, toolset, work, progress=tell)
        bars.end("merge")
        parts = (checkpoint.name, checkpoint.sha256[:8], toolset.name, toolset.sha256[:8])
        out = settings.cache / "-".join(parts)
        made = export(checkpoint, [variant], out, settings, logs, bars.describe, lambda name, _: bars.end(name))
    artifact = made[variant.artifact]
    if isinstance(artifact, Missing):
        raise UserError(f"{source}: {variant.artifact}: {plain(artifact.reason)}")
    screen.done(label, f"{artifact.size_bytes / 1e6:7.1f} MB  {artifact.folder}")
    entry = {"name": checkpoint.name, "sha256": checkpoint.sha256, "parameters": count_parameters(checkpoint.folder)}
    return Provided(artifact, variant, entry | made_from(checkpoint))


def ask(
    run: Run, source: str, suite: Suite, toolset: Toolset, settings: Settings, screen: Screen, scratch: Path,
    logs: Path, *, seconds: float,
) -> None:  # fmt: skip
    """Ask `run` every case of a suite, in a process of its own; answers and verdicts are left in the run.

    Cases are decoded pass by pass while `seconds` suffice (see `bench.worker`). Raises `UserError` where it fails.
    """
    cases = write_cases(scratch / f"{run.name}-cases.jsonl", suite.cases)
    bench = Bench(settings, toolset, suite, screen, [run], scratch, logs)
    with Fleet(logs, settings) as fleet:
        try:
            member = fleet.open(run, settings.device, cases)
        except WorkerFailure as failure:
            raise UserError(f"{source}: {plain(str(failure))}") from None
        answers(bench, [member], None, time.monotonic() + seconds)
    if run.status != "ok":
        raise UserError(f"{source}: {plain(str(run.reason))}")


def plain(failure: str) -> str:
    """A worker's failure without the log that goes when the bench fails; its last line stays."""
    return re.sub(r"; see logs/\S+?\.log(: )?", lambda m: "; its last line: " if m[1] else "", failure)
