"""One random change of a saved Core ML package.

A mutation scales or shuffles a block of weights, changes a number or a flag that an operation is given (axes and
epsilon among them) or a word (a mode, a type, an equation) to another valid one, or swaps two tensors: two weights of
one shape, or two inputs of one operation. Of a package with several functions it changes one, but for the weights,
which all of them share.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.errors import ArtifactError

_MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
_WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
_SENTINEL = 0xDEADBEEF
_ELEMENT = {1: np.dtype("<f2"), 2: np.dtype("<f4"), 3: np.dtype("u1"), 4: np.dtype("i1")}
"""``BlobDataType`` of coremltools' ``mlmodel/src/MILBlob/Blob/BlobDataType.hpp``; the rest is taken byte by byte."""
WORDS = {
    ("gelu", "mode"): ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"),
    ("cast", "dtype"): ("fp16", "fp32", "int32", "int16", "uint16", "bool"),
    ("conv", "pad_type"): ("valid", "same", "same_lower"),
    ("reduce_argmax", "output_dtype"): ("int32", "int16", "uint16"),
}
"""Operation and parameter -> what it may be, of those that our packages hold; an ``einsum``'s equation apart."""
_FACTORS = (-1.0, 0.0, 0.5, 0.9, 1.1, 2.0)


@dataclass(frozen=True)
class Block:
    """The operations of one function."""

    function: str
    operations: list[Any]

    @cached_property
    def constants(self) -> dict[str, Any]:
        """By name: the constants that stand in the model itself; they are no tensors to be swapped here."""
        found = (op for op in self.operations if op.type == "const" and not _is_blob(op.attributes["val"]))
        return {op.outputs[0].name: op.attributes["val"].immediateValue.tensor for op in found}

    @cached_property
    def blobs(self) -> list[Any]:
        """The constants whose elements lie in the weight file."""
        return [op for op in self.operations if op.type == "const" and _is_blob(op.attributes["val"])]


class Package:
    """A copy of a package that is being changed: its protobuf message, and the bytes of its weight file."""

    def __init__(self, path: Path) -> None:
        from coremltools.proto import Model_pb2

        self.path = path
        self.spec = Model_pb2.Model()
        self.spec.ParseFromString((path / _MODEL).read_bytes())
        self.weights = bytearray((path / _WEIGHTS).read_bytes())
        self.blocks = [
            Block(name, function.block_specializations[function.opset].operations)
            for name, function in sorted(self.spec.mlProgram.functions.items())
        ]
        blobs = [blob for block in self.blocks for blob in block.blobs]
        self.blobs = list({blob.attributes["val"].blobFileValue.offset: blob for blob in blobs}.values())
        """The weights, each once."""

    def name(self, block: Block, op: Any) -> str:
        """How an outcome names an operation."""
        return f"{block.function}: {_name(op)}" if len(self.blocks) > 1 else _name(op)

    def save(self) -> None:
        (self.path / _MODEL).write_bytes(self.spec.SerializeToString())
        (self.path / _WEIGHTS).write_bytes(bytes(self.weights))

    def elements(self, blob: Any) -> np.ndarray:
        """The elements of a weight, flat and writable. The layout is that of coremltools' ``MILBlob``
        (``StorageFormat.hpp``): at the offset that the model names lies a record with type, size and place."""
        at = blob.attributes["val"].blobFileValue.offset
        sentinel, kind, size, start = struct.unpack_from("<IIQQ", self.weights, at)
        if sentinel != _SENTINEL:
            raise ArtifactError(f"{self.path / _WEIGHTS}: no record of a weight at {at}")
        dtype = _ELEMENT.get(kind, np.dtype("u1"))
        return np.frombuffer(memoryview(self.weights)[start : start + size], dtype)


def scale(package: Package, chance: random.Random) -> str:
    """A block of one weight times a factor."""
    blob = chance.choice(package.blobs)
    block, where = _block(package.elements(blob), chance)
    factor = chance.choice(_FACTORS)
    with np.errstate(all="ignore"):
        block[...] = (block * factor).astype(block.dtype)
    return f"{_name(blob)}[{where}] times {factor}"


def shuffle(package: Package, chance: random.Random) -> str:
    """A block of one weight in another order."""
    blob = chance.choice(package.blobs)
    block, where = _block(package.elements(blob), chance)
    np.random.default_rng(chance.getrandbits(32)).shuffle(block)
    return f"{_name(blob)}[{where}] shuffled"


def number(package: Package, chance: random.Random) -> str:
    """One number or flag that an operation is given: axes, epsilons, bounds, factors."""
    sites = [
        (package.name(block, op), name, tensor)
        for block in package.blocks
        for op in block.operations
        for name, tensor in _immediates(op)
    ]
    op, name, tensor = chance.choice(sites)
    kind = tensor.WhichOneof("value")
    values = getattr(tensor, kind).values
    if kind == "bytes":
        raw = np.frombuffer(values, np.uint8).copy()
        at = chance.randrange(raw.size)
        raw[at] ^= 1 << chance.randrange(8)
        getattr(tensor, kind).values = raw.tobytes()
        return f"{op} {name}: a bit of byte {at}"
    at = chance.randrange(len(values))
    old = values[at]
    values[at] = _other(old, kind, chance)
    return f"{op} {name}[{at}]: {old} to {values[at]}"


