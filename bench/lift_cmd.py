"""The command line of `bench lift`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.command import FULL, ended_by_sigterm, names, screen_for, settings_asked, show, tell_files, threads_asked
from bench.lift_sides import ANSWERS
from bench.plugins import load_plugins
from bench.records import Mode
from runtimes.base import default_threads
from runtimes.console import Parser

FILES = (
    ("lift.md", "the comparison, to read"),
    ("lift.csv", "its figures, one line per bucket and metric"),
    ("lift.png", "the picture"),
    ("report.json", "everything as data (schema: bench/lift.schema.json)"),
    (ANSWERS, "every answer of both with its verdict"),
)


def main(argv: Sequence[str]) -> int:
    """``bench lift``: parse, answer, compare, write, show."""
    options = _parser().parse_args(list(argv))
    from bench.folder import check_out
    from bench.lift_page import tables, verdict
    from bench.lift_run import ask, lift, toolset_of

    out = Path(options.out)
    check_out(out)
    load_plugins(names(options.plugin))
    asked = (
        ask("base", options.base, options.base_adapter),
        ask("tuned", options.tuned, options.tuned_adapter),
    )
    settings = settings_asked(
        options, "lift", argv, toolset=options.toolset or toolset_of(asked),
        suite=options.suite or "",
        threads=threads_asked(options.threads) or default_threads(),
    )  # fmt: skip
    screen = screen_for(options.json)
    mode: Mode = "unconstrained" if options.no_grammar else "grammar"
    with ended_by_sigterm():
        report = lift(asked, settings, screen, out, variant=options.variant, runtime=options.runtime, mode=mode)
    show(screen, tables(report, mode))
    screen.say(verdict(report))
    for note in report["notes"]:
        screen.say(f"  note: {note}")
    tell_files(screen, out, FILES, report, as_json=options.json)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "bench lift",
        "Compare a base and a tuned model (or any two) on the same cases, bucket by bucket: shares\n"
        "with intervals, the difference with its own, McNemar's exact test, cases won and lost.\n"
        "Each is a model (checkpoint or adapter folder, shipped name, hub name), an exported\n"
        "artifact, or the folder of a finished `bench all-runtimes` (nothing is run for it).",
        [
            "bench lift --base models/seed/base --tuned seed --out out/lift",
            "bench lift --base seed --base-adapter none --tuned work/lora-r16 --suite release --out out/lift",
            "bench lift --base out/bench/before --tuned out/bench/after --variant gguf-q8_0 --out out/lift",
            "bench lift --base out/a/gguf-q8_0 --tuned out/a/gguf-q4_0 --cases requests.jsonl --out out/lift",
        ],
    )
    add = parser.add_argument
    add("--base", required=True, metavar="MODEL", help="what is compared with: a model, an artifact or a report")
    add("--tuned", required=True, metavar="MODEL", help="what should be better: a model, an artifact or a report")
    add("--base-adapter", metavar="DIR", help="PEFT adapter for the base, or 'none' for the base model alone")
    add("--tuned-adapter", metavar="DIR", help="PEFT adapter for the tuned model, or 'none'")
    add("--toolset", metavar="NAME|FILE", help="toolset (default: that of an artifact or report given, else kiwi)")
    cases = parser.add_mutually_exclusive_group()
    cases.add_argument("--suite", metavar="NAME", help="cases by suite (default: a report's, else default)")
    cases.add_argument("--cases", metavar="FILE", help="cases from a JSONL file instead of a suite")
    add("--runtime", metavar="NAME", help="what runs the models (default: that of the variant)")
    add("--variant", metavar="NAME", help="what models are exported as, or a report's run (default: gguf-q8_0)")
    add("--no-grammar", action="store_true", help="judge what is written without the grammar; the other stands beside")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, metal, ... (default: auto)")
    add("--threads", type=int, metavar="N", help="threads of the runtime (default: half the cores, at most 8)")
    seconds = f"time for the answers of both, seconds (default: {FULL.budget_s})"
    add("--budget", type=int, metavar="S", help=seconds)
    add("--out", required=True, metavar="DIR", help="where the comparison goes; must be new or empty")
    add("--cache", default="out/artifacts", metavar="DIR", help="where exports are kept (default: out/artifacts)")
    add("--plugin", metavar="MODULE,...", help="modules imported first, to register runtimes of your own")
    add("--json", action="store_true", help="the report on stdout; everything else goes to stderr")
    return parser
