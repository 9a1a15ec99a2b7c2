"""Convert a full-size network for Core ML: what it costs, how large it is, and whether it computes the same::

    python -m tests.stress.coreml_full_size --prompts 50 --out out

Random weights of FunctionGemma's shape (270M parameters, 262,144 tokens). A fresh process on two cores converts them
and checks the package as every export does, without the proof. Its wall and CPU time and the peak memory of its process
tree are measured. The package's bytes are held against those of its parameters, the tied embedding counted once. Then
the reference interpreter and PyTorch in fp32 decode the same prompts. Logits must be near each other and all tokens the
same, but for decisions that were won by less than rounding moves two logits. The prompts are requests of `--cases` to
tools without free text, for which also random weights come to an end.

Exit code 0 where all limits are kept: 180 s, 10 GB, 2% more bytes than the parameters need, parity. It needs 8 GB of
memory and 3 GB of disk, and minutes; ``--layers 2 --vocab 4096`` shows in seconds that it works (so small a network's
tables of rotary angles are more than 2%).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import peak_rss_mb
from export import coreml
from export.base import Checkpoint
from export.checkpoint import count_parameters, open_checkpoint
from export.pipeline import export_one
from export.proof_file import Row
from export.proof_run import Measured, measure, reference
from router.cases import load_cases, same_calls
from runtimes.artifact import Artifact, open_artifact
from runtimes.base import available_cores
from tests.stress.full_size import drawn, study
from tests.tiny import LIGHTS

SECONDS, MEGABYTES, EXCESS = 180.0, 10_000.0, 0.02
"""The limits: wall time and peak memory of the conversion, and by how much a package may exceed its parameters."""
CORES = 2
CASES = Path(__file__).parents[2] / "configs" / "cases" / "kiwi" / "handwritten_dev.jsonl"
RUNTIME = "coreml-reference"
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Cost:
    """What a process and those that it started took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Largest sum of their resident memories, in 10^6 bytes."""


@dataclass(frozen=True)
class Line:
    """One finding: what it is, its figure, and whether it keeps its limit (None where there is none)."""

    what: str
    figure: str
    ok: bool | None = None

    def __str__(self) -> str:
        mark = {True: "ok", False: "MISSED", None: ""}[self.ok]
        return f"{self.what:<12}{self.figure}  {mark}".rstrip()


def spent(command: Sequence[str]) -> Cost:
    """Run a command to its end. Raises `CalledProcessError` where it fails."""
    start, peak = time.monotonic(), 0.0
    child = subprocess.Popen(command)
    ended = 0
    while not ended:
        peak = max(peak, resident_mb(child.pid))
        time.sleep(_PAUSE_S)
        ended, status, usage = os.wait4(child.pid, os.WNOHANG)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Cost(time.monotonic() - start, usage.ru_utime + usage.ru_stime, peak)


def resident_mb(pid: int) -> float:
    """Memory of a process and those below it now, or the most that it alone had so far; 0 where it has ended."""
    import psutil

    try:
        root = psutil.Process(pid)
        tree = sum(one.memory_info().rss for one in (root, *root.children(recursive=True))) / 1e6
    except psutil.Error:
        return 0.0
    return max(tree, peak_rss_mb(pid) or 0.0)


def convert(source: Path, quant: str, out: Path) -> None:
    """The conversion that is measured: the checkpoint in `source` as an artifact in `out`, on two cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    export_one(open_checkpoint(source), "coreml", quant, out, LIGHTS, requests=(), progress=print)


def costs(cost: Cost) -> Iterator[Line]:
    """The conversion's costs against their limits."""
    cores = min(CORES, available_cores())
    limits = f"at most {SECONDS:g} s and {MEGABYTES / 1e3:g} GB"
    yield Line("wall time", f"{cost.wall_s:,.0f} s on {cores} cores ({limits})", cost.wall_s <= SECONDS)
    yield Line("CPU time", f"{cost.cpu_s:,.0f} s")
    yield Line("peak memory", f"{cost.peak_mb / 1e3:.2f} GB of the process tree", cost.peak_mb <= MEGABYTES)


