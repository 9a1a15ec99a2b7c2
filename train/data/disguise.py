"""A corpus's tools under other declarations, so that a model reads them: a few dozen tools that come back as they are
are soon known by their parameters alone, and a request goes to whatever looks like the tool that once served it.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from router.toolset import Call, Schema, Tool
from train.data.lexicon import cased
from train.data.sources import snake

_SYNONYMS: Final = (
    "find search look_up list show browse discover locate",
    "get fetch show check look_up retrieve view",
    "check get show view look_up",
    "lookup look_up find get search",
    "book reserve order arrange",
    "reserve book arrange",
    "buy purchase order get",
    "play start put_on stream",
    "add create insert put save",
    "set change adjust update make",
    "transfer send move",
    "schedule plan book arrange",
    "rate review score",
    "query get check show ask_about",
    "remove delete cancel clear",
)
VERBS: Final = {words.split()[0]: tuple(words.split()) for words in _SYNONYMS}
"""The first word of a tool's name -> words that may stand for it, itself among them."""


@dataclass(frozen=True)
class Disguise:
    """A tool as it is declared, and what became of its parameters' names."""

    tool: Tool
    names: dict[str, str] = field(default_factory=dict)

    def call(self, call: Call) -> Call:
        """A call of the tool as it was, in the words of the declaration."""
        return Call(self.tool.name, {self.names.get(k, k): v for k, v in call.arguments.items()})


def disguise(tool: Tool, variant: Tool, rng: random.Random, *, used: Collection[str] | None = None) -> Disguise:
    """`tool` under the names of `variant` (the same parameters in the same order) in a random case style.

    Some descriptions are left out. With `used`, the parameters that the requests say, some of the others are left
    out too (none that is required), and the name may begin with another verb.
    """
    style = rng.choices(["snake", "camel", "pascal"], weights=[8, 1, 1])[0]
    name = snake(variant.name.split(".")[0])
    kept = list(tool.parameters.properties)
    if used is not None:
        name = _reworded(name, rng)
        share = rng.choice([1.0, 0.5, 0.2])
        kept = [k for k in kept if k in used or k in tool.parameters.required or rng.random() < share]
    names = dict(zip(tool.parameters.properties, variant.parameters.properties, strict=True))
    names = {k: cased(snake(names[k]), "camel" if style == "pascal" else style) for k in kept}
    if len(set(names.values())) != len(names):
        names = {k: k for k in kept}
    about = dict(zip(tool.parameters.properties, variant.parameters.properties.values(), strict=True))
    told = rng.random()
    properties: dict[str, Schema] = {}
    for old in kept:
        text = about[old].description if told < 0.6 or (told < 0.8 and rng.random() < 0.5) else None
        properties[names[old]] = dataclasses.replace(tool.parameters.properties[old], description=text)
    required = tuple(names[k] for k in tool.parameters.required)
    changes: dict[str, Any] = {"properties": properties, "required": required}
    description = variant.description if used is None or rng.random() < 0.85 else ""
    return Disguise(Tool(cased(name, style), description, dataclasses.replace(tool.parameters, **changes)), names)


def optional(tool: Tool) -> Tool:
    """`tool` with nothing required."""
    return dataclasses.replace(tool, parameters=dataclasses.replace(tool.parameters, required=()))


def _reworded(name: str, rng: random.Random) -> str:
    first, _, rest = name.partition("_")
    return f"{rng.choice(VERBS[first])}_{rest}" if rest and first in VERBS and rng.random() < 0.5 else name
