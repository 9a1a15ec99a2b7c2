"""Break a Core ML package at random, and see whether ``edgecall verify`` notices::

    python -m tests.stress.coreml_mutations out/coreml-fp32 --n 200 --cases configs/cases/kiwi/handwritten_dev.jsonl \\
        --out mutations.jsonl

A mutation scales or shuffles a block of weights, changes a number or a flag that an operation is given (axes and
epsilon among them), or swaps two tensors: two weights of one shape, or two inputs of one operation. The manifest is
made right again, so that only the proof can notice. What a mutation does is measured apart from the proof: the logits
of every token of requests from `--cases`, and of random tokens up to the package's capacity, before and after, in the
reference interpreter. Mutation i depends on the seed and i alone; what stands in `--out` already is not done again.

Exit code 0 if at least `--share` (0.95) of the mutations that move a logit by more than the export's tolerance are
noticed. Survivors are listed with what they moved. Mutations that leave a program that cannot be run are counted apart.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.proof import verify
from export.proof_file import read_header
from router.cases import Case, load_cases
from router.tokenizer import RouterTokenizer
from router.toolset_load import load_json
from router.wire import wire_format
from runtimes.artifact import Artifact, open_artifact, sha256_file, write_manifest
from runtimes.base import Logits
from runtimes.coreml_reference import open_model
from runtimes.errors import ArtifactError, UserError

PASS = 128
"""Tokens that are appended at once where logits are measured; all of their rows are kept."""
_MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
_WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
_SENTINEL = 0xDEADBEEF
_ELEMENT = {1: np.dtype("<f2"), 2: np.dtype("<f4"), 3: np.dtype("u1"), 4: np.dtype("i1")}
"""``BlobDataType`` of coremltools' ``mlmodel/src/MILBlob/Blob/BlobDataType.hpp``; the rest is taken byte by byte."""
_FACTORS = (-1.0, 0.0, 0.5, 0.9, 1.1, 2.0)


@dataclass(frozen=True)
class Outcome:
    """One mutation: what was done, how far it moved a logit, and whether `verify` failed and by which check."""

    number: int
    kind: str
    what: str
    moved: float | None
    """Largest difference of a logit; None where the mutated program cannot be run."""
    noticed: bool
    by: str


class Package:
    """A copy of a package that is being changed: its protobuf message, and the bytes of its weight file."""

    def __init__(self, path: Path) -> None:
        from coremltools.proto import Model_pb2

        self.path = path
        self.spec = Model_pb2.Model()
        self.spec.ParseFromString((path / _MODEL).read_bytes())
        self.weights = bytearray((path / _WEIGHTS).read_bytes())
        function = self.spec.mlProgram.functions[self.spec.description.defaultFunctionName or "main"]
        self.operations = function.block_specializations[function.opset].operations
        self.blobs = [op for op in self.operations if op.type == "const" and _is_blob(op.attributes["val"])]

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
    sites = [(op, name, tensor) for op in package.operations for name, tensor in _immediates(op)]
    op, name, tensor = chance.choice(sites)
    kind = tensor.WhichOneof("value")
    values = getattr(tensor, kind).values
    if kind == "bytes":
        raw = np.frombuffer(values, np.uint8).copy()
        at = chance.randrange(raw.size)
        raw[at] ^= 1 << chance.randrange(8)
        getattr(tensor, kind).values = raw.tobytes()
        return f"{_name(op)} {name}: a bit of byte {at}"
    at = chance.randrange(len(values))
    old = values[at]
    values[at] = _other(old, kind, chance)
    return f"{_name(op)} {name}[{at}]: {old} to {values[at]}"


def swap_weights(package: Package, chance: random.Random) -> str:
    """Two weights of one shape and type, each in the other's place."""
    groups: dict[bytes, list[Any]] = {}
    for blob in package.blobs:
        groups.setdefault(blob.attributes["val"].type.SerializeToString(deterministic=True), []).append(blob)
    one, other = chance.sample(chance.choice([group for group in groups.values() if len(group) > 1]), 2)
    first, second = one.attributes["val"].blobFileValue, other.attributes["val"].blobFileValue
    first.offset, second.offset = second.offset, first.offset
    return f"{_name(one)} and {_name(other)} swapped"


def swap_inputs(package: Package, chance: random.Random) -> str:
    """Two inputs of one operation, each in the other's place."""
    sites = []
    for op in package.operations:
        named = [
            one for argument in op.inputs.values() for one in argument.arguments if one.WhichOneof("binding") == "name"
        ]
        values = [one for one in named if _is_value(package, one.name)]
        if len({one.name for one in values}) > 1:
            sites.append((op, values))
    op, values = chance.choice(sites)
    one, other = chance.sample(values, 2)
    while one.name == other.name:
        one, other = chance.sample(values, 2)
    one.name, other.name = other.name, one.name
    return f"{_name(op)}: inputs {other.name} and {one.name} swapped"


KINDS: dict[str, Callable[[Package, random.Random], str]] = {
    "scale": scale,
    "shuffle": shuffle,
    "number": number,
    "swap weights": swap_weights,
    "swap inputs": swap_inputs,
}


