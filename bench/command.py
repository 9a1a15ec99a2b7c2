"""What the `bench` commands have in common: reading what was asked, ending as after Ctrl-C, telling what came out."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.errors import UserError

if TYPE_CHECKING:
    from bench.screen import Screen

Files = Sequence[tuple[str, str]]
"""What a command may leave in its folder (folders end in ``/``), and what each is."""


def names(text: str | None) -> tuple[str, ...]:
    """The parts of ``A,B``."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def positive(value: int | None, option: str) -> int | None:
    """`value`, if it is 1 or more or not given. Raises `UserError` for others."""
    if value is not None and value < 1:
        raise UserError(f"{option}: {value} is not positive; give 1 or more")
    return value


def screen_for(as_json: bool) -> Screen:
    """Where a command speaks: stdout, or stderr where stdout is for the report as JSON."""
    from rich.console import Console

    from bench.screen import Screen

    return Screen(Console(stderr=True, highlight=False) if as_json else None)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM leave as Ctrl-C does, so that workers and half a report go too."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_files(screen: Screen, folder: Path, files: Files, report: dict[str, Any], *, as_json: bool) -> None:
    """Name the files that are there, and write the report to stdout where it was asked for as JSON."""
    screen.files(folder, [(name, what) for name, what in files if (folder / name.rstrip("/")).exists()])
    if as_json:
        json.dump({"folder": str(folder), "report": report}, sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
