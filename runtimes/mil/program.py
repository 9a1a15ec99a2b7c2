"""An ML program as a package holds it: functions of operations over named values (Core ML's ``MIL.proto``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Constant = Array | str
"""A value that the package holds: an array in the numpy type of `NUMPY`, or a string."""

FLOATS: Final = ("fp16", "fp32")
NUMPY: Final[Mapping[str, type[np.generic]]] = {
    "fp16": np.float16, "fp32": np.float32, "bool": np.bool_,
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "int4": np.int8, "uint1": np.uint8, "uint2": np.uint8, "uint3": np.uint8, "uint4": np.uint8, "uint6": np.uint8,
}  # fmt: skip
"""The type in which an element is held here; narrower integers than eight bits one to a byte."""


@dataclass(frozen=True)
class TensorType:
    """Element type (a key of `NUMPY`, or "string") and shape; None is a size that is known at run time."""

    dtype: str
    shape: tuple[int | None, ...]

    @property
    def sizes(self) -> tuple[str, ...]:
        """Each axis for a reader, ``?`` where it is known at run time."""
        return tuple("?" if size is None else str(size) for size in self.shape)

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape is of this rank and these sizes."""
        return len(shape) == len(self.shape) and all(
            want is None or have == want for have, want in zip(shape, self.shape, strict=True)
        )


@dataclass(frozen=True)
class Named:
    """A value's name and type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Operation:
    """One operation. `inputs`: parameter name -> names of the values that it is bound to (one, except for lists)."""

    type: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[Named, ...]

    def __str__(self) -> str:
        return f"{self.type!r} (output {', '.join(repr(one.name) for one in self.outputs) or 'none'})"


@dataclass(frozen=True)
class Feature:
    """One of the package's inputs: the sizes that each axis may have, or the whole shapes that are listed."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    """Smallest and largest size of each axis; -1 as the largest is any."""
    shapes: tuple[tuple[int, ...], ...] = ()
    default: tuple[int, ...] = ()
    """The shape that is taken where none is said."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """Each axis for a reader (``1..2048`` for a range), or all listed shapes in one."""
        if self.shapes:
            return (" or ".join("x".join(map(str, one)) for one in self.shapes),)
        return tuple(str(low) if low == high else f"{low}..{'' if high < 0 else high}" for low, high in self.ranges)

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether Core ML takes an array of that shape for this input."""
        if self.shapes:
            return shape in self.shapes
        return len(shape) == len(self.ranges) and all(
            low <= size and (high < 0 or size <= high) for size, (low, high) in zip(shape, self.ranges, strict=True)
        )


@dataclass(frozen=True)
class Described:
    """One of the package's inputs, outputs or states as apps are told of it; the shape is empty where none is told."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Function:
    """A function: typed inputs and states, operations in an order that can be executed, names of the outputs."""

    name: str
    inputs: tuple[Named, ...]
    states: tuple[Named, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Constant]
    """By name: the values of its ``const`` operations, and those that stand in place of a name."""
    operations: tuple[Operation, ...]
    """All but ``const``."""
    features: tuple[Feature, ...] = ()
    """What the package's description says of the inputs."""
    opset: str = ""
    """Which forms of the operations are meant, as the package names it: ``CoreML5`` is that of iOS 15."""
    described: Mapping[str, tuple[Described, ...]] = field(default_factory=dict)
    """What the description says of each ``input``, ``output`` and ``state``."""

    @property
    def counts(self) -> Counter[str]:
        """How often each kind of operation occurs, constants apart."""
        return Counter(one.type for one in self.operations)

    def arrays(self) -> Iterator[Array]:
        """The constants with two or more elements, weights among them."""
        for value in self.constants.values():
            if not isinstance(value, str) and value.size > 1:
                yield value


@dataclass(frozen=True)
class Program:
    """A package's functions by name, and which is run where none is named."""

    path: Path
    functions: Mapping[str, Function]
    default: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What its makers have noted (``Metadata.userDefined`` of ``Model.proto``)."""
    version: int = 0
    """``specificationVersion`` of ``Model.proto``."""

    @property
    def main(self) -> Function:
        return self.functions[self.default]