class Study:
    """The artifact, what its logits are, and where mutated copies of it are made."""

    def __init__(self, artifact: Artifact, cases: Sequence[Case], folder: Path, seed: int) -> None:
        self.artifact, self.folder, self.seed = artifact, folder, seed
        self.tolerance = read_header(artifact).tolerance
        self.sequences = [*_prompts(artifact, cases)]
        model = open_model(artifact, threads=1)
        vocab, room = model.vocab_size, model.context_length
        self.sequences.append(random.Random(seed).choices(range(vocab), k=room))
        model.close()
        self.before = self._logits(artifact)

    def outcome(self, index: int) -> Outcome:
        """Mutation `index`: made, measured and put to `verify`."""
        chance = random.Random(f"{self.seed} {index}")
        kind = list(KINDS)[index % len(KINDS)]
        copy = self.folder / self.artifact.folder.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.artifact.folder, copy)
        mutated = Artifact(copy, self.artifact.manifest)
        package = Package(mutated.weights)
        what = KINDS[kind](package, chance)
        package.save()
        seal(mutated)
        result = verify(copy, threads=1)
        failed = [check for check in result.checks if check.ok is False]
        return Outcome(index, kind, what, self._moved(mutated), bool(failed), ", ".join(c.name for c in failed))

    def _moved(self, artifact: Artifact) -> float | None:
        """None where the program cannot be run."""
        try:
            after = self._logits(artifact)
        except (UserError, ValueError, IndexError, TypeError, ArithmeticError):
            return None
        worst = max(float(np.abs(a - b).max()) for a, b in zip(self.before, after, strict=True))
        return worst if worst == worst else float("inf")

    def _logits(self, artifact: Artifact) -> list[Logits]:
        """Of every sequence, the logits of all its rows."""
        model = open_model(artifact, threads=1)
        try:
            found = []
            for tokens in self.sequences:
                session = model.session()
                parts = [tokens[at : at + PASS] for at in range(0, len(tokens), PASS)]
                found.append(np.concatenate([session.append(part, rows="all").copy() for part in parts]))
            return found
        finally:
            model.close()


def seal(artifact: Artifact) -> None:
    """Make the manifest's hashes those of the files as they now are."""
    manifest = dict(artifact.manifest)
    files = [artifact.folder / entry["path"] for entry in manifest["files"]]
    manifest["files"] = [
        {
            "path": path.relative_to(artifact.folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in files
    ]
    write_manifest(artifact.folder, manifest)


def summary(outcomes: Sequence[Outcome], tolerance: float) -> tuple[float, list[str]]:
    """The share that is noticed of those that move a logit beyond `tolerance`, and lines that tell it all."""
    moving = [one for one in outcomes if one.moved is not None and one.moved > tolerance]
    broken = [one for one in outcomes if one.moved is None]
    noticed = [one for one in moving if one.noticed]
    share = len(noticed) / len(moving) if moving else 1.0
    by = Counter(one.by for one in noticed)
    lines = [
        f"{len(outcomes)} mutations: {len(moving)} move a logit by more than {tolerance:g}, {len(broken)} leave a "
        f"program that cannot be run ({sum(one.noticed for one in broken)} noticed), the rest move less",
        f"noticed: {len(noticed)} of {len(moving)} ({share:.1%}), by "
        + ", ".join(f"{k} {n}" for k, n in by.most_common()),
        *(f"survivor {one.number}: {one.what}: moved {one.moved:.3g}" for one in moving if not one.noticed),
        *(f"not run, not noticed {one.number}: {one.what}" for one in broken if not one.noticed),
    ]
    return share, lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="an exported Core ML artifact")
    parser.add_argument("--n", type=int, default=200, help="mutations (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=Path, required=True, help="requests of the artifact's toolset")
    parser.add_argument("--requests", type=int, default=6, help="so many of them are measured with (default: 6)")
    parser.add_argument("--share", type=float, default=0.95, help="what has to be noticed (default: 0.95)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a mutation; goes on where it ended")
    options = parser.parse_args(argv)
    artifact = open_artifact(options.artifact)
    done = (
        [Outcome(**json.loads(line)) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    )
    known = {one.number for one in done}
    with tempfile.TemporaryDirectory() as folder:
        study = Study(artifact, load_cases(options.cases)[: options.requests], Path(folder), options.seed)
        with options.out.open("a", encoding="utf-8") as file:
            for index in range(options.n):
                if index in known:
                    continue
                done.append(study.outcome(index))
                file.write(json.dumps(asdict(done[-1])) + "\n")
                file.flush()
                print(done[-1], flush=True)
    share, lines = summary(done, study.tolerance)
    print("\n".join(lines))
    return 0 if share >= options.share else 1


def _prompts(artifact: Artifact, cases: Sequence[Case]) -> list[list[int]]:
    tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
    toolset = load_json(artifact.toolset)
    prefix = tokenizer.prefix_ids(toolset)
    return [prefix + tokenizer.behind_prefix(toolset, case.user, case.context) for case in cases]


def _is_blob(value: Any) -> bool:
    return bool(value.WhichOneof("value") == "blobFileValue")


def _is_value(package: Package, name: str) -> bool:
    """Whether an operation computes it, or the function is given it: a constant is no tensor to be swapped here."""
    return not any(
        op.type == "const" and op.outputs[0].name == name and not _is_blob(op.attributes["val"])
        for op in package.operations
    )


def _immediates(op: Any) -> list[tuple[str, Any]]:
    """The numbers and flags that stand in the model itself: parameter name and protobuf tensor."""
    values = [("value", op.attributes["val"])] if op.type == "const" else []
    if op.type != "const":
        values = [(name, one.value) for name, argument in op.inputs.items() for one in argument.arguments]
    tensors = [
        (name, value.immediateValue.tensor) for name, value in values if value.WhichOneof("value") == "immediateValue"
    ]
    return [(name, one) for name, one in tensors if one.WhichOneof("value") not in ("strings", None) and _size(one)]


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


if __name__ == "__main__":
    sys.exit(main())
