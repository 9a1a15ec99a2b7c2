"""What a run is made from, kept in its folder, so that it is not gone on with under other settings.

``run/recipe.json`` is written when a run begins: ``config`` (all settings that decide what is learnt), and digests of
what they stand for (rows, base, vectors). A run that began before there was such a file is known by the settings in its
``last.pt``. Settings that a record lacks are younger than it: they count as what was usual then (`LATER`), and those
that have no such value are not compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from export.atomic import disk_errors, write_json
from export.checkpoint import read_json
from runtimes.errors import UserError
from train.precision import detect
from train.state import LAST, read_state

if TYPE_CHECKING:
    from train.loop import LoopConfig

RECIPE: Final = "recipe.json"
FREE: Final = ("device", "threads", "log_every", "accumulate")
"""Settings of the loop that a resumed run may change: where and how it runs, not what it learns."""
LATER: Final[dict[str, Any]] = {
    "quantize": "none",
    "train_files": [],
    "dev_files": [],
    "validation": "development",
    "loop.precision": "bf16",
    "loop.average": 0.0,
    "loop.embedding_rate": 1.0,
    "loop.pointing": 0.0,
    "loop.copying": 0.0,
}
"""What runs had whose record is older than the setting."""
_SECTIONS: Final = ("config", "loop")
_SAID: Final = {
    "base": "--base",
    "data": "the training rows",
    "dev": "the validation rows",
    "sources": "--data",
    "vectors": "--vectors",
    "against": "--against",
    "earlier": "the stage before",
    "words": "words.txt",
}
"""What digests stand for, in the words of the command line."""


def loop_settings(config: LoopConfig) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on."""
    return {k: v for k, v in asdict(config).items() if k not in FREE}


def claim(run: Path, recipe: Mapping[str, Any]) -> None:
    """Make `run` the folder of the run that `recipe` describes; its ``config`` holds the settings, ``config.loop`` the
    loop's.

    Raises `UserError`, naming what differs, where a run of another recipe has begun there. One that ended before it
    wrote anything else is not in the way.
    """
    before = recorded(run)
    if before is not None and not (before[0].name == RECIPE and _bare(run)):
        place, record = before
        refuse_others(place, record, recipe)
        if place.name == RECIPE:
            return
    path = run / RECIPE
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")  # processes that train together all come by here
    with disk_errors(path):
        run.mkdir(parents=True, exist_ok=True)
        write_json(temporary, recipe)
        temporary.replace(path)


def _bare(run: Path) -> bool:
    """Whether a run left nothing but its record, such as one whose rows could not be used."""
    return all(path.name == RECIPE or path.name.startswith(".tmp-") for path in run.iterdir())


def recorded(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """What the run in `run` is made from, and the file that says so; None where none has begun."""
    if (run / RECIPE).is_file():
        return run / RECIPE, read_json(run / RECIPE)
    if (run / LAST).is_file():
        return run / LAST, {"loop": read_state(run / LAST, lazy=True).get("config", {})}
    return None


def settled(config: LoopConfig, run: Path, only: str | None = None) -> LoopConfig:
    """`config` with a precision instead of ``auto``: that which the run in `run` began with; for a new one `only`, or
    what the device has."""
    if config.precision != "auto":
        return config
    before = recorded(run)
    known = None if before is None else _flat(before[1]).get("loop.precision", LATER["loop.precision"])
    return replace(config, precision=known or only or detect(config.device))


def refuse_others(place: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `UserError` naming `place` and the settings in which the record `before` differs from `now`."""
    if found := differences(before, now):
        raise other_configuration(place, found)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that both have with unlike values, in words. Records are nested as in ``recipe.json``."""
    old, new = {**LATER, **_flat(before)}, _flat(now)
    return [_told(key, old[key], value) for key, value in new.items() if key in old and old[key] != value]


def other_configuration(path: Path, found: Sequence[str] = ()) -> UserError:
    """What a run says that finds another run's state at `path`; `found` says in what they differ."""
    which = f" ({'; '.join(found)})" if found else ""
    return UserError(
        f"{path}: made with another configuration{which}; resume with that one, or choose another folder (--out)"
    )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, the loop's as ``loop.NAME``, with values as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(record)).items():
        if key in _SECTIONS and isinstance(value, dict):
            flat |= {k if key == "config" else f"{key}.{k}": v for k, v in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _told(key: str, before: Any, now: Any) -> str:
    name = _SAID.get(key, key)
    short = all(isinstance(value, int | float | str | None) and len(str(value)) <= 40 for value in (before, now))
    return f"{name} {before}, now {now}" if short else f"{name} changed"
