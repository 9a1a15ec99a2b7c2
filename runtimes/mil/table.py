"""The operations that the interpreter knows: type -> numpy function.

A function takes an operation's inputs under the names and with the defaults of the MIL reference (the classes in
``coremltools.converters.mil.mil.ops.defs``, which the first words of its docstring name: opset, module, class) and
returns its output, or a tuple of them. Floats come and go as float32 whatever the program declares: rounding to the
declared type is the caller's (`runtimes.mil.run`). Parameters that say only how errors are reported are accepted and
not used.

A function of a program has an opset, which says which form of an operation it means. The table holds the latest forms
(of iOS 18). Of those that iOS 17 changed in more than the types they take it holds the earlier one too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

OPERATIONS: Final[dict[str, Callable[..., Any]]] = {}
"""Filled by the ``ops_…`` modules when `runtimes.mil.operations` imports them."""

EARLIER: Final[dict[str, Callable[..., Any]]] = {}
"""What iOS 15 and iOS 16 mean by a type, where iOS 17 means something else."""

_BEFORE_IOS17: Final = ("CoreML5", "CoreML6")
"""The opsets of iOS 15 and iOS 16, as a package names them."""

MOVES: Final[set[str]] = set()
"""Types that compute nothing: their output's elements are their inputs', and need no rounding again."""

VIEWS: Final[set[str]] = set()
"""Those of them whose output may be the input's own memory."""

F = TypeVar("F", bound=Callable[..., Any])


def operation(function: F) -> F:
    """Register a function under its name (less a trailing underscore, which keeps Python's own names free)."""
    OPERATIONS[function.__name__.rstrip("_")] = function
    return function


def before_ios17(function: F) -> F:
    """Register an earlier form; whether it moves elements or shows memory is as of the latest."""
    EARLIER[function.__name__.rstrip("_")] = function
    return function


def find(kind: str, opset: str) -> Callable[..., Any]:
    """What a type of operation means in an opset (``CoreML8``). Raises `KeyError` for one that is not known."""
    return EARLIER[kind] if opset in _BEFORE_IOS17 and kind in EARLIER else OPERATIONS[kind]


def move(function: F) -> F:
    """Register an operation that only puts elements elsewhere."""
    MOVES.add(function.__name__.rstrip("_"))
    return operation(function)


def view(function: F) -> F:
    """Register one of those whose output may share memory with its input."""
    VIEWS.add(function.__name__.rstrip("_"))
    return move(function)
