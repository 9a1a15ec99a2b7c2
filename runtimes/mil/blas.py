"""The threads of numpy's matrix products."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads64_",
          "openblas_{}_num_threads")  # fmt: skip


def set_threads(count: int) -> int:
    """Let products use `count` threads, in the whole process; returns how many they use, as the library says.

    That is OpenBLAS, which numpy's wheels carry. Of others (Accelerate) nothing can be asked: 1, the interpreter's own.
    """
    found = _openblas()
    if found is None:
        return 1
    library, name = found
    getattr(library, name.format("set"))(ctypes.c_int(count))
    get = getattr(library, name.format("get"))
    get.restype = ctypes.c_int
    return int(get())


@cache
def _openblas() -> tuple[Any, str] | None:
    """The library that numpy has loaded from its wheel, and how its functions are called."""
    package = Path(np.__file__).parent
    for folder in (package.with_name("numpy.libs"), package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for name in _NAMES:
                if hasattr(library, name.format("set")):
                    return library, name
    return None
