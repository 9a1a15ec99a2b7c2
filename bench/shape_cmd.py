"""The command line of `bench shape`."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Final

from bench import command
from bench.shapes import PRESETS, add_shape_options, shape_asked
from runtimes.console import Parser
from runtimes.errors import UserError

FILES = (
    ("shape.md", "the report, to read"),
    ("shape.json", "the same as data (schema: bench/shape.schema.json)"),
    ("samples.jsonl", "every call that was taken, every timed request"),
    ("logs/", "what the processes wrote"),
)
QUICK: Final = command.Effort(requests=96, blocks=8, budget_s=250)
FULL: Final = command.Effort(requests=480, blocks=20, budget_s=1500)


def main(argv: Sequence[str]) -> int:
    """``bench shape``: parse, make, predict, measure, show. 1 where a run failed."""
    options = _parser().parse_args(list(argv))
    from bench.plugins import load_plugins
    from bench.shape import Asked, shape
    from bench.shape_page import EXPENDABLE, LEGEND, tables

    out = command.out_asked(options.out)
    load_plugins(command.names(options.plugin))
    settings = command.settings_asked(options, "shape", argv, QUICK if options.quick else FULL, model=options.shape)
    asked = Asked(
        shape_asked(options.shape, options),
        tokenizer=tokenizer_asked(options.tokenizer),
        trim_tokens=options.trim_tokens,
        peers=None if options.peers is None else command.names(options.peers),
        masked=options.always_mask,
    )
    screen = command.screen_for(options.json)
    with command.ended_by_sigterm():
        outcome = shape(settings, asked, screen, out=out)
    command.show(screen, tables(outcome.report), EXPENDABLE, LEGEND)
    command.tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
    return 1 if any(one["status"] == "failed" for one in outcome.report["runs"]) else 0


def tokenizer_asked(given: str | None) -> Path | None:
    """The file of ``--tokenizer``. Raises `UserError` where there is none."""
    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"--tokenizer {given}: no such file; give a tokenizer.json, or a tokenizer.json.gz")
    return path


def _parser() -> Parser:
    parser = Parser(
        "bench shape",
        "What a router of some shape costs on this machine, on all runtimes, with random weights: latency,\n"
        "size and memory before anybody trains or downloads anything. The floor is predicted from the\n"
        "measured memory bandwidth and arithmetic, and told before it measures. Decoding takes fixed calls,\n"
        "whatever the weights say (docs/budget.md).\n\n"
        + fill(f"shapes: {', '.join(PRESETS)}", 96, subsequent_indent="  ", break_on_hyphens=False),
        [
            "bench shape --shape functiongemma-270m --quick",
            "bench shape --shape functiongemma-270m --tokenizer tokenizer.json.gz --trim-tokens 32768 --peers",
            "bench shape --shape router-30m --layers 6 --vocab 12288 --variants gguf-q8_0,onnx-int8",
        ],
    )
    add = parser.add_argument
    add("--shape", required=True, metavar="NAME", help="one of the shapes above; the options below change its sizes")
    add_shape_options(parser)
    add(
        "--tokenizer",
        metavar="FILE",
        help="tokenizer.json, or .json.gz, such as Gemma's (default: the seed's; further rows stay unused)",
    )
    add("--trim-tokens", type=int, metavar="N", help="measure it also with its vocabulary cut to N tokens")
    add(
        "--peers",
        nargs="?",
        const="",
        metavar="A,B",
        help="peers of `bench peers`, in the same blocks (without names: transformers, llama-cpp-python-naive, which "
        "computes the prompt every time, and llama-cpp-python)",
    )
    add_forced_options(parser, masked=True)
    add("--toolset", default="kiwi", metavar="NAME|FILE", help="toolset by name, or a file (default: kiwi)")
    add("--cases", metavar="FILE", help="cases whose calls are taken (default: twelve of kiwi's, of about 22 tokens)")
    add("--runtimes", metavar="A,B", help="only these runtimes (default: all)")
    add(
        "--variants", metavar="A,B", help="only these artifacts (default: of every runtime one of 32 bits and one of 8)"
    )
    add("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, metal, ... (default: cpu; MLX: where it runs)")
    command.add_run_options(
        parser, FULL, QUICK, cache="weights and exports, a gigabyte for 270M,", plugins="runtimes or peers"
    )
    return parser


def add_forced_options(parser: Parser, *, masked: bool) -> None:
    """Options of whatever decodes along given calls. `masked`: the grammar's mask is computed where nobody says."""
    usual = "do" if masked else "do not: only where the best token is not allowed, which a given one never is"
    parser.add_argument(
        "--always-mask",
        action=BooleanOptionalAction,
        default=masked,
        help=f"compute the grammar's mask at every decision, besides the row (default: {usual})",
    )
