"""A recipe's rows in blocks of numbers: the unit of work that a machine is given, and what it hands back.

Rows depend on the seed, the split and their number alone, so blocks can be made anywhere and in any order. What one
row forbids another is decided where they come together (`train.data.build`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from router.cases import Case
from train.data.leakage import normalised
from train.data.recipe import Recipe, Split
from train.data.rows import make, row_numbers

ROWS: Final = 2000
"""Rows of a block: about a second of one core, and 2 MB while they wait."""


class Row(NamedTuple):
    """A row ready to be written, and what has to be known about it. A tuple, because thousands of them travel."""

    line: str
    """The case as JSON, without a line break."""
    id: str
    user: str
    normal: str
    """The request normalised."""
    wordings: tuple[str, ...]
    tools: str
    """Names of the tools that are called, joined by ``+``; ``no call`` without any."""


@dataclass(frozen=True)
class Block:
    """Rows `start` to `stop` (exclusive) of a split, as far as patterns make them."""

    split: Split
    start: int
    stop: int


Source = Callable[[Split], Iterator[list[Row]]]
"""The blocks of a split, made, in the order of their numbers."""


def split_blocks(recipe: Recipe, split: Split) -> Iterator[Block]:
    """The blocks of a split in order."""
    numbers = row_numbers(recipe, split)
    return (Block(split, start, min(start + ROWS, len(numbers))) for start in numbers[::ROWS])


def make_block(recipe: Recipe, block: Block) -> list[Row]:
    """The rows of a block, none left out."""
    return [to_row(made.case, made.wordings) for made in make(recipe, block.split, range(block.start, block.stop))]


def made_here(recipe: Recipe) -> Source:
    """Blocks made in this process, one at a time."""
    return lambda split: (make_block(recipe, block) for block in split_blocks(recipe, split))


def to_row(case: Case, wordings: tuple[str, ...] = ()) -> Row:
    line = json.dumps(case.to_dict(), ensure_ascii=False)
    tools = "+".join(call.name for call in case.calls) or "no call"
    return Row(line, case.id, case.user, normalised(case.user), wordings, tools)
