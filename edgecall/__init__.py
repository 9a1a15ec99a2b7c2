"""The front door: ``from edgecall import Router`` and the `edgecall` command. Names load their module on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecall.version import __version__

if TYPE_CHECKING:
    from router.core import Router
    from router.result import RouteResult
    from router.toolset import Call, Toolset
    from router.toolset_load import load_toolset
    from runtimes.artifact import Artifact, open_artifact
    from runtimes.errors import UserError

_HOMES = {
    "Artifact": "runtimes.artifact",
    "Call": "router.toolset",
    "RouteResult": "router.core",
    "Router": "router.core",
    "Toolset": "router.toolset",
    "UserError": "runtimes.errors",
    "load_toolset": "router.toolset_load",
    "open_artifact": "runtimes.artifact",
}

__all__ = [
    "Artifact",
    "Call",
    "RouteResult",
    "Router",
    "Toolset",
    "UserError",
    "__version__",
    "load_toolset",
    "open_artifact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
