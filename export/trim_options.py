"""The options that ask for a trimmed vocabulary, the same on every command that exports."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.trim_record import ENGLISH, FORMS, Trim
from runtimes.errors import UserError


def add_trim_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--trim-vocab``, ``--trim-tokens`` and ``--trim-form``."""
    add = parser.add_argument
    add(
        "--trim-vocab",
        metavar="RULE",
        action="append",
        default=[],
        help="drop tokens: keep those that the toolset needs and, with 'english', the most frequent ones of English "
        "text or, with a file, those of its text (plain, or JSONL with user and calls, text, or messages); may be "
        "given several times",
    )
    add(
        "--trim-tokens",
        metavar="N",
        type=int,
        help="how many tokens to keep (default: what is needed, rounded up to 64; with 'english' 32768)",
    )
    add(
        "--trim-form",
        metavar="FORM",
        help=f"where they are dropped: {' or '.join(FORMS)} (default: full: input, output and tokenizer)",
    )


def trim_asked(options: argparse.Namespace, *, ruled: bool = False) -> Trim | None:
    """What the options ask for; None where nothing says by what to trim. Raises `UserError` for a mistake in them.

    `ruled`: the command has a rule of its own for where none is given; a `Trim` without rules then tells the size.
    """
    tokens, form = options.trim_tokens, options.trim_form or "full"
    if not options.trim_vocab and not (ruled and tokens is not None):
        for name in ("trim_tokens", "trim_form"):
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} says how to trim, not by what; give --trim-vocab {ENGLISH} or a file too")
        return None
    for rule in options.trim_vocab:
        if rule != ENGLISH and not Path(rule).expanduser().is_file():
            raise UserError(f"--trim-vocab {rule}: no such file; give '{ENGLISH}', or a text or JSONL file")
    if form not in FORMS:
        raise UserError(f"--trim-form {form}: unknown; there are {', '.join(FORMS)}")
    if tokens is not None and tokens < 1:
        raise UserError(f"--trim-tokens {tokens}: is not positive; leave it out for what is needed")
    return Trim(tuple(options.trim_vocab), tokens, form)
