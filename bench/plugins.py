"""Modules named with ``--plugin``, imported before anything is looked up: they register runtimes of one's own."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable

from runtimes.errors import UserError


def load_plugins(names: Iterable[str]) -> None:
    """Import each. Raises `UserError` for one that is not found, and for one that raises, saying what and where."""
    for name in names:
        try:
            importlib.import_module(name)
        # A script given for a module may well call `sys.exit`.
        except (Exception, SystemExit) as error:
            raise UserError(_explain(name, error)) from error


def _explain(name: str, error: BaseException) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if name.startswith(".") or (missing is not None and (name == missing or name.startswith(f"{missing}."))):
        return (
            f"--plugin {name}: there is no such module; give its dotted name, and put the folder that it lies in on "
            "PYTHONPATH"
        )
    said = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"--plugin {name}: raised while it was imported: {what}{_where(error)}; mend it or leave it out"


def _where(error: BaseException) -> str:
    """The last line of the plugin's own doing, not of this module or of the import system."""
    if isinstance(error, SyntaxError):
        return ""  # its text names the file and the line
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
