"""The command line of `bench scaling`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench import command
from bench.scaling_points import QUICK_SIZES, SIZES, SWEEPS, Sweep
from bench.shape_cmd import add_forced_options, tokenizer_asked
from bench.shapes import Shape, add_shape_options, any_size_asked, shape_asked
from runtimes.console import Parser
from runtimes.errors import UserError

FILES = (
    ("scaling.md", "the page, to read"),
    ("scaling.json", "the same as data (schema: bench/scaling.schema.json)"),
    *((f"scaling-{sweep}.png", "a picture of it") for sweep in SWEEPS),
    ("samples.jsonl", "every timed request"),
    ("logs/", "what the processes wrote"),
)
QUICK: Final = command.Effort(requests=40, blocks=8, budget_s=300)
FULL: Final = command.Effort(requests=200, blocks=20, budget_s=2400)


def main(argv: Sequence[str]) -> int:
    """``bench scaling``: parse, make, sweep, show. 1 where a run failed."""
    options = _parser().parse_args(list(argv))
    from bench.plugins import load_plugins
    from bench.scaling import Asked, scaling
    from bench.scaling_page import EXPENDABLE, LEGEND, law, tables

    out = command.out_asked(options.out)
    load_plugins(command.names(options.plugin))
    shape = _shape(options)
    settings = command.settings_asked(options, "scaling", argv, QUICK if options.quick else FULL)
    sizes = QUICK_SIZES if options.quick else SIZES
    asked = Asked(
        {sweep: sizes[sweep] for sweep in _sweeps(options.sweeps)}, shape, tokenizer_asked(options.tokenizer),
        options.always_mask,
    )  # fmt: skip
    screen = command.screen_for(options.json)
    with command.ended_by_sigterm():
        outcome = scaling(settings, asked, screen, out=out)
    command.show(screen, tables(outcome.report), EXPENDABLE)
    for sweep in outcome.report["sweeps"]:
        for one in sweep["variants"]:
            screen.say(f"{sweep['sweep']}: {law(sweep, one)}")
    screen.say(LEGEND)
    command.tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
    return 1 if any(one["status"] == "failed" for s in outcome.report["sweeps"] for one in s["variants"]) else 0


def _shape(options: object) -> Shape | None:
    """The shape asked for, if any. Raises `UserError` for a model and a shape, and for sizes without a shape."""
    name, model, tokenizer = (getattr(options, key) for key in ("shape", "model", "tokenizer"))
    if name is not None:
        if model is not None:
            raise UserError(f"{model} and --shape {name}: give one of the two")
        return shape_asked(name, options)
    stray = any_size_asked(options) or ("--tokenizer" if tokenizer is not None else None)
    if stray:
        raise UserError(f"{stray} changes a shape; name one with --shape")
    return None


def _sweeps(text: str | None) -> tuple[Sweep, ...]:
    """The sweeps named, or all. Raises `UserError` for an unknown one."""
    asked = command.names(text)
    for name in asked:
        if name not in SWEEPS:
            raise UserError(f"--sweeps: unknown sweep {name!r}; there are {', '.join(SWEEPS)}")
    return tuple(sweep for sweep in SWEEPS if sweep in asked) if asked else SWEEPS


def _parser() -> Parser:
    parser = Parser(
        "bench scaling",
        "p50 against the number of tools (1 to 256), the length of the prompt (64 to 4,096 tokens) and of an\n"
        "argument (4 to 256), and the size of the vocabulary: a page with a picture for each.\n"
        "What should be flat is told flat or not; what grows is held against what bytes and operations ask.\n"
        "The same call is taken at every size, whatever the model would say (docs/budget.md).",
        [
            "bench scaling --quick",
            "bench scaling seed --sweeps tools,prompt --threads 1 --out out/scaling",
            "bench scaling --shape functiongemma-270m --vocab 32768 --sweeps tools --variants gguf-q8_0",
        ],
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="model folder, shipped name or hub name (default: seed)")
    add("--shape", metavar="NAME", help="random weights of a shape of `bench shape` in place of a model")
    add_shape_options(parser)
    add("--tokenizer", metavar="FILE", help="of the shape: tokenizer.json, or .json.gz (default: the seed's)")
    add("--sweeps", metavar="A,B", help=f"only these of {', '.join(SWEEPS)} (default: all)")
    add("--variants", metavar="A,B", help="artifacts that are measured (default: gguf-q8_0, onnx-int8)")
    add_forced_options(parser, masked=False)
    add("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, metal, ... (default: cpu)")
    command.add_run_options(
        parser, FULL, QUICK, each="at every size", spent="for all sweeps", cache="weights and exports",
        fewer="fewer sizes and requests, less time",
    )  # fmt: skip
    return parser
