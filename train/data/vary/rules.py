"""Variation by rules, for English: slips of the keyboard, dropped and shortened words, case, politeness, speech.

A request is cut at the values that its calls need (`values.said_in`); rules change what lies between. Variation `n` of
a case is a function of the seed, the case's id and `n`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from train.data.noise import polite, typo
from train.data.vary.values import Said

ATTEMPTS: Final = 8
"""Draws for one variation before it is given up."""

_DROPPED: Final = frozenset("a an the please pls kindly just really maybe me some for".split())
"""Words that a hasty person leaves out, and that carry no argument."""
_SHORT: Final[dict[str, tuple[str, ...]]] = {
    "about": ("abt",), "and": ("&", "n"), "application": ("app",), "are": ("r",), "because": ("bc",),
    "configuration": ("config", "conf"), "database": ("db",), "directory": ("dir",), "document": ("doc",),
    "documentation": ("docs",), "documents": ("docs",), "environment": ("env",), "execute": ("exec",),
    "information": ("info",), "message": ("msg",), "messages": ("msgs",), "minutes": ("mins",), "number": ("num",),
    "parameters": ("params",), "people": ("ppl",), "please": ("pls", "plz"), "project": ("proj",),
    "repository": ("repo",), "seconds": ("secs",), "something": ("smth", "sth"), "temperature": ("temp",),
    "thanks": ("thx", "ty"), "through": ("thru",), "tomorrow": ("tmrw",), "with": ("w/",),
    "without": ("w/o",), "you": ("u",), "your": ("ur",),
}  # fmt: skip
"""No digits for words (2, 4): a request's numbers are its own."""
_SPOKEN: Final = ("um", "uh", "like", "you know", "so", "well", "I mean", "er", "okay")
_HEARD: Final[dict[str, str]] = {
    "their": "there", "there": "their", "to": "too", "too": "to", "your": "you're", "here": "hear", "by": "buy",
    "which": "witch", "would": "wood", "its": "it's", "then": "than", "right": "write", "whether": "weather",
    "we're": "were", "whole": "hole", "no": "know", "new": "knew",
}  # fmt: skip
"""What a recogniser writes for a word that sounds alike."""
_COMMANDS: Final = frozenset(
    """add alert announce archive arrange ask assign book bring buy calculate call cancel change check choose clear
    close compare compute connect convert copy count create cut decrease define delete describe dim disable
    display download draw drop edit email enable execute explain export fetch filter find forward generate get
    give go grep help hide import increase insert install invite join keep launch let limit link list listen
    load locate lock log look lower make map mark measure merge message move mute name navigate notify open
    order pause pay pick plan play post predict prepare print publish pull push put query raise rate read
    recommend record reduce refresh remind remove rename repeat replace reply report request reserve reset
    resize resolve restart resume retrieve return review run save scan schedule search select send set share
    show shuffle shut skip sort spell start stop store subscribe suggest summarise summarize switch sync take
    tell test track transfer translate trigger turn undo unlock unmute update upgrade upload use validate verify
    view wake watch write""".split()
)
"""First words that "can you" may precede."""
_MEANT: Final = re.compile(r"\b(now|today|again|first|time)\b")
"""Politeness that a tool may take for an argument."""


@dataclass(frozen=True)
class Piece:
    """A part of a request; what is `held` is a value, and no rule touches it."""

    text: str
    held: bool = False


Rule = Callable[[list[Piece], random.Random], list[Piece]]


@dataclass(frozen=True)
class Variation:
    """Another way to say a request, and the rules that made it."""

    text: str
    rules: tuple[str, ...]


def vary(text: str, said: Said, rules: Sequence[str], count: int, seed: str) -> list[Variation]:
    """Up to `count` different variations of a request, by one or two of `rules` each; fewer where no rule applies."""
    pieces = cut(text, said)
    seen = {text}
    out: list[Variation] = []
    for number in range(count):
        for attempt in range(ATTEMPTS):
            rng = random.Random(f"{seed}/{number}/{attempt}")
            names = _pick(rules, rng)
            varied = pieces
            for name in names:
                varied = RULES[name](varied, rng)
            new = re.sub(r"[ \t]{2,}", " ", join(varied)).strip()
            if new and new not in seen:
                seen.add(new)
                out.append(Variation(new, names))
                break
    return out


def cut(text: str, said: Said) -> list[Piece]:
    """The request in pieces, values held."""
    pieces: list[Piece] = []
    at = 0
    for start, end in said.spans:
        pieces += [Piece(text[at:start]), Piece(text[start:end], held=True)]
        at = end
    return [piece for piece in [*pieces, Piece(text[at:])] if piece.text]


