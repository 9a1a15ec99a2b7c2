"""Schema-Guided Dialogue: user turns that state a whole call, asked of five declared tools.

A row is a user turn directly followed by the system's ``service_call`` with at least one parameter, every value of
which, or a variant of it in that turn's state, occurs in the utterance (case ignored, whole words). The gold value is
the wording as uttered; the canonical value is accepted too. The call's tool is declared with four tools of other
services; ``sgd_x/v1`` … ``v5`` give the same request again under schemas renamed and reworded.

Dialogues that use one of `sources.SGD_HELD_OUT` are never trained on; of these, calls to those services are the
development rows, among tools of those services alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.toolset import Call, Tool, Toolset
from runtimes.errors import UserError
from train.data import sources
from train.data.importers.base import Importer, Options, Row, RowError, Skipped, Split, each, squeeze, want
from train.data.importers.files import json_file, json_rows, missing

DECLARED: Final = 5
"""Tools that a request is asked of."""
DRAWS: Final = 8
"""Choices of the other tools, per tool and wording: enough to vary, few enough that requests share a block."""
_MAX_ACCEPT: Final = 64


@dataclass(frozen=True)
class _Tool:
    """A service's intent in one wording: its tool, and what its slots are called there."""

    service: str
    tool: Tool
    slots: dict[str, str]


@dataclass(frozen=True)
class _Turn:
    id: str
    service: str
    user: Any
    call: Any
    held_out: bool


_Wordings = dict[str, dict[tuple[str, str], _Tool]]
"""``original``, ``v1``, … -> (service, intent) -> its tool in that wording."""


def files(folder: Path) -> list[Path]:
    """``train/schema.json``, ``train/dialogues_*.json`` and, if they are there, ``sgd_x/v*/train/schema.json``."""
    dialogues = sorted(folder.glob("train/dialogues_*.json"))
    if not (folder / "train" / "schema.json").is_file() or not dialogues:
        raise missing(folder, "train/schema.json and train/dialogues_*.json", IMPORTER)
    return [folder / "train" / "schema.json", *sorted(folder.glob("sgd_x/v*/train/schema.json")), *dialogues]


def read(folder: Path, options: Options) -> Iterator[Row | Skipped]:
    schema, *others = files(folder)
    wordings = _wordings(schema, [path for path in others if path.name == "schema.json"])
    makers = [_maker(wordings, wording, options.seed) for wording in wordings]
    for path in others:
        if path.name == "schema.json":
            continue
        for place, turn in _turns(path):
            first = next(each([(place, turn)], makers[0]))
            yield first
            if isinstance(first, Row):
                for make in makers[1:]:
                    yield from each([(place, turn)], make)


def _turns(path: Path) -> Iterator[tuple[str, _Turn | None]]:
    """Every user turn that is followed by a service call; None for a dialogue that cannot be read."""
    for place, dialogue in json_rows(path):
        turns = dialogue.get("turns") if isinstance(dialogue, dict) else None
        if not isinstance(turns, list) or not isinstance(dialogue.get("services"), list):
            yield place, None
            continue
        held_out = not sources.SGD_HELD_OUT.isdisjoint(s for s in dialogue["services"] if isinstance(s, str))
        for number, (user, system) in enumerate(zip(turns, turns[1:], strict=False)):
            if not isinstance(user, dict) or not isinstance(system, dict) or user.get("speaker") != "USER":
                continue
            calls = [f for f in system.get("frames") or [] if isinstance(f, dict) and "service_call" in f]
            for frame in calls[:1]:
                name = f"sgd/{dialogue.get('dialogue_id', '?')}/{number:02d}"
                yield place, _Turn(name, str(frame.get("service")), user, frame["service_call"], held_out)


def _maker(wordings: _Wordings, wording: str, seed: int) -> Any:
    tools = wordings[wording]
    toolsets: dict[tuple[str, str, int], Toolset] = {}

    def make(place: str, turn: _Turn | None) -> Row:
        if turn is None:
            raise RowError("corrupt row", "a dialogue with 'services' and 'turns' is expected")
        key = (turn.service, want(turn.call, "method", str))
        if key not in tools:
            raise RowError("missing tool", f"{key[1]!r} is no intent of {key[0]!r} in the schema")
        development = turn.service in sources.SGD_HELD_OUT
        if turn.held_out and not development:
            raise RowError("a training service in a development dialogue", fault=False)
        options = _values(turn, tools[key], wordings["original"][key].tool)
        calls = [Call(tools[key].tool.name, dict(zip(options, chosen, strict=True))) for chosen in _combined(options)]
        draw = (*key, random.Random(turn.id).randrange(DRAWS))
        if draw not in toolsets:
            toolsets[draw] = _declare(tools, key, f"{seed}/{wording}/{draw}", wording, len(toolsets))
        acts = [a for f in turn.user.get("frames", []) for a in f.get("actions", []) if isinstance(a, dict)]
        stated = any(a.get("act") == "INFORM_INTENT" for a in acts)
        bucket = ("intent said" if stated else "values only") + ("" if wording == "original" else f", {wording}")
        split: Split = "dev" if development else "train"
        name = turn.id if wording == "original" else f"{turn.id}@{wording}"
        accept = tuple((call,) for call in calls[1:])
        case = Case(name, squeeze(turn.user["utterance"]), bucket=bucket, calls=(calls[0],), accept=accept)
        return Row(case, split, toolsets[draw], place)

    return make


