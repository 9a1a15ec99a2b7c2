"""Running a model for a proof: what it decodes with the grammar, and its logits behind the reference's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from export.base import Checkpoint
from export.proof_file import Decision, Row
from export.proof_probe import LENGTH, Probe, make_probe, probe_error, probe_logits
from export.trim_record import recorded_trim
from router.cases import same_calls
from router.decode import decode
from router.grammar import Grammar
from router.known import sample_context
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.wire import WireError, wire_format
from runtimes import is_emulated, open_model
from runtimes.artifact import Artifact
from runtimes.base import Functions, Logits, Model
from runtimes.errors import ArtifactError, UnavailableError, UserError

TOP_K = 8
FILL = 256
"""Tokens of prompts with which a model's functions are compared: enough for the longest."""
LONGEST = 256
"""Tokens of a completion in a proof; a model that has not ended by then made no calls."""


class LineError(UserError):
    """What a line of the proof asks and the model refuses."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        """Its number in ``proof.jsonl``: 1 is the header, the first request 2."""


@dataclass(frozen=True)
class Measured:
    """What a model made of a proof's rows."""

    decoded: list[_Decoded]
    max_abs: float
    """Largest |logit - reference| among the recorded ones; NaN where a logit is."""
    worst: str
    """Where that was."""
    positions: int
    top1: float
    """Share of decided positions whose best token is the reference's."""
    same: int
    """Requests with the reference's calls."""
    device: str
    dtype: str
    threads: int
    runtime: str
    emulated: bool
    """Whether that stands in for the format's own runtime."""
    probe: float
    """Largest |logit - reference| of the probe; 0 without one, NaN where a logit is."""
    apart: float | None
    """How far apart functions are that compute the same (`runtimes.base.Functions`); None without such."""


@dataclass(frozen=True)
class Reference:
    """What PyTorch in fp32 says: a row for each request, and the probe."""

    rows: list[Row]
    probe: Probe


def reference(
    source: Checkpoint,
    wire: str,
    toolset: Toolset,
    requests: Sequence[str],
    *,
    length: int = LENGTH,
    threads: int | None = None,
) -> Reference:
    """What PyTorch in fp32 decodes for `requests`, with its best logits wherever the grammar left a choice, and a probe
    of `length` tokens.

    Kept for the life of the process: all formats of one checkpoint are held against the same.
    """
    asked, probed = (source.sha256, wire, toolset.sha256, tuple(requests)), (source.sha256, length)
    if asked not in _ROWS or probed not in _PROBES:
        manifest = {
            "format": "safetensors",
            "quant": "fp32",
            "weights": ".",
            "wire": wire,
            "vocab_size": source.vocab_size,
            "context_length": source.context_length,
            "trim": recorded_trim(source.folder),
        }
        artifact = Artifact(source.folder, manifest)
        model = open_model(artifact, device="cpu", threads=threads)
        try:
            if asked not in _ROWS:
                _ROWS[asked] = list(_rows(model, artifact, toolset, requests))
            _PROBES[probed] = make_probe(model, length)
        finally:
            model.close()
    return Reference(_ROWS[asked], _PROBES[probed])


def measure(
    artifact: Artifact,
    rows: Sequence[Row],
    probe: Probe | None,
    toolset: Toolset,
    runtime_name: str,
    device: str,
    threads: int | None,
    precision: str | None = None,
) -> Measured:
    """Run an artifact over the proof: its calls, and its logits against the reference's. `precision`: see
    `runtimes.open_model`. Raises `LineError` for a line that the model cannot take."""
    model = open_model(artifact, runtime_name=runtime_name, device=device, threads=threads, precision=precision)
    try:
        with _line(1):
            decoder = _Decoder(model, artifact, toolset)
        decoded = []
        for number, row in enumerate(rows, 2):
            with _line(number):
                decoded.append(decoder.decode(row.request))
        max_abs, worst, hits, positions = 0.0, "", 0, 0
        for number, row in enumerate(rows, 2):
            if not row.decided:
                continue
            with _line(number):
                logits = decoder.logits(row.prompt, row.completion)
            for decision in row.decided:
                got = logits[decision.at]
                error = float(np.abs(got[list(decision.ids)] - np.array(decision.logits, np.float32)).max())
                if error > max_abs or error != error:  # NaN counts, and stays
                    max_abs, worst = error, f"{row.request!r}, token {decision.at}"
                positions += 1
                hits += int(got.argmax()) == decision.ids[0]
        with _line(len(rows) + 2):
            probed = 0.0 if probe is None else probe_error(probe, probe_logits(model, probe.tokens))
        session = model.session()
        apart = session.disagreement(_tokens(rows, model)) if rows and isinstance(session, Functions) else None
        same = sum(same_calls(d.calls, r.reference_calls, toolset) for d, r in zip(decoded, rows, strict=True))
        return Measured(
            decoded, max_abs, worst, positions, hits / max(1, positions), same,
            model.device, model.dtype, model.threads, runtime_name, is_emulated(runtime_name), probed, apart,
        )  # fmt: skip
    finally:
        model.close()


