"""One process per runtime and variant, spoken to in JSON lines over pipes. What it does belongs to it alone.

Request: ``{"id": 1, "command": "open", …}``. Answers: any number of ``{"id": 1, "event": {…}}``, then either
``{"id": 1, "result": {…}}`` or ``{"id": 1, "error": {"type": …, "message": …, "unavailable": …}}``. A worker that dies,
stays silent for too long or answers with an error raises `WorkerFailure` here; it never takes the bench with it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SILENCE_S = 120.0
"""A worker sends an event per case; one that says nothing for this long hangs."""
LOADING_S = 600.0
"""Silence allowed while a model is loaded or exported."""

Event = Callable[[dict[str, Any]], None]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class WorkerFailure(Exception):
    """A worker could not do what was asked. One line; `unavailable`: this machine cannot, rather than it went wrong."""

    def __init__(self, message: str, *, unavailable: bool = False) -> None:
        super().__init__(message)
        self.unavailable = unavailable


class Stopped(Exception):
    """A worker is not started, or its failure not told, because all of its crew have been ended."""


class WorkerProcess:
    """A child process running ``python -m <module>``. Its stdout is the channel, its stderr goes to `log`."""

    def __init__(self, name: str, log: Path, *, module: str = "bench.worker", threads: int | None = None) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        self._next = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(threads),
                # A group of its own: Ctrl-C reaches the bench alone, which then ends its workers in order.
                start_new_session=True,
            )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(
        self, command: str, *, silence: float = SILENCE_S, limit: float | None = None, on_event: Event | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Send one command and wait for its answer, handing events on as they come.

        Raises `WorkerFailure` when the worker answers with an error, dies, says nothing for `silence` seconds, or has
        not finished after `limit` seconds; in the last three cases it is killed.
        """
        self._next += 1
        number = self._next
        self._send({"id": number, "command": command, **arguments})
        begun = time.monotonic()
        while True:
            wait = silence if limit is None else min(silence, begun + limit - time.monotonic())
            try:
                line = self._lines.get(timeout=max(0.0, wait))
            except queue.Empty:
                spent = time.monotonic() - begun
                self.kill()
                silent = limit is None or spent < limit
                why = f"said nothing for {silence:.0f} s" if silent else f"had not finished after {limit:.0f} s"
                raise WorkerFailure(f"hung in {command!r}: {why}; it was ended{self._log_hint()}") from None
            if line is None:
                raise WorkerFailure(self._obituary(command))
            message = json.loads(line)
            if message.get("id") != number:
                continue
            if "event" in message:
                if on_event is not None:
                    on_event(message["event"])
            elif "error" in message:
                error = message["error"]
                kind = "" if error["type"] in ("UserError", "UnavailableError") else f"{error['type']}: "
                raise WorkerFailure(f"{kind}{error['message']}", unavailable=bool(error.get("unavailable")))
            else:
                result: dict[str, Any] = message["result"]
                return result

    def close(self, patience: float = 10.0) -> None:
        """Let the worker end by itself (its input closes), or kill it."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the worker and whatever it started."""
        self.strike()
        self._process.wait()

    def strike(self) -> None:
        """`kill` without waiting until it is gone."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (OSError, AttributeError):
                self._process.kill()

    def _send(self, message: dict[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except (OSError, ValueError):
            raise WorkerFailure(self._obituary(str(message["command"]))) from None

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        for raw in stdout:
            self._lines.put(raw.decode("utf-8", "replace"))
        self._lines.put(None)

    def _obituary(self, command: str) -> str:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"closed its channel in {command!r}; it was ended{self._log_hint()}"
        how = f"exit code {code}"
        if code < 0:
            try:
                how = f"signal {signal.Signals(-code).name}"
            except ValueError:
                how = f"signal {-code}"
        return f"crashed in {command!r} ({how}){self._log_hint()}"

    def _log_hint(self) -> str:
        """The last line that the worker wrote to its log, if any."""
        try:
            lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        last = f": {lines[-1][:300]}" if lines else ""
        return f"; see logs/{self.log.name}{last}"


class Crew:
    """Workers that several threads start and use, and that one call ends all together, those to come included."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: list[WorkerProcess] = []
        self._ended = False

    def start(self, name: str, log: Path, *, module: str, threads: int | None = None) -> WorkerProcess:
        """A `WorkerProcess`. Raises `Stopped` once the crew has been ended."""
        with self._lock:
            self.check()
            worker = WorkerProcess(name, log, module=module, threads=threads)
            self._workers.append(worker)
            return worker

    def check(self) -> None:
        """Raise `Stopped` once the crew has been ended: what a worker did then is of no interest."""
        if self._ended:
            raise Stopped

    def end(self) -> None:
        """Kill every worker and let none start from here on."""
        self._ended = True
        with self._lock:
            workers = list(self._workers)
        # First all of them, then the wait: a second Ctrl-C while waiting leaves none at work.
        for worker in workers:
            worker.strike()
        for worker in workers:
            worker.kill()


def environment(threads: int | None = None, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """A worker's environment: this one's, importing what this process imports, offline, its thread pools set."""
    env = dict(os.environ if base is None else base)
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    env["PYTHONUNBUFFERED"] = "1"
    env["TOKENIZERS_PARALLELISM"] = "false"
    env.setdefault("HF_HUB_OFFLINE", "1")
    if threads is not None:
        env.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    return env