def _values(turn: _Turn, named: _Tool, original: Tool) -> dict[str, list[str]]:
    """Parameter -> its acceptable values, the wording as uttered first."""
    text = squeeze(want(turn.user, "utterance", str))
    parameters = want(turn.call, "parameters", dict)
    if not parameters:
        raise RowError("a call without parameters", fault=False)
    states = [want(f, "state", dict) for f in want(turn.user, "frames", list) if f.get("service") == turn.service]
    variants = want(states[0], "slot_values", dict) if states else {}
    out: dict[str, list[str]] = {}
    for slot, canonical in parameters.items():
        if slot not in named.slots or not isinstance(canonical, str):
            raise RowError("a call breaks its schema", f"{slot!r} is no slot of {original.name}")
        said = next((s for s in (_said(text, v) for v in [canonical, *variants.get(slot, [])]) if s), None)
        if said is None:
            raise RowError("not stated in the turn", fault=False)
        allowed = original.parameters.properties[slot].enum
        out[named.slots[slot]] = [canonical] if allowed else list(dict.fromkeys([said, canonical]))
    return out


def _said(text: str, value: str) -> str | None:
    """`value` as it stands in the utterance, or None."""
    value = squeeze(value)
    found = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) if value else None
    return found.group() if found else None


def _combined(options: dict[str, list[str]]) -> Iterator[tuple[str, ...]]:
    for number, chosen in enumerate(product(*options.values())):
        if number > _MAX_ACCEPT:
            return
        yield chosen


def _declare(tools: dict[tuple[str, str], _Tool], key: tuple[str, str], seed: str, wording: str, n: int) -> Toolset:
    """The tool of `key` and four of other services of its portion, none named alike, in a random order."""
    rng = random.Random(seed)
    own = tools[key]
    portion = own.service in sources.SGD_HELD_OUT
    chosen = {own.tool.name: own.tool}
    others = [t for t in tools.values() if t.service != own.service and (t.service in sources.SGD_HELD_OUT) == portion]
    rng.shuffle(others)
    for other in others:
        if len(chosen) < DECLARED:
            chosen.setdefault(other.tool.name, other.tool)
    declared = list(chosen.values())
    rng.shuffle(declared)
    return Toolset(f"sgd-{wording}-{n:04d}", tuple(declared))


def _wordings(schema: Path, renamed: list[Path]) -> _Wordings:
    services = _services(schema)
    out = {"original": {key: _Tool(key[0], tool, {p: p for p in _slots(tool)}) for key, tool in services.items()}}
    for path in renamed:
        found = _services(path)
        if [len(_slots(t)) for t in found.values()] != [len(_slots(t)) for t in services.values()]:
            raise UserError(f"{path}: does not rename {schema}, intent by intent; download both again")
        out[path.parent.parent.name] = {
            key: _Tool(key[0], there, dict(zip(_slots(here), _slots(there), strict=True)))
            for (key, here), there in zip(services.items(), found.values(), strict=True)
        }
    return out


def _services(path: Path) -> dict[tuple[str, str], Tool]:
    try:
        return {
            (service["service_name"], intent["name"]): sources._sgd_tool(service, intent, intent["name"])
            for service in json_file(path)
            for intent in service["intents"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a schema of services ({type(error).__name__}: {error})") from None


def _slots(tool: Tool) -> list[str]:
    return list(tool.parameters.properties)


IMPORTER: Final = Importer(
    "sgd",
    "Schema-Guided Dialogue: user turns that state a whole call, under original and renamed (SGD-X) schemas",
    "CC-BY-SA-4.0",
    "github.com/google-research-datasets/dstc8-schema-guided-dialogue (train, and sgd_x/data for sgd_x)",
    files,
    read,
    toolset=False,
    held_out=f"dialogues that use {', '.join(sorted(sources.SGD_HELD_OUT))}, and those services' schemas",
)