def join(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _pick(rules: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    chosen = rng.sample(list(rules), min(len(rules), rng.choice((1, 1, 2))))
    if "speech" in chosen and "case" in chosen:  # what is transcribed has no capitals
        chosen.remove("case")
    return tuple(name for name in RULES if name in chosen)


def typos(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """One slip of the keyboard, or a few in a long request."""
    return _words(pieces, rng, 0.12, lambda word: typo(word, rng))


def drop(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """Leave out words that carry nothing."""
    return _words(pieces, rng, 0.7, lambda word: "" if word.lower() in _DROPPED else word)


def abbreviate(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """Shorten words as people do in chats."""
    return _words(pieces, rng, 0.7, lambda word: rng.choice(_SHORT.get(word.lower(), (word,))))


def case(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """All lower, all upper, every word or only the first letter in capitals."""
    if rng.random() < 0.4:
        return _first_letter(pieces, str.upper if rng.random() < 0.7 else str.lower)
    change: Callable[[str], str] = rng.choice((str.lower, str.upper, _titled))
    return [piece if piece.held else Piece(change(piece.text)) for piece in pieces]


def politely(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """Please, thanks, can you: around the request."""
    first = re.match(r"[\w']+", join(pieces).lower())
    command = first is not None and first.group() in _COMMANDS
    before = after = ""
    for _ in range(64):  # each draw of `polite` leaves the text as it is more often than not
        around = polite("\0", rng, imperative=command)
        if around != "\0" and not _MEANT.search(around):
            before, after = around.split("\0")
            break
    if before:
        pieces = [Piece(before), *_first_letter(pieces, str.lower)]
    if after and pieces and not pieces[-1].held:
        pieces = [*pieces[:-1], Piece(re.sub(r"[\s.!?]+$", "", pieces[-1].text))]
    return [*pieces, Piece(after)] if after else pieces


def speech(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """As a recogniser writes what was said: no marks, no capitals, with what people say while they think."""
    plain = [piece if piece.held else Piece(re.sub(r"(?<!\w)'|'(?!\w)|[^\w\s'&]+", " ", piece.text).lower())
             for piece in pieces]  # fmt: skip
    heard = _words(plain, rng, 0.25, lambda word: _HEARD.get(word, word), always=False)
    filler = rng.choice(_SPOKEN).lower()
    gaps = [(n, m.start()) for n, piece in enumerate(heard) if not piece.held for m in re.finditer(r"\s", piece.text)]
    if rng.random() < 0.4 or not gaps:
        return [Piece(f"{filler} "), *heard]
    number, at = rng.choice(gaps)
    text = heard[number].text
    return [*heard[:number], Piece(f"{text[:at]} {filler}{text[at:]}"), *heard[number + 1 :]]


RULES: Final[dict[str, Rule]] = {
    "polite": politely,
    "abbreviate": abbreviate,
    "drop": drop,
    "speech": speech,
    "case": case,
    "typos": typos,
}
"""Name -> rule, in the order in which they are applied."""


def _words(
    pieces: list[Piece], rng: random.Random, rate: float, change: Callable[[str], str], *, always: bool = True
) -> list[Piece]:
    """Change words with probability `rate`; with `always`, one at least of those that can be changed."""
    tokens = [
        (number, token)
        for number, piece in enumerate(pieces)
        for token in ([piece.text] if piece.held else re.findall(r"[\w']+|[^\w']+", piece.text))
    ]
    new = [None if pieces[n].held or not t[0].isalnum() else change(t) for n, t in tokens]
    able = [i for i, ((_, t), c) in enumerate(zip(tokens, new, strict=True)) if c is not None and c != t]
    chosen = {i for i in able if rng.random() < rate}
    if always and able and not chosen:
        chosen = {rng.choice(able)}
    texts = ["" for _ in pieces]
    for i, (number, token) in enumerate(tokens):
        texts[number] += new[i] or "" if i in chosen else token
    return [Piece(text, piece.held) for text, piece in zip(texts, pieces, strict=True)]


def _titled(text: str) -> str:
    return re.sub(r"(?<![\w'])[a-z]", lambda m: m.group().upper(), text)


def _first_letter(pieces: list[Piece], change: Callable[[str], str]) -> list[Piece]:
    """Only where the request does not begin with a value, and its first word is not all capitals."""
    if not pieces or pieces[0].held or re.match(r"[A-Z]{2,}|I\b", pieces[0].text):
        return pieces
    text = pieces[0].text
    return [Piece(change(text[:1]) + text[1:]), *pieces[1:]]
