"""Writes docs/cli.md from what ``--help`` prints: ``make docs``. A test fails where the page and the help differ."""

from __future__ import annotations

import contextlib
import io
import os
from unittest.mock import patch

from edgecall.cli import main

PAGES = (
    "",
    "doctor",
    "data",
    "data build",
    "data import",
    "data export",
    "data report",
    "data tools",
    "data vary",
    "train",
    "train base",
    "train lora",
    "train card",
    "export",
    "verify",
    "inspect",
    "bench",
    "bench all-runtimes",
    "bench accuracy",
    "bench cold",
    "bench identical",
    "bench lift",
    "bench peers",
    "bench quantization",
    "bench scaling",
    "bench shape",
    "bench unseen",
    "route",
)
"""The commands, and theirs, in the order of the page."""

INTRODUCTION = """\
# The command line

Made from `--help` by `make docs`.

Every command ends with exit code 0 when it did its work, and 2 after a mistake or a failure of the machine, told in
one line on stderr: what is wrong, where, what to do. Exit code 1 is a result that is not good: an answer of the model
that has no end (`route`), a proof that is not met (`verify`), a runtime that failed (`bench`), answers that differ
(`bench identical`), a model that float16 cannot hold (`doctor --fp16`), a number that is not finite (`inspect --run`);
and a bug, with its traceback. Ctrl-C is 130. Progress goes to stderr, answers to stdout.
`EDGECALL_DEBUG=1` shows the traceback of every error.

| variable | what it does |
|---|---|
| `EDGECALL_CACHE` | what `route` and `export` keep (default `~/.cache/edgecall`; safe to delete) |
| `EDGECALL_DEBUG` | show tracebacks |
| `EDGECALL_LLAMA_CONTEXT` | tokens that a sequence may hold on llama.cpp (default: as trained, 8,192 at most) |
| `NO_COLOR` | no colours |
"""


def page() -> str:
    """The whole page."""
    sections = [f"## {f'edgecall {name}'.strip()}\n\n```\n{help_text(name.split())}```\n" for name in PAGES]
    return "\n".join([INTRODUCTION, *sections])


def help_text(argv: list[str]) -> str:
    """What ``edgecall ARGV --help`` prints on a terminal of 100 columns."""
    out = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}), contextlib.redirect_stdout(out):
        try:
            code = main([*argv, "--help"])
        except SystemExit as stop:
            code = int(stop.code or 0)
    if code:
        raise RuntimeError(f"edgecall {' '.join(argv)} --help: exit code {code}")
    return out.getvalue()


if __name__ == "__main__":
    print(page(), end="")