def size(package: Path, parameters: int) -> Line:
    """The bytes of a package beside two for each parameter."""
    found = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    share = found / (2 * parameters) - 1
    figure = f"{found / 1e6:,.1f} MB, {share:+.2%} of 2 bytes x {parameters:,} parameters (at most {EXCESS:+.0%})"
    return Line("package", figure, abs(share) <= EXCESS)


def parity(source: Checkpoint, artifact: Artifact, requests: Sequence[str]) -> Iterator[Line]:
    """The package in the interpreter beside PyTorch in fp32, on `requests` and on the random tokens of a proof."""
    known = reference(source, artifact.wire, LIGHTS, requests)
    measured = measure(artifact, known.rows, known.probe, LIGHTS, RUNTIME, "cpu", None)
    limit = coreml.QUANTS[artifact.quant].logit_tolerance
    top = f"max |difference| {measured.max_abs:.3g} of the best at {measured.positions} decisions (at most {limit:g})"
    yield Line("logits", f"{top}, the same best token at {measured.top1:.1%}", measured.max_abs <= limit)
    probe = (
        f"max |difference| {measured.probe:.3g} of a logit of each id behind {len(known.probe.tokens)} random tokens"
    )
    yield Line("probe", f"{probe} (at most {limit:g})", measured.probe <= limit)
    yield from _answers(known.rows, measured)


def _answers(rows: Sequence[Row], measured: Measured) -> Iterator[Line]:
    """The calls and the tokens, and every request whose tokens differ: where, and how clear that decision was."""
    calls = [same_calls(d.calls, row.reference_calls, LIGHTS) for d, row in zip(measured.decoded, rows, strict=True)]
    other = [
        (row, margin_of_first_difference(row, found.completion))
        for row, found in zip(rows, measured.decoded, strict=True)
        if found.completion != row.completion
    ]
    close = 2 * measured.max_abs
    clear = sum(margin > close for _, margin in other)
    tokens = f"of {len(rows) - len(other)} of {len(rows)} prompts the same"
    yield Line("calls", f"of {sum(calls)} of {len(rows)} prompts the same")
    yield Line("tokens", f"{tokens}; {clear} others decided by more than {close:.2g}", clear == 0)
    for row, margin in other:
        yield Line("", f"{row.request!r}: another token, PyTorch's won by {margin:.3g}")


def margin_of_first_difference(row: Row, completion: Sequence[int]) -> float:
    """By how much the reference's token won where `completion` first has another; infinite for no decision."""
    at = next((i for i, (a, b) in enumerate(zip(row.completion, completion, strict=False)) if a != b), None)
    return next((one.margin for one in row.decided if one.at == at), float("inf"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = study(__doc__)
    parser.add_argument("--quant", default="fp16", help="the variant (default: fp16)")
    parser.add_argument("--prompts", type=int, default=50, metavar="N", help="prompts of the parity (default: 50)")
    parser.add_argument("--cases", type=Path, default=CASES, help="whose requests they hold (default: kiwi's)")
    parser.add_argument("--out", type=Path, help="keep checkpoint and package there (default: a temporary folder)")
    parser.add_argument(
        "--convert", type=Path, metavar="CHECKPOINT", help="only convert it into --out: what is measured"
    )
    options = parser.parse_args(argv)
    if options.convert:
        convert(options.convert, options.quant, options.out)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        package = out / f"coreml-{options.quant}"
        if package.exists():
            parser.error(f"{package} is there already, and nothing would be converted; give another --out")
        source = drawn(options, out / "checkpoint")
        again = ["--convert", str(source.folder), "--quant", options.quant, "--out", str(out)]
        cost = spent([sys.executable, "-m", "tests.stress.coreml_full_size", *again])
        artifact = open_artifact(package)
        requests = list(dict.fromkeys(case.user for case in load_cases(options.cases)))[: options.prompts]
        lines = [*costs(cost), size(artifact.weights, count_parameters(source.folder))]
        print(*lines, sep="\n", flush=True)
        compared = list(parity(source, artifact, requests))
        print(*compared, sep="\n")
    return 0 if all(line.ok is not False for line in (*lines, *compared)) else 1


if __name__ == "__main__":
    sys.exit(main())
