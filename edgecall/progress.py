"""Progress of long work, on stderr, so that stdout holds the answer alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]
Done = Callable[[], None]


@contextmanager
def steps(total: int) -> Iterator[tuple[Say, Done]]:
    """Yield `say(line)` and `done()`: a bar over `total` steps on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield (lambda line: print(line, file=sys.stderr, flush=True)), (lambda: None)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)

        def say(line: str) -> None:
            progress.update(task, description=escape(line))
            progress.console.print(escape(line), highlight=False, soft_wrap=True)

        yield say, lambda: progress.advance(task)
