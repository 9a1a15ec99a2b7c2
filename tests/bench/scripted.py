"""A runtime for tests whose answers come from a script: right or wrong, slow, crashing or hanging, as told.

As a plugin it registers itself (and its format) in every worker; in the test's process `conftest.py` does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.base import Checkpoint, Quant, Written
from export.mixed import CLASSES, Scheme, parse, spec_of
from export.pipeline import EXPORTERS
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset, to_dict
from runtimes import FORMATS, RUNTIMES
from runtimes.artifact import PROOF, SCHEMA, TOKENIZER, TOOLSET, Artifact, open_artifact, sha256_file, write_manifest
from runtimes.base import (
    Availability,
    BareLoop,
    Logits,
    Pass,
    Rows,
    check_append,
    check_rewind,
    check_rows,
    row_offsets,
)  # fmt: skip
from runtimes.errors import UnavailableError
from tests.fake import FakeBatch

FORMAT = "scripted"
RUNTIME = "scripted"
QUANTS = {name: Quant(bits, name, 1.0) for name, bits in (("a", 32), ("b", 32), ("c", 32), ("d", 32), ("e", 8))}
DEFAULT_QUANTS = ("a", "b")
SCHEME = Scheme("scripted", types=QUANTS, presets={name: dict.fromkeys(CLASSES, name) for name in QUANTS})

REGISTRATIONS: tuple[tuple[dict[str, str], str, str], ...] = (
    (RUNTIMES, RUNTIME, __name__),
    (FORMATS, FORMAT, RUNTIME),
    (EXPORTERS, FORMAT, __name__),
)

if "pytest" not in sys.modules:  # a worker; in the test process a fixture registers it, for these tests alone
    for registry, name, target in REGISTRATIONS:
        registry[name] = target


def availability() -> Availability:
    return Availability(True, "scripted 1.0")


def write(source: Checkpoint, folder: Path, quant: str, toolset: Toolset) -> Written:
    raise AssertionError("nothing is exported here: tests make their artifacts with `make`")


def make(
    folder: Path, tokenizer_json: Path, toolset: Toolset, quant: str, answers: dict[str, list[Call]], **script: Any
) -> Artifact:
    """An artifact that answers each request (a user's words) with the calls given, and nothing to others.

    `script`: ``delay_ms`` a pass; ``noise`` of the logits; ``crash_at``/``hang_at``: the number of the pass that does;
    ``unavailable``: why the device is not there; ``lanes``: sequences are computed at once too, ``right`` or ``wrong``.
    """
    folder.mkdir(parents=True)
    (folder / TOKENIZER).write_bytes(tokenizer_json.read_bytes())
    tokenizer = RouterTokenizer.load(folder / TOKENIZER)
    completions = [
        {"request": tokenizer.request_ids(user), "completion": tokenizer.completion_ids(calls)}
        for user, calls in answers.items()
    ]
    vocab = tokenizer.vocab_size
    stop = tokenizer.control_id("end_turn")
    data = {"answers": completions, "stop": stop, "prefix": len(tokenizer.prefix_ids(toolset)), **script}
    (folder / "script.json").write_text(json.dumps(data))
    (folder / TOOLSET).write_text(json.dumps(to_dict(toolset)))
    (folder / PROOF).write_text("")
    files = [
        {"path": p.name, "bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in sorted(folder.iterdir())
    ]  # fmt: skip
    source = {"name": "script", "sha256": "5" * 64, "parameters": 1}
    manifest = {
        "schema": SCHEMA, "format": FORMAT, "quant": quant,
        "precision": spec_of(SCHEME, parse(SCHEME, quant)).precision,
        "weights": "script.json", "wire": "functiongemma", "context_length": 4096, "vocab_size": vocab,
        "source": source, "files": files, "versions": {}, "details": {},
    }  # fmt: skip
    write_manifest(folder, manifest)
    return open_artifact(folder)


def open_model(artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> ScriptedModel:
    model = ScriptedModel(artifact, device)
    return LanesModel(artifact, device) if model.script.get("lanes") else model


def bare_loop(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
    prefix: Sequence[int],
    passes: Sequence[Pass],
) -> BareLoop:
    session = ScriptedModel(artifact, device).session()
    session.append(prefix)

    def run() -> None:
        for start, tokens, rows, _ in passes:
            session.rewind(start)
            session.append(tokens, rows=rows)

    return run


class ScriptedModel:
    def __init__(self, artifact: Artifact, device: str) -> None:
        self.script = json.loads(artifact.weights.read_text())
        if self.script.get("unavailable"):
            raise UnavailableError(self.script["unavailable"])
        self.vocab_size, self.context_length = artifact.vocab_size, artifact.context_length
        self.device = "cpu" if device == "auto" else device
        self.dtype, self.threads = artifact.quant, 1
        self.passes = 0

    def session(self) -> ScriptedSession:
        return ScriptedSession(self)

    def close(self) -> None:
        pass


class ScriptedSession:
    def __init__(self, model: ScriptedModel) -> None:
        self.model, self.tokens = model, []

    @property
    def position(self) -> int:
        return len(self.tokens)

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        model = self.model
        check_append(tokens, position=self.position, vocab_size=model.vocab_size, context_length=model.context_length)
        check_rows(rows, len(tokens))
        self._misbehave()
        out = []
        for token in tokens:
            self.tokens.append(int(token))
            out.append(self._row())
        return out[-1] if rows == "last" else np.stack([out[o] for o in row_offsets(rows, len(tokens))])

    def rewind(self, position: int) -> None:
        check_rewind(position, position=self.position)
        del self.tokens[position:]

    def _row(self) -> Logits:
        """The script's next token stands out; the rest is noise that depends on the position."""
        script = self.model.script
        rng = np.random.default_rng(len(self.tokens))
        row = rng.standard_normal(self.model.vocab_size).astype(np.float32)
        if script.get("noise"):
            row += script["noise"] * np.random.default_rng([1, len(self.tokens)]).standard_normal(len(row))
        row[self._next()] += 30
        return row.astype(np.float32)

    def _next(self) -> int:
        script = self.model.script
        behind = self.tokens[script["prefix"] :]
        for answer in script["answers"]:
            whole = answer["request"] + answer["completion"]
            if len(answer["request"]) <= len(behind) < len(whole) and whole[: len(behind)] == behind:
                return int(whole[len(behind)])
        return int(script["stop"])

    def _misbehave(self) -> None:
        script, model = self.model.script, self.model
        model.passes += 1
        if model.passes == script.get("crash_at"):
            print("the script says: crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if model.passes == script.get("hang_at"):
            time.sleep(3600)
        if script.get("delay_ms"):
            time.sleep(script["delay_ms"] / 1e3)


class LanesModel(ScriptedModel):
    """One that computes several sequences at once."""

    def batch(self, lanes: int, prefix: Sequence[int]) -> ScriptedBatch:
        return ScriptedBatch(self, lanes, prefix)


class ScriptedBatch(FakeBatch):
    """Lanes as scripted sessions, which may compute something else than a session alone does."""

    def __init__(self, model: ScriptedModel, lanes: int, prefix: Sequence[int]) -> None:
        super().__init__([ScriptedSession(model) for _ in range(lanes)], prefix)
        self.sign = -1 if model.script["lanes"] == "wrong" else 1

    def append(self, passes: Sequence[tuple[int, Sequence[int], Rows]]) -> list[Logits]:
        return [self.sign * rows for rows in super().append(passes)]
