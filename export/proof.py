"""The proof that travels with an artifact: what the reference says, and what this export made of it.

``proof.jsonl`` holds a header line and then one line for each request: the prompt and the reference's completion as
token ids, the reference's highest logits where the grammar left a choice, the reference's calls and the calls that
the router makes with this artifact; then the probe (`export.proof_probe`), which reaches what requests do not. The
reference is PyTorch in fp32 on the CPU with the same grammar and decoding.
`verify` proves it again wherever the artifact now lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from export.base import Checkpoint, Quant
from export.proof_file import REFERENCE, Header, Proof, Row, read_whole_proof, write_proof
from export.proof_probe import Probe, reach
from export.proof_requests import default_requests
from export.proof_run import LineError, Measured, measure, reference, short
from router.cases import same_calls
from router.toolset import Toolset
from router.toolset_load import load_json
from runtimes import FORMATS, STAND_INS, prover
from runtimes import runtime as runtime_module
from runtimes.artifact import MANIFEST, Artifact, open_artifact
from runtimes.base import Availability
from runtimes.errors import ArtifactError, UserError

LOOSEST = 4.0
"""How many times its format's tolerance a rounded export may miss before it counts as broken; 32 bits may not."""

ROOM = 4.0
"""A rounded export is held to so many times the error that it had when it was made: other machines round otherwise."""

NEAR_TIE = 0.1
"""Share of the tolerance by which a decision may have been won for a difference to be the machine's rounding."""


@dataclass(frozen=True)
class Check:
    """One thing that `verify` looked at. `ok` is None where this machine cannot tell."""

    name: Literal["hashes", "proof", "logits", "probe", "functions", "calls"]
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class VerifyResult:
    """What proving an artifact again gave."""

    folder: Path
    name: str
    runtime: str
    device: str
    status: Literal["proven", "not proven on this machine", "failed"]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return self.status != "failed"


def make_proof(
    source: Checkpoint,
    artifact: Artifact,
    spec: Quant,
    runtime_name: str,
    toolset: Toolset,
    requests: Sequence[str] | None = None,
    *,
    threads: int | None = None,
) -> Header:
    """Write ``proof.jsonl`` into the folder of `artifact`, whose weights, tokenizer and toolset are there.

    Where `runtime_name` cannot run here its stand-in proves the artifact, if the format has one; the proof says which.
    Raises `UserError` where the logits are further from the reference than the export may be.
    """
    asked = tuple(requests) if requests is not None else default_requests(toolset)
    known = None
    if asked:
        known = reference(source, artifact.wire, toolset, asked, length=reach(artifact), threads=threads)
    rows, probe = (known.rows, known.probe) if known else ([], None)
    state = _available(runtime_name)
    if not state.available and prover(artifact.format) != runtime_name:
        runtime_name = prover(artifact.format)
        state = _available(runtime_name)
    if not state.available:
        limit = spec.logit_tolerance
        wide = None if probe is None else LOOSEST * limit
        header = Header(False, limit, limit, f"{runtime_name}: {state.reason}", probe=wide)
    else:
        measured = measure(artifact, rows, probe, toolset, runtime_name, "cpu", threads)
        rows = [
            replace(row, calls=found.calls, margin=short(found.margin))
            for row, found in zip(rows, measured.decoded, strict=True)
        ]
        header = _judge(artifact, spec, measured)
        if measured.apart is not None and not measured.apart <= spec.logit_tolerance:
            raise UserError(
                f"{artifact.name}: not exported: its functions are up to {measured.apart:.3g} apart (at most "
                f"{spec.logit_tolerance:.3g}); the exporter or the runtime computes something else"
            )
        if probe is not None:
            header = replace(header, probe=_judge_probe(artifact, spec, measured))
    write_proof(artifact.proof, Proof(header, rows, probe), source, toolset)
    return header


