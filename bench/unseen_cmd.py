"""The command line of `bench unseen`."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.command import positive, screen_for, tell_files, threads_asked
from runtimes.console import Parser

if TYPE_CHECKING:
    from bench.screen import Screen

FILES = (
    ("unseen.md", "the figures by tool and the misses, to read"),
    ("report.json", "the same as data"),
    ("samples.jsonl", "every answer with its verdict"),
)


def main(argv: Sequence[str]) -> int:
    """``bench unseen``: parse, export if need be, ask, write, show."""
    options = _parser().parse_args(list(argv))
    from bench.folder import check_out
    from bench.unseen import table, unseen

    out = Path(options.out)
    check_out(out)
    threads, limit = threads_asked(options.threads), positive(options.limit, "--limit")
    screen = screen_for(options.json)
    artifact = _artifact(options, screen, threads)
    with screen.progress() as bars:
        report = unseen(
            artifact,
            Path(options.data),
            out,
            split=options.split,
            wordings=options.wordings,
            limit=limit,
            runtime=options.runtime,
            threads=threads,
            command=shlex.join(["bench", "unseen", *argv]),
            progress=lambda n, of: bars.describe("ask", f"{n} of {of}"),
        )
        bars.end("ask")
    screen.table(table(report))
    tell_files(screen, out, FILES, report, as_json=options.json)
    return 0


def _artifact(options: Namespace, screen: Screen, threads: int | None) -> Path:
    """The artifact that is asked: the one that is named, or the model's export as `--variant`."""
    from bench.answering import exportable, provide
    from bench.records import Settings
    from router.toolset_load import load_toolset
    from runtimes.artifact import is_artifact

    if is_artifact(Path(options.model)):
        return Path(options.model)
    variant = exportable(options.variant)
    toolset = load_toolset("kiwi")  # the artifact needs one to be proved with; the cases bring their own
    settings = Settings(
        toolset=toolset.name, threads=threads, cache=Path(options.cache), command=f"bench unseen {options.model}"
    )
    with TemporaryDirectory() as logs:
        made = provide(options.model, options.adapter, variant, toolset, settings, screen, Path(logs), label="unseen")
    return made.artifact.folder


def _parser() -> Parser:
    parser = Parser(
        "bench unseen",
        "Ask a model requests that bring their own tools, none of which it was trained on: shares with\n"
        "intervals, whole and by the tool that is right, with the grammar and without. The cases are an import's.",
        [
            "edgecall data import sgd corpora/sgd --out work/sgd",
            "bench unseen models/seed/base --data work/sgd --out out/unseen",
            "bench unseen seed --adapter none --data work/sgd --wordings all --out out/unseen-all",
        ],
    )
    add = parser.add_argument
    add("model", help="model folder, shipped name, hub name or exported artifact")
    add("--data", required=True, metavar="FOLDER", help="an import whose requests bring their own tools")
    add("--split", default="dev", choices=("dev", "test", "train"), help="which of its cases (default: dev)")
    add(
        "--wordings",
        default="original",
        choices=("original", "all"),
        help="of reworded declarations (default: original)",
    )
    add("--limit", type=int, metavar="N", help="so many cases, evenly spread (default: all)")
    add("--adapter", metavar="DIR|none", help="adapter to merge in, or none (default: the model's, if it has one)")
    add("--variant", default="gguf-q8_0", metavar="NAME", help="what the model is exported as (default: gguf-q8_0)")
    add("--runtime", metavar="NAME", help="runtime that opens it (default: the format's own)")
    add("--threads", type=int, metavar="N", help="threads (default: half the cores, at most 8)")
    add("--cache", default="out/artifacts", metavar="DIR", help="where exports are kept (default: out/artifacts)")
    add("--out", required=True, metavar="DIR", help="where the result goes; must be new or empty")
    add("--json", action="store_true", help="the report on stdout; everything else goes to stderr")
    return parser
