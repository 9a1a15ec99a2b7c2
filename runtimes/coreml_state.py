"""The state of one sequence under several functions of a Core ML package.

Core ML documents a state as the one of the model that made it (``MLModel.makeState``,
``MLModel.prediction(from:using:)``), and a model as one function of its package
(``MLModelConfiguration.functionName``). That functions which declare the same states may take each other's is
widely done and nowhere promised. So it is tried when a package is opened: where it works, all share one state; where
it does not, each function has its own, and what the state holds is handed on with ``MLState.read_state`` and
``write_state`` when another function goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtimes.coreml_package import Inputs, Interface

Functions = Mapping[str, Any]
"""A `coremltools.models.MLModel` for each function."""


def share_states(functions: Functions, interface: Interface) -> bool:
    """Whether what one function writes into another's state can be read there afterwards."""
    names = list(interface.functions)
    if len(names) == 1:
        return True
    (step,) = interface.steps([0], 0, "last")
    writer = functions[step.function]
    reader = next(functions[name] for name in names if name != step.function)
    try:
        state = reader.make_state()
        writer.predict(step.inputs, state)
        return all(bool(np.any(state.read_state(name))) for name in interface.states)
    except Exception:  # coremltools raises bare Exception, and Core ML's errors as RuntimeError
        return False


class JointState:
    """One `MLState`, whichever function is called."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._state: Any = next(iter(functions.values())).make_state()

    def predict(self, function: str, inputs: Inputs) -> Mapping[str, Any]:
        """One prediction: outputs by name; changes the state."""
        out: Mapping[str, Any] = self._functions[function].predict(inputs, self._state)
        return out


class SeparateStates:
    """An `MLState` for each function; the one that goes on gets what the one before it has."""

    def __init__(self, functions: Functions, interface: Interface) -> None:
        self._functions, self._names = functions, interface.states
        self._states: dict[str, Any] = {name: one.make_state() for name, one in functions.items()}
        self._latest: str | None = None

    def predict(self, function: str, inputs: Inputs) -> Mapping[str, Any]:
        """As `JointState.predict`."""
        mine = self._states[function]
        if self._latest not in (None, function):
            for name in self._names:
                mine.write_state(name, self._states[self._latest].read_state(name))
        self._latest = function
        out: Mapping[str, Any] = self._functions[function].predict(inputs, mine)
        return out
