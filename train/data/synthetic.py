"""Invented assistants that keep items: random tools, parameter names, item kinds, ids and topics.

They teach the base model what no public corpus does: to read which enum value, which parameter and which tool a
declaration offers, to copy identifiers letter by letter, and to make no call when the tool is not there.
Topics and names are random word sequences, so there is nothing to remember.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from router.toolset import Call, Schema, Tool
from train.data.corpus import make_tool
from train.data.noise import polite, roughen, surface
from train.data.synthetic_words import ABOUT, ACTIONS, FIND, KINDS, OPEN, SCOPES
from train.data.words import Words


class Store:
    """One invented assistant: its tools, and requests for them."""

    def __init__(self, rng: random.Random, words: Words) -> None:
        self.words = words
        self.kinds = rng.sample(sorted(KINDS), rng.randint(1, 4))
        self.actions = rng.sample(sorted(ACTIONS), rng.randint(2, 6))
        self.kind_key = rng.choice(["item_type", "kind", "type", "category", "item_kind", "what"])
        self.query_key = rng.choice(["query", "q", "text", "keywords", "topic", "search_term"])
        self.id_key = rng.choice(["item_id", "name", "id", "item_name", "item", "identifier"])
        self.action_key = rng.choice(["action", "operation", "op", "verb"])
        self.params_key = rng.choice(["parameters", "params", "arguments", "options", "inputs"])
        self.search_scope = rng.choice(SCOPES) if rng.random() < 0.7 else None
        self.open_scope = rng.choice(SCOPES) if rng.random() < 0.7 else None
        self.with_params = rng.random() < 0.6
        self.per_action = rng.random() < 0.25
        names = {
            "search": rng.choice(
                ["search", "find", "find_items", "lookup", "search_items", "query_store", "list_items"]
            ),
            "open": rng.choice(
                ["load", "open", "open_item", "get_item", "fetch", "read_item", "show_item", "retrieve"]
            ),
            "act": rng.choice(["execute", "act", "perform", "item_action", "manage", "do_action", "apply"]),
        }
        self.names = names
        kind = Schema(
            "string",
            description=rng.choice(["Kind of item", "What the item is", "Item type", None]),
            enum=tuple(self.kinds),
        )
        ident = Schema(
            "string", description=rng.choice(["Name of the item", "Id of the item", "The item's identifier", None])
        )
        self.has_kind = len(self.kinds) > 1
        head = {self.kind_key: kind} if self.has_kind else {}
        search = {
            **head,
            self.query_key: Schema(
                "string", description=rng.choice(["What to look for", "Topic words", "Search text", None])
            ),
        }
        opened = {**head, self.id_key: ident}
        acted = {**head, self.id_key: ident}
        if self.search_scope:
            search[self.search_scope[0]] = Schema(
                "string", description="Where to look", enum=tuple(self.search_scope[1])
            )
        if self.open_scope:
            opened[self.open_scope[0]] = Schema(
                "string", description=rng.choice(["Where it is kept", None]), enum=tuple(self.open_scope[1])
            )
        if self.with_params:
            acted[self.params_key] = Schema("object", description="Values for the action", additional=True)
        must = tuple(head)
        self.tools: list[Tool] = [
            make_tool(
                names["search"],
                rng.choice(["Find items by topic", "Search the store", "Look up items"]),
                search,
                (*must, self.query_key),
            ),
            make_tool(
                names["open"],
                rng.choice(["Open one item", "Show an item by its id", "Load an item"]),
                opened,
                (*must, self.id_key),
            ),
        ]
        if self.per_action:
            self.tools += [
                make_tool(f"{a}_item", f"{a.capitalize()} an item", acted, (*must, self.id_key)) for a in self.actions
            ]
        else:
            acts = {self.action_key: Schema("string", description="What to do", enum=tuple(self.actions)), **acted}
            self.tools.append(make_tool(names["act"], "Act on one item", acts, (self.action_key, *must, self.id_key)))

    def request(self, rng: random.Random) -> tuple[str, list[Call]]:
        roll = rng.random()
        if roll < 0.35:
            text, calls = self._search(rng)
        elif roll < 0.6:
            text, calls = self._open(rng)
        elif roll < 0.9:
            text, calls = self._act(rng)
        else:
            text, calls = self._unserved(rng)
        text = surface(text, rng)
        if rng.random() < 0.15:
            text = text.lower() if not any(c.isupper() for v in _strings(calls) for c in v) else text
        return " ".join(text.split()), calls

    def _kind(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        kind = rng.choice(self.kinds)
        return KINDS[kind], {self.kind_key: kind} if self.has_kind else {}

    def _scope(self, rng: random.Random, scope: tuple[str, list[str]] | None, link: str) -> tuple[str, dict[str, Any]]:
        if scope is None or rng.random() < 0.6:
            return "", {}
        value = rng.choice(scope[1])
        the = rng.choice(["the ", "my ", "", "our "])
        return f" {link} {the}{value}", {scope[0]: value}

    def _search(self, rng: random.Random) -> tuple[str, list[Call]]:
        kind, arguments = self._kind(rng)
        topic = self.words.phrase(rng, 1, 4 if rng.random() < 0.8 else 7)
        many, find, about = plural(kind), roughen(rng.choice(FIND), rng, rate=0.05), rng.choice(ABOUT)
        where, scope = self._scope(rng, self.search_scope, rng.choice(["in", "from", "on", "inside"]))
        form = rng.choice(
            [
                f"{find} {many} {about} {topic}{where}",
                f"{find} {topic} {many}{where}",
                f"any {many} {about} {topic}{where}",
                f"{many} {about} {topic}{where}",
                f"i need a {kind} {about} {topic}{where}",
                f"do we have {many} {about} {topic}{where}",
                f"{find}{where} {many} {about} {topic}",
                f"{find} {topic} in {many}",
                f"is there a {kind} {about} {topic}{where}",
                f"{topic} {many}{where}",
                f"what {many} are there {about} {topic}{where}",
                f"looking for a {kind} {about} {topic}{where}",
                f"{find} {about} {topic} {many}{where}",
            ]
        )
        if " in {many}" in form:
            scope = {}
        if where and where not in form:
            scope = {}
        text = polite(form, rng, imperative=form.startswith(find) and not find.startswith(("see", "where")))
        return text, [Call(self.names["search"], {**arguments, self.query_key: topic, **scope})]

    def _named(self, rng: random.Random, kind: str) -> tuple[str, str]:
        said, meant = self.words.identifier(rng)
        form = rng.choice(
            [
                f"{kind} {said}",
                f"the {kind} {said}",
                f"the {said} {kind}",
                f"{said} {kind}",
                f"{kind} called {said}",
                f"my {said} {kind}",
                f"a {kind} named {said}",
                f"our {kind} {said}",
                f'{kind} "{said}"',
            ]
        )
        if not self.has_kind and rng.random() < 0.4:
            form = said
        return form, meant

    def _open(self, rng: random.Random) -> tuple[str, list[Call]]:
        kind, arguments = self._kind(rng)
        named, meant = self._named(rng, kind)
        where, scope = self._scope(rng, self.open_scope, rng.choice(["from", "out of", "in"]))
        opened = roughen(rng.choice(OPEN), rng, rate=0.05)
        text = rng.choice(
            [
                f"{opened} {named}{where}",
                f"{opened} {named}{where}",
                f"what's in {named}{where}",
                f"{opened}{where} {named}",
            ]
        )
        text = polite(text, rng, imperative=text.startswith(opened) and not opened.startswith("let"))
        return text, [Call(self.names["open"], {**arguments, self.id_key: meant, **scope})]

    def _act(self, rng: random.Random) -> tuple[str, list[Call]]:
        kind, arguments = self._kind(rng)
        action = rng.choice(self.actions)
        named, meant = self._named(rng, kind)
        arguments = {**arguments, self.id_key: meant}
        tail = ""
        if self.with_params and rng.random() < 0.5:
            tail, arguments[self.params_key] = self.words.pairs(rng)
        text = polite(f"{roughen(rng.choice(ACTIONS[action]), rng, rate=0.05)} {named}{tail}", rng, imperative=True)
        if self.per_action:
            return text, [Call(f"{action}_item", arguments)]
        return text, [Call(self.names["act"], {self.action_key: action, **arguments})]

    def _unserved(self, rng: random.Random) -> tuple[str, list[Call]]:
        kind, _ = self._kind(rng)
        named, _ = self._named(rng, kind)
        other = KINDS[rng.choice(sorted(KINDS))]
        missing = [
            a for a in sorted(ACTIONS) if a not in self.actions and a not in ("run", "use", "test", "copy", "create")
        ]
        verb = rng.choice(ACTIONS[rng.choice(missing)])
        return rng.choice(
            [
                f"{verb} {named}",
                f"how many {plural(kind)} do we have",
                f"who wrote {named}",
                f"when was {named} last changed",
                f"what is the difference between a {kind} and a {other}",
                "undo that",
                f"why does {named} fail",
                f"thanks for {named}",
                f"is {named} any good",
                f"explain what a {kind} is",
                f"compare {named} with the other one",
                f"don't touch {named}",
                f"how long does {named} take",
            ]
        ), []


def plural(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def _strings(calls: Sequence[Call]) -> list[str]:
    return [v for c in calls for v in c.arguments.values() if isinstance(v, str)]
