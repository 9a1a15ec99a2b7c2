"""The `bench` command, and `edgecall bench`: ``all-runtimes`` here, the others in modules of their own."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.command import ended_by_sigterm, names, positive, screen_for, tell_files
from export.trim_options import add_trim_options, trim_asked
from runtimes.console import Parser, run
from runtimes.errors import UserError

FILES = (
    ("report.md", "the report, to read"),
    ("report.json", "the same as data (schema: bench/report.schema.json)"),
    ("samples.jsonl", "every answer with its verdict, every timed request"),
    ("accuracy-vs-p95.png", "the picture"),
    ("logs/", "what the workers wrote"),
)


_MODULES = {
    "accuracy": "bench.accuracy_cmd",
    "lift": "bench.lift_cmd",
    "peers": "bench.peers_cmd",
    "quantization": "bench.quantization_cmd",
    "scaling": "bench.scaling_cmd",
    "shape": "bench.shape_cmd",
    "unseen": "bench.unseen_cmd",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 done, 1 a runtime failed (the report says how), 2 a mistake in what was asked."""
    return run(_main, argv, prog="bench", extra="bench")


def _main(argv: list[str]) -> int:
    parser = Parser(
        "bench",
        "Accuracy and latency of every runtime, on the same cases.\n\ncommands:\n"
        "  all-runtimes  export what is missing, run everything, write the report\n"
        "  accuracy      all adapters of a model, each on its own toolset, through one runtime\n"
        "  lift          compare a base and a tuned model, bucket by bucket\n"
        "  peers         the router against what people would use instead\n"
        "  quantization  which precision embedding, attention and MLP deserve: size, p50, exact\n"
        "  scaling       latency against tools, prompt, argument and vocabulary, each with its law\n"
        "  shape         latency, size and memory of a shape with random weights, before anybody trains\n"
        "  unseen        ask a model requests that bring tools of their own",
        ["bench all-runtimes --quick", *(f"bench {name} --help" for name in ("all-runtimes", *_MODULES))],
        usage="bench [--help] COMMAND ...",
    )
    if not argv:
        parser.print_help()
        return 0
    if argv[0].startswith("-"):
        parser.parse_args(argv[:1])
    if argv[0] in _MODULES:
        return int(importlib.import_module(_MODULES[argv[0]]).main(argv[1:]))
    if argv[0] != "all-runtimes":
        there = ", ".join(("all-runtimes", *_MODULES))
        raise UserError(f"unknown command {argv[0]!r}; there are {there}; see `bench --help`")
    return all_runtimes(argv[1:])


def all_runtimes(argv: list[str]) -> int:
    """``bench all-runtimes``: parse, run, show."""
    options = _parser().parse_args(argv)
    from bench.folder import check_out
    from bench.records import Settings
    from bench.run import (
        FULL_BLOCKS,
        FULL_BUDGET_S,
        FULL_REQUESTS,
        QUICK_BLOCKS,
        QUICK_BUDGET_S,
        QUICK_REQUESTS,
        all_runtimes,
    )

    out = Path(options.out) if options.out else None
    if out is not None:
        check_out(out)
    quick = bool(options.quick)
    settings = Settings(
        model=options.model,
        toolset=options.toolset,
        runtimes=names(options.runtimes),
        variants=names(options.variants),
        device=options.device,
        threads=positive(options.threads, "--threads"),
        suite=options.suite,
        cases=Path(options.cases) if options.cases else None,
        requests=positive(options.requests, "--requests") or (QUICK_REQUESTS if quick else FULL_REQUESTS),
        budget_s=float(positive(options.budget, "--budget") or (QUICK_BUDGET_S if quick else FULL_BUDGET_S)),
        quick=quick,
        seed=options.seed,
        blocks=QUICK_BLOCKS if quick else FULL_BLOCKS,
        cache=Path(options.cache),
        trim=trim_asked(options),
        plugins=names(options.plugin),
        command=shlex.join(["bench", "all-runtimes", *argv]),
    )
    screen = screen_for(options.json)
    with ended_by_sigterm():
        outcome = all_runtimes(settings, screen, out=out)
    screen.say()
    screen.tables(outcome.report)
    tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
    return 1 if any(run["status"] == "failed" for run in outcome.report["runs"]) else 0


def _parser() -> Parser:
    parser = Parser(
        "bench all-runtimes",
        "Export what is missing, run accuracy and latency on every runtime with the same cases,\n"
        "compare with torch in 32 bits, and write a report. A runtime that cannot run here is\n"
        "listed as skipped, with the reason.",
        [
            "bench all-runtimes --quick",
            "bench all-runtimes --runtimes llama_cpp,torch --threads 1",
            "bench all-runtimes --variants gguf-q8_0,gguf-q4_k_m --suite release",
            "bench all-runtimes --model my-router --toolset tools.yaml --cases requests.jsonl",
        ],
    )
    add = parser.add_argument
    add("--model", default="seed", metavar="MODEL", help="model folder, shipped name or hub name (default: seed)")
    add("--toolset", default="kiwi", metavar="NAME|FILE", help="toolset by name, or a file (default: kiwi)")
    add("--runtimes", metavar="A,B", help="only these runtimes (default: all)")
    add("--variants", metavar="A,B", help="only these artifacts, such as gguf-q8_0 (default: each format's usual ones)")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, metal, ... (default: auto)")
    add("--threads", type=int, metavar="N", help="threads of every runtime (default: half the cores, at most 8)")
    add("--suite", default="default", metavar="NAME", help="default, or release for the published figures")
    add("--cases", metavar="FILE", help="cases from a JSONL file instead of a suite")
    add("--requests", type=int, metavar="N", help="timed requests (default: 1000; 200 with --quick)")
    add("--budget", type=int, metavar="SECONDS", help="time for everything (default: 1500; 250 with --quick)")
    add("--out", metavar="DIR", help="where the report goes (default: out/bench/<time>-<commit>); must be new or empty")
    add("--cache", default="out/artifacts", metavar="DIR", help="where exports are kept (default: out/artifacts)")
    add_trim_options(parser)
    add("--seed", type=int, default=0, metavar="N", help="of the order of blocks and cases (default: 0)")
    add("--plugin", metavar="MODULE,...", help="modules imported first, to register runtimes of your own")
    add("--quick", action="store_true", help="a fixed part of the cases, one 32-bit and one 8-bit variant of each")
    add("--json", action="store_true", help="the report on stdout; everything else goes to stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
