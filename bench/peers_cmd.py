"""The command line of `bench peers`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from bench.command import ended_by_sigterm, names, positive, screen_for, tell_files
from bench.peer import PEERS
from runtimes.console import Parser

FILES = (
    ("peers.md", "the comparison, to read"),
    ("peers.json", "the same as data (schema: bench/peers.schema.json)"),
    ("peers.png", "the picture"),
    ("samples.jsonl", "every answer with its verdict, every timed request"),
    ("logs/", "what the processes wrote"),
)


_VARIANTS = (
    "artifacts of ours, of which a peer opens those of its format (default: gguf-q8_0, onnx-int8, onnx-fp32, "
    "safetensors-fp32; mlx-8bit beside mlx-lm)"
)


def main(argv: Sequence[str]) -> int:
    """``bench peers``: parse, run, show."""
    options = _parser().parse_args(list(argv))
    from bench.folder import check_out
    from bench.peers import Wanted, peers
    from bench.peers_page import EXPENDABLE, LEGEND, tables
    from bench.records import Settings
    from bench.run import FULL_BLOCKS, FULL_BUDGET_S, FULL_REQUESTS, QUICK_BLOCKS, QUICK_BUDGET_S, QUICK_REQUESTS
    from bench.tables import fit

    out = Path(options.out) if options.out else None
    if out is not None:
        check_out(out)
    quick = bool(options.quick)
    settings = Settings(
        model=options.model,
        toolset=options.toolset,
        variants=names(options.variants),
        threads=positive(options.threads, "--threads"),
        suite=options.suite,
        cases=Path(options.cases) if options.cases else None,
        requests=positive(options.requests, "--requests") or (QUICK_REQUESTS if quick else FULL_REQUESTS),
        budget_s=float(positive(options.budget_s, "--budget-s") or (QUICK_BUDGET_S if quick else FULL_BUDGET_S)),
        quick=quick,
        seed=options.seed,
        blocks=QUICK_BLOCKS if quick else FULL_BLOCKS,
        cache=Path(options.cache),
        plugins=names(options.plugin),
        command=shlex.join(["bench", "peers", *argv]),
    )
    wanted = Wanted(names(options.peers), options.llama_server, options.baseline)
    screen = screen_for(options.json)
    with ended_by_sigterm():
        outcome = peers(settings, wanted, screen, out=out)
    screen.say()
    for table in tables(outcome.report):
        screen.table(fit(table, screen.console.width, EXPENDABLE))
    screen.say(LEGEND)
    tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
    return 1 if any(one["status"] == "failed" for one in outcome.report["contenders"]) else 0


def _parser() -> Parser:
    parser = Parser(
        "bench peers",
        "Measure the router against what people would use instead, in one run: the same cases, prompt,\n"
        "machine, threads and weights, each peer as its own documentation tells, turn and turn about.\n"
        "Ratios of medians with paired intervals, accuracy beside speed. Who cannot run here is listed\n"
        "with the reason (docs/peers.md).\n\n"
        + fill(f"peers: {', '.join(PEERS)}", 96, subsequent_indent="  ", break_on_hyphens=False),
        [
            "bench peers seed --quick",
            "bench peers seed --suite release --threads 1 --llama-server build/bin/llama-server",
            "bench peers seed --variants gguf-q8_0 --peers llama-server,transformers --baseline gguf-q8_0",
            "bench peers my-router --toolset tools.yaml --cases requests.jsonl",
        ],
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder, shipped name or hub name")
    add("--toolset", default="kiwi", metavar="NAME|FILE", help="toolset by name, or a file (default: kiwi)")
    cases = parser.add_mutually_exclusive_group()
    cases.add_argument(
        "--suite",
        default="default",
        metavar="NAME",
        help="default (if none is named), or release for published figures",
    )
    cases.add_argument("--cases", metavar="FILE", help="cases from a JSONL file instead of a suite")
    add("--peers", metavar="A,B", help="only these peers (default: all but -naive; mlx-lm on a Mac alone)")
    add("--variants", metavar="A,B", help=_VARIANTS)
    add("--baseline", metavar="NAME", help="contender that all are compared with (default: ours of the same precision)")
    add("--llama-server", metavar="PATH", help="the program (default: the one on PATH)")
    add("--threads", type=int, metavar="N", help="threads of every contender (default: half the cores, at most 8)")
    add("--requests", type=int, metavar="N", help="timed requests (default: 1000; 200 with --quick)")
    add("--budget-s", type=int, metavar="S", help="time for everything, seconds (default: 1500; 250 with --quick)")
    add("--out", metavar="DIR", help="where the report goes (default: out/bench/<time>-<commit>); must be new or empty")
    add("--cache", default="out/artifacts", metavar="DIR", help="where exports are kept (default: out/artifacts)")
    add("--seed", type=int, default=0, metavar="N", help="of the order of blocks and cases (default: 0)")
    add("--plugin", metavar="MODULE,...", help="modules imported first, to register runtimes or peers of your own")
    add("--quick", action="store_true", help="a fixed part of the cases, fewer requests")
    add("--json", action="store_true", help="the report on stdout; everything else goes to stderr")
    return parser
