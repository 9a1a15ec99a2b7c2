"""``proof.jsonl``: what its lines hold, reading and writing them. What they prove is `export.proof`'s."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.base import Checkpoint
from export.proof_probe import Probe
from router.toolset import Call, Toolset
from runtimes.artifact import Artifact
from runtimes.errors import ArtifactError

SCHEMA = "edgecall.proof/2"
REFERENCE = "torch-fp32"


@dataclass(frozen=True)
class Decision:
    """One place in the completion where the grammar left a choice, and the reference's best logits for it."""

    at: int
    """Index of the decided token in the completion."""
    ids: tuple[int, ...]
    logits: tuple[float, ...]
    margin: float
    """By how much the reference's choice beat the next best token that the grammar allowed."""


@dataclass(frozen=True)
class Row:
    """One request of the proof. `calls` is None while the artifact has not been run."""

    request: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    decided: tuple[Decision, ...]
    reference_calls: tuple[Call, ...]
    reference_error: str | None = None
    """Why the reference made no calls, where it did not come to an end."""
    calls: tuple[Call, ...] | None = None
    margin: float | None = None
    """The smallest margin among the artifact's own choices."""


@dataclass(frozen=True)
class Header:
    """What the proof claims. `met` is False where the format could not be run on the exporting machine."""

    met: bool
    tolerance: float
    """Largest |logit - reference| accepted at a decided position."""
    format_tolerance: float
    """What the format promises. `tolerance` is what this export met: smaller where it could be, larger where needed."""
    reason: str = ""
    """Why it is not met."""
    measured: dict[str, Any] | None = None
    """`max_abs`, `top1` (share of decided positions with the same best token), `same_calls`, and where."""
    probe: float | None = None
    """Largest difference accepted between the probe's logits; None where the proof has no probe."""


@dataclass(frozen=True)
class Proof:
    """What ``proof.jsonl`` holds. Without requests there is no probe either."""

    header: Header
    rows: list[Row]
    probe: Probe | None = None


def read_header(artifact: Artifact) -> Header:
    """The first line of the proof. Raises `ArtifactError`."""
    return read_proof(artifact)[0]


def read_proof(artifact: Artifact) -> tuple[Header, list[Row]]:
    """The header and the requests of an artifact's proof. Raises `ArtifactError` naming the line that is wrong."""
    proof = read_whole_proof(artifact)
    return proof.header, proof.rows


def read_whole_proof(artifact: Artifact) -> Proof:
    """The proof of an artifact, probe and all. Raises `ArtifactError` naming the line that is wrong."""
    number = 0
    try:
        lines = artifact.proof.read_text(encoding="utf-8").splitlines()
        number = 1
        first = json.loads(lines[0])
        header = _header(first)
        rows, probe = [], None
        for number, line in enumerate(lines[1:], 2):  # noqa: B007 - named in the error
            data = json.loads(line)
            if probe is not None:
                raise ValueError("a line behind the probe")
            if "probe" in data:
                probe = Probe.read(data["probe"])
                _check_ids(probe.tokens, artifact)
            else:
                rows.append(_row(data))
                _check_row(rows[-1], artifact)
        number = 1
        for name, count in _counts(rows).items():
            if first[name] != count:
                raise ValueError(f"it says {first[name]} {name}, the lines behind it have {count}")
        if (probe is None) != (header.probe is None):
            raise ValueError("it and the lines behind it disagree on whether there is a probe")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{artifact.proof}:{number}: not a proof ({error}); export again") from None
    return Proof(header, rows, probe)


def write_proof(path: Path, proof: Proof, source: Checkpoint, toolset: Toolset) -> None:
    """Write ``proof.jsonl``: the header, a line for each request, and the probe if there is one."""
    header, rows = proof.header, proof.rows
    first = {
        "schema": SCHEMA,
        "reference": REFERENCE,
        "source_sha256": source.sha256,
        "toolset_sha256": toolset.sha256,
        **_counts(rows),
        "tolerances": {"logit": header.tolerance, "format": header.format_tolerance, "probe": header.probe},
        "met": header.met,
        "reason": header.reason,
        "measured": header.measured,
    }
    last = [] if proof.probe is None else [{"probe": proof.probe.plain()}]
    lines = [json.dumps(line, ensure_ascii=False) for line in (first, *map(_plain, rows), *last)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    """What the header says of the lines behind it."""
    return {"requests": len(rows), "positions": sum(len(row.decided) for row in rows)}


def _check_row(row: Row, artifact: Artifact) -> None:
    """Whether a request's tokens are such as the model can take. Raises `ValueError`."""
    if not row.prompt:
        raise ValueError("an empty prompt")
    taken = len(row.prompt) + len(row.completion) - 1  # the last token decides nothing
    if taken > artifact.context_length:
        raise ValueError(f"{taken} tokens do not fit the context of {artifact.context_length}")
    _check_ids((*row.prompt, *row.completion, *(id_ for decision in row.decided for id_ in decision.ids)), artifact)


def _check_ids(ids: Sequence[int], artifact: Artifact) -> None:
    outside = next((id_ for id_ in ids if not 0 <= id_ < artifact.vocab_size), None)
    if outside is not None:
        raise ValueError(f"token id {outside} is outside the vocabulary (0..{artifact.vocab_size - 1})")


def _header(data: dict[str, Any]) -> Header:
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema is {data.get('schema')!r}, this version reads {SCHEMA!r}")
    limits = data["tolerances"]
    return Header(
        met=bool(data["met"]),
        tolerance=float(limits["logit"]),
        format_tolerance=float(limits["format"]),
        reason=str(data.get("reason", "")),
        measured=data.get("measured"),
        probe=None if limits.get("probe") is None else float(limits["probe"]),
    )


def _plain(row: Row) -> dict[str, Any]:
    return {
        "request": row.request,
        "prompt": row.prompt,
        "completion": row.completion,
        "decided": [asdict(decision) for decision in row.decided],
        "reference_calls": [call.to_dict() for call in row.reference_calls],
        "reference_error": row.reference_error,
        "calls": [call.to_dict() for call in row.calls] if row.calls is not None else None,
        "margin": row.margin,
    }


def _row(data: dict[str, Any]) -> Row:
    def calls(items: Sequence[dict[str, Any]]) -> tuple[Call, ...]:
        return tuple(Call(str(c["name"]), dict(c["arguments"])) for c in items)

    decided = tuple(
        Decision(int(d["at"]), tuple(map(int, d["ids"])), tuple(map(float, d["logits"])), float(d["margin"]))
        for d in data["decided"]
    )
    if any(not 0 <= d.at < len(data["completion"]) for d in decided):
        raise ValueError("a decided position lies outside the completion")
    if any(not d.ids or len(d.ids) != len(d.logits) for d in decided):
        raise ValueError("a decided position without a logit for each of its ids")
    return Row(
        str(data["request"]),
        tuple(map(int, data["prompt"])),
        tuple(map(int, data["completion"])),
        decided,
        calls(data["reference_calls"]),
        data["reference_error"],
        calls(data["calls"]) if data["calls"] is not None else None,
        None if data["margin"] is None else float(data["margin"]),
    )
