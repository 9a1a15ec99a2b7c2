"""`edgecall train`: a base from scratch, a LoRA adapter on any Gemma 3 base, the card of either."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import configs
from runtimes.console import Parser
from runtimes.errors import UserError
from train.backends import BACKENDS, backend
from train.settings import make, mapping, read_config
from train.workers import is_first


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see ``--help``."""
    parser = Parser(
        "edgecall train",
        "Train a base model from scratch, or a LoRA adapter on a Gemma 3 base; write their card.",
        [
            "edgecall train lora configs/train/lora-kiwi.yaml --base seed --out work/kiwi",
            "edgecall train base configs/train/base-seed.yaml --data corpora --out work/base",
            "edgecall train card work/kiwi/adapter --report report.json --out work/kiwi/adapter/README.md",
        ],
    )
    kinds = parser.add_subparsers(dest="kind", required=True, parser_class=Parser)
    base = kinds.add_parser(
        "base",
        help="train a base model and its tokenizer from scratch",
        description="Train a base model and its tokenizer from scratch; an interrupted run goes on where it stopped.",
        examples=["edgecall train base configs/train/base-seed.yaml --data corpora --out work/base"],
    )
    base.add_argument("config", type=Path, help="a configs/train/base-*.yaml file")
    base.add_argument(
        "--data", type=Path, required=True, help="folder with the corpora (snips/, hwu64/, clinc150/, sgd/)"
    )
    base.add_argument(
        "--stages",
        help="stages to run, by name, with commas (default: all); one before them that is neither named nor finished "
        "is left out",
    )
    lora = kinds.add_parser(
        "lora",
        help="train a LoRA adapter for a toolset",
        description="Train a LoRA adapter for a toolset; an interrupted run goes on where it stopped.",
        examples=[
            "edgecall train lora lora-kiwi.yaml --base google/functiongemma-270m-it --out work/kiwi",
            "edgecall train lora lora-kiwi.yaml --base seed --backend trl --device cuda --out work/kiwi-trl",
        ],
    )
    card = kinds.add_parser(
        "card",
        help="write a model card from the runs",
        description="Write the model card (README.md) of an adapter, or of a model folder, from what its runs left.",
        examples=["edgecall train card work/kiwi/adapter --report report.json --out README.md"],
    )
    card.add_argument(
        "model", type=Path, help="an adapter folder, a model folder with base/ and adapter-<toolset>/, or a base"
    )
    card.add_argument(
        "--report", type=Path, nargs="+", default=[], help="report.json of bench all-runtimes, one per adapter"
    )
    card.add_argument("--lift", type=Path, nargs="+", default=[], help="report.json of bench lift, one per adapter")
    card.add_argument("--accuracy", type=Path, help="report.json of bench accuracy, in place of --report or beside it")
    card.add_argument("--out", type=Path, required=True, help="the file to write, such as README.md")
    base.add_argument(
        "--vectors",
        type=Path,
        metavar="FILE",
        help="word vectors that the embedding starts from, such as glove.6B.100d.txt",
    )
    lora.add_argument("config", type=Path, help="a configs/train/lora-*.yaml file")
    lora.add_argument("--base", required=True, help="a model folder, `seed`, a checkpoint folder, or a hub name")
    lora.add_argument("--data", type=Path, help="folder of the public corpora, for recipes that draw on them")
    lora.add_argument(
        "--backend", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: the configuration's `backend`, or packed)"
    )
    for sub, devices in ((base, "default: cpu"), (lora, "default: cpu; cuda for unsloth")):
        sub.add_argument(
            "--out", type=Path, required=True, help="folder for checkpoints and the result; resumes what lies there"
        )
        sub.add_argument("--against", type=Path, nargs="*", default=[], help="test cases that must not be trained on")
        sub.add_argument("--device", help=f"cpu, cuda or mps ({devices})")
        sub.add_argument("--threads", type=int, default=None, help="CPU threads")
        sub.add_argument("--json", action="store_true", help="print events as JSON lines")
    args = parser.parse_args(argv)
    return {"base": _base, "lora": _lora, "card": _card}[args.kind](args)


