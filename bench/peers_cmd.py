"""The command line of `bench peers`."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from bench import command
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
    from bench.peers import Wanted, peers
    from bench.peers_page import EXPENDABLE, LEGEND, tables

    out = command.out_asked(options.out)
    settings = command.settings_asked(options, "peers", argv, command.QUICK if options.quick else command.FULL)
    wanted = Wanted(command.names(options.peers), options.llama_server, options.baseline)
    screen = command.screen_for(options.json)
    with command.ended_by_sigterm():
        outcome = peers(settings, wanted, screen, out=out)
    command.show(screen, tables(outcome.report), EXPENDABLE, LEGEND)
    command.tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
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
    add(
        "--peers", metavar="A,B",
        help="only these peers (default: all but transformers-bf16 and llama-cpp-python-naive; mlx-lm on a Mac alone)",
    )  # fmt: skip
    add("--variants", metavar="A,B", help=_VARIANTS)
    add("--baseline", metavar="NAME", help="contender that all are compared with (default: ours of the same precision)")
    add(
        "--device", default="cpu", metavar="DEVICE",
        help="cpu, cuda, metal, ... (default: cpu); who cannot be put there is skipped; MLX takes what it finds",
    )  # fmt: skip
    add("--llama-server", metavar="PATH", help="the program (default: the one on PATH)")
    command.add_run_options(
        parser,
        command.FULL,
        command.QUICK,
        plugins="runtimes or peers",
        fewer="a fixed part of the cases, fewer requests",
    )
    return parser
