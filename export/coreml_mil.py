"""A Core ML package that was saved, read back and run: in the reference interpreter, so that it can be compared with
the checkpoint on any machine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtimes import mil
from runtimes.mil import quiet


class Package:
    """A saved ``.mlpackage``: its interface, its operations, its constants, and `run`.

    Where it has several functions, the interface is the default one's; the states are all functions'.

    Raises `ArtifactError` for a package that cannot be read, or holds an operation that the interpreter does not know.
    """

    def __init__(self, path: Path) -> None:
        with quiet():
            from coremltools.models.utils import load_spec

            self.spec = load_spec(str(path))
        self.program = mil.from_spec(self.spec, path)
        self.function = self.program.main
        self._held = mil.Held()
        self._plans: dict[str, mil.Plan] = {}
        self._plan(self.program.default)

    @property
    def operations(self) -> Counter[str]:
        """How often each kind of operation occurs in all functions, constants apart."""
        return sum((one.counts for one in self.program.functions.values()), Counter())

    @property
    def states(self) -> dict[str, tuple[int, ...]]:
        """State name -> shape."""
        return {one.name: tuple(size or 0 for size in one.type.shape) for one in self.function.states}

    @property
    def inputs(self) -> dict[str, list[tuple[int, int]]]:
        """Input name -> smallest and largest size of each axis."""
        return {one.name: list(one.ranges) for one in self.function.features}

    def constants(self) -> Iterator[np.ndarray]:
        """The constants of all functions with two or more elements, weights among them."""
        arrays = (value for one in self.program.functions.values() for value in one.arrays())
        yield from {id(value): value for value in arrays}.values()

    def compressed(self) -> dict[str, np.ndarray]:
        """Name -> values, in float32, of the constants that the package stores compressed."""
        values = mil.fixed_values(self.function, self.program.path)
        made = (op.outputs for op in self.function.operations if op.type.startswith("constexpr_"))
        return {one.name: np.asarray(values[one.name]) for outputs in made for one in outputs}

    def make_state(self) -> mil.State:
        """A fresh state: zeros, as Core ML hands it out."""
        return mil.new_state(self._plan(self.program.default))

    def run(
        self,
        inputs: dict[str, np.ndarray],
        state: mil.State,
        watch: mil.Watch | None = None,
        *,
        function: str | None = None,
    ) -> dict[str, np.ndarray]:
        """One prediction of a function, or of the default one; changes `state`. `watch` is told every operation and
        its outputs."""
        return mil.execute(self._plan(function or self.program.default), inputs, state, watch)

    def _plan(self, function: str) -> mil.Plan:
        if function not in self._plans:
            one = self.program.functions[function]
            self._plans[function] = mil.make_plan(one, self.program.path, held=self._held)
        return self._plans[function]


def digest(value: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """Type, shape and a hash of the bytes of an array: equal for equal constants."""
    return str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()


__all__ = ["Package", "digest", "quiet"]
