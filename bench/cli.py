"""The `bench` command, and `edgecall bench`: ``all-runtimes`` here, the others in modules of their own."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from collections.abc import Sequence

from bench import command
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
COLD, QUICK_COLD = 10, 3
_MODULES = {
    "accuracy": "bench.accuracy_cmd",
    "cold": "bench.cold_cmd",
    "identical": "bench.identical_cmd",
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
        "  cold          from the start of a process to its first call\n"
        "  identical     the same answers with guesses and without, at once and one by one, trimmed and whole\n"
        "  lift          compare a base and a tuned model, bucket by bucket\n"
        "  peers         the router against what people would use instead\n"
        "  quantization  which precision embedding, attention and MLP deserve: size, p50, exact\n"
        "  scaling       latency against tools, prompt, argument and vocabulary, each beside what it should be\n"
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
    from bench.run import all_runtimes

    out = command.out_asked(options.out)
    effort = command.QUICK if options.quick else command.FULL
    settings = command.settings_asked(
        options, "all-runtimes", argv, effort, trim=trim_asked(options), cold=_cold(options)
    )
    screen = command.screen_for(options.json)
    with command.ended_by_sigterm():
        outcome = all_runtimes(settings, screen, out=out)
    screen.say()
    screen.tables(outcome.report)
    command.tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
    return 1 if any(run["status"] == "failed" for run in outcome.report["runs"]) else 0


def _cold(options: Namespace) -> int:
    """How many fresh processes are started. Raises `UserError` for less than none."""
    if options.cold is None:
        return QUICK_COLD if options.quick else COLD
    return int(command.not_negative(options.cold, "--cold", "processes"))


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
    add(
        "--variants", metavar="A,B",
        help="only these artifacts, such as gguf-q8_0 or coreml-ane@cpu (default: each format's usual ones)",
    )  # fmt: skip
    add(
        "--device", default="auto", metavar="DEVICE",
        help="auto, cpu, cuda, metal, ... (default: auto; of Core ML on a Mac each of cpu, gpu, ane, all)",
    )  # fmt: skip
    add("--suite", default="default", metavar="NAME", help="default, or release for the published figures")
    add("--cases", metavar="FILE", help="cases from a JSONL file instead of a suite")
    add(
        "--cold", type=int, metavar="N",
        help="fresh processes of each run, for the time from their start to a first call, prefix saved and not, as the "
        f"time allows (default: {COLD}; {QUICK_COLD} with --quick; 0: none)",
    )  # fmt: skip
    add_trim_options(parser)
    command.add_run_options(
        parser, command.FULL, command.QUICK,
        fewer="a fixed part of the cases, one 32-bit and, where a default has it, one 8-bit variant of each",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
