"""Executes a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from runtimes.errors import UserError
from runtimes.mil.plan import Plan
from runtimes.mil.program import FLOATS, NUMPY, Array, Named, Operation
from runtimes.mil.rounding import to_half
from runtimes.mil.step import Precision, perform

State = dict[str, Array]
"""A function's states by name, floats in float32. A run changes the arrays, or puts others in their place."""

Watch = Callable[[Operation, tuple[Array, ...]], None]
"""Told every operation and its outputs, which it must not change or keep."""


def new_state(plan: Plan) -> State:
    """A fresh state: zeros, as Core ML hands it out."""
    return {
        one.name: np.zeros(
            [size or 0 for size in one.type.shape],
            np.float32 if one.type.dtype in FLOATS else NUMPY[one.type.dtype],
        )
        for _, one in plan.states
    }


def execute(plan: Plan, inputs: Mapping[str, Array], state: State, watch: Watch | None = None) -> dict[str, Array]:
    """One prediction: outputs by name, floats in float32; changes `state`.

    Infinity and not-a-number spread as IEEE 754 has it. Raises `UserError` for inputs that the program does not take
    and `ArtifactError` for an operation that has no result (naming it).
    """
    if set(inputs) != {one.name for _, one in plan.inputs}:
        wanted = ", ".join(one.name for _, one in plan.inputs)
        raise UserError(f"{plan.path}: takes {wanted}, not {', '.join(inputs)}")
    values: list[Any] = [None] * plan.slots
    for slot, value in plan.constants.items():
        values[slot] = value
    for slot, one in plan.inputs:
        values[slot] = _input(plan, one, inputs[one.name])
    for slot, one in plan.states:
        values[slot] = state[one.name]
    with np.errstate(all="ignore"):
        for step in plan.steps:
            found = perform(step, values, plan.path)
            for output, value in zip(step.outputs, found, strict=True):
                values[output.slot] = value
            if step.write is not None:
                value = values[step.write.value]
                state[step.write.name] = values[step.write.state] = value.copy() if step.write.copy else value
            if watch is not None:
                watch(step.operation, found)
            for slot in step.free:
                values[slot] = None
    return {name: values[slot].copy() if slot in plan.copied else values[slot] for name, slot in plan.outputs}


def _input(plan: Plan, one: Named, given: Array) -> Array:
    """An input in the declared type. Its shape must be of those that the package allows, its numbers in the type."""
    feature = plan.features.get(one.name)
    for takes in (feature, one.type):
        if takes is not None and not takes.allows(given.shape):
            told = f"input {one.name!r} may not have shape {list(given.shape)}; it takes [{', '.join(takes.sizes)}]"
            raise UserError(f"{plan.path}: {told}")
    with np.errstate(all="ignore"):
        held = _held(given, one.type.dtype, plan.precision)
    if given.dtype != NUMPY[one.type.dtype]:
        lost = np.isfinite(given) & ~np.isfinite(held) if one.type.dtype in FLOATS else held != given
        if lost.any():
            raise UserError(f"{plan.path}: input {one.name!r}: {given[lost].flat[0]} is no {one.type.dtype}")
    return held


def _held(given: Array, dtype: str, precision: Precision) -> Array:
    """Floats in float32, rounded to the declared type where asked; what an integer type cannot hold becomes another."""
    if dtype not in FLOATS:
        return given.astype(NUMPY[dtype], copy=False)
    single = given.astype(np.float32, copy=False)
    return to_half(single) if dtype == "fp16" and precision == "declared" else single
