"""The stages that need a quiet machine: latency in shuffled blocks, the floor, prefill and decode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.fleet import Member
from bench.machine import FOREIGN_CORES, SLOW, calibrate, cpu_times, foreign_cores, load_average
from bench.records import Answer, Run, Timed, calls_from
from bench.report import median_case
from bench.schedule import Block, Turn, plan, request_counts
from bench.stats import percentile
from router.cases import Case, same_calls

if TYPE_CHECKING:
    from bench.run import Bench

LEAST = 0.12
"""Part of the whole budget that timed requests get even where accuracy took longer than planned."""
FLOOR_REPEATS = 60
"""Runs of the floor's loop in all, spread over the blocks."""


def latency(bench: Bench, number: int, stages: int, members: Sequence[Member]) -> None:
    """`timing` as a stage of a bench."""
    told = "turns in shuffled blocks; this machine should be left alone now"
    bench.stage(number, stages, "Latency", told, lambda: timing(bench, members))


def timing(bench: Bench, members: Sequence[Member]) -> None:
    """Warm-up, then shuffled blocks of timed requests, the floor's loop among them."""
    settings, screen = bench.settings, bench.screen
    ready: list[Member] = []
    each: dict[str, float] = {}
    case = floor_case(bench, [member.run for member in members])
    for member in members:
        warm = member.attempt("latency", partial(member.call, "warm_up", requests=settings.warmup), screen.failed)
        if warm is None:
            continue
        each[member.run.name] = warm["request_ms"] / 1e3
        floor = member.attempt("latency", partial(member.call, "floor", loading=True, case=case.id), screen.failed)
        if floor is not None:
            member.run.floor = {"case": case.id, "passes": floor["passes"], "ms": [], "request_ms": []}
            if floor["error"]:
                member.run.warnings.append(f"no floor: {floor['error']}")
            ready.append(member)
    if not ready:
        return
    repeats = _floor_repeats(settings.blocks)
    budget = max(bench.left * 0.9, LEAST * settings.budget_s)
    counts = request_counts(
        {m.run.name: each[m.run.name] for m in ready},
        requests=settings.requests, budget=budget, blocks=settings.blocks,
        untimed={m.run.name: 1 + 2 * repeats * bool(m.run.floor["passes"]) for m in ready},
    )  # fmt: skip
    blocks = plan(counts, cases=len(bench.suite.cases), blocks=settings.blocks, seed=settings.seed)
    by_name = {member.run.name: member for member in ready}
    readings = []
    with screen.progress() as bars:
        bars.start("blocks", len(blocks))
        for block in blocks:
            readings.append(_block(bench, block, by_name))
            bars.update("blocks", block.index + 1)
    bench.blocks = _flag(readings)
    busy = sum(block["busy"] for block in bench.blocks)
    for member in ready:
        _tell_times(bench, member)
    if busy:
        screen.say(f"  note: the machine was busy with other work in {busy} of {len(blocks)} blocks: times may be high")


def floor_case(bench: Bench, runs: Sequence[Run]) -> Case:
    """A typical request: the median by the reference's cost, or by the first run's that answered."""
    sources = [bench.reference] if bench.reference is not None else []
    for run in [*sources, *runs]:
        routed = {case: answer for case, answer in run.answers["grammar"].items() if not answer.checked}
        found = median_case(bench.suite.cases, routed)
        if found is not None:
            return found
    return bench.suite.cases[0]


def _block(bench: Bench, block: Block, members: dict[str, Member]) -> dict[str, Any]:
    """All turns of a block, and how the machine was meanwhile."""
    pids = [pid for member in members.values() for pid in member.pids]
    calibration = calibrate()
    before, begun = cpu_times(pids), time.monotonic()
    for turn in block.turns:
        member = members[turn.worker]
        member.attempt("latency", partial(_turn, bench, member, turn, block.index), bench.screen.failed)
    return {
        "index": block.index,
        "seconds": round(time.monotonic() - begun, 3),
        "load_average": load_average(),
        "calibration_ms": round(calibration, 3),
        "foreign_cores": foreign_cores(before, cpu_times(pids)),
        "order": [turn.worker for turn in block.turns],
    }


def _turn(bench: Bench, member: Member, turn: Turn, block: int) -> None:
    run = member.run
    # A slow worker has few requests in a turn; the floor must not take more time than they do.
    repeats = min(_floor_repeats(bench.settings.blocks), max(1, len(turn.cases) // 3))
    result = member.call("turn", requests=list(turn.cases), floor_repeats=repeats)
    for row in result["requests"]:
        case = bench.suite.cases[row["index"]]
        calls = None if row["calls"] is None else calls_from(row["calls"])
        run.timed.append(Timed(case.id, row["ms"], row["first_decision_ms"], block, calls, row.get("parts")))
    run.floor["ms"] += result["floor_ms"]
    run.floor["request_ms"] += result["floor_request_ms"]


def _floor_repeats(blocks: int) -> int:
    """In each block, so that all blocks together reach `FLOOR_REPEATS`."""
    return max(1, -(-FLOOR_REPEATS // blocks))


def _flag(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark the blocks in which the machine was slower than at its best, or busy with the work of others."""
    best = min(reading["calibration_ms"] for reading in readings)
    return [
        reading
        | {
            "busy": reading["calibration_ms"] > SLOW * best
            or (reading["foreign_cores"] is not None and reading["foreign_cores"] > FOREIGN_CORES)
        }
        for reading in readings
    ]


def _tell_times(bench: Bench, member: Member) -> None:
    run = member.run
    times = [timed.ms for timed in run.timed]
    if not times:
        return
    changed = {t.case for t in run.timed if not _as_judged(bench, run.answers["grammar"].get(t.case), t)}
    if changed:
        run.warnings.append(f"{len(changed)} cases were answered differently when they were timed")
    bench.screen.done(
        run.name,
        f"p50 {percentile(times, 50):8.2f} ms   p95 {percentile(times, 95):8.2f} ms   of {len(times)} requests",
    )


def _as_judged(bench: Bench, answer: Answer | None, timed: Timed) -> bool:
    if answer is None:
        return True
    if answer.calls is None or timed.calls is None:
        return answer.calls is None and timed.calls is None
    return same_calls(answer.calls, timed.calls, bench.toolset)


def speeds(bench: Bench, members: Sequence[Member]) -> None:
    """Prefill and decode in tokens a second."""
    case = floor_case(bench, [member.run for member in members])
    for member in members:
        found = member.attempt("speeds", partial(member.call, "speed", case=case.id), bench.screen.failed)
        if found is not None:
            member.run.speed = found
            bench.screen.done(
                member.run.name,
                f"prefill {found['prefill_tok_s']:10,.0f} tokens/s   decode {found['decode_tok_s']:8,.0f} tokens/s",
            )
