"""What `bench shape` and `bench scaling` make before they measure: weights, artifacts, what is known of the machine.

Whatever is heavy is done in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.folder import write_cases
from bench.forced import BlankModel, ForcedRouted
from bench.machine import load_average
from bench.predict import Rates, Size, Weights, rates_for, sizes_of
from bench.probe import streamed_bytes
from bench.process import LOADING_S, WorkerFailure, WorkerProcess
from bench.records import Variant
from bench.routing import tokens_of
from bench.run import Bench
from bench.shape_checkpoint import outline
from bench.shapes import Shape
from bench.suites import Suite
from bench.variants import WORKER as MAKER
from bench.variants import Missing, export
from export.base import Checkpoint
from export.pipeline import wire_name
from export.trim import planned
from export.trim_record import ENGLISH, Trim
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.wire_format import wire_format
from runtimes import runtime
from runtimes.artifact import TOKENIZER, Artifact
from runtimes.errors import UserError

PROBE: Final = "bench.probe"
Artifacts = dict[str, Artifact | Missing]


@dataclass
class Machine:
    """What the probe measured."""

    bytes_s: dict[int, float] = field(default_factory=dict)
    """By the size of what was read,"""
    ops_s: dict[str, float | None] = field(default_factory=dict)
    how: dict[str, str | None] = field(default_factory=dict)
    load_average: float | None = None

    def bandwidth(self, size: int) -> float:
        """Bytes a second for weights of `size` bytes: of the next larger array that was read, or of the largest."""
        fitting = [known for known in self.bytes_s if known >= size]
        return self.bytes_s[min(fitting) if fitting else max(self.bytes_s)]

    def rates(self, variant: Variant, weights: Weights) -> Rates:
        """What bounds the passes of a variant with such weights."""
        less = self.bandwidth(weights.total - weights.output)
        return rates_for(variant, self.bandwidth(weights.total), self.ops_s, less)

    def told(self) -> dict[str, Any]:
        """The `probe` entry of a report."""
        return {
            "bandwidth": [{"bytes": size, "gb_s": rate / 1e9} for size, rate in sorted(self.bytes_s.items())],
            "compute_gop_s": {kind: None if rate is None else rate / 1e9 for kind, rate in self.ops_s.items()},
            "how": self.how,
            "load_average": self.load_average,
        }


def dry_passes(artifact: Artifact, bench: Bench, few: int) -> dict[str, list[Size]]:
    """Case -> the passes that its gold calls take on an artifact's tokenizer, worked out without a model.

    `few`: up to how many ids are asked for alone.
    """
    tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
    blank = BlankModel(artifact.vocab_size, artifact.context_length, few)
    routed = ForcedRouted(blank, tokenizer, bench.toolset)
    routed.limit_to(bench.suite.cases)
    return {case.id: sizes_of(routed.passes_of(case)[1]) for case in bench.suite.cases}


def probe(shape: Shape, sizes: Iterable[int], threads: int, logs: Path) -> Machine:
    """Measure the machine in processes of their own. Raises `UserError` where that fails.

    Bandwidth for arrays of `sizes` bytes, and for one well past the caches, which stands for all that is larger.
    """
    most = streamed_bytes()
    wanted = sorted({min(size, most) for size in sizes} | {most})
    found = Machine(load_average=load_average())
    try:
        for command, blas, arguments in (
            ("bandwidth", 1, {"sizes": wanted}),
            ("compute", threads, {"width": shape.hidden, "inner": shape.intermediate}),
        ):
            worker = WorkerProcess("probe", logs / "probe.log", module=PROBE, threads=blas)
            try:
                result = worker.call(command, silence=LOADING_S, threads=threads, **arguments)
                worker.close()
            finally:
                worker.kill()
            if command == "bandwidth":
                found.bytes_s = dict(zip(wanted, result["bytes_s"], strict=True))
                found.how["bandwidth"] = result["how"]
            else:
                found.ops_s, found.how = result["ops_s"], found.how | result["how"]
    except WorkerFailure as failure:
        raise UserError(f"the machine could not be measured: {failure}") from None
    return found


def made_checkpoint(bench: Bench, shape: Shape, tokenizer: Path | None, trim: Trim | None = None) -> Checkpoint:
    """Random weights of a shape, made in a process of its own. Raises `UserError`."""
    settings = bench.settings
    worker = WorkerProcess("make", bench.logs / "make.log", module=MAKER, threads=settings.threads)
    try:
        with bench.screen.progress() as bars:
            made = worker.call(
                "random", silence=LOADING_S, on_event=lambda event: bars.describe("make", event["line"]),
                shape=asdict(shape), tokenizer=str(tokenizer) if tokenizer else None,
                work=str(settings.cache / "shapes"), toolset=settings.toolset, trim=asdict(trim) if trim else None,
            )  # fmt: skip
        worker.close()
    except WorkerFailure as failure:
        raise UserError(str(failure)) from None
    finally:
        worker.kill()
    return Checkpoint(Path(made["folder"]), made["name"], made["sha256"], made["config"])


def exported(bench: Bench, checkpoint: Checkpoint, variants: Iterable[Variant]) -> Artifacts:
    """Artifacts of a checkpoint, those that this machine can run, by name."""
    settings, screen = bench.settings, bench.screen
    out: Artifacts = {}
    runnable = []
    for variant in dict.fromkeys(variants):
        state = runtime(variant.runtime).availability()
        if state.available:
            runnable.append(variant)
        else:
            out[variant.artifact] = Missing(f"{state.reason}; {state.fix}", True)
    # Where `bench all-runtimes` keeps its own.
    parts = (checkpoint.name, checkpoint.sha256[:8], bench.toolset.name, bench.toolset.sha256[:8])
    with screen.progress() as bars:
        made = export(
            checkpoint, runnable, settings.cache / "-".join(parts), settings, bench.logs, bars.describe,
            lambda name, _: bars.end(name),
        )  # fmt: skip
    return out | made


def trimmed_checkpoint(
    bench: Bench, shape: Shape, tokenizer: Path | None, whole: Checkpoint, tokens: int
) -> Checkpoint:
    """The shape with fewer tokens: its tokenizer cut as `edgecall export --trim-vocab english` does it, with all that
    the fixed calls need; or, where the tokenizer has no more than that, with fewer unused rows.
    """
    trim = _by_calls(tokenizer_of(whole), tokens, bench.suite, bench.scratch)
    if trim is None:
        smaller = replace(shape, name=f"{shape.name}-{tokens}", vocab=tokens)
        return made_checkpoint(bench, smaller, tokenizer)
    return made_checkpoint(bench, shape, tokenizer, trim)


def tokenizer_of(checkpoint: Checkpoint) -> RouterTokenizer:
    """The tokenizer in its folder, in the wire format that it was made for."""
    path = checkpoint.folder / TOKENIZER
    return RouterTokenizer.load(path, wire_format(wire_name(path)))


def check_shape(shape: Shape, tokenizer: Path | None, toolset: Toolset, suite: Suite, trim_tokens: int | None) -> None:
    """Raise `UserError` for what is known to go wrong before anything is made.

    That is a tokenizer with more entries than the shape has rows, a context that some case has no room in, and a
    vocabulary cut to fewer tokens than the calls need.
    """
    with TemporaryDirectory() as scratch:
        made = outline(shape, tokenizer, Path(scratch))
        known = tokenizer_of(made)
        need, case = max((tokens_of(known, toolset, case), case.id) for case in suite.cases)
        check_context(shape, need, f"case {case} with its calls")
        trim = None if trim_tokens is None else _by_calls(known, trim_tokens, suite, Path(scratch))
        if trim is not None:
            planned(made, trim, toolset)


def check_context(shape: Shape, need: int, what: str) -> None:
    """Raise `UserError` for a shape whose context is smaller than what something takes."""
    if need > shape.context:
        raise UserError(f"--context {shape.context:,}: {what} takes {need:,} tokens; give as many or more")


def _by_calls(tokenizer: RouterTokenizer, tokens: int, suite: Suite, folder: Path) -> Trim | None:
    """How a tokenizer is cut to so many tokens; None where it has no more. `folder`: for a file of the calls."""
    if tokenizer.vocab_size <= tokens:
        return None
    cases = write_cases(folder / "trim-cases.jsonl", suite.cases)
    return Trim((ENGLISH, str(cases)), tokens, called="the calls")
