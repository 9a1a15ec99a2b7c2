"""The routers that come with the project, installed beside the code so that everything works offline."""

from __future__ import annotations

from pathlib import Path


def path(*parts: str) -> Path:
    """Where a model or one of its files lies, e.g. ``path("seed")``; it need not exist."""
    return Path(__file__).resolve().parent.joinpath(*parts)
