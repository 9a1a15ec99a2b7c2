"""Reading what runs left, for a card: what is missing or broken becomes a problem in words, and None comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.checkpoint import read_json
from runtimes.errors import UserError


def read_object(path: Path, keys: Sequence[str], hint: str, problems: list[str]) -> dict[str, Any] | None:
    """A JSON object that has `keys` (dots go down); None, with a problem for each that is not there."""
    if not path.is_file():
        problems.append(f"{path} is missing ({hint})")
        return None
    try:
        data = read_json(path)
    except UserError as error:
        problems.append(str(error))
        return None
    absent = [key for key in keys if not _has(data, key.split("."))]
    problems += [f"{path} lacks {key!r}" for key in absent]
    return None if absent else data


def read_log(path: Path, problems: list[str]) -> tuple[dict[str, Any], ...]:
    """The log's events; a step that a resumed run made again counts as it was the last time."""
    if not path.is_file():
        problems.append(f"{path} is missing (`edgecall train lora` writes it)")
        return ()
    events: dict[tuple[int, bool], dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            event = json.loads(line)
            events[int(event["step"]), "validation" in event] = event
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path}:{number} is no event of a training run")
            return ()
    if not any(validates for _, validates in events):
        problems.append(f"{path} has no validation loss; train further")
        return ()
    return tuple(events[key] for key in sorted(events))


def _has(data: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True
