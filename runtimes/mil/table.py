"""The operations that the interpreter knows: type -> numpy function.

A function takes an operation's inputs under the names and with the defaults of the MIL reference (the classes in
``coremltools.converters.mil.mil.ops.defs``, which the first words of its docstring name: opset, module, class) and
returns its output, or a tuple of them. Floats come and go as float32 whatever the program declares: rounding to the
declared type is the caller's (`runtimes.mil.run`). Parameters that say only how errors are reported are accepted and
not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

OPERATIONS: Final[dict[str, Callable[..., Any]]] = {}
"""Filled by the ``ops_…`` modules when `runtimes.mil.operations` imports them."""

MOVES: Final[set[str]] = set()
"""Types that compute nothing: their output's elements are their inputs', and need no rounding again."""

VIEWS: Final[set[str]] = set()
"""Those of them whose output may be the input's own memory."""

F = TypeVar("F", bound=Callable[..., Any])


def operation(function: F) -> F:
    """Register a function under its name (less a trailing underscore, which keeps Python's own names free)."""
    OPERATIONS[function.__name__.rstrip("_")] = function
    return function


def move(function: F) -> F:
    """Register an operation that only puts elements elsewhere."""
    MOVES.add(function.__name__.rstrip("_"))
    return operation(function)


def view(function: F) -> F:
    """Register one of those whose output may share memory with its input."""
    VIEWS.add(function.__name__.rstrip("_"))
    return move(function)
