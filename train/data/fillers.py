"""Typed fillers for recipes, made of word lists (``words``) of either side.

===========================  =====================================================  ===============================
slot                         what is said (and meant)                               lists that it needs
===========================  =====================================================  ===============================
``{topic}``, ``{noun}``      "csv parser", "parsing old logs"; a noun               noun, adjective, verb; noun
``{vtopic}``                 a task: "delete old docker images"                     noun, adjective, verb
``{name}``, ``{ident}``      an identifier, kept; with ``{name}`` often plain        noun, adjective, verb
                             words, which stand for their snake_case
``{pairs}``, ``{flags}``     "limit=5 and mode fast", "--limit 5": an object        key, value, noun, extension
``{project}``                "go service" (``go_service``)                          project
``{number}``                 0 to 99                                                none
any other list, by its name  one of its words                                       that list
===========================  =====================================================  ===============================

Digits behind a name make another draw: ``{topic2}``. ``invented: 0.1`` makes up that share of the nouns, ``open: 0.3``
draws that share of the words from the recipe's ``open_words``, except for lists of other names.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runtimes.errors import UserError
from train.data.recipe_file import Fault, expect, number, texts

if TYPE_CHECKING:
    from train.data.openwords import OpenWords

_PHRASE: Final = ("noun", "adjective", "verb")
_PAIRS: Final = ("key", "value", "noun", "extension")
NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "topic": _PHRASE, "vtopic": _PHRASE, "name": _PHRASE, "ident": _PHRASE, "noun": ("noun",), "number": (),
    "pairs": _PAIRS, "flags": _PAIRS, "project": ("project",),
}  # fmt: skip
"""Slot -> lists that it is made of."""
LISTS: Final = ("noun", "adjective", "verb", "project", "key", "value", "extension")


def ing(verb: str) -> str:
    """The gerund of an English verb, well enough for fillers."""
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    if len(verb) <= 5 and verb[-1] in "bdgmnpt" and verb[-2] in "aeiou" and verb[-3:-2] not in "aeiou":
        return verb + verb[-1] + "ing"
    return verb + "ing"


def several(noun: str) -> str:
    """The plural of an English noun, well enough for fillers."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def invent(rng: random.Random) -> str:
    """A word that nobody knows and anybody can say: "trovex", "milanu"."""
    syllables = rng.choice([2, 2, 3])
    word = "".join(
        rng.choice(
            ["b", "br", "c", "ch", "d", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl", "qu", "r"]
            + ["s", "st", "sh", "t", "tr", "v", "w", "x", "z", ""]
        )
        + rng.choice("aeiouy" if i else "aeiou")
        for i in range(syllables)
    )
    return word + rng.choice(["", "", "n", "x", "r", "l", "s", "k", "t", "ck", "ng", "sh"])


@dataclass(frozen=True)
class Fillers:
    """Word lists of one split; `fill` makes what is said and what is meant."""

    noun: tuple[str, ...] = ()
    adjective: tuple[str, ...] = ()
    verb: tuple[str, ...] = ()
    project: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    value: tuple[str, ...] = ()
    extension: tuple[str, ...] = ()
    invented: float = 0.0
    """The share of nouns that are made up letter by letter, as names of products are."""
    open: float = 0.0
    """The share of words that are drawn from `words`, whatever their list."""
    words: OpenWords | None = None
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further lists, each a slot of its name."""

    @classmethod
    def read(cls, lists: Any, folder: Path, *keys: str) -> Fillers:
        """Word lists as a recipe has them under `keys`; ``noun_file`` names a file in `folder`, words between spaces.

        Raises `Fault` for what is no list of words, and `UserError` for a file that cannot be read.
        """
        what = ": ".join(keys) or "words"
        expect(lists, Mapping, what, *keys)
        given = dict(lists)
        shares = {k: number(given.pop(k, 0.0), f"{what}: {k}", *keys, k, most=1) for k in ("invented", "open")}
        if "noun_file" in given:
            path = folder / str(given.pop("noun_file"))
            try:
                given.setdefault("noun", path.read_text(encoding="utf-8").split())
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: cannot read the nouns ({error})") from None
        found = {k: _words(listed, f"{what}: {k}", *keys, k) for k, listed in given.items()}
        usual = {k: found.pop(k, ()) for k in LISTS}
        if taken := set(found) & set(NEEDS):
            name = sorted(taken)[0]
            raise Fault(f"{what}: {name}: {{{name}}} is made of other lists; name this one otherwise", *keys, name)
        return cls(**usual, **shares, more=found)

    def lists(self) -> dict[str, tuple[str, ...]]:
        """The lists by name, those that are not empty."""
        return {name: listed for name in LISTS if (listed := getattr(self, name))} | dict(self.more)

    def listed(self, without: Collection[str] = ()) -> list[str]:
        """All words of the lists whose names are not in `without`."""
        return [word for name, listed in self.lists().items() if name not in without for word in listed]

    def lacks(self, slot: str) -> str | None:
        """Which list `slot` cannot be filled without; empty where it can, None for a slot that there is not."""
        base = slot.rstrip("0123456789")
        if base in self.more:
            return ""
        if base not in NEEDS:
            return None
        return next((name for name in NEEDS[base] if not getattr(self, name)), "")

    def fill(self, slot: str, rng: random.Random) -> tuple[str, Any]:
        """What is said for `slot`, and the value that it stands for. Raises `KeyError` for an unknown slot."""
        base = slot.rstrip("0123456789")
        if base == "topic":
            return self._cased(self._topic(rng), rng)
        if base == "vtopic":
            return self._cased(self._task(rng), rng)
        if base == "name":
            return self._name(rng, plain=0.42)
        if base == "ident":
            return self._name(rng, plain=0.0)
        if base == "pairs":
            return self._pairs(rng)
        if base == "flags":
            return self._flags(rng)
        if base == "project":
            said = self._one(self.project, rng)
            return said, said.lower().replace(" ", "_")
        if base == "number":
            value = rng.choice([rng.randrange(1, 12), rng.randrange(100)])
            return str(value), value
        if base == "noun":
            said = self._noun(rng)
            return said, said
        if base in self.more:
            said = rng.choice(self.more[base])
            return said, said
        raise KeyError(f"unknown slot {{{slot}}}")

    def _noun(self, rng: random.Random) -> str:
        return invent(rng) if self.invented and rng.random() < self.invented else self._one(self.noun, rng)

    def _one(self, listed: tuple[str, ...], rng: random.Random) -> str:
        if self.words is not None and rng.random() < self.open:
            return self.words.draw(rng)
        return rng.choice(listed)

    def _cased(self, text: str, rng: random.Random) -> tuple[str, str]:
        roll = rng.random()
        if roll < 0.05:
            words = text.split()
            i = rng.randrange(len(words))
            words[i] = words[i].upper() if len(words[i]) <= 5 else words[i].capitalize()
            return " ".join(words), text
        if roll < 0.07:
            return text.title(), text
        if roll < 0.09:
            return f'"{text}"', text
        return text, text

    def _task(self, rng: random.Random) -> str:
        """A verb phrase: "delete old docker images"."""
        n, a, v = (lambda: self._noun(rng)), (lambda: self._one(self.adjective, rng)), self._one(self.verb, rng)
        roll = rng.random()
        if roll < 0.3:
            return f"{v} {several(n())}"
        if roll < 0.45:
            return f"{v} {a()} {several(n())}"
        if roll < 0.55:
            return f"{v} {a()} {n()} {several(n())}"
        if roll < 0.7:
            return f"{v} {n()} {several(n())}"
        if roll < 0.8:
            return f"{v} {rng.choice(['a', 'the', 'all', 'my'])} {n()}"
        if roll < 0.88:
            return f"{v} {several(n())} {rng.choice(['from', 'to', 'into', 'with', 'in', 'for'])} {n()}"
        if roll < 0.93:
            return f"{v} from {n()} to {n()}"
        return f"{v} {n()} {several(n())} {rng.choice(['by', 'with', 'using', 'in'])} {n()}"

    def _topic(self, rng: random.Random) -> str:
        n, a, v = (
            (lambda: self._noun(rng)),
            (lambda: self._one(self.adjective, rng)),
            (lambda: self._one(self.verb, rng)),
        )
        roll = rng.random()
        if roll < 0.20:
            return n()
        if roll < 0.46:
            return f"{n()} {n()}"
        if roll < 0.52:
            return f"{n()} {several(n())}"
        if roll < 0.60:
            return f"{a()} {n()}"
        if roll < 0.66:
            return f"{n()} {n()} {n()}"
        if roll < 0.74:
            return f"{ing(v())} {several(n())}"
        if roll < 0.80:
            return f"{n()} {ing(v())}"
        if roll < 0.85:
            return f"{ing(v())} {rng.choice(['a', 'the', 'an old', 'a new', 'a bad', 'all'])} {n()}"
        if roll < 0.89:
            return f"{n()} {rng.choice(['for', 'with', 'in', 'and', 'to', 'from', 'vs', 'on'])} {n()}"
        if roll < 0.92:
            return f"how to {v()} {several(n())}"
        if roll < 0.95:
            return f"{ing(v())} {a()} {several(n())}"
        if roll < 0.97:
            return f"{n()} {rng.randrange(2, 20)}"
        return self._task(rng)

    def _name(self, rng: random.Random, *, plain: float) -> tuple[str, str]:
        """An identifier, kept as it is, or plain words, which stand for their snake_case."""
        n, a, v = (
            (lambda: self._noun(rng)),
            (lambda: self._one(self.adjective, rng)),
            (lambda: self._one(self.verb, rng)),
        )
        forms = [
            [v(), n()],
            [n(), n()],
            [n(), n()],
            [n(), v()],
            [a(), n()],
            [n()],
            [n(), n(), n()],
            [v(), n(), n()],
            [v(), a(), n()],
            [n(), _agent(v())],
            [n(), _agent(v())],
            [n(), ing(v())],
        ]
        parts = rng.choice(forms)
        if rng.random() < 0.08:
            parts = [
                *parts,
                rng.choice(["v2", "v3", "2", "1", "2024", "10", "3", "final", "basics", "notes", "cheatsheet", "faq"]),
            ]
        if rng.random() < plain:
            said = " ".join(parts)
            if rng.random() < 0.08:
                words = said.split()
                i = rng.randrange(len(words))
                words[i] = words[i].upper() if len(words[i]) <= 4 else words[i].capitalize()
                said = " ".join(words)
            return said, "_".join(parts)
        roll = rng.random()
        if len(parts) == 1:
            return parts[0], parts[0]
        if roll < 0.58:
            said = "_".join(parts)
        elif roll < 0.85:
            said = "-".join(parts)
        elif roll < 0.92:
            said = parts[0] + "." + "_".join(parts[1:])
        elif roll < 0.96:
            said = parts[0] + "".join(p.capitalize() for p in parts[1:])
        else:
            said = "".join(p.capitalize() for p in parts)
        return said, said

    def _value(self, rng: random.Random) -> tuple[str, Any]:
        roll = rng.random()
        if roll < 0.38:
            value = rng.choice(
                [rng.randrange(10), rng.randrange(10, 100), rng.choice([100, 200, 500, 1000, 5000, 80, 8080, 256])]
            )
            return str(value), value
        if roll < 0.42:
            value = round(rng.random() * rng.choice([1, 10]), rng.choice([1, 2]))
            return str(value), value
        if roll < 0.54:
            return ("true", True) if rng.random() < 0.55 else ("false", False)
        if roll < 0.74:
            word = self._noun(rng) + rng.choice(["", "", "_" + self._noun(rng), "-" + self._noun(rng)])
            said = rng.choice(["", "", "", "data/", "/tmp/", "./", "out/"]) + word + "." + rng.choice(self.extension)
            return said, said
        said = self._one(self.value, rng) if rng.random() < 0.6 else self._noun(rng)
        return said, said

    def _keys(self, count: int, rng: random.Random) -> list[str]:
        keys = rng.sample(self.key, min(count, len(self.key)))
        if self.words is None:
            return keys
        return list(dict.fromkeys(self._one((key,), rng) for key in keys))

    def _pairs(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        keys = self._keys(rng.choice([1, 1, 1, 2, 2, 3]), rng)
        values = [self._value(rng) for _ in keys]
        link = rng.choice([" ", " ", " ", "=", "=", " = ", ": ", " set to ", " as ", " being ", ":"])
        between = (
            rng.choice([" and ", " and ", ", ", " ", ", and "])
            if link in ("=", ":")
            else rng.choice([" and ", " and ", ", "])
        )
        text = between.join(f"{k}{link}{said}" for k, (said, _) in zip(keys, values, strict=True))
        if rng.random() < 0.06:
            text = "the " + text
        return text, {k: v for k, (_, v) in zip(keys, values, strict=True)}

    def _flags(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        keys = self._keys(rng.choice([1, 1, 2, 2, 3]), rng)
        said, meant = [], {}
        for key in keys:
            if rng.random() < 0.18:
                said.append(f"--{key}")
                meant[key] = True
                continue
            text, meant[key] = self._value(rng)
            said.append(f"--{key}{rng.choice([' ', '='])}{text}")
        return " ".join(said), meant


def _agent(verb: str) -> str:
    return verb + ("r" if verb.endswith("e") else "er")


def _words(data: Any, what: str, *keys: str) -> tuple[str, ...]:
    """A list of words; numbers are words too."""
    expect(data, list, what, *keys)
    words = texts([str(w) if isinstance(w, int | float) and not isinstance(w, bool) else w for w in data], what, *keys)
    if not words:
        raise Fault(f"{what}: no word is listed", *keys)
    return words
