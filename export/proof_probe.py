"""The probe of a proof: random tokens, and between them a logit of every token id.

Requests touch few rows of the embedding, and the highest logits are those of few ids. What was altered elsewhere in an
export would not show in them, so a proof also holds what the reference says behind random tokens: they are appended
`STEP` at a time, and of the last row of pass i out of n the logits of the ids i, i + n, i + 2n, … are kept, which is
one logit of each id.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtimes.artifact import Artifact
from runtimes.base import DROPPED, Logits, Model
from runtimes.errors import ArtifactError

LENGTH = 1024
FARTHEST = 4096
"""Tokens at most where an export holds something for every position, as tables of rotary angles: then it is probed as
far as its cache goes."""
STEP = 64


@dataclass(frozen=True)
class Probe:
    """The tokens, and the logits of each pass's ids in float32."""

    tokens: tuple[int, ...]
    logits: tuple[Logits, ...]

    def plain(self) -> dict[str, Any]:
        """As ``proof.jsonl`` holds it: logits as base64 of little-endian float32, a string for each pass."""
        return {
            "tokens": self.tokens,
            "logits": [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in self.logits],
        }

    @staticmethod
    def read(data: dict[str, Any]) -> Probe:
        """The inverse of `plain`. Raises `ValueError`, `TypeError` or `LookupError` for anything else."""
        tokens = tuple(map(int, data["tokens"]))
        logits = tuple(np.frombuffer(base64.b64decode(row, validate=True), "<f4") for row in data["logits"])
        if not tokens or len(logits) != _passes(len(tokens)):
            raise ValueError("the probe's passes are not those of its tokens")
        return Probe(tokens, logits)


def reach(artifact: Artifact) -> int:
    """How many tokens the probe of an artifact has: as many as its cache, where it was made for so many."""
    capacity = artifact.manifest.get("details", {}).get("context_length")
    return LENGTH if capacity is None else min(int(capacity), FARTHEST)


def make_probe(model: Model, length: int) -> Probe:
    """What `model`, the reference, says behind random tokens; the same tokens for one vocabulary every time."""
    count = min(length, model.context_length)
    tokens = tuple(random.Random(0).choices(range(model.vocab_size), k=count))
    return Probe(tokens, tuple(probe_logits(model, tokens)))


def probe_logits(model: Model, tokens: Sequence[int]) -> list[Logits]:
    """The probe's logits, pass by pass, as far as the model's context goes; a session of its own."""
    session = model.session()
    passes = _passes(len(tokens))
    rows = []
    for number in range(passes):
        part = tokens[number * STEP : (number + 1) * STEP]
        if session.position + len(part) > model.context_length:
            break
        rows.append(np.array(session.append(part)[number::passes], np.float32))
    return rows


def probe_error(probe: Probe, found: Sequence[Logits]) -> float:
    """The largest difference of a logit; NaN where one is NaN. Ids without an output row count where both have one.

    Raises `ArtifactError` where the model has another vocabulary than the probe.
    """
    worst = 0.0
    for want, got in zip(probe.logits, found, strict=False):
        if want.shape != got.shape:
            raise ArtifactError(
                f"the proof's probe has {want.size} logits in a pass, the model {got.size}; export again"
            )
        both = (want != DROPPED) & (got != DROPPED)
        if both.any():
            worst = float(np.maximum(worst, np.abs(want - got)[both].max()))
    return worst


def _passes(tokens: int) -> int:
    return -(-tokens // STEP)
