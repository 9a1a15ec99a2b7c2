"""What the `bench` commands have in common: reading what was asked, ending as after Ctrl-C, telling what came out."""

from __future__ import annotations

import json
import math
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from runtimes.console import Parser
from runtimes.errors import UserError

if TYPE_CHECKING:
    from bench.records import Settings
    from bench.screen import Screen
    from bench.tables import Table

Files = Sequence[tuple[str, str]]
"""What a command may leave in its folder (folders end in ``/``), and what each is."""


class Effort(NamedTuple):
    """How much is measured where nobody says."""

    requests: int
    """Timed ones of each run."""
    blocks: int
    budget_s: int


QUICK: Final = Effort(requests=200, blocks=8, budget_s=250)
"""Of a whole bench with ``--quick``."""
FULL: Final = Effort(requests=1000, blocks=20, budget_s=1500)


def names(text: str | None) -> tuple[str, ...]:
    """The parts of ``A,B``."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def positive(value: int | None, option: str) -> int | None:
    """`value`, if it is 1 or more or not given. Raises `UserError` for others."""
    if value is not None and value < 1:
        raise UserError(f"{option}: {value} is not positive; give 1 or more")
    return value


def not_negative(value: float, option: str, what: str) -> float:
    """`value`, if it is a number of 0 or more of `what`. Raises `UserError` for others, NaN and infinity."""
    if not 0 <= value < math.inf:
        raise UserError(f"{option}: {value:g} is not a number of {what}; give 0 or more")
    return value


def threads_asked(value: int | None) -> int | None:
    """`value`, if a runtime would take it or none is given. Raises `UserError` for too few and too many."""
    from runtimes.base import check_threads

    return None if value is None else check_threads(value, "--threads")


def out_asked(given: str | None) -> Path | None:
    """The folder of ``--out``, if there is one. Raises `UserError` for one that holds something."""
    from bench.folder import check_out

    if given is None:
        return None
    out = Path(given)
    check_out(out)
    return out


def settings_asked(
    options: Namespace, command: str, argv: Sequence[str], effort: Effort = FULL, **more: Any
) -> Settings:
    """What `options` say of all that `Settings` knows, the rest as usual; `more` goes before both.

    Raises `UserError` for a number that is not positive, and for more threads than can be.
    """
    from bench.records import Settings

    given = {name: value for name, value in vars(options).items() if value is not None}
    known: dict[str, Any] = {
        name: given[name] for name in ("model", "toolset", "device", "suite", "quick", "seed") if name in given
    }
    known |= {name: Path(given[name]) for name in ("cases", "cache") if name in given}
    known |= {name: names(given.get(name)) for name in ("runtimes", "variants")}
    known |= {
        "threads": threads_asked(given.get("threads")),
        "requests": positive(given.get("requests"), "--requests") or effort.requests,
        "budget_s": float(positive(given.get("budget"), "--budget") or effort.budget_s),
        "blocks": effort.blocks,
        "plugins": names(given.get("plugin")),
        "command": shlex.join(["bench", command, *argv]),
    }
    return Settings(**(known | more))


def add_run_options(
    parser: Parser, full: Effort, quick: Effort | None = None, *, each: str = "of every run",
    spent: str = "for everything", cache: str = "exports", plugins: str = "runtimes",
    fewer: str = "fewer requests, less time",
) -> None:  # fmt: skip
    """The options of whatever measures in blocks: effort, folders, order, output; ``--quick`` where there is a `quick`.

    The texts say `each` of what the requests are for, on what the time is `spent`, what the `cache` keeps, what
    `plugins` may register, and what is `fewer` with ``--quick``.
    """
    add = parser.add_argument
    requests, seconds = str(full.requests), str(full.budget_s)
    if quick is not None:
        requests, seconds = f"{requests}; {quick.requests} with --quick", f"{seconds}; {quick.budget_s} with --quick"
    add("--threads", type=int, metavar="N", help="threads of every run (default: half the cores, at most 8)")
    add("--requests", type=int, metavar="N", help=f"timed requests {each} (default: {requests})")
    add("--budget", type=int, metavar="S", help=f"time {spent}, seconds (default: {seconds})")
    add("--out", metavar="DIR", help="where the report goes (default: out/bench/<time>-<commit>); must be new or empty")
    add("--cache", default="out/artifacts", metavar="DIR", help=f"where {cache} are kept (default: out/artifacts)")
    add("--seed", type=int, default=0, metavar="N", help="of the order of blocks and cases (default: 0)")
    add("--plugin", metavar="MODULE,...", help=f"modules imported first, to register {plugins} of your own")
    if quick is not None:
        add("--quick", action="store_true", help=fewer)
    add("--json", action="store_true", help="the report on stdout; everything else goes to stderr")


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


def show(screen: Screen, tables: Sequence[Table], expendable: Sequence[str] = (), legend: str | None = None) -> None:
    """Tables, without as many `expendable` columns as the screen has no room for, and a `legend` below."""
    from bench.tables import fit

    screen.say()
    for table in tables:
        screen.table(fit(table, screen.console.width, expendable))
    if legend is not None:
        screen.say(legend)


def tell_files(screen: Screen, folder: Path, files: Files, report: dict[str, Any], *, as_json: bool) -> None:
    """Name the files that are there, and write the report to stdout where it was asked for as JSON."""
    screen.files(folder, [(name, what) for name, what in files if (folder / name.rstrip("/")).exists()])
    if as_json:
        json.dump({"folder": str(folder), "report": report}, sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
