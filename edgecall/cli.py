"""The `edgecall` command: finds the subcommand and hands over. A subcommand is one module with a `main(argv)`.

Nothing is imported but the chosen subcommand, so `edgecall --help` is quick and works without any extra.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from edgecall.version import __version__
from runtimes.console import Parser, run
from runtimes.errors import UserError


@dataclass(frozen=True)
class Command:
    """A subcommand: where its `main(argv) -> int | None` is, one line of help, and the extra that it needs."""

    target: str
    help: str
    extra: str | None = None


COMMANDS: dict[str, Command] = {
    "doctor": Command("edgecall.doctor:main", "what works on this machine, and how to get the rest"),
    "data": Command("train.data_cli:main", "build training and test data", "train"),
    "train": Command("train.cli:main", "train a base or a LoRA adapter", "train"),
    "export": Command("edgecall.export_cmd:main", "turn a model into artifacts: GGUF, ONNX, Core ML, MLX", "export"),
    "verify": Command("edgecall.verify_cmd:main", "check an artifact's files and prove its calls again, here"),
    "inspect": Command("edgecall.inspect_cmd:main", "what is in a Core ML package, and does it stay finite", "export"),
    "bench": Command("bench.cli:main", "accuracy and latency of every runtime, on the same cases", "bench"),
    "route": Command("edgecall.route:main", "turn one request into tool calls"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `edgecall` command; returns the exit code (see `runtimes.console.run`)."""
    return run(_main, argv, prog="edgecall")


def _main(argv: list[str]) -> int:
    parser = _parser()
    if not argv:
        parser.print_help()
        return 0
    name, rest = argv[0], argv[1:]
    if name.startswith("-"):
        parser.parse_args(argv[:1])
        raise UserError(f"{name} must come after a command; see `edgecall --help`")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown command {name!r}; there are {', '.join(COMMANDS)}{hint}")
    command = COMMANDS[name]
    return run(lambda rest: _call(command, rest), rest, prog="edgecall", extra=command.extra)


def _call(command: Command, argv: list[str]) -> int:
    module, function = command.target.split(":")
    code = getattr(importlib.import_module(module), function)(argv)
    return int(code or 0)


def _parser() -> Parser:
    parser = Parser(
        "edgecall",
        "Train a small tool-calling router once, export it to four formats, and prove\n"
        "on every runtime that it still makes the same calls, and how fast.\n\ncommands:\n"
        + "\n".join(f"  {name:<8}{command.help}" for name, command in COMMANDS.items()),
        [
            "edgecall doctor",
            'edgecall route "find email scripts"',
            "edgecall export seed --to gguf,onnx --out out/",
            "edgecall bench all-runtimes --quick",
            "edgecall COMMAND --help",
        ],
        usage="edgecall [--help] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"edgecall {__version__}")
    return parser
