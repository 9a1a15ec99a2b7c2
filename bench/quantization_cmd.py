"""The command line of `bench quantization`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench import command
from bench.plugins import load_plugins
from export.trim_options import add_trim_options, trim_asked
from runtimes.console import Parser
from runtimes.errors import UserError

FILES = (
    ("quantization.md", "the figures, to read"),
    ("quantization.png", "the picture"),
    ("report.json", "the same as data (schema: bench/quantization.schema.json)"),
    ("samples.jsonl", "every answer with its verdict, every timed request"),
    ("logs/", "what the processes wrote"),
)
FULL: Final = command.Effort(requests=240, blocks=12, budget_s=600)


def main(argv: Sequence[str]) -> int:
    """``bench quantization``: parse, search, time, write, show. 1 where a candidate failed."""
    options = _parser().parse_args(list(argv))
    from bench.quantization_page import EXPENDABLE, LEGEND, advice, tables
    from bench.quantization_run import Asked, quantization

    out = command.out_asked(options.out)
    load_plugins(command.names(options.plugin))
    lose = command.not_negative(options.lose, "--lose", "points of exact that may be lost")
    formats = command.names(options.formats)
    settings = command.settings_asked(
        options, "quantization", argv, FULL, suite=options.suite or "", trim=trim_asked(options)
    )
    asked = Asked(
        formats=formats or Asked.formats,
        types=types_asked(options.types, formats or Asked.formats),
        most=command.positive(options.grid, "--grid") or Asked.most,
        lose=lose,
        limit=command.positive(options.limit, "--limit"),
        timed=command.positive(options.timed, "--timed") or Asked.timed,
    )
    screen = command.screen_for(options.json)
    with command.ended_by_sigterm():
        outcome = quantization(settings, asked, screen, out=out)
    command.show(screen, tables(outcome.report), EXPENDABLE, LEGEND)
    for line in advice(outcome.report):
        screen.say(f"  {line}")
    command.tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
    candidates = [one for entry in outcome.report["formats"] for one in entry["candidates"]]
    return 1 if any(one["status"] == "failed" for one in candidates) else 0


def types_asked(text: str | None, formats: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What ``--types q8_0,q4_0`` or ``gguf:q8_0,gguf:q4_0,onnx:int8`` says, by format. Raises `UserError`."""
    found: dict[str, list[str]] = {}
    for entry in command.names(text):
        fmt, colon, name = entry.rpartition(":")
        if not colon and len(formats) > 1:
            raise UserError(f"--types {entry}: say of which format, as in {formats[0]}:{entry}")
        if colon and fmt not in formats:
            raise UserError(f"--types {entry}: {fmt} is not among the formats of --formats ({', '.join(formats)})")
        found.setdefault(fmt or formats[0], []).append(name)
    return tuple((fmt, tuple(chosen)) for fmt, chosen in found.items())


def _parser() -> Parser:
    parser = Parser(
        "bench quantization",
        "Which precision the embedding, attention and MLP of a model deserve: mixes of types exported,\n"
        "asked the cases of a dev set, compared with the unquantized weights on the same cases (exact\n"
        "McNemar test), and the best timed in shuffled turns. Writes the Pareto front of size, p50 and\n"
        "exact calls, and names the smallest mix that loses neither too much nor significantly. Answers\n"
        "are kept in --cache: run it again after an interruption and it goes on (docs/quantization.md).",
        [
            "bench quantization --model seed --formats gguf",
            "bench quantization --model my-router --toolset tools.yaml --cases dev.jsonl --formats gguf,onnx",
            "bench quantization --formats gguf --types q8_0,q6_k,q5_0,iq4_nl --lose 0.5 --out out/quantization",
        ],
    )
    add = parser.add_argument
    add("--model", default="seed", metavar="MODEL", help="model folder, shipped name or hub name (default: seed)")
    add("--toolset", default="kiwi", metavar="NAME|FILE", help="toolset by name, or a file (default: kiwi)")
    add("--formats", metavar="A,B", help="gguf, onnx, mlx (default: gguf)")
    add(
        "--types",
        metavar="A,B",
        help="types to choose from, finest first or not: q8_0,q4_0 or gguf:q8_0,onnx:int8 (default: gguf q8_0, q5_0, "
        "q4_0; onnx int8, dynamic8, int4; mlx 8bit, 6bit, 4bit)",
    )
    add(
        "--grid",
        type=int,
        metavar="N",
        help="try all combinations where they are at most N (default: 30), else descend",
    )
    cases = parser.add_mutually_exclusive_group()
    cases.add_argument(
        "--cases", metavar="FILE", help="cases to choose by (default: the toolset's handwritten_dev.jsonl)"
    )
    cases.add_argument(
        "--suite", metavar="NAME", help="a suite instead; what is chosen by test cases needs others later"
    )
    add("--limit", type=int, metavar="N", help="at most so many cases, a fixed part (default: all)")
    add("--lose", type=float, default=1.0, metavar="POINTS", help="points of exact that may be lost (default: 1)")
    add("--timed", type=int, metavar="N", help="mixes of a format that are timed, a process each (default: 12)")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, metal, ... (default: auto)")
    add_trim_options(parser)
    command.add_run_options(parser, FULL, spent="for the timed requests of all", cache="exports and answers")
    return parser
