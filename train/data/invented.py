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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import yaml

from router.toolset import Call, Schema, Tool
from train.data.corpus import Corpus, make_tool
from train.data.noise import typo
from train.data.synthetic import Words

KEPT_APART: Final = frozenset(
    "FindMovies PlayMovie GetWeather SearchHotel ReserveHotel BookAppointment FindProvider GetCarsAvailable ReserveCar "
    "LookupMusic PlayMedia".split()
)
"""Tools of a test set: never invented."""

_NUMBERS: Final = {w: i for i, w in enumerate("one two three four five six seven eight nine ten".split(), 1)}
_HOLE: Final = re.compile(r"\{([^{}]+)\}")
_GIVEN: Final = re.compile(r"\[(\w+)\]")
_NOUN: Final = re.compile(r"\{(?:a|n|ns)\}")
_MARK: Final = re.compile("\x02(\\d+)\x03([^\x04]*)\x04")
_ARTICLE: Final = re.compile("\\b([Aa]) (?=(?:\x02\\d+\x03)?(?:[aeio]|un(?!i)|u[lrmp]|hour|honest|8|11|18))", re.I)
_QUESTION: Final = re.compile(
    r"(?:^|[.,!?] )(?:(?:can|could|would|will|are|is|do|does|did|what|which|where|how|any|who|when|got|should|has)\b"
    r"|what's|how's)[^.?!]*$",
    re.I,
)
_DENIED: Final = re.compile(r"\bnot\b|n't\b|^without", re.I)
_WHOSE: Final = re.compile(r"(\w+ me\b|let )|(?:\{use\}|see|know|visit|join|cook) ")
"""What the assistant does for "me" (a group), and what people do themselves."""


@dataclass(frozen=True)
class Kind:
    """What a sort of parameter is called, how its values look and how they are said; see ``invented.yaml``."""

    names: Sequence[str]
    about: Sequence[str]
    v: Sequence[str]
    say: Sequence[str]
    lead: Sequence[str] = ()
    pre: bool | str = False
    int: bool = False
    enum: bool = False


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


@cache
def material() -> dict[str, Any]:
    """The word material, read once."""
    data = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    for part in ("values", "frames"):
        data[part] = _lists(data[part])
    for part in ("kinds", "flags", "acts"):
        data[part] = {k: _lists(v) if isinstance(v, dict) else v for k, v in data[part].items()}
    data["kinds"] = {name: Kind(**kind) for name, kind in data["kinds"].items()}
    data["acts"] = {
        name: {**data["acts"].get(act.get("like", [""])[0], {}), **act, "family": act.get("like", [name])[0]}
        for name, act in data["acts"].items()
    }
    data["sets"] = {k: v.split() for k, v in data["sets"].items()}
    data["families"] = {kind: line for line in data["families"].splitlines() for kind in line.split()}
    common = {"time", "level", "count", "the", "and", "service", "center", "station"}
    for row in data["domains"]:
        row.update({k: row[k].split("/") for k in ("is", "by", "of", "with", "that", "ask") if k in row})
        row["words"] = {w for noun in row["is"] for w in re.findall(r"\w{3,}", noun)} - common
    return dict(data)


def _lists(texts: Mapping[str, Any]) -> dict[str, Any]:
    return {k: re.split(r" / |\n", v.strip()) if isinstance(v, str) and k != "pre" else v for k, v in texts.items()}


def plural(noun: str) -> str:
    head, space, rest = noun.partition(" to ") if " to " in noun else noun.partition(" of ")
    if head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    elif head.endswith(("ss", "us", "x", "ch", "sh")):
        head += "es"
    elif head.endswith("man"):
        head = head[:-2] + "en"
    elif not head.endswith("s"):
        head += "s"
    return head + space + rest


def cased(text: str, style: str) -> str:
    """Words as a name in `style`: snake, camel or pascal."""
    first, *rest = [str(w) for w in re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))] or ["x"]
    if style == "snake":
        return "_".join([first, *rest])
    return (first if style == "camel" else first.capitalize()) + "".join(w.capitalize() for w in rest)


def number(said: str) -> int:
    """`4`, `four`, `$1,200`, `30k` -> the integer."""
    digits = re.search(r"\d+", said.replace(",", ""))
    if digits is None:
        return _NUMBERS[said.lower()]
    return int(digits[0]) * (1000 if said.lower().endswith("k") else 1)


class Lexicon:
    """Values and phrases drawn from the word material, from `words` and from the slot values of `corpora`."""

    def __init__(self, words: Words | None = None, corpora: Sequence[Corpus] = ()) -> None:
        self.data, self.words = material(), words
        self.borrowed: dict[str, list[str]] = {}
        for key, slots in self.data["borrowed"].items():
            found = {v for corpus in corpora for slot in slots.split() for v in corpus.values.get(slot, ())}
            self.borrowed[key] = sorted(v for v in found if re.fullmatch(r"[A-Za-z][\w' ]{2,30}", v))

    def fill(self, text: str, rng: random.Random, local: Mapping[str, str] | None = None) -> str:
        """`text` with its {holes} filled, from `local` first."""
        return _HOLE.sub(lambda m: local[m[1]] if local and m[1] in local else self.draw(m[1], rng), text)

    def draw(self, key: str, rng: random.Random) -> str:
        if key[0].isdigit():
            return str(rng.randint(*map(int, key.split("-"))))
        if key in ("word", "Word"):
            own: list[str] = self.data["values"]["words"]
            word = rng.choice(self.words.vocabulary if self.words and rng.random() < 0.7 else own)
            return word.capitalize() if key == "Word" else word
        if key in ("phrase", "sentence"):
            low, high = (1, 3) if key == "phrase" else (3, 7)
            if self.words:
                return self.words.phrase(rng, low, high)
            return " ".join(self.draw("word", rng) for _ in range(rng.randint(low, high)))
        if self.borrowed.get(key) and rng.random() < 0.3:
            return rng.choice(self.borrowed[key])
        return self.fill(rng.choice(self.data["values"][key]), rng)


class _Domain:
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
        return _ARTICLE.sub(r"\1n ", self.lexicon.fill(self.rng.choice(texts), self.rng, local))

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


class Invented:
    """A set of invented tools, and requests for them."""

    def __init__(self, rng: random.Random, lexicon: Lexicon) -> None:
        self.lexicon, self.data, self.services = lexicon, lexicon.data, list[Service]()
        tools = rng.choices(["pascal", "snake", "camel"], [60, 30, 10])[0]
        styles = (tools, "snake" if tools != "camel" and rng.random() < 0.9 else "camel")
        size, words, domains = rng.randint(3, 8), set[str](), list[_Domain]()
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

    def _domain(self, words: set[str], styles: tuple[str, str], rng: random.Random) -> _Domain:
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
                return _Domain(row, self.lexicon, styles, rng)

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
        text = _ARTICLE.sub(r"\1n ", " ".join(text.split()))
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
