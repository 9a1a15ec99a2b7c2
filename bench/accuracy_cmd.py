"""The command line of `bench accuracy`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.command import ended_by_sigterm, names, positive, screen_for, settings_asked, show, tell_files, threads_asked
from bench.plugins import load_plugins
from bench.records import MODES
from export.trim_options import add_trim_options, trim_asked
from runtimes.base import default_threads
from runtimes.console import Parser
from runtimes.errors import UserError

DEFAULT_VARIANT = "gguf-q8_0"
FILES = (
    ("accuracy.md", "the figures, to read"),
    ("accuracy.png", "the picture"),
    ("report.json", "the same as data (schema: bench/accuracy.schema.json)"),
    ("samples.jsonl", "every answer with its verdict and set"),
)


def main(argv: Sequence[str]) -> int:
    """``bench accuracy``: parse, export if need be, ask, write, show. 1 where a toolset's worker failed."""
    options = _parser().parse_args(list(argv))
    from bench.accuracy_page import tables
    from bench.accuracy_run import accuracy
    from bench.folder import check_out
    from bench.suites import suite_names

    if options.suite not in suite_names():
        raise UserError(f"--suite: unknown suite {options.suite!r}; there are {', '.join(suite_names())}")
    out = Path(options.out)
    check_out(out)
    load_plugins(names(options.plugin))
    limit = positive(options.limit, "--limit")
    settings = settings_asked(
        options, "accuracy", argv, trim=trim_asked(options), modes=("grammar",) if options.no_free else MODES,
        threads=threads_asked(options.threads) or default_threads(),
    )  # fmt: skip
    screen = screen_for(options.json)
    with ended_by_sigterm():
        report = accuracy(
            settings,
            names(options.adapters),
            screen,
            out,
            variant=options.variant,
            data=Path(options.data) if options.data else None,
            limit=limit,
        )
    show(screen, tables(report))
    tell_files(screen, out, FILES, report, as_json=options.json)
    return 1 if any(entry["status"] == "failed" for entry in report["toolsets"]) else 0


def _parser() -> Parser:
    parser = Parser(
        "bench accuracy",
        "How right every adapter of a model is, each on its own toolset, through one runtime: shares\n"
        "with intervals by set of cases, with the grammar and without, and no-call in both directions.\n"
        "A toolset without cases is told as not measured, with the reason.",
        [
            "bench accuracy seed --out out/accuracy",
            "bench accuracy models/seed --adapters kiwi,toolbox --data corpora --limit 500 --out out/accuracy",
            "bench accuracy seed --adapters kiwi=work/kiwi/adapter,toolbox=none --no-free --out out/accuracy",
        ],
    )
    add = parser.add_argument
    add("model", help="model folder with base/ and adapter-<toolset>/, or a shipped name such as seed")
    add(
        "--adapters",
        metavar="A,B=DIR",
        help="only these: a toolset that the model has an adapter for, NAME=DIR for an adapter elsewhere, NAME=none "
        "for the base alone (default: all that the model has)",
    )
    add("--suite", default="release", metavar="NAME", help="cases by suite: release or default (default: release)")
    add("--data", metavar="DIR", help="public corpora, a folder of each: upstream's development rows are asked too")
    add("--limit", type=int, metavar="N", help="at most so many corpus rows of a toolset, evenly drawn (default: all)")
    add("--variant", default=DEFAULT_VARIANT, metavar="NAME", help="what is run (default: gguf-q8_0, on llama.cpp)")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, metal, ... (default: auto)")
    add("--threads", type=int, metavar="N", help="threads of the runtime (default: half the cores, at most 8)")
    add("--no-free", action="store_true", help="with the grammar only")
    add("--out", required=True, metavar="DIR", help="where the result goes; must be new or empty")
    add("--cache", default="out/artifacts", metavar="DIR", help="where exports are kept (default: out/artifacts)")
    add_trim_options(parser)
    add("--plugin", metavar="MODULE,...", help="modules imported first, to register runtimes of your own")
    add("--json", action="store_true", help="the report on stdout; everything else goes to stderr")
    return parser
