"""Who measures when: workers take turns in shuffled blocks, and slow ones do fewer requests.

A slow minute of the machine then hits all alike, and a runtime twenty times slower than the others does not eat
their time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One worker's part of a block: the requests (indexes of cases) to route, one after another."""

    worker: str
    cases: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    index: int
    turns: tuple[Turn, ...]


def allocate(wants: Mapping[str, float], total: float) -> dict[str, float]:
    """Share `total` seconds max-min fairly: nobody gets more than wanted, what one leaves goes to the others."""
    shares: dict[str, float] = {}
    left = total
    for done, name in enumerate(sorted(wants, key=lambda n: (wants[n], n))):
        shares[name] = max(0.0, min(wants[name], left / (len(wants) - done)))
        left -= shares[name]
    return shares


def request_counts(
    seconds_each: Mapping[str, float],
    *,
    requests: int,
    budget: float,
    blocks: int,
    least: int = 20,
    untimed: int | Mapping[str, int] = 0,
) -> dict[str, int]:
    """Timed requests of each worker: `requests`, or fewer where its share of `budget` seconds does not reach.

    `seconds_each` is a request's estimated duration; `untimed` as many more are made in every block, by all or by name.
    At least `least` (or `requests`, if that is fewer) are timed. Reduced counts are multiples of the number of blocks
    where they can be.
    """
    more = dict.fromkeys(seconds_each, untimed) if isinstance(untimed, int) else untimed
    extra = {name: count * blocks for name, count in more.items()}
    shares = allocate({name: each * (requests + extra[name]) for name, each in seconds_each.items()}, budget)
    counts = {}
    for name, each in seconds_each.items():
        if shares[name] >= each * (requests + extra[name]):
            counts[name] = requests
            continue
        fits = int(shares[name] / max(each, 1e-9)) - extra[name]
        fits = fits // blocks * blocks if fits >= blocks else fits
        counts[name] = min(requests, max(least, fits))
    return counts


def plan(counts: Mapping[str, int], *, cases: int, blocks: int, seed: int) -> list[Block]:
    """Blocks in which every worker has one turn, in an order shuffled anew for each block.

    Every block draws one shuffled list of cases; a worker with fewer requests gets its first ones, so that all
    measure the same mixture.
    """
    if cases < 1:
        raise ValueError("no cases to route")
    rng = random.Random(seed)
    longest = math.ceil(max(counts.values(), default=0) / blocks)
    stream = _endless(cases, longest * blocks, rng)
    out = []
    for index in range(blocks):
        drawn = stream[index * longest : (index + 1) * longest]
        order = sorted(counts)
        rng.shuffle(order)
        turns = [Turn(name, tuple(drawn[: _part(counts[name], blocks, index)])) for name in order]
        out.append(Block(index, tuple(turn for turn in turns if turn.cases)))
    return out


def _part(count: int, blocks: int, index: int) -> int:
    """How many of `count` requests fall into block `index`: as even as possible, the larger parts first."""
    return count // blocks + (1 if index < count % blocks else 0)


def _endless(cases: int, length: int, rng: random.Random) -> Sequence[int]:
    """`length` case indexes: all cases in shuffled order, then again in another."""
    out: list[int] = []
    while len(out) < length:
        once = list(range(cases))
        rng.shuffle(once)
        out += once
    return out[:length]