@contextmanager
def _line(number: int) -> Iterator[None]:
    """Within, what the model refuses is the line's; what is wrong with the artifact or the machine stays that."""
    try:
        yield
    except (ArtifactError, UnavailableError):
        raise
    except UserError as error:
        raise LineError(number, str(error)) from error


_ROWS: dict[tuple[Any, ...], list[Row]] = {}
_PROBES: dict[tuple[str, int], Probe] = {}


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
        self.tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
        self.toolset = toolset
        self.prefix = self.tokenizer.prefix_ids(toolset)
        self.grammar = Grammar.compile(toolset, self.tokenizer)
        self.session = model.session()
        self.prefix_is_cached = False
        self.context_length = model.context_length
        if len(self.prefix) >= model.context_length:
            raise UserError(
                f"toolset {toolset.name!r}: its declarations take {len(self.prefix)} tokens, the model's context is "
                f"{model.context_length}; use fewer tools or shorter descriptions"
            )

    def decode(self, request: str) -> _Decoded:
        """What the router makes of `request`, its prefix being in the cache."""
        context = sample_context(self.toolset)
        ids = self.tokenizer.behind_prefix(self.toolset, request, context)
        room = self.context_length - len(self.prefix) - len(ids)
        if room < 1:
            raise UserError(f"the request {request[:60]!r} does not fit the context of {self.context_length} tokens")
        self.keep_prefix()
        matcher = self.grammar.matcher(request, context)
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
        if self.prefix_is_cached:
            self.session.rewind(len(self.prefix))
        else:
            self.session.rewind(0)
            self.session.append(self.prefix)
            self.prefix_is_cached = True

    def logits(self, prompt: Sequence[int], completion: Sequence[int]) -> Logits:
        """Teacher-forced: row i is what decides token i of `completion`. Shape (len(completion), vocab)."""
        known = len(self.prefix)
        if list(prompt[:known]) == self.prefix and len(prompt) > known + 1:
            self.keep_prefix()
        else:
            known, self.prefix_is_cached = 0, False
            self.session.rewind(0)
        self.session.append(prompt[known:-1])
        rows = self.session.append([prompt[-1], *completion[:-1]], rows="all")
        return rows[: len(completion)]


def _tokens(rows: Sequence[Row], model: Model) -> list[int]:
    """What the functions of `model` are compared behind: prompts, and those again, until they or its cache are full."""
    return list(islice(cycle(token for row in rows for token in row.prompt), min(FILL, model.context_length)))


def _rows(model: Model, artifact: Artifact, toolset: Toolset, requests: Sequence[str]) -> Iterator[Row]:
    decoder = _Decoder(model, artifact, toolset)
    for request in requests:
        found = decoder.decode(request)
        rows = decoder.logits(found.prompt, found.completion)
        decided = tuple(_best(rows[at], at, margin) for at, margin in found.decisions)
        yield Row(request, found.prompt, found.completion, decided, found.calls, found.error)


def _best(row: Logits, at: int, margin: float) -> Decision:
    ids = np.argsort(-row, kind="stable")[:TOP_K]
    return Decision(at, tuple(int(i) for i in ids), tuple(short(row[i]) for i in ids), short(margin))


def short(value: float) -> float:
    """Seven digits: what fp32 holds. JSON has no infinity."""
    return float(f"{min(value, 1e9):.7g}")
