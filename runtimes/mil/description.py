"""What a package tells apps of itself (``ModelDescription`` of ``Model.proto``), held against its program.

The interpreter runs the program and needs none of it. Core ML goes by it: it refuses a package whose description is
not its program's, and an app asks for inputs and outputs by the names and types that stand there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from runtimes.mil.program import Described, Feature, Function, Named, Program, TensorType

OPSETS: Final = {"CoreML5": 6, "CoreML6": 7, "CoreML7": 8, "CoreML8": 9, "CoreML9": 10}
"""Opset -> the specification version that brought it (``coremltools/__init__.py``)."""
STATES: Final = OPSETS["CoreML8"]


def disagreements(program: Program) -> Iterator[str]:
    """Where description and program say different things, a line each."""
    if program.version not in OPSETS.values():
        yield f"specification version {program.version}, of which nothing is known here"
    for function in program.functions.values():
        for line in _of(function, program.version):
            yield f"function {function.name!r}: {line}"


def _of(function: Function, version: int) -> Iterator[str]:
    needs = OPSETS.get(function.opset)
    if needs is None:
        yield f"opset {function.opset!r}, which is not known here"
    elif needs > version:
        yield f"opset {function.opset!r} came with specification version {needs}, not {version}"
    elif function.states and needs < STATES:
        yield f"states, which opset {function.opset!r} does not have"
    made = {one.name: one.type for operation in function.operations for one in operation.outputs}
    outputs = [Named(name, made.get(name, TensorType("other", ()))) for name in function.outputs]
    allowed = {one.name: one for one in function.features}
    for kind, values in (("input", function.inputs), ("output", outputs), ("state", function.states)):
        told = {one.name: one for one in function.described.get(kind, ())}
        if {one.name for one in values} != set(told):
            yield f"it has the {kind}s {_names(values)}, its description {_names(tuple(told.values()))}"
            continue
        for one in values:
            if told[one.name].type.dtype != one.type.dtype:
                yield f"{kind} {one.name!r} is {one.type.dtype}, in the description {told[one.name].type.dtype}"
            elif not _fits(one.type.shape, told[one.name], allowed.get(one.name) if kind == "input" else None):
                sizes = ", ".join("any" if size is None else str(size) for size in one.type.shape)
                yield f"{kind} {one.name!r} has the shape ({sizes}), in the description another"


def _fits(shape: Sequence[int | None], told: Described, feature: Feature | None) -> bool:
    """Whether every size that the program fixes is the one that the description tells or allows."""
    if feature is None:
        return not told.type.shape or _same(shape, told.type.shape)
    low, high = zip(*feature.ranges, strict=True) if feature.ranges else ((), ())
    return all(_same(shape, one) for one in feature.shapes or (low, high))


def _same(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    return len(shape) == len(other) and all(a is None or a == b for a, b in zip(shape, other, strict=True))


def _names(values: Sequence[Named | Described]) -> str:
    return ", ".join(sorted(one.name for one in values)) or "none"