def _base(args: argparse.Namespace) -> int:
    from router.cases import load_cases
    from train.backends.availability import check_device
    from train.base import BaseConfig, Stage, train_base
    from train.vectors import read_vectors

    check_device(args.device or "cpu")
    data = read_config(args.config)
    words = configs.path("data", "words.txt").read_text(encoding="utf-8").split()
    listed = data.pop("stages", None) or ()
    if not isinstance(listed, list | tuple):
        raise UserError(f"{args.config}: stages: a list is expected")
    stages = []
    for number, given in enumerate(listed, start=1):
        place = f"{args.config}: stage {number}"
        stage = mapping(given, place)
        stages.append(make(Stage, place, {**stage, "loop": make_loop(stage.get("loop"), args, place=place)}))
    vectors = read_vectors(args.vectors) if args.vectors else None
    made = {"stages": stages, "words": words, "folder": args.config.parent, "vectors": vectors}
    config = make(BaseConfig, str(args.config), {**data, **made})
    against = [case for path in args.against for case in load_cases(path)]
    only = args.stages.split(",") if args.stages else None
    result = train_base(config, args.data, args.out, _reporter(args), stages=only, against=against)
    if is_first():
        print(json.dumps({**result, "checkpoint": str(args.out / "base")}))
    return 0


def _lora(args: argparse.Namespace) -> int:
    from export.atomic import disk_errors
    from export.checkpoint import locate
    from router.cases import load_cases
    from router.toolset_load import load_toolset
    from train.backends import availability
    from train.data.importers.files import replacing
    from train.data.recipe import beside
    from train.lora import LOOP, LoraConfig, train_lora
    from train.lora_rows import lora_rows

    data = read_config(args.config)
    if args.backend:
        data["backend"] = args.backend
    args.device = args.device or availability.default_device(str(data.get("backend", "packed")))
    loop = make_loop(data.get("loop"), args, usual=LOOP)
    config = make(LoraConfig, str(args.config), {**data, "loop": loop})
    backend(config.backend)
    availability.check(config)  # before minutes are spent on the data
    tests = {path: load_cases(path) for path in args.against}
    toolset = load_toolset(beside(args.config, config.toolset))
    train, dev, data_record = lora_rows(config, args.config, toolset, args.data, tests)
    result = train_lora(config, locate(args.base, adapter="none").base, toolset, train, dev, args.out, _reporter(args))
    if not is_first():
        return 0
    target = args.out / "adapter" / "data.json"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(json.dumps(data_record, indent=1) + "\n")
    print(json.dumps({"best_step": result["step"], "validation": result["validation"], "adapter": result["adapter"]}))
    return 0


def _card(args: argparse.Namespace) -> int:
    from train.card.page import write_card

    print(write_card(args.model, args.report, args.lift, args.out, args.accuracy))
    return 0


def make_loop(
    data: Any, args: argparse.Namespace, *, place: str | None = None, usual: Mapping[str, Any] | None = None
) -> Any:
    """The loop's settings: those of a configuration (`data`, over `usual`), device and threads of the command line.

    `place` begins messages, by default the configuration's file.
    """
    from runtimes.base import check_threads
    from train.loop import LoopConfig

    if args.threads is not None:
        check_threads(args.threads)
    where = f"{place or args.config}: loop"
    said = mapping({} if data is None else data, where)
    return make(LoopConfig, where, {**(usual or {}), **said, "device": args.device or "cpu", "threads": args.threads})


def _reporter(args: argparse.Namespace) -> Callable[[dict[str, Any]], None]:
    """What shows a run's events: JSON lines, or a progress bar with the latest figures above it."""
    if not is_first():
        return lambda event: None
    if args.json:
        return lambda event: print(json.dumps(event), flush=True)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    console.print(f"writing to {args.out} (log: {args.out / 'run' / 'log.jsonl'})")
    columns = (
        TextColumn("steps"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
    )
    bar = Progress(*columns, console=console)
    task = bar.add_task("", total=None, last="")
    bar.start()

    def report(event: dict[str, Any]) -> None:
        text = "  ".join(_shown(name, value) for name, value in event.items() if name != "step")
        if "steps" in event:
            bar.update(task, total=event["steps"])
            console.print(text)
        elif "validation" in event or not console.is_terminal:
            total = bar.tasks[0].total
            console.print(f"step {event['step']}{f'/{total:.0f}' if total else ''}  {text}")
        else:
            bar.update(task, completed=event.get("step", 0), last=text)
        if event.get("step") == bar.tasks[0].total and "validation" in event:
            bar.stop()

    return report


def _shown(name: str, value: Any) -> str:
    if name == "left_s":
        return f"left {timedelta(seconds=value)}"
    return f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}"


if __name__ == "__main__":
    raise SystemExit(main())
