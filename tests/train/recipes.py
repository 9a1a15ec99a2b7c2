"""A small recipe with all that rows can forbid each other: joined requests, shared wordings, a strict test side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TOOLS = """\
name: shed
description: Lamps and doors.
max_calls: 2
tools:
  - name: switch
    description: Switch a lamp on.
    parameters: {type: object, properties: {room: {type: string, copy: true}}, required: [room]}
  - name: lock
    description: Lock a door.
    parameters: {type: object, properties: {door: {type: string, copy: true}}, required: [door]}
"""


def small_recipe(folder: Path, **changes: Any) -> Path:
    """The recipe as a file in `folder`, its toolset beside it; `changes` replace top-level keys."""
    (folder / "shed.yaml").write_text(TOOLS)
    lamps = {
        "name": "lamp", "weight": 2, "call": "switch", "arguments": {"room": "{room}"},
        "train": ["(light|illuminate|brighten) {room}(| now)", "switch on (the |){room} lamp"],
        "test": ["make {room} (bright|shine)", "lamp in {room}"],
    }  # fmt: skip
    doors = {
        "name": "door", "weight": 1, "call": "lock", "arguments": {"door": "{door}"},
        "train": ["(lock|bolt|close) {door}", "{door} must be shut"],
        "test": ["bar {door}", "(seal|secure) {door}"],
    }  # fmt: skip
    data = {
        "toolset": str(folder / "shed.yaml"), "seed": 5, "strict": True, "rows": {"train": 300, "dev": 60, "test": 40},
        "parallel": {"share": 0.3, "patterns": ["lamp", "door"], "joiners": [" and ", "; "]},
        "slots": {
            "room": {"kind": "digits", "train": ["room ###", "hall ##", "Über ##"], "test": ["cellar ###"]},
            "door": {"kind": "digits", "train": ["gate ##", "hatch #"], "test": ["portal ##"]},
        },
        "patterns": [lamps, doors],
        **changes,
    }  # fmt: skip
    path = folder / "shed-recipe.yaml"
    path.write_text(json.dumps(data))
    return path


def patterns(train: list[str], test: list[str]) -> list[dict[str, Any]]:
    """One pattern, for `changes`."""
    arguments = {"room": "{room}"}
    return [{"name": "p", "weight": 1, "call": "switch", "arguments": arguments, "train": train, "test": test}]
