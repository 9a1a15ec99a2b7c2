"""The process that one runtime and variant has to itself: opens the router and does what the bench asks.

Commands: open, answer, record, margins, warm_up, floor, turn, speed. See `bench.process` for the
protocol; nothing here knows which runtime it is.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench import parity
from bench.channel import Emit, serve
from bench.machine import device_memory_mb, peak_rss_mb
from bench.records import MODES, Mode
from bench.routing import Routed, open_routed
from bench.suites import order
from router.cases import Case, load_cases
from runtimes import runtime
from runtimes.artifact import open_artifact
from runtimes.base import BareLoop, Logits
from runtimes.errors import UserError

TRIAL = 8
"""Cases that are routed pass by pass before it is decided whether there is time to route them all."""
COMPARED = 4096
"""Longest prompt and completion that parity looks at: every runtime has room for it."""
HEARTBEAT_S = 1.0
PREFILL_REPEATS, DECODE_TOKENS, SPEED_S, THROUGHPUT_S = 5, 32, 4.0, 3.0


class Worker:
    """The open router, and what has been prepared for timing."""

    def __init__(self) -> None:
        self.routed: Routed | None = None
        self.cases: dict[str, Case] = {}
        self.floor_loop: BareLoop | None = None
        self.floor_case: Case | None = None
        self.settings: dict[str, Any] = {}

    @property
    def router(self) -> Routed:
        if self.routed is None:
            raise UserError("no router is open; send 'open' first")
        return self.routed

    def load(self, folder: str, runtime: str, device: str, threads: int | None) -> tuple[Routed, float]:
        """The router that the commands below ask, and the milliseconds that opening its model took."""
        return open_routed(folder, runtime=runtime, device=device, threads=threads)

    def open(
        self, emit: Emit, *, folder: str, runtime: str, device: str, threads: int | None, cases: str,
        plugins: list[str],
    ) -> dict[str, Any]:  # fmt: skip
        """Load, and answer the first case; the event then sent ends what the caller times as the cold start."""
        for plugin in plugins:
            importlib.import_module(plugin)
        self.settings = {"folder": folder, "runtime": runtime, "device": device, "threads": threads}
        self.routed, load_ms = self.load(folder, runtime, device, threads)
        self.cases = {case.id: case for case in load_cases(cases)}
        first = next(iter(self.cases.values()))
        limit = self.routed.limit_to(self.cases.values())
        self.routed.route(first)
        emit({"answered": True})
        begun = time.perf_counter()
        self.routed.route(first)
        model = self.routed.model
        return {
            "load_ms": load_ms,
            "request_ms": (time.perf_counter() - begun) * 1e3,
            "device": model.device,
            "dtype": model.dtype,
            "threads": model.threads,
            "vocab_size": model.vocab_size,
            "context_length": model.context_length,
            "max_new_tokens": limit,
            "emulated": bool(getattr(model, "emulated", False)),
            "versions": versions(runtime),
        }

    def answer(
        self, emit: Emit, *, guesses: dict[str, str], always_route: bool, reference: str | None, seconds: float,
        cut: float, modes: Sequence[Mode] = MODES,
    ) -> dict[str, Any]:  # fmt: skip
        """Answer every case in all `modes` and compare its logits with the reference's; one event per answer.

        The order makes any beginning a fair sample. Cases are routed pass by pass while `seconds` suffice for all of
        them at that pace. From there on they are decoded along a guess (the reference's completion of that mode, or
        the gold one), which takes one pass for both modes and the comparison; `always_route` spares the grammar's
        answers that. `cut` seconds end it all.
        """
        router, begun = self.router, time.monotonic()
        known = {mode: json.loads(Path(path).read_text()) for mode, path in guesses.items()}
        comparison = parity.Comparison(Path(reference)) if reference else None
        cases, peak, late = self._ordered(), None, list[Case]()
        checking = False
        for done, case in enumerate(cases):
            spent = time.monotonic() - begun
            if spent > cut and done:
                break
            if done >= TRIAL and spent / done * len(cases) > seconds:
                checking = True
            for mode in modes:
                along = checking and not (always_route and mode == "grammar")
                if along:
                    guess = known.get(mode, {}).get(case.id) or router.gold_ids(case)
                    result = router.route_along(case, guess, grammar=mode == "grammar")
                else:
                    result = router.route(case, grammar=mode == "grammar")
                emit({"case": case.id, "mode": mode, "checked": along, **result})
            late.append(case)
            if done + 1 >= min(TRIAL, len(cases)):
                # Before the second sequence, which guesses and comparisons need: memory as a user sees it.
                peak = peak or peak_rss_mb()
                while comparison is not None and late:
                    comparison.case(late.pop().id, self._rows)
        if comparison is not None:
            comparison.case("", self._rows)
        return {
            "seconds": time.monotonic() - begun,
            "peak_rss_mb": peak or peak_rss_mb(),
            "device_memory_mb": device_memory_mb(router.model.device),
            "parity": None if comparison is None else comparison.summary(),
        }

    def record(self, emit: Emit, *, path: str, own: str, window: int) -> dict[str, Any]:
        """Write the reference's rows for the gold completions, its own outputs and random tokens."""
        router = self.router
        outputs: dict[str, list[int]] = json.loads(Path(own).read_text())
        sequences = [
            parity.random_tokens(router.model.vocab_size, router.model.context_length, window, router.tokenizer.bos_id)
        ]
        room = min(router.model.context_length, COMPARED)
        for case in self._ordered():
            request = router.request_ids(case)
            gold, output = router.gold_ids(case), outputs.get(case.id, [])
            both = [("gold", gold)]
            if output != gold[: len(output)]:  # else its rows are among the gold completion's
                both.append(("own", output))
            for kind, tokens in both:
                sequence = parity.completion(kind, case.id, request, tokens)
                if sequence is not None and len(router.prefix_ids) + len(sequence.tokens) <= room:
                    sequences.append(sequence)
        beat = time.monotonic()

        def tick(done: int) -> None:
            nonlocal beat
            if time.monotonic() - beat > HEARTBEAT_S / 4:
                beat = time.monotonic()
                emit({"done": done})

        rows = parity.record(sequences, self._rows, Path(path), tick)
        return {"rows": rows, "sequences": len(sequences)}

    def margins(self, emit: Emit, *, items: list[dict[str, Any]]) -> dict[str, Any]:
        """For each item, the logit of token `a` over that of `b` behind the request and the tokens `before`."""
        router, out = self.router, []
        for item in items:
            case = self.cases[item["case"]]
            row = router.row_behind([*router.request_ids(case), *item["before"]])
            names = [router.tokenizer.decode([item[key]]) for key in ("a", "b")]
            out.append({"case": case.id, "margin": float(row[item["a"]] - row[item["b"]]), "tokens": names})
            emit({"done": len(out)})
        return {"margins": out}

    def warm_up(self, emit: Emit, *, requests: int) -> dict[str, Any]:
        return warmed_up(self.router.timed, self._ordered(), requests, emit)

    def floor(self, emit: Emit, *, case: str) -> dict[str, Any]:
        """Prepare the runtime's own loop over the passes that routing `case` takes here."""
        router = self.router
        self.floor_case = self.cases[case]
        prefix, passes = router.passes_of(self.floor_case)
        sizes = [len(one.tokens) for one in passes]
        settings = self.settings
        try:
            self.floor_loop = runtime(settings["runtime"]).bare_loop(
                open_artifact(settings["folder"], check="sizes"),
                device=settings["device"], threads=settings["threads"], prefix=prefix, passes=passes,
            )  # fmt: skip
            self.floor_loop()
            self.floor_loop()
        except UserError as error:
            return {"passes": sizes, "error": " ".join(str(error).split())}
        return {"passes": sizes, "error": None}

    def turn(self, emit: Emit, *, requests: list[int], floor_repeats: int) -> dict[str, Any]:
        """One block's turn: the requests, then the floor."""
        rows = timed_rows(self.router.timed, list(self.cases.values()), requests, emit)
        floor, routed = [], []
        if self.floor_loop is not None and self.floor_case is not None:
            for _ in range(floor_repeats):
                routed.append(self.router.timed(self.floor_case)["ms"])
                begun = time.perf_counter_ns()
                self.floor_loop()
                floor.append((time.perf_counter_ns() - begun) / 1e6)
        return {"requests": rows, "floor_ms": floor, "floor_request_ms": routed}

    def speed(self, emit: Emit, *, case: str) -> dict[str, Any]:
        """Tokens a second: a whole prompt into an empty cache, and single tokens behind it. Medians."""
        router = self.router
        prompt = [*router.prefix_ids, *router.request_ids(self.cases[case])]
        follow = (router.gold_ids(self.cases[case]) * DECODE_TOKENS)[:DECODE_TOKENS]
        session = router.model.session()
        session.append(prompt)
        prefill: list[float] = []
        decode: list[float] = []
        begun = time.monotonic()
        while len(prefill) < PREFILL_REPEATS and (not prefill or time.monotonic() - begun < SPEED_S):
            session.rewind(0)
            prefill.append(_seconds(partial(session.append, prompt)))
            for token in follow:
                decode.append(_seconds(partial(session.append, [token])))
            emit({"done": len(prefill)})
        found = router.throughput(self._ordered(), THROUGHPUT_S, lambda done: emit({"done": done}))
        return {"prefill_tok_s": len(prompt) / median(prefill), "decode_tok_s": 1 / median(decode), "throughput": found}

    def _ordered(self) -> list[Case]:
        return order(self.cases.values())

    def _rows(self, sequence: parity.Forced) -> Logits:
        router = self.router
        return parity.rows_of(sequence, router.session, len(router.prefix_ids), router.model)


