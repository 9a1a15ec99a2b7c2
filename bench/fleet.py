"""The workers of a bench: opened one after another, closed together, and each failing alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.process import LOADING_S, Event, WorkerFailure, WorkerProcess
from bench.records import Run, Settings


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
        """Start a process, load the run's artifact and answer a first request. Raises `WorkerFailure`."""
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
                device=device,
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
