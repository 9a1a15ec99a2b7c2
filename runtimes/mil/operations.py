"""All operations: importing the modules fills the table."""

from __future__ import annotations

from runtimes.mil import (  # noqa: F401
    ops_activation,
    ops_constexpr,
    ops_earlier,
    ops_elementwise,
    ops_indexing,
    ops_linear,
    ops_reduction,
    ops_tensor,
)
from runtimes.mil.table import EARLIER, MOVES, OPERATIONS, VIEWS, find

__all__ = ["EARLIER", "MOVES", "OPERATIONS", "VIEWS", "find"]
