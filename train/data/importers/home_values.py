"""The rules and lists behind Home Assistant's templates: `home_assistant.yaml` read, checked and drawn from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from router.explain import near
from router.toolset import SchemaType
from router.toolset_load import read_yaml
from runtimes.errors import UserError
from train.data.importers.hassil import Node, TemplateError, Values, parse, sample

TRAIN: Final = "train"
DEV: Final = "dev"

_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()  # fmt: skip
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORDS_SHARE: Final = 0.3
"""How often a number that may be spoken is written in words."""


@dataclass(frozen=True)
class Book:
    """Rules by name, lists by name, the lists behind ``{name}`` by domain, and the slots that are no text."""

    rules: dict[str, Node]
    lists: dict[str, Any]
    names: dict[str, Any]
    types: dict[str, SchemaType]

    def rule(self, name: str) -> Node:
        if name not in self.rules:
            raise TemplateError(f"<{name}> is not among the rules of home_assistant.yaml{near(name, self.rules)}")
        return self.rules[name]

    def check(self, name: str) -> None:
        """Raises `TemplateError` for an unknown list."""
        if name != "name" and name not in self.lists:
            raise TemplateError(f"{{{name}}} is not among the lists of home_assistant.yaml{near(name, self.lists)}")

    def values(self, side: str, domains: tuple[str, ...]) -> Values:
        """What draws a value of a list for `side`; ``{name}`` is of one of `domains`."""

        def draw(name: str, rng: random.Random) -> tuple[str, Any]:
            if name == "name":
                domain = rng.choice(domains or tuple(self.names))
                if domain not in self.names:
                    raise TemplateError(f"no names of the domain {domain!r} in home_assistant.yaml")
                return self.entry(self.names[domain], side, rng)
            self.check(name)
            return self.entry(self.lists[name], side, rng)

        return draw

    def entry(self, data: dict[str, Any], side: str, rng: random.Random) -> tuple[str, Any]:
        """Words and value of one entry of a list."""
        if "range" in data:
            return _number(data["range"], rng)
        chosen = rng.choice(data["values"] if "values" in data else data[side])
        if not isinstance(chosen, dict):
            return chosen, chosen
        text = "".join(piece.text for piece in sample(parse(chosen["in"]), self.rule, self.values(side, ()), rng))
        return text, chosen["out"]


def load_book(path: Path) -> Book:
    """Read and check the file. Raises `UserError` with what is wrong in it."""
    data, _ = read_yaml(path.read_text(encoding="utf-8"), str(path))
    rules = {}
    for name, template in data["rules"].items():
        try:
            rules[name] = parse(template)
        except TemplateError as error:
            raise UserError(f"{path}: rules.{name}: {error}") from None
    for kind in ("lists", "names"):
        for name, entry in data[kind].items():
            if not any(keys <= entry.keys() for keys in ({"range"}, {"values"}, {TRAIN, DEV})):
                raise UserError(f"{path}: {kind}.{name}: needs 'range', 'values', or both '{TRAIN}' and '{DEV}'")
    return Book(rules, data["lists"], data["names"], data["slots"])


def spoken(number: int) -> str:
    """A number from 0 to 99 in English words."""
    if number < 20:
        return _ONES[number]
    ten, one = divmod(number, 10)
    return _TENS[ten - 2] + (f" {_ONES[one]}" if one else "")


def _number(spec: dict[str, Any], rng: random.Random) -> tuple[str, Any]:
    number = rng.randrange(spec["from"], spec["to"] + 1, spec.get("step", 1))
    text = spoken(number) if spec.get("words") and rng.random() < _WORDS_SHARE else str(number)
    value: Any = number * spec.get("multiplier", 1)
    return text, str(value) if spec.get("as") == "text" else value
