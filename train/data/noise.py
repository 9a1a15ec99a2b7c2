"""Rule-based variation of a request's words, leaving its slot values alone."""

from __future__ import annotations

import random

_NEIGHBOURS = dict(
    zip(
        "qwertyuiopasdfghjklzxcvbnm",
        [
            "wa",
            "qes",
            "wrd",
            "etf",
            "ryg",
            "tuh",
            "yij",
            "uok",
            "ipl",
            "ol",
            "qsz",
            "awdx",
            "sefc",
            "drgv",
            "fthb",
            "gyjn",
            "hukm",
            "jil",
            "kop",
            "asx",
            "zsdc",
            "xdfv",
            "cfgb",
            "vghn",
            "bhjm",
            "njk",
        ],
        strict=True,
    )
)

_SHORT = {
    "directive": "dir",
    "directives": "dirs",
    "please": "pls",
    "you": "u",
    "are": "r",
    "project": "proj",
    "parameters": "params",
    "with": "w/",
    "for": "4",
    "execute": "exec",
    "create": "make",
    "the": "",
    "a": "",
    "registry": "reg",
    "about": "abt",
    "something": "smth",
    "your": "ur",
    "thanks": "thx",
    "and": "&",
    "documentation": "docs",
    "directory": "dir",
    "search": "serch",
    "knowledge": "kb",
}


def typo(word: str, rng: random.Random) -> str:
    """One slip of the keyboard: a neighbouring key, a swap, a doubled or a missing letter."""
    if len(word) < 4 or not word.isalpha():
        return word
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        near = _NEIGHBOURS.get(word[i].lower())
        return word[:i] + rng.choice(near) + word[i + 1 :] if near else word
    if kind == 1:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + word[i + 1 :]


def roughen(text: str, rng: random.Random, *, rate: float) -> str:
    """Type, shorten or drop words of `text`, each word with probability `rate`."""
    out = []
    for word in text.split(" "):
        if word and rng.random() < rate:
            if word.lower() in _SHORT and rng.random() < 0.5:
                word = _SHORT[word.lower()]
                if not word:
                    continue
            else:
                word = typo(word, rng)
        out.append(word)
    return " ".join(out)


_BEFORE = [
    "please ",
    "can you ",
    "could you ",
    "hey, ",
    "hi, ",
    "ok ",
    "i want to ",
    "i'd like to ",
    "would you ",
    "pls ",
    "can u ",
    "could you please ",
    "go ahead and ",
    "quickly ",
    "now ",
    "let's ",
    "i need you to ",
    "hey can you ",
    "okay, ",
    "so ",
    "just ",
    "kindly ",
    "time to ",
    "i need to ",
    "we should ",
    "want to ",
    "help me ",
]
_AFTER = [
    " please",
    " thanks",
    " pls",
    " for me",
    " now",
    " asap",
    ", thanks",
    " when you can",
    " if you can",
    " ok?",
    " right now",
    " thx",
    " again",
    " real quick",
    " today",
    ", cheers",
    " first",
]


def polite(text: str, rng: random.Random, *, imperative: bool) -> str:
    """Put a request into the words around it that people use; `imperative` says whether "can you" may precede."""
    if imperative and rng.random() < 0.3:
        text = rng.choice(_BEFORE) + text
    if rng.random() < 0.15:
        text += rng.choice(_AFTER)
    return text


def surface(text: str, rng: random.Random) -> str:
    """Case of the first letter and the closing mark."""
    roll = rng.random()
    if roll < 0.25:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.12:
        text += rng.choice([".", "!", "?", "..", " ?"])
    return text
