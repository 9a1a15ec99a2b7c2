"""`edgecall verify`: is an artifact whole, and does it make the same calls on this machine?"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from edgecall.progress import steps
from runtimes.console import Parser, explain

if TYPE_CHECKING:
    from export.proof import VerifyResult

_MARK = {True: "ok", False: "FAILED", None: "-"}


def parser() -> Parser:
    """The command's argument parser."""
    made = Parser(
        "edgecall verify",
        "Check an artifact's manifest against its own hash and every file against the\n"
        "manifest, then run its proof here: the logits at the decided positions, a logit of every\n"
        "token id behind random tokens, and the calls.\n"
        "Where Core ML cannot run on this machine its reference interpreter runs the proof; where\n"
        "another format cannot, only the files are checked. Either is said.",
        [
            "edgecall verify out/gguf-q8_0",
            "edgecall verify out/* --json",
            "edgecall verify out/onnx-fp32 --runtime onnxruntime --device cuda",
            "edgecall verify out/coreml-fp16 --precision float32",
        ],
        usage="edgecall verify DIR [DIR ...] [options]",
    )
    made.add_argument("folders", metavar="DIR", nargs="+", help="artifact folder, as `edgecall export` made it")
    made.add_argument("--runtime", metavar="NAME", help="runtime to prove it on (default: the format's own)")
    made.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, metal, ... (default: auto)")
    made.add_argument(
        "--precision",
        choices=("declared", "float32"),
        help="Core ML, in its reference interpreter: round every value as declared, or none: what then still differs "
        "is not rounding (default: declared)",
    )
    made.add_argument("--threads", metavar="N", type=int, help="threads to use (default: half the cores, at most 8)")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    return made


def main(argv: list[str]) -> int:
    """Verify each folder; 0 if none failed (one that cannot run here has not failed), else 2."""
    arguments = parser().parse_args(argv)
    from export.proof import verify

    prove = partial(
        verify, runtime=arguments.runtime, device=arguments.device, threads=arguments.threads,
        precision=arguments.precision,
    )  # fmt: skip
    results: list[VerifyResult] = []
    errors: list[tuple[str, str]] = []
    with steps(len(arguments.folders)) as (say, done):
        for folder in arguments.folders:
            if len(arguments.folders) > 1:
                say(f"verifying {folder}")
            try:
                results.append(prove(folder))
            except Exception as error:  # the other folders are still verified
                line = explain(error, extra="export")
                if line is None:
                    raise
                errors.append((folder, line))
            done()
    if arguments.json:
        failed = [{"folder": folder, "status": "failed", "error": line} for folder, line in errors]
        print(json.dumps([*map(_plain, results), *failed], indent=2))
    else:
        for result in results:
            _print(result)
    for _, line in errors:
        print(f"edgecall: {line}", file=sys.stderr)
    return 0 if not errors and all(result.ok for result in results) else 2


def _plain(result: VerifyResult) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "artifact": result.name,
        "runtime": result.runtime,
        "device": result.device,
        "status": result.status,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in result.checks],
    }


def _print(result: VerifyResult) -> None:
    where = f" ({result.runtime} on {result.device})" if result.status == "proven" else ""
    print(f"{result.folder}: {result.status}{where}")
    for check in result.checks:
        print(f"  {check.name:<9} {_MARK[check.ok]:<6}  {check.detail}")
