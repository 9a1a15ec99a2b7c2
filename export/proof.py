"""The proof that travels with an artifact: what the reference says, and what this export made of it.

``proof.jsonl`` holds a header line and then one line for each request: the prompt and the reference's completion as
token ids, the reference's highest logits where the grammar left a choice, the reference's calls and the calls that
the router makes with this artifact. The reference is PyTorch in fp32 on the CPU with the same grammar and decoding.
`verify` proves it again wherever the artifact now lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from export.base import Checkpoint, Quant
from export.proof_file import REFERENCE, Decision, Header, Row, read_proof, write_proof
from export.proof_requests import default_requests
from router.cases import same_calls
from router.decode import decode
from router.grammar import Grammar
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.toolset_load import load_json
from router.wire import WIRES, WireError
from runtimes import FORMATS, open_model
from runtimes import runtime as runtime_module
from runtimes.artifact import Artifact, open_artifact
from runtimes.base import Availability, Logits, Model
from runtimes.errors import ArtifactError, UserError

TOP_K = 8
LONGEST = 256
"""Tokens of a completion in a proof; a model that has not ended by then made no calls."""

LOOSEST = 4.0
"""How many times its format's tolerance a rounded export may miss before it counts as broken; 32 bits may not."""

NEAR_TIE = 0.1
"""Share of the tolerance by which a decision may have been won for a difference to be the machine's rounding."""


