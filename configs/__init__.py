"""Data that is installed with the code: toolsets, cases, training and bench configurations."""

from __future__ import annotations

from pathlib import Path


def path(*parts: str) -> Path:
    """Where a configuration lies, e.g. ``path("toolsets", "kiwi.yaml")``."""
    return Path(__file__).resolve().parent.joinpath(*parts)
