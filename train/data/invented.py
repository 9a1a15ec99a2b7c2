"""Invented APIs of everyday services: tools as voice assistants and dialogue corpora declare them, and requests.

They teach the base model to choose a tool by the words and synonyms that a request shares with its name and
description, and to fill parameters by their kind. A service is put together from a domain (restaurants, invoices, the
weather, or a random noun), what may be done there, and kinds of parameters, under drawn names and descriptions; the
words are in ``invented.yaml``. A value is a piece of the request as it stands, but for enums, booleans and integers.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Final

from router.toolset import Call
from train.data.lexicon import Lexicon, plural, with_articles
from train.data.noise import typo
from train.data.services import Domain, Param, Service

_GIVEN: Final = re.compile(r"\[(\w+)\]")
_MARK: Final = re.compile("\x02(\\d+)\x03([^\x04]*)\x04")
_QUESTION: Final = re.compile(
    r"(?:^|[.,!?] )(?:(?:can|could|would|will|are|is|do|does|did|what|which|where|how|any|who|when|got|should|has)\b"
    r"|what's|how's)[^.?!]*$",
    re.I,
)
_WHOSE: Final = re.compile(r"(\w+ me\b|let )|(?:\{use\}|see|know|visit|join|cook) ")
"""What the assistant does for "me" (a group), and what people do themselves."""


class Invented:
    """A set of invented tools, and requests for them."""

    def __init__(self, rng: random.Random, lexicon: Lexicon) -> None:
        self.lexicon, self.data, self.services = lexicon, lexicon.data, list[Service]()
        tools = rng.choices(["pascal", "snake", "camel"], [60, 30, 10])[0]
        styles = (tools, "snake" if tools != "camel" and rng.random() < 0.9 else "camel")
        size, words, domains = rng.randint(3, 8), set[str](), list[Domain]()
        while len(self.services) < size:
            domains.append(self._domain(words, styles, rng))
            acts = domains[-1].acts
            for act in rng.sample(acts, min(len(acts), rng.choice([1, 1, 2, 2, 3, 4]), size - len(self.services))):
                self._add(domains[-1].service(act, {s.tool.name for s in self.services}))
        rng.shuffle(self.services)
        self.tools = [s.tool for s in self.services]
        here = {s.act for s in self.services}
        others = [d.service(rng.choice(d.acts), set()) for d in (self._domain(words, styles, rng) for _ in range(3))]
        others += [
            d.service(a, set()) for d in domains for a in d.acts if a in self.data["sets"]["refused"] and a not in here
        ][:1]
        self.unserved = [s for s in others if s is not None and s.with_noun]
        count = Counter(self._family(p) for s in self.services for p in s.need + s.may)
        self.alone = [
            (s, p)
            for s in self.services
            for p in s.need + s.may
            if count[self._family(p)] == 1 and {p.name}.issuperset(s.tool.required)
            if p.sort not in self.data["sets"]["never_alone"]
        ]
        """Parameters whose value shows by itself which tool is meant."""

    def request(self, rng: random.Random) -> tuple[str, list[Call]]:
        roll = rng.random()
        if roll < 0.025 or (roll < 0.1 and not self.unserved):
            return self._finish(self.lexicon.fill(rng.choice(self.data["frames"]["idle"]), rng), rng), []
        if roll < 0.1:
            service = rng.choice(self.unserved)
            return _MARK.sub(r"\2", self._finish(self._clause(service, service.with_noun, rng)[0], rng)), []
        if roll < 0.2 and self.alone:
            service, param = rng.choice(self.alone)
            text, given = self._elliptic(service, param, rng), [param]
        else:
            service = rng.choice(self.services)
            text, given = self._clause(service, service.say, rng)
        text = self._finish(text, rng)
        said = [(given[int(m[1])], m[2]) for m in _MARK.finditer(text)]
        return _MARK.sub(r"\2", text), [Call(service.tool.name, {p.name: p.gold(v) for p, v in said})]

    def _domain(self, words: set[str], styles: tuple[str, str], rng: random.Random) -> Domain:
        """A domain that shares no word with those before it; now and then any noun under a known sort of service."""
        while True:
            row = rng.choice(self.data["domains"])
            if rng.random() < 0.15:
                noun, *drawn = [self.lexicon.draw("word", rng) for _ in range(6)]
                noun += f" {rng.choice(self.data['sets']['heads'])}" if rng.random() < 0.6 else ""
                row = {"is": [noun], "words": set(noun.split()), "as": rng.choice(self.data["sets"]["plain"])}
                row |= {"by": ["type"], "of": drawn[:3], "with": drawn[3:]}
            if not words & row["words"]:
                words |= row["words"]
                return Domain(row, self.lexicon, styles, rng)

    def _add(self, service: Service | None) -> None:
        """Take a tool in; of acts that several tools do, only clauses with the noun remain."""
        same = [s for s in (service, *self.services) if service and s and s.family == service.family]
        if service and (len(same) == 1 or all(s.with_noun for s in same)):
            self.services.append(service)
            for s in same if len(same) > 1 else ():
                s.say = s.with_noun

    def _family(self, param: Param) -> str:
        return str(self.data["families"].get(param.sort, param.name))

    def _clause(self, service: Service, say: list[tuple[str, bool]], rng: random.Random) -> tuple[str, list[Param]]:
        """A request with some of the parameters, their values marked with places in the list that comes along."""
        row, sets = service.domain, self.data["sets"]
        given = [p for p in service.need if p.name in service.tool.required or rng.random() < 0.85]
        given += rng.sample(service.may, min(rng.choices(range(5), [25, 36, 25, 10, 4])[0], len(service.may)))
        fitting = [s for s in say if {p.sort for p in given}.issuperset(_GIVEN.findall(s[0]))]
        if not fitting:
            given, fitting = [*service.need, *(p for p in given if p not in service.need)], say
            fitting = [s for s in say if {p.sort for p in given}.issuperset(_GIVEN.findall(s[0]))]
        clause, verb = rng.choice(fitting)
        if service.act == "get" and "ask" in row and rng.random() < 0.5:
            clause, verb = rng.choice(row["ask"]), False
        frames = self.data["frames"]
        frame = frames["do" if not (m := _WHOSE.match(clause)) else "do_me" if m[1] else "do_own"] if verb else ["{d}"]
        noun, before, rest = rng.choice(row["is"]), "", list[tuple[int, Param]]()
        inside = set(_GIVEN.findall(clause))
        places = {p.sort: i for i, p in enumerate(given)}
        clause = _GIVEN.sub(lambda m: self._value(given[places[m[1]]], places[m[1]], noun, rng), clause)
        one, many = noun, plural(noun)
        for i, p in enumerate(given):
            if p.sort in inside:
                continue
            if p.kind.pre and "{" in clause and (p.kind.pre == "only" or p.sort == "category" or rng.random() < 0.7):
                value = self._value(p, i, noun, rng)
                if p.sort == "category" and row.get("sort"):  # "find a museum", where museum is a type of place
                    one, many = value, _MARK.sub(lambda m: _marked(f"<{plural(m[2])}>", int(m[1])), value)
                else:
                    before = f"{value} {before}"
            elif p.sort != "category" and p.kind.pre != "only":
                rest.append((i, p))
        several = "{ns}" in clause
        local = {"a": f"a {before}{one}", "n": before + one, "ns": before + many, "use": row.get("use", "try")}
        clause, lead = self.lexicon.fill(clause, rng, local), ""
        if rng.random() < 0.3:
            rng.shuffle(rest)
        rest.sort(key=lambda ip: sets["last"].index(ip[1].sort) if ip[1].sort in sets["last"] else -1)
        for i, p in rest:
            if p.kind.lead and not lead and rng.random() < 0.15:
                lead = self._phrase(p, i, noun, rng, lead=True) + ". "
                continue
            said = self._phrase(p, i, noun, rng)
            if several and p.sort == "flag":
                said = re.sub("|".join(self.data["agree"]), lambda m: self.data["agree"][m[0]], said)
            if p.sort in sets["soft"] and rng.random() < 0.04:
                said = ", preferably " + said
            clause += " " + said
        return lead + rng.choice(frame).replace("{d}", clause.replace(" ,", ",")), given

    def _value(self, param: Param, place: int, noun: str, rng: random.Random) -> str:
        value = self.lexicon.fill(rng.choice(param.kind.v), rng, {"x": noun, "X": noun.title()})
        value = value if "<" in value else f"<{value}>"
        if param.sort in self.data["sets"]["quoted"] and rng.random() < 0.07:
            value = f'"{value}"'
        return _marked(value, place)

    def _phrase(self, param: Param, place: int, noun: str, rng: random.Random, *, lead: bool = False) -> str:
        """A value with the words that lead to it ("at 5 pm"), or as a sentence of its own ("I'm free at 5 pm")."""
        local = {"v": self._value(param, place, noun, rng)} if param.kind.v else {}
        said = self.lexicon.fill(rng.choice(param.kind.say), rng, local)
        return _marked(
            self.lexicon.fill(rng.choice(param.kind.lead), rng, {**local, "s": said}) if lead else said, place
        )

    def _elliptic(self, service: Service, param: Param, rng: random.Random) -> str:
        """A request of nothing but a value, as within a dialogue."""
        noun, frames = rng.choice(service.domain["is"]), self.data["frames"]
        if param.kind.pre:
            text = rng.choice(
                frames["alone_sort" if service.domain.get("sort") and param.sort == "category" else "alone_pre"]
            )
            return self.lexicon.fill(text, rng, {"s": self._value(param, 0, noun, rng), "x": noun})
        frame = rng.choice([f for f in frames["alone"] if param.sort != "flag" or " one {p}" in f])
        if (
            "{p}" in frame
            and param.sort != "flag"
            and service.family not in ("find", "trip", "shop", "rent", "cook", "hail")
        ):
            frame = "{s}"
        bare = param.sort in self.data["sets"]["quoted"] or (param.kind.v and rng.random() < 0.4 and "{p}" not in frame)
        said = self._value(param, 0, noun, rng) if bare else self._phrase(param, 0, noun, rng)
        return re.sub(r"\{[sp]\}", lambda _: said, frame)

    def _finish(self, text: str, rng: random.Random) -> str:
        """The words around a request, its case and its closing mark."""
        frames = self.data["frames"]
        if rng.random() < 0.2:
            text = f"{rng.choice(frames['open'])} {text}"
        question = _QUESTION.search(_MARK.sub("x", text)) is not None
        if rng.random() < 0.06:
            text += rng.choice([" ", ", "]) + rng.choice(frames["close"])
        text = with_articles(" ".join(text.split()))
        if rng.random() < 0.06:  # a slip outside of the values
            words = re.split("(\x02[^\x04]*\x04| )", text)
            i = rng.randrange(len(words))
            words[i] = typo(words[i], rng) if words[i].islower() else words[i]
            text = "".join(words)
        if rng.random() < 0.65:
            text += rng.choices("?.", [85, 15])[0] if question else rng.choices([".", "!", ".."], [90, 8, 2])[0]
        roll = rng.random()
        if 0.15 < roll < 0.75:
            return re.sub("(^|[.!?] )((?:\x02\\d+\x03)?[a-z])", lambda m: m[1] + m[2].upper(), text)
        return text.lower() if roll < 0.15 else text


def _marked(text: str, place: int) -> str:
    return text.replace("<", f"\x02{place}\x03").replace(">", "\x04")
