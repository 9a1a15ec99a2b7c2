"""The folder that a report goes to: never one that holds something, and never one that another run has taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from export.atomic import disk_errors
from runtimes.errors import UserError


@contextmanager
def reserved(out: Path | None, started: datetime, commit: str | None) -> Iterator[Path]:
    """Where the report goes: `out`, or else ``out/bench/<timestamp>-<commit>``, made now so that no other run takes it.

    Where another has it, ``-2`` and so on is appended. A default folder that is still empty when the block fails is
    removed. Raises `UserError` where it cannot be made, and for an `out` that holds something.
    """
    if out is not None:
        check_out(out)
        yield out
        return
    folder = _reserve(Path("out/bench") / f"{started.strftime('%Y%m%dT%H%M%SZ')}-{(commit or 'nocommit')[:8]}")
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def check_out(folder: Path) -> None:
    """Raise `UserError` for a folder that holds something: a report is never overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not empty; reports are not overwritten, choose another folder with --out")


def _reserve(first: Path) -> Path:
    with disk_errors(first):
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()  # fails where it exists: one of two runs at once gets it
                return folder
    raise AssertionError("counting does not end")
