"""One operation made ready to run: its function, where its inputs lie, and how its outputs are held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from runtimes.errors import ArtifactError
from runtimes.mil.program import FLOATS, NUMPY, Array, Constant, Operation, TensorType
from runtimes.mil.rounding import to_half

Precision = Literal["declared", "float32"]
"""Floats rounded to the type that the program declares for each, or all as float32 leaves them."""

PRECISIONS: tuple[Precision, ...] = ("declared", "float32")


@dataclass(frozen=True)
class Output:
    """A slot, and how what lies there is held."""

    slot: int
    type: TensorType
    """As the program declares it."""
    rounds: bool
    """Whether it is still to be rounded to float16."""
    dtype: np.dtype[Any]
    """Of the array here."""
    sizes: tuple[tuple[int, int], ...]
    """Axes of a fixed size, and that."""

    @classmethod
    def of(cls, slot: int, type_: TensorType, *, rounds: bool) -> Output:
        dtype = np.float32 if type_.dtype in FLOATS else NUMPY.get(type_.dtype, np.object_)
        sizes = tuple((axis, size) for axis, size in enumerate(type_.shape) if size is not None)
        return cls(slot, type_, rounds and type_.dtype == "fp16", np.dtype(dtype), sizes)


@dataclass(frozen=True)
class Step:
    """`call`: the operation's function with its constants bound; the other inputs lie in slots."""

    operation: Operation
    call: Callable[..., Any]
    single: tuple[tuple[str, int], ...]
    """Parameter and slot,"""
    several: tuple[tuple[str, tuple[int, ...]], ...]
    """and parameter and slots of a list."""
    outputs: tuple[Output, ...]
    write: Write | None = None
    free: tuple[int, ...] = ()
    """Slots that no later step reads."""


@dataclass(frozen=True)
class Write:
    """A state that the step changes: its slot and name, where the new value lies, whether that must be copied."""

    state: int
    name: str
    value: int
    copy: bool = False


def perform(step: Step, values: list[Any], path: Path) -> tuple[Array, ...]:
    """Compute a step's outputs from the values in slots. Raises `ArtifactError` naming the operation."""
    arguments = {name: values[slot] for name, slot in step.single}
    for name, slots in step.several:
        arguments[name] = [values[slot] for slot in slots]
    try:
        result = step.call(**arguments)
        if len(step.outputs) == 1 and not isinstance(result, tuple):
            return (_held(result, step.outputs[0]),)
        return tuple(_held(value, output) for value, output in zip(result, step.outputs, strict=True))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: operation {step.operation} cannot be computed: {reason}") from error


def as_held(value: Constant) -> Constant:
    """A constant in the form in which operations take it: floats in float32."""
    if isinstance(value, str) or not np.issubdtype(value.dtype, np.floating):
        return value
    return value.astype(np.float32, copy=False)


def _held(value: Any, output: Output) -> Array:
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.dtype != output.dtype:
        array = array.astype(output.dtype)
    if output.rounds:
        array = to_half(array)
    shape = array.shape
    good = len(shape) == len(output.type.shape)
    for axis, size in output.sizes:
        good = good and shape[axis] == size
    if not good:
        raise ValueError(f"its result has shape {list(shape)}, the program declares [{', '.join(output.type.sizes)}]")
    return array
