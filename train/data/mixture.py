"""Blocks of training data: one declaration block and many requests that share it.

A block's tools are drawn from one source, shuffled and mixed with distractors, renamed and sometimes robbed of their
descriptions, so that the declarations have to be read. Block `n` of a seed is always the same block.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from router.cases import Case
from router.render import user_turn
from router.toolset import Call, Tool, Toolset
from runtimes.errors import UserError
from train.data.corpus import Corpus, realise
from train.data.disguise import Disguise, disguise, optional
from train.data.invented import Invented
from train.data.lexicon import Lexicon
from train.data.matching import Matching, Thesaurus
from train.data.synthetic import Store
from train.data.words import Words
from train.vectors import WordVectors


@dataclass(frozen=True)
class Block:
    """One toolset and requests for it, with the calls that are right."""

    toolset: Toolset
    rows: list[tuple[str, list[Call]]]


@dataclass(frozen=True)
class Mixture:
    """Where blocks come from: weights by source name; `synthetic` stands for invented assistants, `invented` for
    invented services, `recipes` for the toolsets of data recipes with training requests of theirs."""

    corpora: Sequence[Corpus]
    words: Words
    weights: dict[str, float]
    seed: int = 0
    swap: float = 0.5
    recipes: Sequence[tuple[Toolset, Sequence[Case]]] = ()
    vectors: WordVectors | None = None
    """For the source ``matching``."""

    def block(self, number: int, *, rows: int) -> Block:
        """Block `number`, with `rows` requests."""
        rng = random.Random(f"{self.seed}/{number}")
        name = rng.choices(list(self.weights), weights=list(self.weights.values()))[0]
        if name == "synthetic":
            store = Store(rng, self.words)
            made = [store.request(rng) if rng.random() < 0.92 else (self._stray(rng), []) for _ in range(rows)]
            tools = list(store.tools)
            if rng.random() < 0.3:
                extra = rng.choice(self.corpora)
                tools += [
                    _plain(t)
                    for t in rng.sample(
                        sorted(extra.tools.values(), key=lambda t: t.name), min(len(extra.tools), rng.randint(1, 2))
                    )
                ]
            rng.shuffle(tools)
            return Block(Toolset("synthetic", _distinct(tools)), made)
        if name == "invented":
            made_up = Invented(rng, self.lexicon)
            return Block(Toolset("invented", tuple(made_up.tools)), [made_up.request(rng) for _ in range(rows)])
        if name == "matching":
            matching = Matching(rng, self.thesaurus)
            return Block(Toolset("matching", tuple(matching.tools)), [matching.request(rng) for _ in range(rows)])
        if name == "recipes":
            return self._from_recipe(rng, rows)
        corpus = next(c for c in self.corpora if c.name == name)
        return self._from_corpus(corpus, rng, rows)

    @cached_property
    def lexicon(self) -> Lexicon:
        """Words and slot values for invented services."""
        return Lexicon(self.words, self.corpora)

    @cached_property
    def thesaurus(self) -> Thesaurus:
        """Words of like meaning, for tools of random topics. Raises `UserError` without word vectors."""
        if self.vectors is None:
            raise UserError("the source `matching` draws on word vectors; give them with --vectors FILE")
        return Thesaurus(self.vectors)

    def _from_recipe(self, rng: random.Random, rows: int) -> Block:
        """Some of a recipe's tools, as they are or under other case styles with descriptions left out."""
        toolset, cases = rng.choice(self.recipes)
        few = max(1, min(len(toolset.tools), rng.randint(2, 7)))
        tools = rng.sample(toolset.tools, few if len(toolset.tools) > 8 or rng.random() < 0.4 else len(toolset.tools))
        plain = rng.random() < 0.4
        disguised = {t.name: Disguise(t) if plain else disguise(t, t, rng) for t in tools}
        if len({d.tool.name for d in disguised.values()}) < len(tools):
            disguised = {t.name: Disguise(t) for t in tools}
        made: list[tuple[str, list[Call]]] = []
        for case in rng.sample(cases, min(len(cases), 8 * rows)):
            if len(made) < rows and all(call.name in disguised for call in case.calls):
                calls = [disguised[call.name].call(call) for call in case.calls]
                made.append((user_turn(toolset, case.user, case.context), calls))
        return Block(dataclasses.replace(toolset, tools=tuple(d.tool for d in disguised.values())), made)

    def _stray(self, rng: random.Random) -> str:
        corpus = rng.choice(self.corpora)
        return realise(corpus, rng.choice(corpus.requests), rng, swap=self.swap)[0]

    def _from_corpus(self, corpus: Corpus, rng: random.Random, rows: int) -> Block:
        """Tools of different domains, requests for them, and some for none of them: of other domains or corpora."""
        loose = bool(corpus.partial) and rng.random() < 0.7
        requests = corpus.loose if loose else corpus.by_tool
        served = sorted(name for name in requests if name is not None)
        wide = max(len(corpus.tools[n].parameters.properties) for n in served) > 5
        count = rng.randint(2, 6 if wide else 7)
        domains: dict[str, str] = {}
        for name in rng.sample(served, len(served)):
            domains.setdefault(_domain(name), name)
        chosen = list(domains.values())[:count]
        others = [n for n in requests if n is None or _domain(n) not in map(_domain, chosen)]
        made: list[tuple[str, list[Call]]] = []
        while len(made) < rows:
            source, request = corpus, rng.choice(requests[rng.choice(chosen)])
            if rng.random() < 0.15:
                source = rng.choice(self.corpora)
                if source is corpus and not others:
                    continue
                request = rng.choice(source.requests if source is not corpus else requests[rng.choice(others)])
            text, calls = realise(source, request, rng, swap=self.swap)
            made.append((text, calls if request.tool in chosen and source is corpus else []))
        said = {call.name: set[str]() for _, calls in made for call in calls}
        for _, calls in made:
            for call in calls:
                said[call.name] |= call.arguments.keys()
        wordings = [corpus.tools, *corpus.renames]
        declared = {n: optional(corpus.tools[n]) if loose else corpus.tools[n] for n in chosen}
        disguised = {
            n: disguise(tool, rng.choice(wordings).get(n, tool), rng, used=said.get(n, ()))
            for n, tool in declared.items()
        }
        if len({d.tool.name for d in disguised.values()}) < len(chosen):
            disguised = {n: Disguise(_plain(tool)) for n, tool in declared.items()}
        toolset = Toolset(corpus.name, _distinct([d.tool for d in disguised.values()]))
        return Block(toolset, [(text, [disguised[c.name].call(c) for c in calls]) for text, calls in made])


def _domain(name: str) -> str:
    """`find_events.events_2` -> `events`: services of a domain serve one another's requests. Else the name itself."""
    return re.sub(r"_\d+$", "", name.rpartition(".")[2])


def _distinct(tools: Sequence[Tool]) -> tuple[Tool, ...]:
    return tuple({t.name: t for t in tools}.values())


def _plain(tool: Tool) -> Tool:
    return dataclasses.replace(tool, name=tool.name.split(".")[0])