def verify(
    artifact: str | Path | Artifact,
    runtime: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    *,
    precision: str | None = None,
) -> VerifyResult:
    """Check an artifact's hashes and prove its logits and calls again, here and now.

    `precision`: "declared" or "float32", for the format's stand-in, which is then asked; a difference that float32 does
    not have is rounding, any other is the graph's or the weights'.
    Raises `UserError` for a folder that is no artifact, and for a runtime or device that was asked for by name and is
    not there; everything else is a failed check. Where the format's own runtime is missing, its stand-in proves the
    artifact; where there is none, nothing is proven.
    """
    folder = artifact.folder if isinstance(artifact, Artifact) else Path(artifact)
    try:
        found = open_artifact(folder)
    except ArtifactError as error:
        if not (folder / MANIFEST).is_file():
            raise
        return VerifyResult(folder, folder.name, "", device, "failed", (Check("hashes", False, str(error)),))
    checks = [Check("hashes", True, f"{len(found.manifest['files'])} files as the manifest says")]
    name = runtime or (prover(found.format) if precision is None else _stand_in(found))
    try:
        proof = read_whole_proof(found)
        toolset = load_json(found.toolset)
    except ArtifactError as error:
        checks.append(Check("proof", False, str(error)))
        return VerifyResult(folder, found.name, name, device, "failed", tuple(checks))
    header, rows = proof.header, proof.rows
    checks.append(Check("proof", header.met or None, _claim(header, rows)))
    state = _available(name)
    if not state.available and runtime is None:
        checks += [Check("logits", None, f"{name}: {state.reason}"), Check("calls", None, state.fix)]
        return VerifyResult(folder, found.name, name, device, "not proven on this machine", tuple(checks))
    try:
        measured = measure(found, rows, proof.probe, toolset, name, device, threads, precision)
    except ArtifactError as error:  # its hashes are right, and it cannot be run
        checks.append(Check("logits", False, str(error)))
        return VerifyResult(folder, found.name, name, device, "failed", tuple(checks))
    except LineError as error:
        told = f"{found.proof}:{error.line}: the model cannot take it ({error}); export again"
        checks = [check for check in checks if check.name != "proof"] + [Check("proof", False, told)]
        return VerifyResult(folder, found.name, name, device, "failed", tuple(checks))
    tolerance = _tolerance(header, name)
    how = f"{name} in float32" if precision == "float32" else name
    where = f"; in {how}, not in {FORMATS[found.format]} itself" if measured.emulated else ""
    checks.append(
        Check(
            "logits",
            measured.max_abs <= tolerance,
            f"max |logit - {REFERENCE}| {measured.max_abs:.2g} at {measured.positions} decided positions, "
            f"tolerance {tolerance:.2g}{where}",
        )
    )
    if proof.probe is not None:
        checks.append(_check_probe(proof.probe, header, measured))
    if measured.apart is not None:
        checks.append(_check_functions(header, measured.apart))
    checks.append(_check_calls(header, rows, measured, toolset, tolerance))
    status: Literal["proven", "failed"] = "proven" if all(c.ok is not False for c in checks) else "failed"
    return VerifyResult(folder, found.name, name, measured.device, status, tuple(checks))


def _judge(artifact: Artifact, spec: Quant, measured: Measured) -> Header:
    """The tolerance that this export meets. Raises `UserError` where it is further off than rounding explains."""
    limit = spec.logit_tolerance * (1 if spec.precision == 32 else LOOSEST)
    if not measured.max_abs <= limit:
        raise UserError(
            f"{artifact.name}: not exported: its logits are up to {measured.max_abs:.3g} from {REFERENCE} "
            f"(at {measured.worst}; at most {limit:.3g}); the exporter or the runtime computes something else"
        )
    tolerance = spec.logit_tolerance
    if spec.precision < 32:
        room = ROOM * measured.max_abs
        tolerance = max(min(room, tolerance), tolerance / 10, 1.25 * measured.max_abs)
    details = {
        "max_abs": float(f"{measured.max_abs:.4g}"),
        "top1": round(measured.top1, 4),
        "same_calls": [measured.same, len(measured.decoded)],
        "runtime": measured.runtime,
        "device": measured.device,
        "dtype": measured.dtype,
        "threads": measured.threads,
        "emulated": measured.emulated,
        "probe": float(f"{measured.probe:.4g}"),
        **({} if measured.apart is None else {"apart": float(f"{measured.apart:.4g}")}),
    }
    return Header(True, float(f"{tolerance:.3g}"), spec.logit_tolerance, measured=details)


