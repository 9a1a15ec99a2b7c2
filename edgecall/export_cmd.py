"""`edgecall export`: a model becomes artifacts, one folder each, every one proved."""

from __future__ import annotations

import json
import shlex
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgecall.cache import cache_folder
from edgecall.plan import DEFAULT_FORMATS, plan
from edgecall.progress import Done, Say, steps
from export.trim_options import add_trim_options, trim_asked
from runtimes.console import Parser, explain, make_console, need
from runtimes.errors import UserError

if TYPE_CHECKING:
    from export.base import Checkpoint
    from export.trim_record import Trim
    from router.cases import Case
    from router.toolset import Toolset
    from runtimes.artifact import Artifact


@dataclass(frozen=True)
class Made:
    """One line of the result: an artifact, or why there is none."""

    artifact: str
    folder: str | None
    size_mb: float | None
    proof: str | None
    """"met" here, or "not met here": made for another machine, where `verify` proves it."""
    seconds: float
    error: str | None = None
    bug: bool = False


def parser() -> Parser:
    """The command's argument parser."""
    made = Parser(
        "edgecall export",
        "Merge a model and write it in other formats, each as a self-contained artifact with\n"
        "its tokenizer, toolset, manifest and proof, in OUT/<format>-<quantization>.",
        [
            "edgecall export seed --out out/",
            "edgecall export seed --to gguf --quant q8_0,q4_k_m --out out/",
            "edgecall export seed --to gguf --quant q8_0+mlp=q4_0 --out out/",
            "edgecall export seed --to coreml --quant ane,pal6 --out out/",
            "edgecall export seed --to coreml --quant fp16 --cases requests.jsonl --out out/",
            "edgecall export my-adapter/ --to gguf,onnx --quant gguf:f16,onnx:int8 --out out/",
            "edgecall export google/functiongemma-270m-it --to all --quant all --out out/",
            "edgecall export google/functiongemma-270m-it --trim-vocab english --to gguf --out out/",
        ],
        usage="edgecall export MODEL --out DIR [options]",
    )
    made.add_argument("model", metavar="MODEL", help="'seed', a model, checkpoint or adapter folder, or a hub name")
    made.add_argument("--out", metavar="DIR", required=True, help="folder in which the artifacts are made")
    made.add_argument(
        "--to", metavar="FORMATS", help=f"formats, comma-separated, or 'all' (default: {','.join(DEFAULT_FORMATS)})"
    )
    made.add_argument(
        "--quant",
        metavar="QUANTS",
        help="q8_0,q4_k_m or gguf:q8_0,onnx:int8 or 'all', or a mix such as q8_0+embedding=q6_k+mlp=q4_0 (default: "
        "each format's own; docs/quantization.md)",
    )
    made.add_argument(
        "--toolset", metavar="NAME|FILE", default="kiwi", help="the tools that the router serves (default: kiwi)"
    )
    made.add_argument("--adapter", metavar="DIR", help="LoRA adapter to merge, or 'none' (default: the toolset's)")
    made.add_argument("--work", metavar="DIR", help="keeps the merged checkpoint (default: ~/.cache/edgecall/merged)")
    add_trim_options(made)
    made.add_argument(
        "--trim-cases", metavar="FILE", help="tell which of these cases' requests are spelled otherwise after trimming"
    )
    made.add_argument(
        "--proof-requests",
        metavar="N",
        type=int,
        help="requests in the proof: in the toolset's own words, then those of --cases (default: at most 12)",
    )
    made.add_argument(
        "--cases",
        metavar="FILE",
        help="cases that a float16 Core ML package's ranges are measured on (default: requests in the toolset's own "
        "words), and that --proof-requests takes more from",
    )
    made.add_argument("--threads", metavar="N", type=int, help="threads for the proof (default: the cores, at most 8)")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    return made


