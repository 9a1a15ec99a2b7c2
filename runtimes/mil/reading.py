"""Reads a saved ``.mlpackage`` with coremltools' protobuf classes and blob reader, which work on Linux too.

The format is ``mlmodel/format/MIL.proto`` and ``Model.proto`` of coremltools. Large constants lie in the package's
weight files; a value names file and offset.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.errors import ArtifactError
from runtimes.mil.ops_constexpr import unpack
from runtimes.mil.program import (
    NUMPY,
    Array,
    Constant,
    Described,
    Feature,
    Function,
    Named,
    Operation,
    Program,
    TensorType,
)  # fmt: skip

_BITS = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}
_READERS = {"fp16": "fp16", "fp32": "float"}
"""Where the blob reader's name for a type is not our own."""
_UNTAGGED = "@model_path/"


def load(path: Path) -> Program:
    """Read the package at `path`. Raises `ArtifactError` for what is no ML program, or holds what is not known here."""
    if not path.exists():
        raise ArtifactError(f"{path}: no such file")
    with quiet():
        from coremltools.models.utils import load_spec

        try:
            spec = load_spec(str(path))
        except Exception as error:  # libmodelpackage raises RuntimeError, protobuf its own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ArtifactError(f"{path}: not a readable Core ML package ({reason})") from error
    return from_spec(spec, path)


def from_spec(spec: Any, path: Path) -> Program:
    """The program of a ``Model`` protobuf message whose weight files lie in the package at `path`."""
    if spec.WhichOneof("Type") != "mlProgram":
        raise ArtifactError(f"{path}: holds a {spec.WhichOneof('Type')}, not an ML program")
    described = {one.name: one for one in spec.description.functions}
    default = spec.description.defaultFunctionName or "main"
    reader = _Reader(path)
    functions = {
        name: reader.function(name, one, described.get(name, spec.description))
        for name, one in sorted(spec.mlProgram.functions.items())
    }
    if default not in functions:
        raise ArtifactError(f"{path}: has no function {default!r}")
    metadata, version = dict(spec.description.metadata.userDefined), int(spec.specificationVersion)
    return Program(path, functions, default, metadata, version)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """coremltools and the tracer without progress bars and without warnings (no Mac; a newer torch than was tested)."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class _Reader:
    """One package. Constants that two functions share are read once."""

    path: Path
    blobs: dict[str, Any] = field(default_factory=dict)
    known: dict[tuple[str, int, TensorType], Array] = field(default_factory=dict)

    def function(self, name: str, spec: Any, description: Any) -> Function:
        block, whose = spec.block_specializations[spec.opset], f"function {name!r}"
        states = [one for one in spec.inputs if one.type.WhichOneof("type") == "stateType"]
        inputs = [one for one in spec.inputs if one.type.WhichOneof("type") == "tensorType"]
        if len(states) + len(inputs) != len(spec.inputs):
            raise ArtifactError(f"{self.path}: {whose} has an input that is neither tensor nor state")
        constants: dict[str, Constant] = {}
        operations = []
        for number, op in enumerate(block.operations):
            if op.type == "const":
                constants[op.outputs[0].name] = self.value(op.attributes["val"], _who(op))
            else:
                operations.append(self.operation(op, number, constants))
        return Function(
            name,
            tuple(Named(one.name, self.type(one.type.tensorType, whose)) for one in inputs),
            tuple(Named(one.name, self.type(one.type.stateType.wrappedType.tensorType, whose)) for one in states),
            tuple(block.outputs),
            constants,
            tuple(operations),
            tuple(_feature(one) for one in description.input if one.type.WhichOneof("Type") == "multiArrayType"),
            spec.opset,
            {kind: tuple(map(_described, getattr(description, kind))) for kind in ("input", "output", "state")},
        )

    def operation(self, spec: Any, number: int, constants: dict[str, Constant]) -> Operation:
        """One operation; its constants in place go to `constants` under a name that no value can have."""
        inputs: dict[str, tuple[str, ...]] = {}
        whose = _who(spec)

        def place(parameter: str, index: int, value: Any) -> str:
            name = f"{number}/{parameter}/{index}"
            constants[name] = self.value(value, whose)
            return name

        for parameter, argument in spec.inputs.items():
            inputs[parameter] = tuple(
                one.name if one.WhichOneof("binding") == "name" else place(parameter, i, one.value)
                for i, one in enumerate(argument.arguments)
            )
        for parameter, value in spec.attributes.items():
            if parameter != "name":
                inputs[parameter] = (place(parameter, 0, value),)
        outputs = tuple(Named(one.name, self.output_type(one.type, whose)) for one in spec.outputs)
        return Operation(spec.type, inputs, outputs)

    def output_type(self, spec: Any, whose: str) -> TensorType:
        """Of an operation that is not known here, any: running it is what fails."""
        return self.type(spec.tensorType, whose) if spec.WhichOneof("type") == "tensorType" else TensorType("other", ())

    def type(self, spec: Any, whose: str) -> TensorType:
        from coremltools.proto import MIL_pb2

        name = MIL_pb2.DataType.Name(spec.dataType).lower()
        dtype = "fp" + name.removeprefix("float") if name in ("float16", "float32") else name
        if dtype not in NUMPY and dtype != "string":
            raise ArtifactError(
                f"{self.path}: {whose} has a value of type {name}, which the reference interpreter lacks"
            )
        sizes = (one.constant.size if one.WhichOneof("dimension") == "constant" else None for one in spec.dimensions)
        return TensorType(dtype, tuple(None if size is None else int(size) for size in sizes))

    def value(self, spec: Any, whose: str) -> Constant:
        """A constant: a string, or an array in the package's own type."""
        kind = spec.type.WhichOneof("type")
        if kind != "tensorType":
            raise ArtifactError(f"{self.path}: {whose} has a constant of {kind}, which the reference interpreter lacks")
        type_ = self.type(spec.type.tensorType, whose)
        shape = tuple(size or 0 for size in type_.shape)
        try:
            if spec.WhichOneof("value") == "blobFileValue":
                return self.blob(spec.blobFileValue, type_, shape)
            return _immediate(spec.immediateValue.tensor, type_, shape)
        except (LookupError, TypeError, ValueError) as error:
            raise ArtifactError(f"{self.path}: {whose} has a constant that is none ({error})") from error

    def blob(self, spec: Any, type_: TensorType, shape: tuple[int, ...]) -> Array:
        """The elements at a place of a weight file; narrow integers one to a byte. One array, whoever asks for it."""
        from coremltools.libmilstoragepython import _BlobStorageReader

        name, offset = str(spec.fileName), int(spec.offset)
        key = name, offset, type_
        if key not in self.known:
            if name not in self.blobs:
                file = self.folder / name.removeprefix(_UNTAGGED)
                if not file.is_file():
                    raise ArtifactError(f"{file}: missing")
                self.blobs[name] = _BlobStorageReader(str(file))
            read = getattr(self.blobs[name], f"read_{_READERS.get(type_.dtype, type_.dtype)}_data")
            try:
                values = np.asarray(read(offset))
            except Exception as error:  # pybind's RuntimeError
                raise ArtifactError(f"{self.path}: no weights at {offset} of {name} ({error})") from error
            self.known[key] = values.view(NUMPY[type_.dtype]).reshape(shape)  # float16 is read as its bits
        return self.known[key]

    @property
    def folder(self) -> Path:
        """Where the model's own file lies, which the names of weight files are relative to."""
        from coremltools.libmodelpackage import ModelPackage

        return Path(ModelPackage(str(self.path)).getRootModel().path()).parent


