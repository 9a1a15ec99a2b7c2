"""A peer for tests: answers from the script of a scripted artifact (`tests.bench.scripted`), and misbehaves as told.

As a plugin it registers itself in every worker; in the test's process `conftest.py` does. ``peer`` in the artifact's
script: ``wrong`` (how many cases it gets wrong), ``delay_ms``, ``crash_at``, ``fail_at``, ``unavailable``, ``endless``,
``stubborn`` (takes no given tokens).
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

import tests.bench.scripted  # noqa: F401 - its plugin registers the artifact's format
from bench.peer import PEERS, Completion, Kind, Opening, Peer
from router.tokenizer import RouterTokenizer
from runtimes.base import Availability
from runtimes.errors import UnavailableError, UserError

KINDS = {
    "parrot": Kind(__name__, "a parrot", "scripted", "a"),
    "preparing-parrot": Kind(__name__ + "_preparing", "a parrot with a nest", "scripted", "a", made="nest"),
}

if "pytest" not in sys.modules:
    PEERS.update(KINDS)


def availability(server: str | None) -> Availability:
    if os.environ.get("NO_PARROT"):
        return Availability(False, reason="there is no parrot here", fix="catch one")
    return Availability(True, "1.0")


def open_peer(opening: Opening) -> Peer:
    return Parrot(opening)


class Parrot:
    device, dtype, threads, versions = "cpu", "words", 1, {"parrot": "1.0"}
    pids: list[int] = []

    def __init__(self, opening: Opening) -> None:
        artifact = opening.artifact
        script: dict[str, Any] = json.loads(artifact.weights.read_text())
        self.script = script.get("peer", {})
        if self.script.get("unavailable"):
            raise UnavailableError(self.script["unavailable"])
        self.tokenizer = RouterTokenizer.load(artifact.tokenizer)
        self.answers = [
            (self.tokenizer.decode(one["request"]), self.tokenizer.decode(one["completion"]))
            for one in script["answers"]
        ]
        self.wrong = {request for request, _ in self.answers[: self.script.get("wrong", 0)]}
        self.asked = 0

    def complete(self, prompt: str, along: Sequence[int] = ()) -> Completion:
        self.asked += 1
        if self.asked == self.script.get("crash_at"):
            print("the parrot says: crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.asked == self.script.get("fail_at"):
            raise UserError("the parrot is tired; let it rest")
        time.sleep(self.script.get("delay_ms", 0) / 1e3)
        if self.script.get("endless"):
            return Completion("and so on", False, passes=99)
        if along and not self.script.get("stubborn"):
            return Completion(self.tokenizer.decode(along), True, list(along), len(along))
        for request, completion in self.answers:
            if prompt.endswith(request):
                text = "I do not know<end_of_turn>" if request in self.wrong else completion
                return Completion(text, True, passes=len(self.tokenizer.encode(text)))
        return Completion("<end_of_turn>", True, passes=1)

    def prompt_ids(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt)

    def close(self) -> None:
        Path(os.environ.get("PARROT_CLOSED", os.devnull)).touch()
