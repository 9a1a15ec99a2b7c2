"""`edgecall data tools`: a toolset file out of an MCP server, an OpenAPI document, a tool list or Python functions."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from router.render import render_prefix
from router.toolset import Toolset
from router.toolset_schema import MAX_CALLS
from runtimes.errors import UserError
from train.data.tools import KINDS, Loss, Wish, tools_from, write_yaml

_SHOWN = 3
"""Losses of one kind that are told without ``--all``."""


def add_parser(verbs: Any) -> argparse.ArgumentParser:
    """Add the verb to `edgecall data`; `verbs` is what `add_subparsers(parser_class=Parser)` gave."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "tools",
        help="MCP server, OpenAPI, JSON or Python functions -> toolset.yaml",
        description=(
            "Write a toolset file, to be edited, from tools that exist. A source is one of:\n"
            "  mcp:stdio:COMMAND ...    an MCP server, started as a command\n"
            "  https://HOST/mcp         an MCP server (mcp:https://... where the path does not end so)\n"
            "  https://..., file.yaml   an OpenAPI 3.0 or 3.1 document\n"
            "  file.json                a list of tools as OpenAI, Anthropic or MCP write them\n"
            "  module:f,g, file.py:f,g  Python functions; file.py alone: all its public ones. The code is imported\n\n"
            "What a toolset cannot carry is dropped or put differently; each such loss is told on stderr and written\n"
            "as a comment beside its tool."
        ),
        examples=[
            "edgecall data tools https://petstore3.swagger.io/api/v3/openapi.json --only '*Pet*' --out pets.yaml",
            "edgecall data tools 'mcp:stdio:npx -y @modelcontextprotocol/server-filesystem .' --out files.yaml",
            "edgecall data tools tools.py:search,open_file --out mine.yaml",
        ],
    )
    add = parser.add_argument
    add("source", help="where the tools are")
    add("--out", type=Path, required=True, help="the .yaml file to write")
    add("--force", action="store_true", help="overwrite it, and what was edited in it")
    add("--name", help="name of the toolset (default: the source's own)")
    add("--only", nargs="+", default=[], metavar="PATTERN", help="only tools with such names (pets_*)")
    add("--without", nargs="+", default=[], metavar="PATTERN", help="no tools with such names")
    add("--max-calls", type=int, default=1, help=f"calls that a request may need, 1 to {MAX_CALLS} (default: 1)")
    add("--env", nargs="+", default=[], metavar="NAME", help="variables to hand to the MCP command (it gets few else)")
    add("--bearer-env", metavar="NAME", help="the variable that holds the token for an MCP address")
    add("--all", action="store_true", help=f"tell every loss, not the first {_SHOWN} of each kind")
    return parser


def main(args: argparse.Namespace) -> int:
    """Write the file, tell the losses on stderr, and print what was written as JSON."""
    out: Path = args.out
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"{out}: a toolset file ends in .yaml")
    if out.exists() and not args.force:
        raise UserError(f"{out}: exists, and may have been edited; choose another name, or overwrite it with --force")
    wish = Wish(tuple(args.only), tuple(args.without), args.name, args.max_calls)
    losses: list[Loss] = []
    toolset = tools_from(args.source, wish=wish, lost=losses.append, environment=args.env, bearer=args.bearer_env)
    write_yaml(toolset, out, comments=comments(toolset, losses, args.source))
    for line in told(losses, everything=args.all):
        print(f"edgecall: {line}", file=sys.stderr)
    print(json.dumps(_report(toolset, losses, out), indent=1))
    return 0


def comments(toolset: Toolset, losses: Sequence[Loss], source: str) -> dict[str, list[str]]:
    """The losses as lines to write beside their tools; those of no tool stand at the top."""
    out: dict[str, list[str]] = defaultdict(list, {"": [f"Taken from {source}"]})
    names = sorted((tool.name for tool in toolset), key=len, reverse=True)
    for loss in losses:
        owner = next((n for n in names if loss.place == n or loss.place.startswith((f"{n}.", f"{n}["))), "")
        out[owner].append(str(loss))
    return dict(out)


def told(losses: Sequence[Loss], *, everything: bool) -> list[str]:
    """The losses as lines, kind by kind."""
    kinds: dict[str, list[Loss]] = defaultdict(list)
    for loss in losses:
        kinds[loss.kind].append(loss)
    lines = []
    for kind in KINDS:
        found = kinds.get(kind, [])
        shown = found if everything else found[:_SHOWN]
        lines += [str(loss) for loss in shown]
        if len(found) > len(shown):
            lines.append(f"{kind}: {len(found) - len(shown)} more ({KINDS[kind]}); see the file, or --all")
    return lines


def _report(toolset: Toolset, losses: Sequence[Loss], out: Path) -> dict[str, object]:
    counts: dict[str, int] = defaultdict(int)
    for loss in losses:
        counts[loss.kind] += 1
    return {
        "toolset": toolset.name,
        "file": str(out),
        "tools": len(toolset.tools),
        "parameters": sum(len(tool.parameters.properties) for tool in toolset),
        "prompt_characters": len(render_prefix(toolset)),
        "losses": dict(sorted(counts.items())),
    }
