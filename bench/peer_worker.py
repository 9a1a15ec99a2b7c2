"""The process that one peer has to itself. It answers the commands of `bench.worker` that a peer can: open, answer,
warm_up, floor, turn; and, in a process of its own, prepare.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.channel import Emit, serve
from bench.machine import device_memory_mb, peak_rss_mb
from bench.peer import Kind, Opening, kind_of, module_of
from bench.peer_asking import Asked, Prompts
from bench.routing import completion_limit, completion_of
from bench.suites import order
from bench.worker import TRIAL, timed_rows, warmed_up
from router.cases import Case, load_cases
from router.gbnf import gbnf
from router.tokenizer import RouterTokenizer
from router.toolset_load import load_json
from router.wire_format import wire_format
from runtimes.artifact import open_artifact
from runtimes.base import check_threads
from runtimes.errors import UserError

LONGEST_CONTEXT = 8192
"""Tokens of context where the model was trained with more: what the router's llama.cpp runtime allocates too."""


class PeerWorker:
    """The open peer and its cases."""

    def __init__(self) -> None:
        self._asked: Asked | None = None
        self.cases: dict[str, Case] = {}

    @property
    def asked(self) -> Asked:
        if self._asked is None:
            raise UserError("no peer is open; send 'open' first")
        return self._asked

    def prepare(self, emit: Emit, *, peer: str, source: str, folder: str, plugins: Sequence[str]) -> dict[str, Any]:
        """Let a peer write what it needs beside the artifact."""
        module = module_of(_kind(peer, plugins))
        module.prepare(open_artifact(source, check="sizes"), Path(folder), lambda line: emit({"line": line}))
        return {"folder": folder}

    def open(
        self, emit: Emit, *, folder: str, runtime: str, device: str, threads: int | None, cases: str,
        plugins: Sequence[str], log: str, patience_s: float, prepared: str | None, server: str | None,
        forced: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Load the peer called `runtime` and answer the first case, as `bench.worker` does; `forced`: as it is gold."""
        kind = _kind(runtime, plugins)
        artifact = open_artifact(folder, check="sizes")
        wire = wire_format(artifact.wire)
        tokenizer, toolset = RouterTokenizer.load(artifact.tokenizer, wire), load_json(artifact.toolset)
        self.cases = {case.id: case for case in load_cases(cases)}
        context_length = min(artifact.context_length, LONGEST_CONTEXT)
        prompts = Prompts(tokenizer, toolset, self.cases.values(), context_length=context_length)
        limit = completion_limit(tokenizer, toolset, self.cases.values())
        opening = Opening(
            kind=kind,
            artifact=artifact,
            prefix=prompts.prefix,
            stops=wire.stops,
            grammar=gbnf(toolset, wire) if kind.grammar else "",
            threads=check_threads(threads),
            limit=limit,
            context_length=context_length,
            log=Path(log),
            patience_s=patience_s,
            prepared=Path(prepared) if prepared else None,
            server=server,
            device=device,
        )
        begun = time.perf_counter()
        peer = module_of(kind).open_peer(opening)
        load_ms = (time.perf_counter() - begun) * 1e3
        golds = {case.id: completion_of(tokenizer, toolset, case.calls) for case in self.cases.values()}
        asked = self._asked = Asked(peer, prompts, limit, golds if forced else None)
        first = next(iter(self.cases.values()))
        asked.timed(first)
        emit({"answered": True})
        request_ms = asked.timed(first)["ms"]
        return {
            "load_ms": load_ms,
            "request_ms": request_ms,
            "device": peer.device,
            "dtype": peer.dtype,
            "threads": peer.threads,
            "context_length": context_length,
            "max_new_tokens": limit,
            "emulated": False,
            "versions": peer.versions,
            "pids": peer.pids,
            "differently_read": asked.differently_read(self.cases.values()),
        }

    def answer(
        self, emit: Emit, *, guesses: dict[str, str], always_route: bool, reference: str | None, seconds: float,
        cut: float, modes: Sequence[str],
    ) -> dict[str, Any]:  # fmt: skip
        """Answer every case, or as many as `seconds` suffice for; one event each. The order makes any beginning a fair
        sample. A peer has one way to answer, so it is told as the first of `modes`; nothing guides it (`guesses`).
        """
        begun, peer = time.monotonic(), self.asked.peer
        for done, case in enumerate(order(self.cases.values())):
            if done >= TRIAL and time.monotonic() - begun > seconds:
                break
            emit({"case": case.id, "mode": modes[0], "checked": False, **self.asked.route(case)})
        pids: list[int | None] = [*peer.pids] or [None]
        peaks = [peak for pid in pids if (peak := peak_rss_mb(pid)) is not None]
        return {
            "seconds": time.monotonic() - begun,
            "peak_rss_mb": sum(peaks) if peaks else None,
            "device_memory_mb": device_memory_mb(peer.device),
            "parity": None,
        }

    def warm_up(self, emit: Emit, *, requests: int) -> dict[str, Any]:
        return warmed_up(self.asked.timed, order(self.cases.values()), requests, emit)

    def floor(self, emit: Emit, *, case: str) -> dict[str, Any]:
        """A peer has none: it is not a loop of ours."""
        return {"passes": [], "error": None}

    def turn(self, emit: Emit, *, requests: list[int], floor_repeats: int) -> dict[str, Any]:
        """One block's turn."""
        rows = timed_rows(self.asked.timed, list(self.cases.values()), requests, emit)
        return {"requests": rows, "floor_ms": [], "floor_request_ms": []}

    def close(self) -> None:
        if self._asked is not None:
            self._asked.peer.close()


def _kind(name: str, plugins: Sequence[str]) -> Kind:
    for plugin in plugins:
        importlib.import_module(plugin)
    return kind_of(name)


def main(argv: Sequence[str] | None = None) -> int:
    worker = PeerWorker()
    commands = (worker.prepare, worker.open, worker.answer, worker.warm_up, worker.floor, worker.turn)
    try:
        return serve({command.__name__: command for command in commands})
    finally:
        worker.close()


if __name__ == "__main__":
    sys.exit(main())
