"""Which mixes of precisions are tried: all of them where they are few, else a descent from the finest. No model here.

The descent lowers one class of matrices by one type at a time. Of the steps that are open it takes the one that saves
most bytes for each call that is lost (one that loses nothing comes before all that do; of several the one that saves
most), and ends where every further step is out of bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

from export.mixed import CLASSES, Mix, Scheme
from runtimes.errors import UserError

Method = Literal["grid", "descent"]

TYPES: Final[dict[str, tuple[str, ...]]] = {
    "gguf": ("q8_0", "q5_0", "q4_0"),
    "onnx": ("int8", "dynamic8", "int4"),
    "mlx": ("8bit", "6bit", "4bit"),
}
"""What classes are given where nothing else is asked for, finest first."""


@dataclass(frozen=True)
class Tried:
    """What came of one mix, as the descent sees it."""

    size: int
    """Bytes of its weights."""
    right: int
    """Cases answered exactly."""
    out_of_bounds: bool
    """It loses more than it may, and by more than chance."""


Measure = Callable[[Sequence[Mix]], Sequence[Tried | None]]
"""Figures of some mixes, in their order; None for one that could not be measured."""


def types_of(scheme: Scheme, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """The types to choose from, in the scheme's order, finest first. Raises `UserError` for an unknown one."""
    chosen = asked or TYPES.get(scheme.format) or tuple(scheme.types)
    for name in chosen:
        if name not in scheme.types:
            raise UserError(f"--types {name}: {scheme.format} has {', '.join(scheme.types)}")
    if all(name in scheme.in_layers for name in chosen):
        raise UserError(f"--types {','.join(chosen)}: the embedding can have none of these; add another")
    return tuple(name for name in scheme.types if name in chosen)


def grid(scheme: Scheme, types: Sequence[str]) -> list[Mix]:
    """Every combination of `types`, the finest first."""
    return [Mix(found) for found in product(*(_allowed(scheme, kind, types) for kind in CLASSES))]


def descend(scheme: Scheme, types: Sequence[str], measure: Measure) -> list[Mix]:
    """The mixes that the descent stood on, the finest first; `measure` is asked about all the steps that were open."""
    at = Mix(tuple(_allowed(scheme, kind, types)[0] for kind in CLASSES))
    here = measure([at])[0]
    path = [at]
    while here is not None:
        steps = _steps(scheme, types, at)
        open_steps = [
            (mix, found)
            for mix, found in zip(steps, measure(steps) if steps else (), strict=True)
            if found is not None and not found.out_of_bounds
        ]
        if not open_steps:
            break
        start = here
        at, here = max(open_steps, key=lambda step: _worth(start, step[1]))
        path.append(at)
    return path


def _steps(scheme: Scheme, types: Sequence[str], mix: Mix) -> list[Mix]:
    """Each class lowered by one type, those that are at the last left out."""
    out = []
    for place, kind in enumerate(CLASSES):
        ladder = _allowed(scheme, kind, types)
        below = ladder.index(mix.types[place]) + 1
        if below < len(ladder):
            out.append(Mix((*mix.types[:place], ladder[below], *mix.types[place + 1 :])))
    return out


def _worth(before: Tried, after: Tried) -> tuple[bool, float]:
    """What a step is worth: none lost first, then bytes saved, each lost call dividing them."""
    saved, lost = before.size - after.size, before.right - after.right
    return lost <= 0, saved if lost <= 0 or saved <= 0 else saved / lost


def _allowed(scheme: Scheme, kind: str, types: Sequence[str]) -> list[str]:
    return [name for name in types if kind != "embedding" or name not in scheme.in_layers]
