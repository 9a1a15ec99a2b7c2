"""Where the installed commands begin. Nothing is imported outside the functions, so that Ctrl-C is told in one line
also while Python still reads the program."""

import sys


def main() -> int:
    """The `edgecall` command."""
    try:
        from edgecall.cli import main

        return main()
    except KeyboardInterrupt:
        return _interrupted("edgecall")


def bench() -> int:
    """The `bench` command."""
    try:
        from bench.cli import main

        return main()
    except KeyboardInterrupt:
        return _interrupted("bench")


def _interrupted(prog: str) -> int:
    print(f"{prog}: interrupted", file=sys.stderr)
    return 130
