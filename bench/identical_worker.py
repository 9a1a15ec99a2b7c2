"""The process of one artifact that answers the same cases in several ways: `bench.worker`, for `bench identical`.

Commands: open, ask, margins, rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from bench.channel import Emit, serve
from bench.routing import Routed, open_routed, told
from bench.worker import Worker
from router.cases import Case
from router.core import Router
from runtimes.base import Batches, Logits

TOGETHER: Final = 4
"""Cases of one `route_many` for each of its lanes: lanes are freed and taken again, and answers come meanwhile."""


class IdenticalWorker(Worker):
    """A worker whose plain answers are made one by one, without guesses."""

    def __init__(self) -> None:
        super().__init__()
        self._guessing: Routed | None = None

    def load(self, folder: str, runtime: str, device: str, threads: int | None) -> tuple[Routed, float]:
        return open_routed(folder, runtime=runtime, device=device, threads=threads, guess=False)

    def open(self, emit: Emit, **arguments: Any) -> dict[str, Any]:
        """`Worker.open`; also ``tie``, the margin under which the router trusts no other rounding, and ``lanes``."""
        opened = super().open(emit, **arguments)
        return opened | {"tie": self.router.router.tie, "lanes": self.router.lanes}

    def ask(self, emit: Emit, *, way: str, cases: list[str]) -> dict[str, Any]:
        """Answer `cases` one by one (``plain``), with every guess that there is (``guess``), or at once (``lanes``).

        One event each; returns how many tokens were guessed, and how many of them stayed.
        """
        wanted = [self.cases[case] for case in cases]
        guessed = right = 0
        for case, answer in self._together(wanted) if way == "lanes" else self._alone(wanted, way):
            stats = answer.pop("stats")
            guessed += stats.get("guessed_tokens", 0)
            right += stats.get("guessed_right", 0)
            emit({"case": case.id, "token_ids": answer["token_ids"], "error": answer["error"], "text": answer["text"]})
        return {"guessed": guessed, "right": right}

    def rounding(self, emit: Emit, *, items: list[dict[str, Any]]) -> dict[str, Any]:
        """How far the two best tokens' distance moves between passes over one token and over many, at most.

        `items`: cases with the ids behind each. ``many``: all of a completion in one pass; ``lanes``: token by token
        in as many sequences at once, None where the runtime has them one by one. ``rows``: positions compared.
        """
        router = self.router
        model, prefix = router.model, router.prefix_ids
        session = model.session()
        session.append(prefix)
        batch = model.batch(router.lanes, prefix) if isinstance(model, Batches) and router.lanes > 1 else None
        worst: dict[str, float] = {"many": 0.0} | ({} if batch is None else {"lanes": 0.0})
        rows = 0
        for item in items:
            request, follow = router.request_ids(self.cases[item["case"]]), item["token_ids"][:-1]
            if len(prefix) + len(request) + len(follow) > model.context_length:
                continue
            steps = [request, *([token] for token in follow)]
            alone = [session.append(step).copy() for step in steps]
            session.rewind(len(prefix))
            offsets = range(len(request) - 1, len(request) + len(follow))
            many = session.append([*request, *follow], rows=offsets)
            worst["many"] = max(worst["many"], moved(alone, many))
            session.rewind(len(prefix))
            if batch is not None:
                lanes = range(router.lanes)
                some = [batch.append([(lane, step, "last") for lane in lanes])[0].copy() for step in steps]
                worst["lanes"] = max(worst["lanes"], moved(alone, some))
                for lane in lanes:
                    batch.rewind(lane, len(prefix))
            rows += len(steps)
            emit({"done": rows})
        if batch is not None:
            batch.close()
        return {"rows": rows, "many": worst["many"], "lanes": worst.get("lanes")}

    def _alone(self, cases: Sequence[Case], way: str) -> Iterator[tuple[Case, dict[str, Any]]]:
        routed = self._guesser() if way == "guess" else self.router
        for case in cases:
            yield case, routed.route(case)

    def _together(self, cases: Sequence[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
        size = TOGETHER * self.router.lanes
        for some in (cases[start : start + size] for start in range(0, len(cases), size)):
            yield from zip(some, map(told, self.router.together(some)), strict=True)

    def _guesser(self) -> Routed:
        """A router over the same model that guesses whether it pays or not."""
        if self._guessing is None:
            own = self.router
            router = Router.from_model(own.model, own.tokenizer, own.router.toolset, guess="always")
            self._guessing = Routed(own.model, router)
            self._guessing.limit = own.limit
        return self._guessing


def moved(ones: Sequence[Logits], others: Sequence[Logits]) -> float:
    """By how much the distance of the two best tokens of a row differs between two computations of it, at most."""
    most = 0.0
    for one, other in zip(ones, others, strict=True):
        first, second = np.argpartition(one, -2)[-2:]
        most = max(most, abs(float(one[first] - one[second]) - float(other[first] - other[second])))
    return most


def main(argv: Sequence[str] | None = None) -> int:
    worker = IdenticalWorker()
    commands = (worker.open, worker.ask, worker.margins, worker.rounding)
    return serve({command.__name__: command for command in commands})


if __name__ == "__main__":
    sys.exit(main())