def _described(spec: Any) -> Described:
    """What the description says of a value: type and shape of a multi-array; of anything else, that it is none."""
    from coremltools.proto import FeatureTypes_pb2

    kind = spec.type.WhichOneof("Type")
    array = spec.type.stateType.arrayType if kind == "stateType" else spec.type.multiArrayType
    if kind not in ("multiArrayType", "stateType"):
        return Described(spec.name, TensorType("other", ()))
    name = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType).lower()
    dtype = "fp" + name.removeprefix("float") if name.startswith("float") else name
    return Described(spec.name, TensorType(dtype, tuple(map(int, array.shape))))


def _who(spec: Any) -> str:
    """An operation, as `Operation` names itself."""
    return f"operation {Operation(spec.type, {}, tuple(Named(one.name, TensorType('', ())) for one in spec.outputs))}"


def _immediate(spec: Any, type_: TensorType, shape: tuple[int, ...]) -> Constant:
    """The elements of a ``TensorValue``, which are in the program itself; without any where it has none."""
    kind = spec.WhichOneof("value")
    values: Any = getattr(spec, kind).values if kind else ()
    if type_.dtype == "string":
        return str(values[0])
    if isinstance(values, bytes):
        if type_.dtype in _BITS:
            count = int(np.prod(shape, dtype=np.int64))
            signed = type_.dtype.startswith("int")
            return unpack(np.frombuffer(values, np.uint8), _BITS[type_.dtype], count, signed=signed).reshape(shape)
        return np.frombuffer(values, NUMPY[type_.dtype]).reshape(shape)
    return np.array(values, NUMPY[type_.dtype]).reshape(shape)


def _feature(spec: Any) -> Feature:
    """What the description of an input allows (``FeatureTypes.proto``, ``ArrayFeatureType``)."""
    array = spec.type.multiArrayType
    default = tuple(map(int, array.shape))
    kind = array.WhichOneof("ShapeFlexibility")
    if kind == "enumeratedShapes":
        shapes = tuple(tuple(map(int, one.shape)) for one in array.enumeratedShapes.shapes)
        return Feature(spec.name, (), shapes, default)
    if kind == "shapeRange":
        ranges = ((int(one.lowerBound), int(one.upperBound)) for one in array.shapeRange.sizeRanges)
        return Feature(spec.name, tuple(ranges), default=default)
    return Feature(spec.name, tuple((size, size) for size in default), default=default)
