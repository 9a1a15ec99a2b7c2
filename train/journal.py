"""``log.jsonl`` of a run: one event a line, written as training goes on and read again for curves and cards.

    {"step": 25, "loss": 2.31, "lr": 0.0012, "tokens_per_s": 1720, "left_s": 3480}
    {"step": 250, "validation": 1.94}

``left_s`` is the time left in seconds, at the pace since the process began; the first line of training loss that a
process writes also has the ``precision`` of its forward passes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from export.atomic import disk_errors
from runtimes.errors import UserError

if TYPE_CHECKING:
    from train.loop import LoopConfig

FILE = "log.jsonl"


class Journal:
    """The log of a run that goes on behind step `start`; every event is also given to `report`.

    A context manager. A last line that a kill or a full disk left unfinished is cut off when it is opened. With
    `silent` nothing is written or told: for processes that help another one. Raises `UserError` naming the file where
    it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        loop: LoopConfig,
        start: int,
        report: Callable[[dict[str, Any]], None],
        *,
        silent: bool = False,
    ) -> None:
        self.path, self.steps, self.start, self.report, self.silent = path, loop.steps, start, report, silent
        self.began = time.monotonic()
        self._first = {"precision": loop.precision}
        self._file: IO[str] | None = None

    def __enter__(self) -> Journal:
        if not self.silent:
            with disk_errors(self.path):
                _cut_unfinished(self.path)
                self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with disk_errors(self.path):
                self._file.close()

    @property
    def seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self.began

    def left(self, done: int) -> int:
        """Seconds that the steps behind step `done` will take at the pace so far."""
        return round(self.seconds / max(1, done - self.start) * (self.steps - done))

    def event(self, **fields: Any) -> None:
        """Write and tell one event."""
        if self._file is None:
            return
        with disk_errors(self.path):
            self._file.write(json.dumps(fields) + "\n")
            self._file.flush()
        self.report(fields)

    def trained(self, step: int, *, loss: float, lr: float, tokens: int | None, **more: Any) -> None:
        """The event of training loss behind step `step`; `tokens` are those read since this process began."""
        speed = {} if tokens is None else {"tokens_per_s": round(tokens / max(self.seconds, 1e-9))}
        self.event(step=step, loss=round(loss, 4), lr=lr, **speed, left_s=self.left(step), **more, **self._first)
        self._first = {}


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a log, in order of their steps; a step that a resumed run made again counts as the last time.

    A last line without an end, as a kill leaves it, is passed over. Raises `UserError` with file and line for any
    other line that is no event, and for a file that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from None
    events: dict[tuple[int, bool], dict[str, Any]] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            event = json.loads(line)
            events[int(event["step"]), "validation" in event] = event
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: not an event of a training run; delete the line") from None
    return [events[key] for key in sorted(events)]


def _cut_unfinished(path: Path) -> None:
    """Cut off what stands behind the last line's end."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