def main(argv: list[str]) -> int:
    """Make what was asked for; one that fails does not stop the others. 2 if any failed, 1 if that was a bug."""
    arguments = parser().parse_args(argv)
    pairs = plan(arguments.to, arguments.quant)
    trim = trim_asked(arguments)
    if arguments.trim_cases and trim is None:
        raise UserError("--trim-cases needs --trim-vocab; without it every request is spelled as before")
    _check_cases(arguments, pairs)
    command = shlex.join(["edgecall", "export", *argv])
    with steps(len(pairs)) as (say, done):
        results = _export(arguments, pairs, trim, command, say, done)
    if arguments.json:
        print(json.dumps([asdict(made) for made in results], indent=2))
    else:
        _print(results)
    for made in results:
        if made.error is not None:
            print(f"edgecall: {made.artifact}: {made.error}", file=sys.stderr)
    if any(made.bug for made in results):
        return 1
    return 2 if any(made.error for made in results) else 0


def _check_cases(arguments: Namespace, pairs: list[tuple[str, str]]) -> None:
    """Raise `UserError` for cases that nothing asks for."""
    from export import exporter

    measured = any(quant in getattr(exporter(fmt), "MEASURED", ()) for fmt, quant in pairs)
    if arguments.cases and not measured and arguments.proof_requests is None:
        raise UserError(
            f"--cases {arguments.cases}: nothing here measures ranges (a float16 Core ML package does); "
            "give --proof-requests N too, or leave it out"
        )


def _export(
    arguments: Namespace, pairs: list[tuple[str, str]], trim: Trim | None, command: str, say: Say, done: Done
) -> list[Made]:
    from export.pipeline import export_one, merge_checkpoint
    from export.proof_requests import proof_requests
    from router.cases import load_cases
    from router.toolset_load import load_toolset

    toolset = load_toolset(arguments.toolset)
    trim_cases = load_cases(arguments.trim_cases) if arguments.trim_cases else []
    cases = load_cases(arguments.cases) if arguments.cases else []
    asked = arguments.proof_requests
    requests = None if asked is None else proof_requests(toolset, asked, cases)
    need("torch", "transformers", "safetensors", extra="export")
    work = Path(arguments.work) if arguments.work else cache_folder() / "merged"
    source = merge_checkpoint(arguments.model, work, adapter=arguments.adapter, toolset=toolset.name, progress=say)
    if trim is not None:
        source = _trimmed(source, trim, toolset, work, trim_cases, Path(arguments.out), say)
    make = partial(
        export_one, source, out=arguments.out, toolset=toolset, command=command, requests=requests,
        cases=cases, threads=arguments.threads, progress=say,
    )  # fmt: skip
    results = []
    for fmt, quant in pairs:
        results.append(_one(make, fmt, quant))
        done()
    return results


def _trimmed(
    source: Checkpoint, trim: Trim, toolset: Toolset, work: Path, cases: list[Case], out: Path, say: Say
) -> Checkpoint:
    from export.trim import trim_checkpoint
    from export.trim_cases import by_spelling, write_cases

    trimmed = trim_checkpoint(source, trim, toolset, work, progress=say)
    if cases:
        say(write_cases(by_spelling(cases, source, trimmed, toolset), out / "trim-cases.jsonl"))
    return trimmed


def _one(make: Callable[[str, str], Artifact], fmt: str, quant: str) -> Made:
    from export.proof_file import read_header

    start = time.perf_counter()
    try:
        made = make(fmt, quant)
        proof = "met" if read_header(made).met else "not met here"
        return Made(made.name, str(made.folder), made.size_bytes / 1e6, proof, time.perf_counter() - start)
    except Exception as error:  # the other artifacts are still made
        line = explain(error, extra="export")
        if line is None:
            traceback.print_exc()
        why = line or f"{type(error).__name__}: {error} (a bug; the traceback is above)"
        return Made(f"{fmt}-{quant}", None, None, None, time.perf_counter() - start, why, bug=line is None)


def _print(results: list[Made]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("artifact", "MB", "proof", "s", "folder"):
        table.add_column(title, justify="right" if title in ("MB", "s") else "left", overflow="fold")
    for made in results:
        if made.error is None:
            size = f"{made.size_mb:.1f}"
            table.add_row(made.artifact, size, made.proof, f"{made.seconds:.1f}", made.folder)
        else:
            table.add_row(made.artifact, "", "failed", f"{made.seconds:.1f}", "")
    make_console().print(table)
