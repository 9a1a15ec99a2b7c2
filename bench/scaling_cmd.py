"""The command line of `bench scaling`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.command import ended_by_sigterm, names, positive, screen_for, tell_files
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
QUICK_REQUESTS, QUICK_BUDGET_S = 40, 300.0
FULL_REQUESTS, FULL_BUDGET_S = 200, 2400.0


def main(argv: Sequence[str]) -> int:
    """``bench scaling``: parse, make, sweep, show. 1 where a run failed."""
    options = _parser().parse_args(list(argv))
    from bench.folder import check_out
    from bench.plugins import load_plugins
    from bench.records import Settings
    from bench.run import FULL_BLOCKS, QUICK_BLOCKS
    from bench.scaling import Asked, scaling
    from bench.scaling_page import EXPENDABLE, LEGEND, law, tables
    from bench.tables import fit

    out = Path(options.out) if options.out else None
    if out is not None:
        check_out(out)
    load_plugins(names(options.plugin))
    quick = bool(options.quick)
    shape = _shape(options)
    settings = Settings(
        model=options.model or "seed",
        variants=names(options.variants),
        device=options.device,
        threads=positive(options.threads, "--threads"),
        requests=positive(options.requests, "--requests") or (QUICK_REQUESTS if quick else FULL_REQUESTS),
        budget_s=float(positive(options.budget_s, "--budget-s") or (QUICK_BUDGET_S if quick else FULL_BUDGET_S)),
        quick=quick,
        seed=options.seed,
        blocks=QUICK_BLOCKS if quick else FULL_BLOCKS,
        cache=Path(options.cache),
        plugins=names(options.plugin),
        command=shlex.join(["bench", "scaling", *argv]),
    )
    sizes = QUICK_SIZES if quick else SIZES
    asked = Asked(
        {sweep: sizes[sweep] for sweep in _sweeps(options.sweeps)}, shape, tokenizer_asked(options.tokenizer),
        options.always_mask,
    )  # fmt: skip
    screen = screen_for(options.json)
    with ended_by_sigterm():
        outcome = scaling(settings, asked, screen, out=out)
    screen.say()
    for table in tables(outcome.report):
        screen.table(fit(table, screen.console.width, EXPENDABLE))
    for sweep in outcome.report["sweeps"]:
        for one in sweep["variants"]:
            screen.say(f"{sweep['sweep']}: {law(sweep, one)}")
    screen.say(LEGEND)
    tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
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
    asked = names(text)
    for name in asked:
        if name not in SWEEPS:
            raise UserError(f"--sweeps: unknown sweep {name!r}; there are {', '.join(SWEEPS)}")
    return tuple(sweep for sweep in SWEEPS if sweep in asked) if asked else SWEEPS


def _parser() -> Parser:
    parser = Parser(
        "bench scaling",
        "p50 against the number of tools (1 to 256), the length of the prompt (64 to 4,096 tokens) and of an\n"
        "argument (4 to 256), and the size of the vocabulary: a page with a picture and a law for each.\n"
        "What should be flat is told flat or not; what grows is held against a line. The same call is taken\n"
        "at every size, whatever the model would say (docs/budget.md).",
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
    add_forced_options(parser)
    add("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, metal, ... (default: cpu)")
    add("--threads", type=int, metavar="N", help="threads of every run (default: half the cores, at most 8)")
    add("--requests", type=int, metavar="N", help="timed requests at every size (default: 200; 40 with --quick)")
    add("--budget-s", type=int, metavar="S", help="time for all sweeps, seconds (default: 2400; 300 with --quick)")
    add("--out", metavar="DIR", help="where the page goes (default: out/bench/<time>-<commit>); must be new or empty")
    add("--cache", default="out/artifacts", metavar="DIR", help="where weights and exports are kept")
    add("--seed", type=int, default=0, metavar="N", help="of the order of blocks and sizes (default: 0)")
    add("--plugin", metavar="MODULE,...", help="modules imported first, to register runtimes of your own")
    add("--quick", action="store_true", help="fewer sizes and requests, less time")
    add("--json", action="store_true", help="the report on stdout; everything else goes to stderr")
    return parser
