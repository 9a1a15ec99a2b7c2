"""``card.yaml`` beside an adapter or in a model folder: what no run can know. Every key is optional.

license: apache-2.0        # an identifier of the hub (huggingface.co/docs/hub/repositories-licenses)
language: [en]             # ISO 639 codes
tags: [function-calling]
about: What it is and is for. Markdown.
limits: What it is not good at. Markdown.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from runtimes.errors import UserError

FILE = "card.yaml"


@dataclass(frozen=True)
class Prose:
    """The keys of ``card.yaml``; empty where it does not say."""

    license: str = ""
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    about: str = ""
    limits: str = ""


def read_prose(folder: Path) -> Prose:
    """``card.yaml`` in `folder`, or nothing said. Raises `UserError` for an unknown key or another type."""
    path = folder / FILE
    if not path.is_file():
        return Prose()
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot read it ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a mapping is expected, with the keys {', '.join(_KEYS)}")
    for key in data:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KEYS)}"
            raise UserError(f"{path}: unknown key {key!r}; {hint}")
    return Prose(**{key: _value(path, key, value) for key, value in data.items()})


_KEYS = tuple(field.name for field in fields(Prose))


def _value(path: Path, key: str, value: Any) -> Any:
    several = key in ("language", "tags")
    if several and isinstance(value, str):
        value = [value]
    if several and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if not several and isinstance(value, str):
        return value.strip()
    wanted = "a list of texts" if several else "a text"
    raise UserError(f"{path}: {key!r} must be {wanted}; put quotes round what YAML reads as something else")
