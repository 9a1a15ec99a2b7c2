"""Python functions as tools, from a module or a file; `router.toolset_load.from_functions` does the work."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from router.explain import ToolsetError, near
from router.toolset import Toolset
from router.toolset_load import from_functions
from train.data.tools.assembling import Wish, chosen, toolset_name


def from_python(source: str, *, wish: Wish) -> Toolset:
    """The functions of ``module:f,g``, ``file.py:f,g`` or ``file.py`` (all that it defines in public) as tools.

    The module is imported, so its code runs. Raises `ToolsetError`.
    """
    target, _, wanted = source.rpartition(":") if not source.endswith(".py") else (source, "", "")
    module = _import_file(Path(target)) if target.endswith(".py") else _import_module(target, source)
    functions = _named(module, wanted, source) if wanted else _public(module, source)
    names = chosen([f.__name__ for f in functions], wish, source)
    if not names:
        raise ToolsetError(f"{source}: no tool is left; a toolset needs at least one")
    name = wish.name or toolset_name(Path(target).stem if target.endswith(".py") else target.rpartition(".")[2])
    return from_functions([f for f in functions if f.__name__ in names], name=name, max_calls=wish.max_calls)


def _named(module: ModuleType, wanted: str, source: str) -> list[Callable[..., Any]]:
    found = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        if not callable(getattr(module, name, None)):
            known = [n for n, _ in inspect.getmembers(module, inspect.isfunction)]
            raise ToolsetError(f"{source}: {module.__name__} has no function {name!r}{near(name, known)}")
        found.append(getattr(module, name))
    return found


def _public(module: ModuleType, source: str) -> list[Callable[..., Any]]:
    """The functions that the module itself defines, in the order of its source."""
    found = [
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    ]
    if not found:
        raise ToolsetError(f"{source}: defines no public function; name them: {source}:FUNCTION,FUNCTION")
    return sorted(found, key=lambda function: function.__code__.co_firstlineno)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ToolsetError(f"{path}: no such file")
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not name.isidentifier():
        raise ToolsetError(f"{path}: cannot be imported; its name must be that of a module")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    # Hints of classes within the file are looked up here; what had the name before gets it back.
    sys.modules[name] = module
    try:
        with _explained(str(path)), _path_to(path.parent):
            spec.loader.exec_module(module)
    finally:
        if before is not None:
            sys.modules[name] = before
    return module


def _import_module(name: str, source: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ToolsetError(f"{source}: {name!r} is no module; write module:function,function or a file")
    with _explained(source), _path_to(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _path_to(folder: Path) -> Iterator[None]:
    """What is imported may import its neighbours, as with ``python file.py``."""
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


@contextmanager
def _explained(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the code is the user's, and may fail in any way
        text = " ".join(str(error).split())
        raise ToolsetError(
            f"{source}{_line(error, source)}: cannot be imported ({type(error).__name__}: {text})"
        ) from error


def _line(error: BaseException, source: str) -> str:
    """Where in the file `source` it happened."""
    lines = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        lines.append((error.filename or "", error.lineno))
    path = Path(source).resolve()
    return next((f":{line}" for name, line in reversed(lines) if Path(name).resolve() == path), "")