Clocked = Callable[[Case], dict[str, Any]]
"""Answers one case on the clock: ``ms``, ``first_decision_ms``, ``calls``."""


def warmed_up(timed: Clocked, cases: Sequence[Case], requests: int, emit: Emit) -> dict[str, Any]:
    """Untimed requests; their median estimates how many timed ones fit."""
    times = []
    for number in range(max(1, requests)):
        times.append(timed(cases[number % len(cases)])["ms"])
        emit({"done": number + 1})
    return {"request_ms": median(times)}


def timed_rows(timed: Clocked, cases: Sequence[Case], requests: Sequence[int], emit: Emit) -> list[dict[str, Any]]:
    """An untimed request (the others' turns emptied the caches), then those at the indexes `requests` on the clock."""
    gc.collect()
    timed(cases[requests[0]])
    rows, beat = [], time.monotonic()
    for index in requests:
        rows.append({"index": index, **timed(cases[index])})
        if time.monotonic() - beat > HEARTBEAT_S:
            beat = time.monotonic()
            emit({"done": len(rows)})
    return rows


def versions(name: str) -> dict[str, str]:
    """The runtime's distributions and their versions, as it tells them ("mlx 0.32.4, mlx-lm 0.29.1", or a number)."""
    from importlib.metadata import packages_distributions

    out: dict[str, str] = {}
    for part in (runtime(name).availability().version or "").split(","):
        package, _, number = part.strip().rpartition(" ")
        if number:
            out[package or packages_distributions().get(name, [name])[0].replace("_", "-")] = number
    return out


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main(argv: Sequence[str] | None = None) -> int:
    worker = Worker()
    commands = (
        worker.open, worker.answer, worker.record, worker.margins, worker.warm_up, worker.floor,
        worker.turn, worker.speed,
    )  # fmt: skip
    return serve({command.__name__: command for command in commands})


if __name__ == "__main__":
    sys.exit(main())
