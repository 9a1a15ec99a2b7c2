"""Typed fillers for recipes: topics, names and identifiers, key-value pairs, project types, numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.data.openwords import OpenWords


def ing(verb: str) -> str:
    """The gerund of an English verb, well enough for fillers."""
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    if len(verb) <= 5 and verb[-1] in "bdgmnpt" and verb[-2] in "aeiou" and verb[-3] not in "aeiou":
        return verb + verb[-1] + "ing"
    return verb + "ing"


def several(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
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

    noun: tuple[str, ...]
    adjective: tuple[str, ...]
    verb: tuple[str, ...]
    project: tuple[str, ...]
    key: tuple[str, ...]
    value: tuple[str, ...]
    extension: tuple[str, ...]
    invented: float = 0.0
    """The share of nouns that are made up letter by letter, as names of products are."""
    open: float = 0.0
    """The share of words that are drawn from `words`, whatever their list."""
    words: OpenWords | None = None

    @classmethod
    def read(cls, lists: dict[str, Any], folder: Path) -> Fillers:
        nouns = lists.get("noun") or (folder / lists["noun_file"]).read_text(encoding="utf-8").split()
        rest = {
            k: tuple(str(w) for w in lists[k]) for k in ("adjective", "verb", "project", "key", "value", "extension")
        }
        return cls(
            noun=tuple(nouns),
            **rest,
            invented=float(lists.get("invented", 0.0)),
            open=float(lists.get("open", 0.0)),
        )

    def listed(self) -> list[str]:
        """All words of the lists."""
        return [*self.noun, *self.adjective, *self.verb, *self.project, *self.key, *self.value, *self.extension]

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
        keys = rng.sample(self.key, count)
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
