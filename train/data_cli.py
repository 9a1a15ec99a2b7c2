"""`edgecall data`: build cases from a recipe, and check that no test request was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from runtimes.console import Parser
from train.data import report_cmd, tools_cmd, vary_cmd
from train.data.build import build_data, training_cases
from train.data.import_cmd import add_parsers
from train.data.on_ray import LOCAL, made_on_ray
from train.data.recipe import load_recipe

__all__ = ["build_data", "main", "training_cases"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see ``--help``."""
    parser = Parser(
        "edgecall data",
        "Build training and test cases (JSON lines) from a recipe, import public corpora, and export both.",
        [
            "edgecall data build configs/data/kiwi.yaml --out work/kiwi-data",
            "edgecall data import snips corpora/snips --out work/snips",
            "edgecall data export work/kiwi-data/train.jsonl --toolset kiwi --to trl --out trl.jsonl",
        ],
    )
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    build = verbs.add_parser(
        "build",
        help="recipe -> train.jsonl, dev.jsonl, test.jsonl, toolset and report.json",
        description="Build train.jsonl, dev.jsonl, test.jsonl, toolset.json and report.json from a recipe.",
        examples=[
            "edgecall data build kiwi.yaml --out work/data --against configs/cases/kiwi/*.jsonl",
            "edgecall data build toolbox.yaml --out work/data --ray ray://head.example:10001",
        ],
    )
    build.add_argument("recipe", type=Path, help="a configs/data/*.yaml file")
    build.add_argument("--out", type=Path, required=True, help="folder to write into")
    build.add_argument("--data", type=Path, help="folder of the public corpora that a recipe draws on")
    build.add_argument(
        "--against", type=Path, nargs="*", default=[], help="more test cases that must not be trained on"
    )
    build.add_argument(
        "--ray",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="make the rows on a Ray cluster: `auto` or host:port from one of its machines, ray://host:port from "
        "anywhere (default: a local one, for this command alone); the files are the same",
    )
    add_parsers(verbs)
    report_cmd.add_parser(verbs)
    tools_cmd.add_parser(verbs)
    vary_cmd.add_parser(verbs)
    args = parser.parse_args(argv)
    if args.verb == "tools":
        return tools_cmd.main(args)
    if args.verb == "vary":
        return vary_cmd.main(args)
    if args.verb != "build":
        return int(args.run(args))
    recipe = load_recipe(args.recipe, args.data)
    with made_on_ray(recipe, args.ray) if args.ray else nullcontext() as source:
        report = build_data(recipe, args.out, args.against, source)
    print(json.dumps(report, indent=1))
    return 0
