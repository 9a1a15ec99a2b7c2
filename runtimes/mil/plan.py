"""From a function to a flat list of steps over numbered slots: constants bound, what is constant computed once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.errors import ArtifactError
from runtimes.mil.operations import MOVES, OPERATIONS, find
from runtimes.mil.ops_indexing import STATE_WRITES
from runtimes.mil.program import Constant, Feature, Function, Named, Operation
from runtimes.mil.sharing import arrange
from runtimes.mil.step import Output, Precision, Step, Write, as_held, perform


@dataclass(frozen=True)
class Plan:
    """A function made ready to run."""

    path: Path
    precision: Precision
    inputs: tuple[tuple[int, Named], ...]
    """Slot, name and type,"""
    states: tuple[tuple[int, Named], ...]
    features: Mapping[str, Feature]
    steps: tuple[Step, ...]
    slots: int
    constants: Mapping[int, Constant]
    """Slots that hold the same in every run."""
    outputs: tuple[tuple[str, int], ...]
    copied: frozenset[int]
    """Outputs whose memory is the state's, a constant's or the caller's."""


class Held:
    """Constants in the form in which operations take them; one that several functions have is held once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Constant, Constant]] = {}
        """By identity: the constant, which is kept so that no other gets its number, and its form."""

    def __call__(self, value: Constant) -> Constant:
        if id(value) not in self._known:
            self._known[id(value)] = (value, as_held(value))
        return self._known[id(value)][1]


def make_plan(function: Function, path: Path, precision: Precision = "declared", held: Held | None = None) -> Plan:
    """Check a function's operations and put them in order. Raises `ArtifactError` for one that is not known.

    `held`: one for all functions of a program, which then share their weights' memory.
    """
    return _Planner(function, path, precision, held).plan()


def fixed_values(function: Function, path: Path) -> Mapping[str, Constant]:
    """Name -> value of whatever is the same in every run and an operation reads: constants, those that are stored
    compressed among them. Floats in float32. Raises as `make_plan` does."""
    planner = _Planner(function, path)
    planner.plan()
    return planner.known


class _Planner:
    """Works through a function's operations once."""

    def __init__(
        self, function: Function, path: Path, precision: Precision = "declared", held: Held | None = None
    ) -> None:
        self.function, self.path, self.precision = function, path, precision
        self.held = held or Held()
        self.slots: dict[str, int] = {}
        self.constants: dict[int, Constant] = {}
        self.known: dict[str, Constant] = {}
        """Values that are the same in every run, as operations take them."""
        self.dtypes = {name: _dtype(value) for name, value in function.constants.items()}

    def plan(self) -> Plan:
        function = self.function
        for op in function.operations:
            self._check(op)
        inputs = tuple((self._new(one), one) for one in function.inputs)
        states = tuple((self._new(one), one) for one in function.states)
        steps = [step for op in function.operations for step in self._steps(op)]
        outputs = tuple((name, self._slot(name, "the function's end")) for name in function.outputs)
        arranged, copied = arrange(
            steps,
            given={slot for slot, _ in inputs} | set(self.constants),
            states={slot for slot, _ in states},
            outputs={slot for _, slot in outputs},
        )
        return Plan(
            path=self.path,
            precision=self.precision,
            inputs=inputs,
            states=states,
            features={one.name: one for one in function.features},
            steps=tuple(arranged),
            slots=len(self.slots),
            constants=self.constants,
            outputs=outputs,
            copied=frozenset(copied),
        )

    def _check(self, op: Operation) -> None:
        """Whether the operation and its parameters are known, so that what is wrong is said before anything is run."""
        if op.type not in OPERATIONS:
            raise ArtifactError(
                f"{self.path}: operation {op} of function {self.function.name!r} is not one that the reference "
                "interpreter knows"
            )
        parameters = _parameters(self._function(op))
        given = set(op.inputs)
        for problem, names in (("lacks", parameters.required - given), ("does not have", given - parameters.all)):
            if names:
                raise ArtifactError(f"{self.path}: operation {op} {problem} {', '.join(sorted(names))}")

    def _steps(self, op: Operation) -> Iterator[Step]:
        """The operation's step; none where all that it needs is known now, and so what it gives."""
        fixed: dict[str, Constant | list[Constant]] = {}
        function = self._function(op)
        single: list[tuple[str, int]] = []
        several: list[tuple[str, tuple[int, ...]]] = []
        for parameter, names in op.inputs.items():
            constant = all(self._is_known(name) for name in names)
            if parameter in _parameters(function).lists:
                if constant:
                    fixed[parameter] = [self._constant(name) for name in names]
                else:
                    several.append((parameter, tuple(self._slot(name, op) for name in names)))
            elif constant:
                fixed[parameter] = self._constant(names[0])
            else:
                single.append((parameter, self._slot(names[0], op)))
        call = partial(function, **fixed) if fixed else function
        rounds = self._rounds(op)
        self.dtypes |= {one.name: one.type.dtype for one in op.outputs}
        if single or several:
            outputs = tuple(Output.of(self._new(one), one.type, rounds=rounds) for one in op.outputs)
            yield Step(op, call, tuple(single), tuple(several), outputs, self._write(op))
        else:
            outputs = tuple(Output.of(-1, one.type, rounds=rounds) for one in op.outputs)
            with np.errstate(all="ignore"):  # as in a run
                values = perform(Step(op, call, (), (), outputs), [], self.path)
            self.known |= {one.name: value for one, value in zip(op.outputs, values, strict=True)}

    def _function(self, op: Operation) -> Callable[..., Any]:
        return find(op.type, self.function.opset)

    def _rounds(self, op: Operation) -> bool:
        """Whether outputs that are float16 are still to be rounded to it: not elements that were already."""
        if op.type == "cast":  # whole numbers too may lie between two of float16
            moved = all(self.dtypes.get(name) == "fp16" for name in op.inputs.get("x", ()))
        else:
            given = (self.dtypes.get(name) for names in op.inputs.values() for name in names)
            moved = op.type in MOVES and "fp32" not in given
        return self.precision == "declared" and not moved

    def _write(self, op: Operation) -> Write | None:
        if op.type not in STATE_WRITES:
            return None
        state, value = (op.inputs[parameter][0] for parameter in STATE_WRITES[op.type])
        if state not in {one.name for one in self.function.states}:
            raise ArtifactError(f"{self.path}: operation {op} writes {state!r}, which is no state")
        return Write(self.slots[state], state, self._slot(value, op))

    def _new(self, one: Named) -> int:
        if one.name in self.slots:
            raise ArtifactError(f"{self.path}: two values are called {one.name!r}")
        self.slots[one.name] = len(self.slots)
        self.dtypes[one.name] = one.type.dtype
        return self.slots[one.name]

    def _is_known(self, name: str) -> bool:
        return name in self.known or name in self.function.constants

    def _constant(self, name: str) -> Constant:
        if name not in self.known:
            self.known[name] = self.held(self.function.constants[name])
        return self.known[name]

    def _slot(self, name: str, reader: Operation | str) -> int:
        """Where a value lies; a constant gets a slot where it stands among values that are none."""
        if name not in self.slots:
            if not self._is_known(name):
                raise ArtifactError(f"{self.path}: {reader} reads {name!r}, which nothing before it gives")
            self.slots[name] = len(self.slots)
            self.constants[self.slots[name]] = self._constant(name)
        return self.slots[name]


@dataclass(frozen=True)
class _Parameters:
    all: frozenset[str]
    required: frozenset[str]
    lists: frozenset[str]


@cache
def _parameters(function: Callable[..., Any]) -> _Parameters:
    """The parameters of an operation, from its function's signature."""
    found = inspect.signature(function).parameters
    return _Parameters(
        frozenset(found),
        frozenset(name for name, one in found.items() if one.default is one.empty),
        frozenset(name for name, one in found.items() if str(one.annotation).startswith("list")),
    )


def _dtype(value: Constant) -> str:
    """The declared type of a constant's elements, as far as rounding asks."""
    return "string" if isinstance(value, str) else "fp32" if value.dtype.name == "float32" else value.dtype.name
