"""Looking into anybody's ML program: what a function takes, gives and consists of, and where it stops being finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zipfile import BadZipFile

import numpy as np

from runtimes.errors import ArtifactError, UserError
from runtimes.mil.operations import OPERATIONS
from runtimes.mil.plan import make_plan
from runtimes.mil.program import FLOATS, NUMPY, Array, Function, Operation, Program
from runtimes.mil.run import execute, new_state
from runtimes.mil.step import Precision

KINDS = ("infinite", "NaN")


@dataclass(frozen=True)
class Value:
    """An input, state or output: name, element type, and what sizes it has (``1..2048`` for a range, ``?`` for any)."""

    name: str
    dtype: str
    shape: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(self.shape)}]"


@dataclass(frozen=True)
class Description:
    """One function. `operations`: type -> how many, constants apart; `unknown`: the types that are not interpreted."""

    name: str
    inputs: tuple[Value, ...]
    states: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operations: Mapping[str, int]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Lost:
    """The first operation that gave a number which is not finite."""

    kind: str
    """One of `KINDS`."""
    operation: str
    output: str
    dtype: str
    """As declared."""
    count: int
    elements: int
    """So many of so many elements."""
    inputs: Mapping[str, float]
    """What it read of what was computed or given: name -> largest finite magnitude."""


@dataclass
class Seen:
    """Watches a run (`runtimes.mil.Watch`)."""

    lost: dict[str, Lost] = field(default_factory=dict)
    """Of each kind the first."""
    _largest: dict[str, float] = field(default_factory=dict)

    def given(self, values: Mapping[str, Array]) -> None:
        """What the function is given."""
        self._largest |= {name: _largest(value) for name, value in values.items()}

    def __call__(self, op: Operation, values: tuple[Array, ...]) -> None:
        for output, value in zip(op.outputs, values, strict=True):
            if value.dtype.kind != "f":
                continue
            for kind, wrong in zip(KINDS, (np.isinf(value), np.isnan(value)), strict=True):
                if kind not in self.lost and wrong.any():
                    read = (name for names in op.inputs.values() for name in names if name in self._largest)
                    inputs = {name: self._largest[name] for name in read}
                    self.lost[kind] = Lost(
                        kind, op.type, output.name, output.type.dtype, int(wrong.sum()), value.size, inputs
                    )
            self._largest[output.name] = _largest(value)


def describe(function: Function) -> Description:
    """What a function takes, gives and consists of."""
    features = {one.name: one for one in function.features}
    made = {one.name: one for op in function.operations for one in op.outputs}
    made |= {one.name: one for one in (*function.inputs, *function.states)}

    def value(name: str) -> Value:
        if name not in made:  # a constant
            return Value(name, "constant", ())
        feature, type_ = features.get(name), made[name].type
        return Value(name, type_.dtype, type_.sizes if feature is None else feature.sizes)

    counts = dict(sorted(function.counts.items()))
    return Description(
        function.name,
        tuple(value(one.name) for one in function.inputs),
        tuple(value(one.name) for one in function.states),
        tuple(value(name) for name in function.outputs),
        counts,
        tuple(name for name in counts if name not in OPERATIONS),
    )


def sample_inputs(function: Function, seed: int | None = None) -> dict[str, Array]:
    """Zeros for every input, in its default shape; with a `seed` floats are drawn from a standard normal.

    Integers stay zero, since most of them are indices. Raises `ArtifactError` for an input without a default shape.
    """
    chance = None if seed is None else np.random.default_rng(seed)
    features = {one.name: one for one in function.features}
    made: dict[str, Array] = {}
    for one in function.inputs:
        shape = features[one.name].default if one.name in features else one.type.shape
        if any(size is None for size in shape):
            raise ArtifactError(
                f"function {function.name!r}: input {one.name!r} has no default shape; give an .npz file"
            )
        sizes = [int(size or 0) for size in shape]
        made[one.name] = np.zeros(sizes, NUMPY[one.type.dtype])
        if chance is not None and one.type.dtype in FLOATS:
            made[one.name] = chance.standard_normal(sizes, np.float32)
    return made


def read_inputs(path: str) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name. Raises `UserError` for what is none, or holds no numbers."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give zeros, random or an .npz file of all inputs") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: not an .npz file of numbers ({error})") from None
    wrong = next((name for name, value in found.items() if value.dtype.kind not in "biuf"), None)
    if wrong is not None:
        raise UserError(f"{path}: {wrong!r} holds no numbers")
    return found


def run_once(
    program: Program, name: str, inputs: Mapping[str, Array], precision: Precision
) -> tuple[dict[str, Array], dict[str, Lost]]:
    """One prediction of a function on a fresh state: outputs by name, and of each of `KINDS` the first operation that
    gave such a number. Raises `UserError` for inputs that the function does not take and for what cannot be run,
    naming the operation."""
    plan, seen = make_plan(program.functions[name], program.path, precision), Seen()
    seen.given(inputs)
    try:
        return execute(plan, inputs, new_state(plan), seen), seen.lost
    except ArtifactError as error:
        raise UserError(f"{error}; the inputs are wrong, or the program cannot take them") from error


def _largest(value: Array) -> float:
    """Largest finite magnitude."""
    finite = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    return float(np.abs(finite).max(initial=0))


__all__ = ["Description", "Lost", "Seen", "Value", "describe", "read_inputs", "run_once", "sample_inputs"]
