"""The process of one runtime and variant in a sweep: one model, a router for every point over it, each forced.

The cases are the points; each has a toolset of its own. Behind a point's timed requests its floor is timed, over the
same passes: both meet the machine as it was just then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from bench.channel import Emit, serve
from bench.forced import ForcedRouted
from bench.predict import sizes_of
from bench.routing import Routed
from bench.worker import Worker, timed_rows
from router.cases import Case
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.toolset_load import load_json
from router.wire_format import wire_format
from runtimes import open_model, runtime
from runtimes.artifact import open_artifact
from runtimes.base import BareLoop, Model
from runtimes.errors import UserError
from runtimes.llama_cpp import CONTEXT_VARIABLE


class Points(Routed):
    """Routers by case over one model; what a worker asks of one, each does for its case."""

    def __init__(self, model: Model, routed: dict[str, ForcedRouted]) -> None:
        super().__init__(model, next(iter(routed.values())).router)
        self.routed = routed

    def limit_to(self, cases: Iterable[Case]) -> int:
        return max(self.routed[case.id].limit_to([case]) for case in cases)

    def route(self, case: Case, *, grammar: bool = True) -> dict[str, Any]:
        return self.routed[case.id].route(case, grammar=grammar)

    def timed(self, case: Case) -> dict[str, Any]:
        return self.routed[case.id].timed(case)

    def passes_of(self, case: Case) -> tuple[list[int], list[Any]]:
        return self.routed[case.id].passes_of(case)


class ScalingWorker(Worker):
    """A worker whose cases are points."""

    def __init__(self) -> None:
        super().__init__()
        self.toolsets: dict[str, Toolset] = {}
        self.masked = False
        self.loops: dict[str, BareLoop] = {}

    def open(
        self, emit: Emit, *, toolsets: str, context: int, masked: bool = False, **arguments: Any
    ) -> dict[str, Any]:
        """`Worker.open`. `toolsets`: a file, case -> toolset. `context`: tokens that the longest point needs."""
        os.environ[CONTEXT_VARIABLE] = str(context)
        self.masked = masked
        for case, path in json.loads(Path(toolsets).read_text(encoding="utf-8")).items():
            self.toolsets[case] = load_json(Path(path))
        return super().open(emit, **arguments)

    def load(self, folder: str, runtime: str, device: str, threads: int | None) -> tuple[Routed, float]:
        artifact = open_artifact(folder, check="sizes")
        begun = time.perf_counter()
        model = open_model(artifact, runtime_name=runtime, device=device, threads=threads)
        load_ms = (time.perf_counter() - begun) * 1e3
        tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
        routed = {
            case: ForcedRouted(model, tokenizer, toolset, masked=self.masked) for case, toolset in self.toolsets.items()
        }
        return Points(model, routed), load_ms

    def answer(self, emit: Emit, **arguments: Any) -> dict[str, Any]:
        """`Worker.answer`, always pass by pass; every event tells ``cached_tokens``, where its first pass began, and
        its passes as fields of `bench.predict.Size`."""

        def told(event: dict[str, Any]) -> None:
            if "case" in event:
                prefix, passes = self.router.passes_of(self.cases[event["case"]])
                sizes = [astuple(size) for size in sizes_of(passes)]
                event["stats"] |= {"cached_tokens": len(prefix), "first_position": passes[0].start, "sizes": sizes}
            emit(event)

        return super().answer(told, **arguments | {"always_route": True})

    def warm_up(self, emit: Emit, *, requests: int) -> dict[str, Any]:
        """`Worker.warm_up`, every point once at least; the estimate counts the floor, which is timed as often."""
        return {"request_ms": 2 * super().warm_up(emit, requests=max(requests, len(self.cases)))["request_ms"]}

    def floor(self, emit: Emit, *, case: str) -> dict[str, Any]:
        """Prepare the floor's loop of every point; what is told is `case`'s."""
        told: dict[str, Any] = {}
        settings = self.settings
        artifact = open_artifact(settings["folder"], check="sizes")
        for one in self.cases.values():
            prefix, passes = self.router.passes_of(one)
            try:
                loop = runtime(settings["runtime"]).bare_loop(
                    artifact, device=settings["device"], threads=settings["threads"], prefix=prefix, passes=passes
                )
                loop()
                loop()
            except UserError as error:
                return {"passes": [], "error": " ".join(str(error).split())}
            self.loops[one.id] = loop
            emit({"floor": one.id})
            if one.id == case:
                told = {"passes": [len(p.tokens) for p in passes], "error": None}
        return told

    def turn(self, emit: Emit, *, requests: list[int], floor_repeats: int) -> dict[str, Any]:
        """One block's turn, point by point: its requests, then as often its floor, each behind an untimed one.

        ``floor_ms`` holds pairs of a case's index and the milliseconds of its loop.
        """
        cases = list(self.cases.values())
        rows: list[dict[str, Any]] = []
        floors: list[tuple[int, float]] = []
        for index in dict.fromkeys(requests):
            count = requests.count(index)
            rows += timed_rows(self.router.timed, cases, [index] * count, emit)
            loop = self.loops.get(cases[index].id)
            if loop is not None:
                loop()
                for _ in range(count):
                    begun = time.perf_counter_ns()
                    loop()
                    floors.append((index, (time.perf_counter_ns() - begun) / 1e6))
            emit({"done": len(rows)})
        return {"requests": rows, "floor_ms": floors, "floor_request_ms": []}


def main(argv: Sequence[str] | None = None) -> int:
    worker = ScalingWorker()
    commands = (worker.open, worker.answer, worker.warm_up, worker.floor, worker.turn)
    return serve({command.__name__: command for command in commands})


if __name__ == "__main__":
    sys.exit(main())
