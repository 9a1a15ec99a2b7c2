"""The command line of `bench cold`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.command import names, positive, screen_for, threads_asked
from bench.plugins import load_plugins
from bench.tables import Table, ms
from router.core import WARM_UP
from runtimes.console import Parser

USUAL: Final = 10
KINDS: Final = (("saved", "prefix restored"), ("computed", "prefix computed"))


def main(argv: Sequence[str]) -> int:
    """``bench cold``: parse, start processes, show. Raises `UserError` where one makes no call."""
    options = _parser().parse_args(list(argv))
    from bench.cold import Start, context_for, first_calls
    from router.toolset_load import load_json
    from runtimes import FORMATS
    from runtimes.artifact import open_artifact

    load_plugins(names(options.plugin))
    n, threads = positive(options.n, "--n") or USUAL, threads_asked(options.threads)
    artifact = open_artifact(Path(options.artifact), check="sizes")
    start = Start(
        artifact.folder, options.runtime or FORMATS[artifact.format], options.request,
        context_for(load_json(artifact.toolset)), options.device, threads,
        names(options.plugin),
    )  # fmt: skip
    screen = screen_for(options.json)
    with screen.progress() as bars:
        bars.start("processes", n)
        found = first_calls(start, n, tick=lambda done: bars.update("processes", done))
    screen.table(table(found, f"{artifact.folder.name} on {start.runtime}: process start to first call"))
    if options.json:
        json.dump(found, sys.stdout)
        sys.stdout.write("\n")
    return 0


def table(found: dict[str, Any], title: str) -> Table:
    """Medians of the two kinds of start."""
    rows = []
    for key, what in KINDS:
        one = found[key]
        if one is not None:
            low, high = one["wall_range_ms"]
            figures = (ms(one[name]) for name in ("cpu_ms", "import_ms", "open_ms", "request_ms"))
            rows.append((what, str(one["n"]), ms(one["wall_ms"]), f"{ms(low)} to {ms(high)}", *figures))
    note = "" if found["saved"] else "Nothing was restored: this runtime, or the folder, keeps no prefix"
    columns = ("run", "processes", "wall ms", "range ms", "CPU ms", "imports ms", "opening ms", "request ms")
    return Table(title, columns, tuple(rows), note)


def _parser() -> Parser:
    parser = Parser(
        "bench cold",
        "The time from the start of a process to its first call: fresh processes that import what\n"
        "Router.open needs, open an artifact and route one request, with the toolset's prefix restored from\n"
        "beside the artifact and with it computed, in turns. Medians, of the clock and of processor time.",
        [
            "bench cold out/gguf-q8_0",
            'bench cold out/onnx-int8 --n 20 --threads 1 --request "find email scripts" --json',
        ],
    )
    add = parser.add_argument
    add("artifact", metavar="ARTIFACT", help="an exported artifact's folder")
    add("--n", type=int, metavar="N", help=f"processes of each kind (default: {USUAL})")
    add("--runtime", metavar="NAME", help="runtime that opens it (default: the format's own)")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, metal, ... (default: auto)")
    add("--threads", type=int, metavar="N", help="threads (default: half the cores, at most 8)")
    add("--request", default=WARM_UP, metavar="TEXT", help=f"what is asked (default: {WARM_UP!r})")
    add("--plugin", metavar="MODULE,...", help="modules imported first, to register runtimes of your own")
    add("--json", action="store_true", help="the figures on stdout; everything else goes to stderr")
    return parser
