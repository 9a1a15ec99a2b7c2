"""The folder that a report goes to: never one that holds something, and never one that another run has taken.

And how what lies in it is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from export.atomic import disk_errors, staged
from router.cases import Case
from runtimes.errors import UserError


@dataclass(frozen=True)
class Workplace:
    """Where a bench works until its report is whole."""

    target: Path
    """What `staging` becomes."""
    staging: Path
    logs: Path
    scratch: Path


@contextmanager
def workplace(out: Path | None, started: datetime, commit: str | None) -> Iterator[Workplace]:
    """Folders to work in; on success all but the scratch and empty logs is at the target, else nothing is.

    The target is as `reserved` has it, and errors are as there.
    """
    with reserved(out, started, commit) as target, staged(target) as staging:
        place = Workplace(target, staging, staging / "logs", staging / "scratch")
        place.logs.mkdir()
        place.scratch.mkdir()
        yield place
        shutil.rmtree(place.scratch, ignore_errors=True)
        _drop_empty(place.logs)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, written one by one as they come."""
    with path.open("w", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_cases(path: Path, cases: Iterable[Case]) -> Path:
    """A case file for workers to read; returns `path`."""
    path.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in cases), encoding="utf-8")
    return path


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


def _drop_empty(logs: Path) -> None:
    for log in logs.iterdir():
        if log.is_file() and log.stat().st_size == 0:
            log.unlink()


def _reserve(first: Path) -> Path:
    with disk_errors(first):
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()  # fails where it exists: one of two runs at once gets it
                return folder
    raise AssertionError("counting does not end")
