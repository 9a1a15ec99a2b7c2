"""The process of one runtime and variant that is decoded along the gold calls: `bench.worker`, forced."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from bench.channel import Emit, serve
from bench.forced import open_forced
from bench.routing import Routed
from bench.worker import Worker


class ForcedWorker(Worker):
    """A worker whose answers are the cases' own."""

    masked = False

    def load(self, folder: str, runtime: str, device: str, threads: int | None) -> tuple[Routed, float]:
        return open_forced(folder, runtime=runtime, device=device, threads=threads, masked=self.masked)

    def open(self, emit: Emit, *, masked: bool = False, **arguments: Any) -> dict[str, Any]:
        """`Worker.open`. `masked`: every decision is masked (`bench.forced`)."""
        self.masked = masked
        return super().open(emit, **arguments)

    def answer(self, emit: Emit, **arguments: Any) -> dict[str, Any]:
        """`Worker.answer`, always pass by pass: there is nothing to guess."""
        return super().answer(emit, **arguments | {"always_route": True})


def main(argv: Sequence[str] | None = None) -> int:
    worker = ForcedWorker()
    commands = (worker.open, worker.answer, worker.warm_up, worker.floor, worker.turn)
    return serve({command.__name__: command for command in commands})


if __name__ == "__main__":
    sys.exit(main())
