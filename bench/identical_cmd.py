"""The command line of `bench identical`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench import command
from export.trim_options import trim_asked
from runtimes.console import Parser
from runtimes.errors import UserError

if TYPE_CHECKING:
    from bench.identical import Way

FILES = (
    ("identical.md", "what was compared and every difference, to read"),
    ("identical.json", "the same as data (schema: bench/identical.schema.json)"),
    ("logs/", "what the processes wrote"),
)


def main(argv: Sequence[str]) -> int:
    """``bench identical``: parse, export if need be, ask, compare, write, show.

    1 where something differs or failed, or nothing was compared.
    """
    options = _parser().parse_args(list(argv))
    from bench.identical import Asked, identical
    from bench.identical_page import EXPENDABLE, LEGEND, tables, verdict
    from bench.plugins import load_plugins

    out = command.out_asked(options.out)
    load_plugins(command.names(options.plugin))
    asked = Asked(
        command.names(options.toolset) or ("kiwi",), _ways(options.ways), trim_asked(options, ruled=True),
        command.positive(options.limit, "--limit"),
    )  # fmt: skip
    if options.cases and len(asked.toolsets) > 1:
        raise UserError(f"--cases {options.cases}: is of one toolset; give one with --toolset")
    settings = command.settings_asked(options, "identical", argv, toolset=asked.toolsets[0])
    screen = command.screen_for(options.json)
    with command.ended_by_sigterm():
        outcome = identical(settings, asked, screen, out=out)
    command.show(screen, tables(outcome.report), EXPENDABLE, LEGEND)
    screen.say(verdict(outcome.report))
    command.tell_files(screen, outcome.folder, FILES, outcome.report, as_json=options.json)
    return 0 if outcome.report["identical"] else 1


def _ways(text: str | None) -> tuple[Way, ...]:
    """The ways named, or all. Raises `UserError` for an unknown one."""
    from bench.identical import WAYS

    asked = command.names(text)
    for name in asked:
        if name not in WAYS:
            raise UserError(f"--ways: unknown way {name!r}; there are {', '.join(WAYS)}")
    return tuple(way for way in WAYS if not asked or way in asked)


def _parser() -> Parser:
    parser = Parser(
        "bench identical",
        "Prove that what saves passes and bytes changes no answer: every case with every guess and with\n"
        "none, several at once and one by one, with a trimmed vocabulary and the whole one, on every\n"
        "runtime. Where answers part, the margin of the two tokens says whether rounding decided (a tie).\n"
        "Exit code 1 if anything differs beyond ties, failed, or nothing could be compared.",
        [
            "bench identical seed --toolset kiwi,toolbox --suite release",
            "bench identical seed --runtimes llama_cpp,onnxruntime --ways guess,lanes --limit 50",
            "bench identical my-router --toolset tools.yaml --cases requests.jsonl --variants gguf-q8_0",
        ],
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="model folder, shipped name or hub name (default: seed)")
    add("--toolset", default="kiwi", metavar="A,B|FILE", help="toolsets by name, or files (default: kiwi)")
    add("--runtimes", metavar="A,B", help="only these runtimes (default: all)")
    add("--variants", metavar="A,B", help="only these artifacts (default: each format's usual ones)")
    add("--ways", metavar="A,B", help="only these of guess, lanes, trim-output, trim-full (default: all)")
    add("--suite", default="default", metavar="NAME", help="default, or release")
    add("--cases", metavar="FILE", help="cases from a JSONL file instead of a suite")
    add("--limit", type=int, metavar="N", help="at most so many cases of a toolset (default: all)")
    add(
        "--trim-vocab", metavar="RULE", action="append", default=[],
        help="which tokens trimmed vocabularies keep, as for `edgecall export` (default: those that the cases need)",
    )  # fmt: skip
    add(
        "--trim-tokens", metavar="N", type=int,
        help="how many tokens they keep, at least those needed (default: as for `edgecall export`)",
    )  # fmt: skip
    parser.set_defaults(trim_form=None)  # both forms are compared
    add("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, metal, ... (default: cpu; MLX: where it runs)")
    add("--threads", type=int, metavar="N", help="threads of every run (default: half the cores, at most 8)")
    add("--out", metavar="DIR", help="where the report goes (default: out/bench/<time>-<commit>); must be new or empty")
    add("--cache", default="out/artifacts", metavar="DIR", help="where exports are kept (default: out/artifacts)")
    add("--plugin", metavar="MODULE,...", help="modules imported first, to register runtimes of your own")
    add("--json", action="store_true", help="the report on stdout; everything else goes to stderr")
    return parser
