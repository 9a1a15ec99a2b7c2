"""Invented services: the tools of a domain (restaurants, invoices, a random noun), which share their parameters."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from router.toolset import Schema, Tool
from train.data.corpus import make_tool
from train.data.lexicon import Kind, Lexicon, cased, number, plural, with_articles

KEPT_APART: Final = frozenset(
    "FindMovies PlayMovie GetWeather SearchHotel ReserveHotel BookAppointment FindProvider GetCarsAvailable ReserveCar "
    "LookupMusic PlayMedia".split()
)
"""Tools of a test set: never invented."""

_NOUN: Final = re.compile(r"\{(?:a|n|ns)\}")
_DENIED: Final = re.compile(r"\bnot\b|n't\b|^without", re.I)


@dataclass(frozen=True)
class Param:
    """A declared parameter: its kind, and how a said value becomes the argument."""

    name: str
    sort: str
    kind: Kind
    schema: Schema
    gold: Callable[[str], Any]


@dataclass
class Service:
    """One tool, what requests for it say, and the clauses that ask for it (True: a verb phrase)."""

    tool: Tool
    act: str
    family: str
    domain: Mapping[str, Any]
    need: list[Param]
    may: list[Param]
    say: list[tuple[str, bool]]

    @property
    def with_noun(self) -> list[tuple[str, bool]]:
        return [s for s in self.say if _NOUN.search(s[0])]


class Domain:
    """A domain with the names drawn for it: its tools share their parameters."""

    def __init__(self, row: Mapping[str, Any], lexicon: Lexicon, styles: tuple[str, str], rng: random.Random) -> None:
        self.row, self.lexicon, self.rng, self.styles = row, lexicon, rng, styles
        self.noun = row["is"][0] if rng.random() < 0.6 else rng.choice(row["is"])
        self.described = rng.choice([0.0, 0.5, 1.0, 1.0, 1.0])
        self.known: dict[str, Param] = {}
        self.group: dict[str, str] = lexicon.data["groups"][row["as"]]
        self.acts = [a for a in self.group if a in row.get("do", a).split()]

    def service(self, act_name: str, taken: set[str]) -> Service | None:
        """The tool of an act, with the parameters that it draws; None where its name is taken."""
        act, rng = self.lexicon.data["acts"][act_name], self.rng
        need: list[Param] = []
        may: list[Param] = []
        for params, kinds in zip((need, may), self.group[act_name].split("|"), strict=True):
            for kind in kinds.replace("own", self.row.get("own", "")).split():
                if (params is need or rng.random() < 0.6) and len(need + may) < 8:
                    params += self._param(kind, {p.name for p in need + may})
        name = cased(self._word(act["tool"]), self.styles[0])
        if name in taken | KEPT_APART:
            return None
        names = [p.name for p in need + may[: rng.randint(0, 2)]]
        keys = [re.sub(r"[A-Z_]", lambda m: " " + m[0].strip("_").lower(), name) for name in names]
        by = " by " + " and ".join(", ".join(keys).rsplit(", ", 1)) if keys and rng.random() < 0.5 else ""
        about = "" if rng.random() < 0.08 else self._word(act["about"], by=by) + ("." if rng.random() < 0.3 else "")
        declared = need + may if rng.random() < 0.7 else rng.sample(need + may, len(need + may))
        required = tuple(p.name for p in need if rng.random() < 0.75)
        tool = make_tool(name, about, {p.name: p.schema for p in declared}, required)
        say = [(t, True) for t in act["do"]] + [(t, False) for t in act["ask"]]
        return Service(tool, act_name, act["family"], self.row, need, may, say)

    def _word(self, texts: Sequence[str], **local: str) -> str:
        noun = self.rng.choice(self.row["is"]) if "by" in local and self.rng.random() < 0.5 else self.noun
        local |= {"x": noun, "X": noun.capitalize(), "xs": plural(noun), "a x": f"a {noun}"}
        return with_articles(self.lexicon.fill(self.rng.choice(texts), self.rng, local))

    def _about(self, texts: Sequence[str]) -> str | None:
        return self._word(texts, by="") if self.rng.random() < self.described else None

    def _param(self, sort: str, named: set[str]) -> list[Param]:
        """The parameter of a sort, the same in every tool of the domain unless its name is taken; none if unknown."""
        rng, row, data = self.rng, self.row, self.lexicon.data
        key, make = sort, partial(self._plain, sort)
        if sort == "flag":
            things = [(t, form) for form in ("with", "that") for t in row.get(form, ())]
            if not things:
                return []
            key, form = rng.choice(things)
            if key in self.known and self.known[key].name in named:
                return []
            make = partial(self._flag, key, data["flags"][form])
        elif sort == "category":
            if "by" not in row:
                return []
            kind = data["kinds"][sort]
            kind = replace(kind, names=[*row["by"], *row["by"], *kind.names], v=row["of"])
            make = partial(self._plain, sort, kind)
        elif sort == "place" and rng.random() < 0.12:
            make = partial(self._plain, "full_place")
        for _ in range(6):
            self.known.setdefault(key, make())
            if self.known[key].name not in named:
                return [self.known[key]]
            if (param := make()).name not in named:
                return [param]
        return []

    def _plain(self, sort: str, kind: Kind | None = None) -> Param:
        rng, kind = self.rng, kind or self.lexicon.data["kinds"][sort]
        name, about = cased(self._word(kind.names), self.styles[1]), self._about(kind.about)
        if kind.int and rng.random() < 0.55:
            whole = replace(kind, v=[v for v in kind.v if "." not in v])
            return Param(name, sort, whole, Schema("integer", description=about), number)
        if rng.random() < (0.85 if kind.enum else 0.3 if sort in ("category", "price_level") else 0):
            values = rng.sample(kind.v, rng.randint(max(2, len(kind.v) - 2), len(kind.v)))
            styles: list[Callable[[str], str]] = [str, str, str.title, str.upper, lambda v: re.sub(r"[ -]", "_", v)]
            style = rng.choice(styles)
            listed = {v.lower(): style(v) for v in values}
            schema = Schema("string", description=about, enum=tuple(listed.values()))
            listed |= {plural(v): listed[v] for v in listed}
            return Param(name, sort, replace(kind, v=values), schema, lambda said: listed[said.lower()])
        return Param(name, sort, kind, Schema("string", description=about), str)

    def _flag(self, thing: str, form: Mapping[str, Sequence[str]]) -> Param:
        bare = re.sub(r"^(?:an?|own) ", "", thing)
        filled = {k: [v.replace("{y}", thing).replace("{z}", bare) for v in texts] for k, texts in form.items()}
        on, off = self.rng.choice([(True, False)] * 5 + [("True", "False"), ("True", "False"), ("yes", "no")])
        name, about = cased(self._word(filled["names"]), self.styles[1]), self._about(filled["about"])
        schema = Schema("boolean", description=about) if on is True else Schema("string", about, enum=(on, off))
        kind = Kind((), (), (), [f"<{said}>" for said in filled["yes"] + filled["no"]])
        return Param(name, "flag", kind, schema, lambda said: off if _DENIED.search(said) else on)