@dataclass(frozen=True)
class Check:
    """One thing that `verify` looked at. `ok` is None where this machine cannot tell."""

    name: Literal["hashes", "proof", "logits", "calls"]
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

    Raises `UserError` where the logits are further from the reference than the export may be.
    """
    asked = tuple(requests) if requests is not None else default_requests(toolset)
    rows = reference_rows(source, artifact.wire, toolset, asked, threads=threads)
    state = _available(runtime_name)
    if not state.available:
        header = Header(False, spec.logit_tolerance, spec.logit_tolerance, f"{runtime_name}: {state.reason}")
    else:
        measured = _measure(artifact, rows, toolset, runtime_name, "cpu", threads)
        rows = [
            replace(row, calls=found.calls, margin=_short(found.margin))
            for row, found in zip(rows, measured.decoded, strict=True)
        ]
        header = _judge(artifact, spec, measured)
    write_proof(artifact.proof, header, rows, source, toolset)
    return header


def verify(
    artifact: str | Path | Artifact, runtime: str | None = None, device: str = "auto", threads: int | None = None
) -> VerifyResult:
    """Check an artifact's hashes and prove its logits and calls again, here and now.

    Raises `UserError` for a folder that is no artifact, and for a runtime or device that was asked for by name and is
    not there; everything else is a failed check. Where the format's own runtime is missing, nothing is proven.
    """
    folder = artifact.folder if isinstance(artifact, Artifact) else Path(artifact)
    try:
        found = open_artifact(folder)
    except ArtifactError as error:
        if not (folder / "manifest.json").is_file():
            raise
        return VerifyResult(folder, folder.name, "", device, "failed", (Check("hashes", False, str(error)),))
    checks = [Check("hashes", True, f"{len(found.manifest['files'])} files as the manifest says")]
    name = runtime or FORMATS.get(found.format, "")
    try:
        header, rows = read_proof(found)
        toolset = load_json(found.toolset)
    except ArtifactError as error:
        checks.append(Check("proof", False, str(error)))
        return VerifyResult(folder, found.name, name, device, "failed", tuple(checks))
    checks.append(Check("proof", header.met or None, _claim(header, rows)))
    state = _available(name)
    if not state.available and runtime is None:
        checks += [Check("logits", None, f"{name}: {state.reason}"), Check("calls", None, state.fix)]
        return VerifyResult(folder, found.name, name, device, "not proven on this machine", tuple(checks))
    measured = _measure(found, rows, toolset, name, device, threads)
    checks.append(
        Check(
            "logits",
            measured.max_abs <= header.tolerance,
            f"max |logit - {REFERENCE}| {measured.max_abs:.2g} at {measured.positions} decided positions, "
            f"tolerance {header.tolerance:.2g}",
        )
    )
    checks.append(_check_calls(header, rows, measured, toolset))
    status: Literal["proven", "failed"] = "proven" if all(c.ok is not False for c in checks) else "failed"
    return VerifyResult(folder, found.name, name, measured.device, status, tuple(checks))


def reference_rows(
    source: Checkpoint, wire: str, toolset: Toolset, requests: Sequence[str], *, threads: int | None = None
) -> list[Row]:
    """What PyTorch in fp32 decodes for `requests`, with its best logits wherever the grammar left a choice.

    Kept for the life of the process: all formats of one checkpoint are held against the same rows.
    """
    key = (source.sha256, wire, toolset.sha256, tuple(requests))
    if key not in _REFERENCES:
        manifest = {
            "format": "safetensors",
            "quant": "fp32",
            "weights": ".",
            "wire": wire,
            "vocab_size": source.vocab_size,
            "context_length": source.context_length,
        }
        artifact = Artifact(source.folder, manifest)
        model = open_model(artifact, device="cpu", threads=threads)
        try:
            _REFERENCES[key] = list(_reference(model, artifact, toolset, requests))
        finally:
            model.close()
    return _REFERENCES[key]


_REFERENCES: dict[tuple[Any, ...], list[Row]] = {}


@dataclass(frozen=True)
class _Measured:
    decoded: list[_Decoded]
    max_abs: float
    worst: str
    positions: int
    top1: float
    same: int
    device: str
    dtype: str
    threads: int
    runtime: str


@dataclass(frozen=True)
class _Decoded:
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    decisions: tuple[tuple[int, float], ...]
    """Index in the completion, and by how much the chosen token beat the next best allowed one."""
    calls: tuple[Call, ...]
    error: str | None

    @property
    def margin(self) -> float:
        return min((margin for _, margin in self.decisions), default=float("inf"))


class _Decoder:
    """A model that decodes requests of one toolset, its prefix in the cache."""

    def __init__(self, model: Model, artifact: Artifact, toolset: Toolset) -> None:
        self.tokenizer = RouterTokenizer.load(artifact.tokenizer, WIRES[artifact.wire])
        self.prefix = self.tokenizer.prefix_ids(toolset)
        self.grammar = Grammar.compile(toolset, self.tokenizer)
        self.session = model.session()
        self.context_length = model.context_length
        if len(self.prefix) >= model.context_length:
            raise UserError(
                f"toolset {toolset.name!r}: its declarations take {len(self.prefix)} tokens, the model's context is "
                f"{model.context_length}; use fewer tools or shorter descriptions"
            )

    def decode(self, request: str) -> _Decoded:
        """What the router makes of `request`, its prefix being in the cache."""
        ids = self.tokenizer.request_ids(request)
        room = self.context_length - len(self.prefix) - len(ids)
        if room < 1:
            raise UserError(f"the request {request[:60]!r} does not fit the context of {self.context_length} tokens")
        self.keep_prefix()
        matcher = self.grammar.matcher(request)
        found = decode(self.session, ids, matcher, max_new_tokens=min(room, LONGEST), record=True)
        prompt = (*self.prefix, *ids)
        decisions = tuple((d.position - len(prompt), d.margin) for d in found.decisions or ())
        error = found.error
        calls: list[Call] = []
        if error is None:
            try:
                calls = self.tokenizer.parse(found.token_ids)
            except WireError as problem:
                error = str(problem)
        return _Decoded(prompt, tuple(found.token_ids), decisions, tuple(calls), error)

    def keep_prefix(self) -> None:
        if self.session.position < len(self.prefix):
            self.session.rewind(0)
            self.session.append(self.prefix)
        self.session.rewind(len(self.prefix))

    def logits(self, prompt: Sequence[int], completion: Sequence[int]) -> Logits:
        """Teacher-forced: row i is what decides token i of `completion`. Shape (len(completion), vocab)."""
        self.keep_prefix()
        if len(prompt) - 1 > len(self.prefix):
            self.session.append(prompt[len(self.prefix) : -1])
        rows = self.session.append([prompt[-1], *completion[:-1]], rows="all")
        return rows[: len(completion)]


def _reference(model: Model, artifact: Artifact, toolset: Toolset, requests: Sequence[str]) -> Iterator[Row]:
    decoder = _Decoder(model, artifact, toolset)
    for request in requests:
        found = decoder.decode(request)
        rows = decoder.logits(found.prompt, found.completion)
        decided = tuple(_best(rows[at], at, margin) for at, margin in found.decisions)
        yield Row(request, found.prompt, found.completion, decided, found.calls, found.error)


def _best(row: Logits, at: int, margin: float) -> Decision:
    ids = np.argsort(-row, kind="stable")[:TOP_K]
    return Decision(at, tuple(int(i) for i in ids), tuple(_short(row[i]) for i in ids), _short(margin))


def _short(value: float) -> float:
    """Seven digits: what fp32 holds. JSON has no infinity."""
    return float(f"{min(value, 1e9):.7g}")


def _measure(
    artifact: Artifact, rows: Sequence[Row], toolset: Toolset, runtime_name: str, device: str, threads: int | None
) -> _Measured:
    """Run an artifact over the proof's rows: its calls, and its logits against the reference's."""
    model = open_model(artifact, runtime_name=runtime_name, device=device, threads=threads)
    try:
        decoder = _Decoder(model, artifact, toolset)
        decoded = [decoder.decode(row.request) for row in rows]
        max_abs, worst, hits, positions = 0.0, "", 0, 0
        for row in rows:
            if not row.decided:
                continue
            logits = decoder.logits(row.prompt, row.completion)
            for decision in row.decided:
                got = logits[decision.at]
                error = float(np.abs(got[list(decision.ids)] - np.array(decision.logits, np.float32)).max())
                if not error <= max_abs:  # so written that NaN counts
                    max_abs, worst = error, f"{row.request!r}, token {decision.at}"
                positions += 1
                hits += int(got.argmax()) == decision.ids[0]
        same = sum(same_calls(d.calls, r.reference_calls, toolset) for d, r in zip(decoded, rows, strict=True))
        return _Measured(
            decoded, max_abs, worst, positions, hits / max(1, positions), same,
            model.device, model.dtype, model.threads, runtime_name,
        )  # fmt: skip
    finally:
        model.close()


def _judge(artifact: Artifact, spec: Quant, measured: _Measured) -> Header:
    """The tolerance that this export meets. Raises `UserError` where it is further off than rounding explains."""
    limit = spec.logit_tolerance * (1 if spec.precision == 32 else LOOSEST)
    if not measured.max_abs <= limit:
        raise UserError(
            f"{artifact.name}: not exported: its logits are up to {measured.max_abs:.3g} from {REFERENCE} "
            f"(at {measured.worst}; at most {limit:.3g}); the exporter or the runtime computes something else"
        )
    tolerance = spec.logit_tolerance
    if measured.max_abs > tolerance:
        tolerance = float(f"{1.25 * measured.max_abs:.2g}")
    details = {
        "max_abs": float(f"{measured.max_abs:.4g}"),
        "top1": round(measured.top1, 4),
        "same_calls": [measured.same, len(measured.decoded)],
        "runtime": measured.runtime,
        "device": measured.device,
        "dtype": measured.dtype,
        "threads": measured.threads,
    }
    return Header(True, tolerance, spec.logit_tolerance, measured=details)


def _available(runtime_name: str) -> Availability:
    state: Availability = runtime_module(runtime_name).availability()
    return state


def _check_calls(header: Header, rows: Sequence[Row], measured: _Measured, toolset: Toolset) -> Check:
    """The calls against those that the proof recorded, or the reference's where none were."""
    wanted = [row.calls if row.calls is not None else row.reference_calls for row in rows]
    different = [
        row
        for row, want, found in zip(rows, wanted, measured.decoded, strict=True)
        if not same_calls(found.calls, want, toolset)
    ]
    near = [row for row in different if row.margin is not None and row.margin <= header.tolerance * NEAR_TIE]
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
    return f"{len(rows)} requests, met with max |logit - {REFERENCE}| {measured.get('max_abs', 0):.2g} when exported"
