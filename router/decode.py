"""Greedy decoding over a Session's two verbs. Forward passes are the cost, so none is spent on what is already known.

Under a grammar the tokens that it forces are appended together with the decision before them, in one pass; a row of
logits is only asked for where there is a choice; and when the grammar is finished, so is decoding, without a pass.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import cast

from router.decode_run import Run
from router.decoded import MAX_NEW_TOKENS, Decision, Decoded, DecodeError, TieError
from router.grammar import Matcher
from router.guess import Guide, Prices
from runtimes.base import Batch, Logits, Pass, Session
from runtimes.errors import RoomError, UserError
from runtimes.shortlist import Shortlists


def decode(
    session: Session,
    request: Sequence[int],
    matcher: Matcher,
    *,
    context_length: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    record: bool = False,
    guide: Guide | None = None,
    tie: float = 0.0,
    prices: Prices | None = None,
) -> Decoded:
    """The best completion that the grammar allows behind what `session` holds and `request` (ids, at least one).

    With a `guide`, passes also check what it guesses; the completion is the same. Where the two best logits of such a
    pass lie within `tie` of each other the pass is made again without the guess, because a pass over more tokens rounds
    otherwise. Where the grammar allows few tokens and the session is a `Shortlists`, their logits alone are asked for,
    and all of them where the two best lie as near. Neither is done while decisions are recorded. `prices` learns what
    the passes cost.

    A grammar that cannot go on, or no end within `max_new_tokens`, is the result's `error`. Raises `DecodeError` for a
    full context (known beforehand where `context_length` is given) or logits that are not numbers, and whatever the
    session raises; then the session is as it was. After success it holds the request and part of the completion.
    """
    shortlist = session.shortlist_limit if isinstance(session, Shortlists) else 0
    run = Run(session.position, context_length, record, None if record else guide, tie, prices, shortlist)
    return _drive(session, run, run.constrained(request, matcher, max_new_tokens))


def decode_free(
    session: Session,
    request: Sequence[int],
    stop_ids: Collection[int],
    *,
    context_length: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    record: bool = False,
) -> Decoded:
    """The greedy completion without a grammar, up to and including the first of `stop_ids`. Errors as `decode`."""
    run = Run(session.position, context_length, record)
    return _drive(session, run, run.free(request, frozenset(stop_ids), max_new_tokens))


@dataclass(frozen=True)
class Job:
    """One request of `decode_many`: its ids and its walk, or none where there is no grammar."""

    request: Sequence[int]
    matcher: Matcher | None


def decode_many(
    batch: Batch,
    jobs: Iterable[Job],
    stop_ids: Collection[int],
    *,
    context_length: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    tie: float | None = None,
) -> Iterator[tuple[int, Decoded | UserError]]:
    """Decode requests side by side, each in a lane of `batch`, all of whose lanes hold what stands before the requests.

    Yields the number of a job with its result as it ends; what `decode` would raise for it is its result. A lane that
    is free takes the next job. Where the lanes together have no room, the one that began last is left out from then on
    and its job begins anew later; the result of one that has no room alone is a `RoomError`. Where the two best logits
    of a decision lie within `tie` of each other (None: nowhere), the job's result is a `TieError`: passes over several
    sequences round otherwise than those over one. What else a pass of the batch raises is raised; lanes are then as
    they were before it.
    """
    waiting = enumerate(jobs)
    again: list[tuple[int, Job]] = []
    free = list(range(batch.lanes))
    begun = {lane: batch.position(lane) for lane in free}
    running: dict[int, _Lane] = {}
    while True:
        while free and (found := again.pop() if again else next(waiting, None)) is not None:
            number, job = found
            run = Run(begun[free[-1]], context_length, False, tie=tie or 0.0, lane=tie is not None)
            steps = _steps(run, job, frozenset(stop_ids), max_new_tokens)
            try:
                one = next(steps)
            except StopIteration as end:  # nothing that a pass decides
                yield number, end.value
                continue
            except UserError as error:
                yield number, error
                continue
            running[free.pop()] = _Lane(number, job, run, steps, one)
        if not running:
            return
        for lane, it in running.items():
            if batch.position(lane) > it.one.start:
                batch.rewind(lane, it.one.start)
        clock = perf_counter()
        try:
            rows = batch.append([(lane, it.one.tokens, it.one.rows) for lane, it in running.items()])
        except RoomError as error:
            lane, it = running.popitem()
            batch.rewind(lane, begun[lane])
            if running:
                again.append((it.number, it.job))
            else:
                free.append(lane)
                yield it.number, error
            continue
        elapsed = perf_counter() - clock
        for (lane, it), logits in zip(list(running.items()), rows, strict=True):
            it.run.took(it.one, elapsed)
            try:
                it.one = it.steps.send(logits)
                continue
            except StopIteration as end:
                result: Decoded | UserError = end.value
            except UserError as error:
                result = error
            del running[lane]
            free.append(lane)
            batch.rewind(lane, begun[lane])
            yield it.number, result


@dataclass
class _Lane:
    """A job that a lane is busy with, and the pass that it asks for."""

    number: int
    job: Job
    run: Run
    steps: Generator[Pass, Logits, Decoded]
    one: Pass


def _steps(run: Run, job: Job, stops: frozenset[int], limit: int) -> Generator[Pass, Logits, Decoded]:
    if job.matcher is None:
        return run.free(job.request, stops, limit)
    return run.constrained(job.request, job.matcher.copy(), limit)  # so that the job can begin anew


def _drive(session: Session, run: Run, steps: Generator[Pass, Logits, Decoded]) -> Decoded:
    """Make the passes that a decoding asks for on one session."""
    try:
        one = next(steps)
        while True:
            if session.position > one.start:
                session.rewind(one.start)
            clock = perf_counter()
            if one.ids is None:
                logits = session.append(one.tokens, rows=one.rows)
            else:
                logits = cast(Shortlists, session).append_shortlist(one.tokens, one.ids, rows=one.rows)
            run.took(one, perf_counter() - clock)
            one = steps.send(logits)
    except StopIteration as end:
        if session.position > run.position:
            session.rewind(run.position)
        result: Decoded = end.value
        return result
    except BaseException:
        with suppress(UserError):  # a closed session cannot rewind; why it failed is what is told
            if session.position > run.start:
                session.rewind(run.start)
        raise


__all__ = [
    "MAX_NEW_TOKENS", "DecodeError", "Decision", "Decoded", "Job", "TieError", "decode", "decode_free", "decode_many",
]  # fmt: skip