def word(package: Package, chance: random.Random) -> str:
    """One word that an operation is given: another of those that the MIL reference allows there."""
    block, op, name, words = chance.choice(list(words_of(package)))
    old = words[0]
    words[0] = _equation(old, chance) if name == "equation" else chance.choice(_others(op, name, old))
    return f"{package.name(block, op)} {name}: {old} to {words[0]}"


def words_of(package: Package) -> Iterator[tuple[Block, Any, str, Any]]:
    """Every word that an operation is given: where, the parameter, and the protobuf list that holds it."""
    for block in package.blocks:
        for op in block.operations:
            for name, argument in op.inputs.items():
                for one in argument.arguments:
                    named = one.WhichOneof("binding") == "name"
                    tensor = block.constants.get(one.name) if named else one.value.immediateValue.tensor
                    if tensor is not None and tensor.WhichOneof("value") == "strings":
                        yield block, op, name, tensor.strings.values


def swap_weights(package: Package, chance: random.Random) -> str:
    """Two weights of one shape and type, each in the other's place, in one function."""
    block = chance.choice(package.blocks)
    groups: dict[bytes, dict[int, Any]] = {}
    for blob in block.blobs:
        value = blob.attributes["val"]
        groups.setdefault(value.type.SerializeToString(deterministic=True), {})[value.blobFileValue.offset] = blob
    group = chance.choice([group for group in groups.values() if len(group) > 1])
    one, other = chance.sample(list(group.values()), 2)
    first, second = one.attributes["val"].blobFileValue, other.attributes["val"].blobFileValue
    first.offset, second.offset = second.offset, first.offset
    return f"{package.name(block, one)} and {_name(other)} swapped"


def swap_inputs(package: Package, chance: random.Random) -> str:
    """Two inputs of one operation, each in the other's place."""
    sites = []
    for block in package.blocks:
        for op in block.operations:
            given = [one for argument in op.inputs.values() for one in argument.arguments]
            named = [one for one in given if one.WhichOneof("binding") == "name" and one.name not in block.constants]
            if len({one.name for one in named}) > 1:
                sites.append((block, op, named))
    block, op, values = chance.choice(sites)
    one, other = chance.sample(values, 2)
    while one.name == other.name:
        one, other = chance.sample(values, 2)
    one.name, other.name = other.name, one.name
    return f"{package.name(block, op)}: inputs {other.name} and {one.name} swapped"


KINDS: dict[str, Callable[[Package, random.Random], str]] = {
    "scale": scale,
    "shuffle": shuffle,
    "number": number,
    "word": word,
    "swap weights": swap_weights,
    "swap inputs": swap_inputs,
}


def _is_blob(value: Any) -> bool:
    return bool(value.WhichOneof("value") == "blobFileValue")


def _immediates(op: Any) -> list[tuple[str, Any]]:
    """The numbers and flags that stand in the model itself: parameter name and protobuf tensor."""
    values = [("value", op.attributes["val"])] if op.type == "const" else []
    if op.type != "const":
        values = [(name, one.value) for name, argument in op.inputs.items() for one in argument.arguments]
    tensors = [
        (name, value.immediateValue.tensor) for name, value in values if value.WhichOneof("value") == "immediateValue"
    ]
    return [(name, one) for name, one in tensors if one.WhichOneof("value") not in ("strings", None) and _size(one)]


def _others(op: Any, name: str, old: str) -> list[str]:
    """The other words that an operation's parameter may have."""
    return [other for other in WORDS[op.type, name] if other != old]


def _equation(old: str, chance: random.Random) -> str:
    """Another equation of ``einsum``: two axes of one of its terms in each other's place."""
    terms = re.split("(,|->)", old)
    at = chance.choice(range(0, len(terms), 2))
    one, other = chance.sample(terms[at], 2)
    terms[at] = terms[at].translate(str.maketrans(one + other, other + one))
    return "".join(terms)


def _size(tensor: Any) -> int:
    return len(getattr(tensor, tensor.WhichOneof("value")).values)


def _other(old: Any, kind: str, chance: random.Random) -> Any:
    """Another number or flag than `old`."""
    if kind == "bools":
        return not old
    if kind in ("ints", "longInts"):
        return old + chance.choice((-1, 1))
    return old * chance.choice((-1.0, 0.5, 2.0, 10.0)) if old else chance.choice((-1.0, 1e-3, 1.0))


def _block(elements: np.ndarray, chance: random.Random) -> tuple[np.ndarray, str]:
    """A run of elements: all of them, or down to a hundredth."""
    size = max(2, int(elements.size * 10 ** chance.uniform(-2, 0)))
    size = min(size, elements.size)
    start = chance.randrange(elements.size - size + 1)
    return elements[start : start + size], f"{start}:{start + size}"


def _name(op: Any) -> str:
    return f"{op.type} {op.outputs[0].name}" if op.outputs else str(op.type)
