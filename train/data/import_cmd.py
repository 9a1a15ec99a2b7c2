"""`edgecall data import` and `edgecall data export`: public corpora in, other trainers' formats out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from runtimes.errors import UserError
from train.data.formats import STYLES
from train.data.importers import NAMES


def add_parsers(verbs: Any) -> None:
    """Add ``import`` and ``export`` to `edgecall data`'s subparsers; each sets ``run``, a function of the arguments."""
    _add_import(verbs)
    _add_export(verbs)


def _add_import(verbs: Any) -> None:
    parser = verbs.add_parser(
        "import",
        help="a public corpus -> train.jsonl, dev.jsonl, toolset and report.json",
        description="Turn the upstream files of a public corpus into cases and toolsets. Fixed development portions\n"
        "go to dev.jsonl, test portions to test.jsonl; training requests that repeat one of them are dropped.",
        examples=[
            "edgecall data import snips corpora/snips --toolset assistant --out work/snips",
            "edgecall data import home_assistant corpora/intents --samples 20 --seed 7 --out work/home",
            "edgecall data import bfcl gorilla/berkeley-function-call-leaderboard/bfcl_eval/data --out work/bfcl",
        ],
    )
    parser.add_argument("source", choices=NAMES, metavar="SOURCE", help=", ".join(NAMES))
    parser.add_argument("folder", type=Path, help="folder with the upstream files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument(
        "--toolset", help="toolset to hold the calls against, in place of the one that the source declares"
    )
    parser.add_argument("--seed", type=int, default=0, help="for what is drawn: sentences, tools (default: 0)")
    parser.add_argument("--samples", type=_positive, default=8, help="sentences per template (default: 8)")
    parser.add_argument("--any-version", action="store_true", help="read files that differ from the known checksums")
    parser.add_argument("--keep-going", action="store_true", help="leave faulty rows out and count them")
    parser.set_defaults(run=import_main)


def _add_export(verbs: Any) -> None:
    styles = "; ".join(f"{to}: {', '.join(found)}" for to, found in STYLES.items() if len(found) > 1)
    parser = verbs.add_parser(
        "export",
        help="cases -> rows for Unsloth, Axolotl, TRL, OpenAI or Anthropic",
        description="Write cases as the rows that another trainer or API reads (JSON lines), or only the tools.",
        examples=[
            "edgecall data export work/snips/train.jsonl --toolset assistant --to axolotl --out snips.jsonl",
            "edgecall data export work/bfcl/test.jsonl --toolset work/bfcl/toolsets.jsonl --to openai --out bfcl.jsonl",
            "edgecall data export --toolset kiwi --to anthropic --tools-only --out tools.json",
        ],
    )
    parser.add_argument("cases", type=Path, nargs="?", help="a file of cases (JSON lines)")
    parser.add_argument(
        "--toolset", required=True, help="toolset of the cases: a name, a file, or an import's toolsets.jsonl"
    )
    parser.add_argument("--to", choices=tuple(STYLES), required=True, help="who is to read it")
    parser.add_argument("--style", help=f"form of the rows, the first by default ({styles})")
    parser.add_argument("--tools-only", action="store_true", help="write the tools' schemas alone, as a JSON list")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.set_defaults(run=export_main)


def import_main(args: argparse.Namespace) -> int:
    """Import a source; prints what was read, where, and what was left out."""
    from router.toolset_load import load_toolset
    from train.data.importers import find
    from train.data.importers.base import Options
    from train.data.importers.store import write_import

    report = write_import(
        find(args.source),
        args.folder,
        args.out,
        Options(args.seed, args.samples),
        toolset=load_toolset(args.toolset) if args.toolset else None,
        any_version=args.any_version,
        keep_going=args.keep_going,
    )
    splits = {split: found["rows"] for split, found in report["splits"].items()}
    left_out = {reason: found["rows"] for reason, found in report["left_out"].items()}
    print(
        json.dumps(
            {**report, "splits": splits, "left_out": left_out, "report": str(args.out / "report.json")}, indent=1
        )
    )
    return 0


def export_main(args: argparse.Namespace) -> int:
    """Export cases, or the tools alone; prints how many rows were written, and what a configuration must say."""
    from train.data.formats import axolotl_config, export, stream_cases, tool_schemas
    from train.data.importers.files import replacing
    from train.data.importers.store import toolset_lookup

    if not args.out.parent.is_dir():
        raise UserError(f"{args.out.parent}: no such folder to write into; make it first")
    toolset_of = toolset_lookup(args.toolset)
    if args.tools_only:
        if args.cases is not None or toolset_of.default is None:
            raise UserError("--tools-only writes the tools of one toolset; give no cases, and a toolset's name or file")
        with replacing(args.out) as file:
            file.write(json.dumps(tool_schemas(toolset_of.default, args.to), indent=1, ensure_ascii=False) + "\n")
        print(json.dumps({"tools": len(toolset_of.default.tools), "out": str(args.out)}))
        return 0
    if args.cases is None:
        raise UserError("a file of cases is needed (or --tools-only); see `edgecall data export --help`")
    rows = export(stream_cases(args.cases), toolset_of.__getitem__, args.to, args.out, style=args.style)
    summary: dict[str, Any] = {
        "rows": rows,
        "to": args.to,
        "style": args.style or STYLES[args.to][0],
        "out": str(args.out),
    }
    if args.to == "axolotl":
        summary["config"] = axolotl_config(args.out)
    print(json.dumps(summary, indent=1))
    return 0


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
