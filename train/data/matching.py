"""Tools of random topics and requests that speak of one of them, in the tool's words or in others of like meaning.

A request goes to the tool whose name, description or parameters it is closest to. A small model that is trained on
whole calls learns that last, for a call has one such choice among dozens of tokens that are copied. Here nearly every
token that is learned is the choice: calls have at most one argument, requests are short, and no topic comes twice, so
that only reading the declarations helps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from router.toolset import Call, Schema, Tool
from train.data.corpus import make_tool
from train.data.lexicon import cased
from train.vectors import WordVectors

TOPICS: Final = 9_000
"""Topics are drawn from so many of the most frequent words,"""
COMMON: Final = 150
"""but not from these, which stand in the sentences around them."""
_ALIKE: Final = 0.55
"""Cosine from which a word may stand for another."""
_APART: Final = 0.3
"""Cosine above which two topics are too close to be told apart."""

_VERBS: Final = (
    "find search get list show look_up fetch check book reserve order buy play start stop open close add create "
    "make set change update remove delete cancel send call ask plan schedule review rate transfer share read "
    "write run count view query track compare request submit report manage use lookup browse locate"
).split()
_HEADS: Final = (
    "service info data details search finder lookup tool request manager status list query booking order report "
    "entry record type item options control action"
).split()
_ABOUT: Final = (
    "{v} {a}", "{v} {a} and {b}", "{v} {a} or {b}", "{v} a {a} for {b}", "{v} the {a} of {b}", "{v} {a} by {b}",
    "{v} {a} with {b}", "{v} {a} {b}", "{v} {a} using {b}, {c}", "{a} {b}", "{a}: {v} {b} or {c}",
    "{v} {a} based on {b} and {c}", "{v} {a} in {b}", "{v} some {a} near {b}",
    "{v} any {a} that matches the given {b}", "a tool to {v} {a}", "use this to {v} {a} ({b})",
)  # fmt: skip
_SAY: Final = (
    "{a}", "{a} {b}", "{a} and {b}", "i want {a}", "i want some {a} with {b}", "i need a {a}", "can you {v} a {a}",
    "{v} {a} for me", "{v} the {b} {a}", "please {v} {a}", "what about {a}", "is there any {a} {b}",
    "i would like to {v} a {a} please", "tell me about {a}", "what is the {a} of {b}", "how is the {a}",
    "which {a} has {b}", "let us {v} {a} {b}", "where is a {b} {a}", "do you know a good {a}", "i am looking for {a}",
    "i'm thinking of a {a}", "could you help me {v} my {a}", "my {a} is {b}", "we should {v} {a}, not {b}",
    "the {a} please", "it is about {a}", "are there {a} in {b}", "{b}? i like {a}", "show me what {a} you have",
)  # fmt: skip
_VALUE: Final = (
    "for {x}", "called {x}", "named {x}", "in {x}", "with {x}", "from {x}", "to {x}", "{x}", "at {x}", "on {x}",
    "by {x}",
)  # fmt: skip
_KEYS: Final = (
    "name query value text title location date city subject item type target id keyword amount category time"
).split()


@dataclass(frozen=True)
class Thesaurus:
    """Words and those of like meaning, by the cosine of their vectors."""

    known: WordVectors

    @cached_property
    def row(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.known.words)}

    def alike(self, word: str, *, count: int = 8) -> list[str]:
        """Up to `count` words that may stand for `word`, the closest first."""
        near = self.known.vectors[:TOPICS] @ self.known.vectors[self.row[word]]
        order = np.argsort(-near)[: count + 1]
        return [self.known.words[i] for i in order if near[i] >= _ALIKE and self.known.words[i] != word]

    def apart(self, word: str, others: Sequence[str]) -> bool:
        """Whether `word` is unlike all of `others`."""
        own = self.known.vectors[self.row[word]]
        return all(float(own @ self.known.vectors[self.row[o]]) < _APART for o in others)

    def draw(self, rng: random.Random) -> str:
        """A word of some meaning."""
        while True:
            word = self.known.words[rng.randrange(COMMON, min(TOPICS, len(self.known.words)))]
            if len(word) > 2:
                return word


@dataclass
class _Topic:
    tool: Tool
    declared: list[str]
    """Words that the declaration has."""
    other: list[str]
    """Words of like meaning that it lacks."""
    verb: str
    value: str | None


class Matching:
    """A set of such tools, and requests for them."""

    def __init__(self, rng: random.Random, thesaurus: Thesaurus, *, tools: int | None = None) -> None:
        self.thesaurus = thesaurus
        self.style = rng.choices(["snake", "pascal", "camel"], [55, 35, 10])[0]
        self.topics: list[_Topic] = []
        self.taken: list[str] = []
        size = tools or rng.randint(2, 8)
        while len(self.topics) < size:
            topic = self._topic(rng)
            if topic.tool.name not in {t.tool.name for t in self.topics}:
                self.topics.append(topic)
        self.tools = [t.tool for t in self.topics]
        self.unserved = [self._topic(rng) for _ in range(2)]

    def _topic(self, rng: random.Random) -> _Topic:
        while True:
            word = self.thesaurus.draw(rng)
            if self.thesaurus.apart(word, self.taken):
                break
        self.taken.append(word)
        pool = [word, *self.thesaurus.alike(word)]
        if len(pool) < 2 and rng.random() < 0.7:
            return self._topic(rng)
        rng.shuffle(pool)
        declared = pool[: rng.randint(1, max(1, min(3, len(pool) - 1)))]
        verb = rng.choice(_VERBS)
        described = rng.random() < 0.9
        roll = rng.random()
        if described and roll < 0.25:  # nothing in the name: the description must be read
            name = [verb, rng.choice(_HEADS)]
        elif roll < 0.7:
            name = [verb, declared[0]]
        elif roll < 0.9:
            name = [declared[0], rng.choice(_HEADS)]
        else:
            name = [declared[0]]
        about = ""
        if described:
            a, b, c = (rng.choice(declared) if rng.random() < 0.8 else self.thesaurus.draw(rng) for _ in range(3))
            a = rng.choice(declared)
            about = rng.choice(_ABOUT).format(v=rng.choice([verb, rng.choice(_VERBS)]).replace("_", " "), a=a, b=b, c=c)
            about = about.capitalize() if rng.random() < 0.7 else about
        parameters: dict[str, Schema] = {}
        for _ in range(rng.choice([0, 1, 1, 2])):
            key = rng.choice(_KEYS) if rng.random() < 0.6 else f"{rng.choice(declared)}_{rng.choice(_KEYS)}"
            parameters[cased(key, "snake")] = Schema(
                "string",
                description=f"{key.replace('_', ' ')} of the {rng.choice(declared)}" if rng.random() < 0.4 else None,
            )
        tool = make_tool(cased("_".join(name), self.style), about, parameters)
        value = next(iter(parameters)) if parameters and rng.random() < 0.6 else None
        return _Topic(tool, declared, pool[len(declared) :], verb, value)

    def request(self, rng: random.Random) -> tuple[str, list[Call]]:
        """A request and its call; now and then one for none of the tools."""
        served = rng.random() > 0.06
        topic = rng.choice(self.topics if served else self.unserved)
        pool = topic.other if topic.other and rng.random() < 0.45 else topic.declared
        a = rng.choice(pool)
        b = rng.choice(topic.declared + topic.other) if rng.random() < 0.5 else self.thesaurus.draw(rng)
        verb = rng.choice([topic.verb, *(rng.choice(_VERBS) for _ in range(3))]).replace("_", " ")
        text = rng.choice(_SAY).format(a=a, b=b, v=verb)
        arguments: dict[str, str] = {}
        if topic.value is not None:
            said = " ".join(self.thesaurus.draw(rng) for _ in range(rng.choice([1, 1, 2])))
            said = said.title() if rng.random() < 0.4 else said
            text += " " + rng.choice(_VALUE).format(x=said)
            arguments[topic.value] = said
        if rng.random() < 0.5:
            text = text[0].upper() + text[1:]
        text += rng.choice(
            ["", "", ".", "?" if text.lower().startswith(("can", "is", "wh", "how", "do", "are")) else "."]
        )
        return text, [Call(topic.tool.name, arguments)] if served else []
