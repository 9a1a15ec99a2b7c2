"""A stand-in for `coremltools.models.MLModel` and `MLState`: a saved package, executed by the reference interpreter.

It takes what Core ML takes (names, types and shapes of a function's inputs, one function a model), and knows three ways
of meeting a state that another function's model made, of which Core ML's is not documented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from export.coreml_mil import Package

Foreign = Literal["shared", "refused", "ignored"]


@dataclass
class FakeState:
    """`MLState`: the buffers, and which function's model made them."""

    buffers: dict[str, np.ndarray]
    function: str
    reads: int = 0

    def read_state(self, name: str) -> np.ndarray:
        self.reads += 1
        return self.buffers[name].copy()

    def write_state(self, name: str, value: np.ndarray) -> None:
        assert value.shape == self.buffers[name].shape
        self.buffers[name] = value.copy()


def fake_mlmodel(package: Package, foreign: Foreign = "shared") -> type:
    """A class in the place of `MLModel` that knows this package alone; `opened` has the arguments of its models."""

    class FakeMLModel:
        opened: list[tuple[str, Any, str | None]] = []
        states: list[FakeState] = []

        def __init__(self, path: str, compute_units: Any, function_name: str | None = None) -> None:
            from coremltools import ComputeUnit

            assert isinstance(compute_units, ComputeUnit)
            self.opened.append((path, compute_units, function_name))
            self.function = function_name or package.program.default
            assert self.function in package.program.functions

        def get_spec(self) -> Any:
            return package.spec

        def make_state(self) -> FakeState:
            self.states.append(FakeState(package.make_state(), self.function))
            return self.states[-1]

        def predict(self, data: dict[str, np.ndarray], state: FakeState) -> dict[str, np.ndarray]:
            buffers = state.buffers
            if state.function != self.function and foreign == "refused":
                raise RuntimeError("the state was made by another model")
            if state.function != self.function and foreign == "ignored":
                buffers = package.make_state()
            return package.run(data, buffers, function=self.function)

    return FakeMLModel


def on_a_mac(monkeypatch: Any, model: type) -> None:
    """Let the Core ML runtime find macOS 15 on Apple silicon, and `model` for `MLModel`."""
    import platform

    import coremltools as ct

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.4", ("", "", ""), "arm64"))
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(ct.models, "MLModel", model)
