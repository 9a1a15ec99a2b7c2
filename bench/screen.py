"""What a person sees while a bench runs: stages, progress, and the tables at the end. All on stderr with `--json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from bench.tables import LEGEND, NOT_MEASURED, Table, fit, main_tables, parity_table
from runtimes.console import make_console

WIDE = 160
"""Columns where the output goes to a file or a pipe: enough for every table."""


class Screen:
    """Prints stages and progress; `quiet` prints nothing at all."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or make_console(quiet=quiet, highlight=False)
        if not self.console.is_terminal and self.console.width < WIDE:
            self.console.width = WIDE

    def say(self, line: str = "") -> None:
        self.console.print(Text(line), soft_wrap=True)

    def stage(self, number: int, of: int, title: str, detail: str = "") -> None:
        """The beginning of a stage, in words."""
        text = Text(f"[{number}/{of}] {title}", style="bold")
        if detail:
            text.append(f"  {detail}", style="not bold dim")
        self.console.print(text, soft_wrap=True)

    def done(self, name: str, detail: str = "") -> None:
        self.console.print(Text.assemble(("  ok      ", "green"), f"{name:<18} {detail}"), soft_wrap=True)

    def skipped(self, name: str, reason: str) -> None:
        self.console.print(Text.assemble(("  skipped ", "yellow"), f"{name:<18} {reason}"), soft_wrap=True)

    def failed(self, name: str, reason: str) -> None:
        self.console.print(Text.assemble(("  FAILED  ", "bold red"), f"{name:<18} {reason}"), soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Bars]:
        """Bars for the tasks of a stage; on something that is not a terminal nothing moves."""
        columns = (
            TextColumn("  {task.description:<26}"), BarColumn(bar_width=30), _Count(), TimeElapsedColumn(),
        )  # fmt: skip
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal, refresh_per_second=3
        ) as bars:
            yield Bars(bars)

    def tables(self, report: dict[str, Any]) -> None:
        """The results, with a line on how to read them."""
        for table in main_tables(report):
            self.table(table if table.title == NOT_MEASURED else fit(table, self.console.width))
        parity = parity_table(report)
        if parity is not None:
            self.table(parity)
        self.console.print(Text(LEGEND, style="dim"))

    def table(self, table: Table) -> None:
        rich = RichTable(title=table.title, title_justify="left", title_style="bold", caption=table.note or None)
        left = {"runtime", "artifact", "contender", "side", "baseline", "toolset", "set", "run", "status", "reason"}
        for column in table.columns:
            rich.add_column(
                column, justify="left" if column in left else "right", no_wrap=column != "reason", overflow="fold"
            )
        for row in table.rows:
            rich.add_row(*(Text(cell) for cell in row))
        self.console.print(rich)

    def files(self, folder: Path, names: Sequence[tuple[str, str]]) -> None:
        """Where everything is."""
        self.say()
        self.say(f"Written to {folder}")
        for name, what in names:
            self.say(f"  {name:<16} {what}")


class _Count(MofNCompleteColumn):
    """Steps done of all; nothing for a task whose steps nobody knows."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text("")


class Bars:
    """Progress of named tasks; safe to update from several threads. A task begins when it is first spoken of."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def start(self, name: str, total: int | None) -> None:
        self._tasks[name] = self._progress.add_task(name, total=total)

    def update(self, name: str, done: int) -> None:
        self._progress.update(self._tasks[name], completed=done)

    def describe(self, name: str, text: str) -> None:
        """What a task without a number of steps is at."""
        if name not in self._tasks:
            self.start(name, None)
        self._progress.update(self._tasks[name], description=f"{name}: {text}"[-70:])

    def end(self, name: str) -> None:
        if name in self._tasks:
            self._progress.update(self._tasks.pop(name), visible=False)
