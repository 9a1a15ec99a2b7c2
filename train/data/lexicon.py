"""The words of invented services: the material of ``invented.yaml``, drawn from and cased into names."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from train.data.corpus import Corpus
from train.data.words import Words

_NUMBERS: Final = {w: i for i, w in enumerate("one two three four five six seven eight nine ten".split(), 1)}
_HOLE: Final = re.compile(r"\{([^{}]+)\}")
_ARTICLE: Final = re.compile("\\b([Aa]) (?=(?:\x02\\d+\x03)?(?:[aeio]|un(?!i)|u[lrmp]|hour|honest|8|11|18))", re.I)


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


@cache
def material() -> dict[str, Any]:
    """The word material, read once."""
    data = yaml.safe_load(Path(__file__).with_name("invented.yaml").read_text(encoding="utf-8"))
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


def with_articles(text: str) -> str:
    """``a`` as ``an`` where the next word, or a marked value, asks for it."""
    return _ARTICLE.sub(r"\1n ", text)
