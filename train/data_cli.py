"""`edgecall data`: build cases from a recipe, and check that no test request was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from router.cases import Case, load_cases
from runtimes.console import Parser
from runtimes.errors import UserError
from train.data import report_cmd, tools_cmd, vary_cmd
from train.data.import_cmd import add_parsers
from train.data.leakage import find_leaks, normalised
from train.data.recipe import Recipe, Split, load_recipe, rows
from train.data.summary import Tally, origins


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
        help="recipe -> train.jsonl, dev.jsonl, test.jsonl and report.json",
        description="Build train.jsonl, dev.jsonl, test.jsonl and report.json from a recipe.",
        examples=["edgecall data build kiwi.yaml --out work/data --against configs/cases/kiwi/*.jsonl"],
    )
    build.add_argument("recipe", type=Path, help="a configs/data/*.yaml file")
    build.add_argument("--out", type=Path, required=True, help="folder to write into")
    build.add_argument("--data", type=Path, help="folder of the public corpora that a recipe draws on")
    build.add_argument(
        "--against", type=Path, nargs="*", default=[], help="more test cases that must not be trained on"
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
    report = build_data(load_recipe(args.recipe, args.data), args.out, args.against)
    print(json.dumps(report, indent=1))
    return 0


def training_cases(recipe: Recipe, split: Split, against: Sequence[Case] = ()) -> Iterator[Case]:
    """The cases of a split, less those that repeat a case of `against` (dropped even where only marks differ)."""
    forbidden = {normalised(c.user) for c in against}
    if split == "train":
        forbidden |= {normalised(c.user) for s in ("dev", "test") for c in rows(recipe, s)}  # type: ignore[arg-type]
    return (c for c in rows(recipe, split) if split == "test" or normalised(c.user) not in forbidden)


def build_data(recipe: Recipe, out: Path, against: Sequence[Path]) -> dict[str, object]:
    """Write the three splits and ``report.json``. Raises `UserError` on a leak, leaving what was there before."""
    out.mkdir(parents=True, exist_ok=True)
    extra = [case for path in against for case in load_cases(path)]
    test = list(training_cases(recipe, "test"))
    splits: dict[str, Iterable[Case]] = {
        "train": training_cases(recipe, "train", extra),
        "dev": training_cases(recipe, "dev", extra),
        "test": test,
    }
    report: dict[str, object] = {"toolset": recipe.toolset.name, "seed": recipe.seed}
    report |= origins(recipe.corpora, ((path.name, len(load_cases(path))) for path in against))
    for name, cases in splits.items():
        temporary = out / f".tmp-{name}.jsonl"
        counts = Tally()
        with temporary.open("w", encoding="utf-8") as f:
            for case in counts.over(cases):
                f.write(json.dumps(case.to_dict(), ensure_ascii=False) + "\n")
        report[name] = counts.to_dict()
    leaks = find_leaks(load_cases(out / ".tmp-train.jsonl"), [*test, *extra])
    if leaks:
        raise UserError(
            f"{out}: {len(leaks)} test requests were about to be trained on, first {leaks[0].text!r}; nothing written"
        )
    for name in splits:
        (out / f".tmp-{name}.jsonl").replace(out / f"{name}.jsonl")
    report["leaks"] = [asdict(leak) for leak in leaks]
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report