def _judge_probe(artifact: Artifact, spec: Quant, measured: Measured) -> float:
    """How far the probe's logits may be off from now on. Random tokens are what no model was trained on, so rounding
    moves their logits more than those of a request, and only 32 bits have a limit. Raises `UserError` beyond it."""
    found, limit = measured.probe, LOOSEST * spec.logit_tolerance
    if not (found <= limit if spec.precision == 32 else found < float("inf")):
        raise UserError(
            f"{artifact.name}: not exported: behind random tokens its logits are up to {found:.3g} from {REFERENCE} "
            f"(at most {limit:.3g}); the exporter or the runtime computes something else"
        )
    return float(f"{max(spec.logit_tolerance / 10, ROOM * found):.3g}")


def _check_probe(probe: Probe, header: Header, measured: Measured) -> Check:
    """Another runtime than the one that met the proof rounds otherwise, and is held to no less than the format's."""
    tolerance = header.probe or 0.0
    if (header.measured or {}).get("runtime", measured.runtime) != measured.runtime:
        tolerance = max(tolerance, LOOSEST * header.format_tolerance)
    detail = f"max |logit - {REFERENCE}| {measured.probe:.2g} behind {len(probe.tokens)} random tokens"
    return Check("probe", measured.probe <= tolerance, f"{detail}, tolerance {tolerance:.2g}")


def _check_functions(header: Header, apart: float) -> Check:
    """Requests and the probe call some of a model's functions; what others compute is held against those."""
    limit = header.format_tolerance
    return Check("functions", apart <= limit, f"of one model, at most {apart:.2g} apart, tolerance {limit:.2g}")


def _stand_in(artifact: Artifact) -> str:
    """What can leave out the rounding of a format. Raises `UserError` where nothing stands in for its runtime."""
    if artifact.format not in STAND_INS:
        raise UserError(f"--precision is for {', '.join(STAND_INS)} artifacts; {artifact.name} is none, leave it out")
    return STAND_INS[artifact.format]


def _available(runtime_name: str) -> Availability:
    state: Availability = runtime_module(runtime_name).availability()
    return state


def _tolerance(header: Header, runtime_name: str) -> float:
    """What the export met holds for the runtime that met it; another one is held to the format's, if that is more."""
    by = (header.measured or {}).get("runtime", runtime_name)
    return header.tolerance if by == runtime_name else max(header.tolerance, header.format_tolerance)


def _check_calls(header: Header, rows: Sequence[Row], measured: Measured, toolset: Toolset, tolerance: float) -> Check:
    """The calls against those that the proof recorded, or the reference's where none were."""
    wanted = [row.calls if row.calls is not None else row.reference_calls for row in rows]
    different = [
        row
        for row, want, found in zip(rows, wanted, measured.decoded, strict=True)
        if not same_calls(found.calls, want, toolset)
    ]
    near = [row for row in different if row.margin is not None and row.margin <= tolerance * NEAR_TIE]
    whose = "the proof's" if header.met else "the reference's"
    if len(different) > len(near):
        worst = next(row for row in different if row not in near)
        return Check("calls", False, f"{len(different)} of {len(rows)} differ from {whose}, as for {worst.request!r}")
    besides = f" but {len(near)} near ties" if near else ""
    return Check("calls", True, f"all {len(rows)} as {whose}{besides}; {measured.same} as {REFERENCE}")


def _claim(header: Header, rows: Sequence[Row]) -> str:
    if not header.met:
        return f"{len(rows)} requests, not yet met ({header.reason})"
    measured = header.measured or {}
    error, by = measured.get("max_abs", 0), f" in {measured['runtime']}" if measured.get("emulated") else ""
    return f"{len(rows)} requests, met with max |logit - {REFERENCE}| {error:.2g} when exported{by}"
