"""The workers of a bench: opened one after another, closed together, and each failing alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bench.folder import write_cases
from bench.process import LOADING_S, Event, WorkerFailure, WorkerProcess
from bench.records import Run, Settings
from bench.screen import Screen

if TYPE_CHECKING:
    from bench.run import Bench


@dataclass(eq=False)
class Member:
    """One run and its process."""

    run: Run
    process: WorkerProcess
    silence_s: float

    @property
    def alive(self) -> bool:
        return self.run.status == "ok" and self.process.alive

    @property
    def pids(self) -> list[int]:
        """Of the worker, and of what it has started and told of."""
        return [self.process.pid, *self.run.opened.get("pids", [])]

    def call(
        self, command: str, *, loading: bool = False, on_event: Event | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """`WorkerProcess.call` with the bench's patience; `loading` allows for reading a model in silence."""
        silence = max(LOADING_S, self.silence_s) if loading else self.silence_s
        return self.process.call(command, silence=silence, on_event=on_event, **arguments)

    def attempt(self, stage: str, work: Callable[[], Any], tell: Callable[[str, str], None]) -> Any:
        """Do `work`; a failure marks the run, ends its process and is told, and None comes back."""
        if not self.alive:
            return None
        try:
            return work()
        except WorkerFailure as failure:
            self.run.fail(str(failure), stage)
            self.process.kill()
            tell(self.run.name, str(failure))
            return None


class Fleet:
    """Context manager over the workers; on leaving, every one of them is gone."""

    def __init__(self, logs: Path, settings: Settings) -> None:
        self._logs = logs
        self._settings = settings
        self._processes: list[WorkerProcess] = []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close() if kind is None else process.kill()

    def open(self, run: Run, device: str, cases: Path) -> Member:
        """Start a process, load the run's artifact and answer a first request. Raises `WorkerFailure`.

        `device`: where, unless the run's variant has a device of its own.
        """
        settings = self._settings
        assert run.artifact is not None
        taken = {process.log.name for process in self._processes}
        name = run.name if f"{run.name}.log" not in taken else f"{run.name}-reference"
        process = WorkerProcess(name, self._logs / f"{name}.log", module=run.worker, threads=settings.threads)
        self._processes.append(process)
        answered: list[float] = []
        try:
            run.opened = process.call(
                "open",
                silence=max(LOADING_S, settings.silence_s),
                on_event=lambda event: answered.append(time.monotonic()),
                folder=str(run.artifact.folder),
                runtime=run.variant.runtime,
                device=run.variant.device or device,
                threads=settings.threads,
                cases=str(cases),
                plugins=list(settings.plugins),
                **run.more,
            )
        except WorkerFailure:
            process.kill()
            raise
        run.opened["cold_start_ms"] = (answered[0] - process.started) * 1e3
        return Member(run, process, settings.silence_s)


def try_open(screen: Screen, fleet: Fleet, run: Run, device: str, cases: Path) -> list[Member]:
    """`Fleet.open`, told on the screen; empty where it failed, which then stands in the run."""
    try:
        member = fleet.open(run, device, cases)
    except WorkerFailure as failure:
        if failure.unavailable:
            run.skip(str(failure))
            screen.skipped(run.name, str(failure))
        else:
            run.fail(str(failure), "open")
            screen.failed(run.name, str(failure))
        return []
    opened = run.opened
    times = (
        f"{opened['threads']} threads; loaded in {opened['load_ms']:,.0f} ms, "
        f"first answer {opened['cold_start_ms']:,.0f} ms after the start of its process"
    )
    told = "emulated: not timed" if run.emulated else times
    screen.done(run.name, f"{opened['device']}, {opened['dtype']}, {told}")
    return [member]


def open_all(bench: Bench, fleet: Fleet) -> list[Member]:
    """A worker for every run that can run, where `Settings.device` says; MLX where it runs by itself."""
    members: list[Member] = []
    cases = write_cases(bench.scratch / "cases.jsonl", bench.suite.cases)
    for run in bench.runs:
        if run.status == "ok":
            device = "auto" if run.variant.format == "mlx" else bench.settings.device
            members += try_open(bench.screen, fleet, run, device, cases)
    for member in members:
        differing = member.run.opened.get("differently_read")
        if differing:
            member.run.warnings.append(
                f"its tokenizer reads {differing} of {len(bench.suite.cases)} prompts otherwise than the router's"
            )
    return members
