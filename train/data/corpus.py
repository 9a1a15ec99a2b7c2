"""What every source of training data becomes: tools, and requests that call one of them.

A request is kept as segments, so that a slot's value can be swapped for another value of the same slot: the model
then has to read the request instead of remembering names.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from router.toolset import Call, Schema, Tool


@dataclass(frozen=True)
class Segment:
    """A piece of a request; `slot` names the parameter whose value it is."""

    text: str
    slot: str | None = None


@dataclass(frozen=True)
class Request:
    """One utterance: its segments, the tool that serves it (None: no tool), and arguments that are not spans."""

    segments: tuple[Segment, ...]
    tool: str | None
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(s.text for s in self.segments)


@dataclass
class Corpus:
    """The tools and requests of one source."""

    name: str
    tools: dict[str, Tool]
    requests: list[Request]
    renames: list[dict[str, Tool]] = field(default_factory=list)
    """The same tools under other names and words (parameters in the same order), as SGD-X gives them."""
    partial: list[Request] = field(default_factory=list)
    """Requests that leave out what their tool requires, as turns of a dialogue do."""

    def __post_init__(self) -> None:
        self.by_tool: dict[str | None, list[Request]] = defaultdict(list)
        self.loose: dict[str | None, list[Request]] = defaultdict(list)
        """By tool, the requests with the partial ones."""
        self.values: dict[str, list[str]] = defaultdict(list)
        for request in self.requests:
            self.by_tool[request.tool].append(request)
        for request in [*self.requests, *self.partial]:
            self.loose[request.tool].append(request)
            for segment in request.segments:
                if segment.slot is not None:
                    self.values[segment.slot].append(segment.text)


def make_tool(name: str, description: str, parameters: dict[str, Schema], required: tuple[str, ...] = ()) -> Tool:
    return Tool(name, description, Schema("object", properties=parameters, required=required))


def realise(corpus: Corpus, request: Request, rng: random.Random, *, swap: float) -> tuple[str, list[Call]]:
    """The text and calls of a request, each slot's value swapped with probability `swap`, with some case noise."""
    arguments: dict[str, Any] = dict(request.fixed)
    parts: list[str] = []
    case = rng.random()
    for segment in request.segments:
        text = segment.text
        if segment.slot is not None:
            if rng.random() < swap:
                text = rng.choice(corpus.values[segment.slot])
            text = " ".join(text.split())
        if case < 0.25:
            text = text.lower()
        elif case < 0.30 and segment.slot is not None:
            text = text.title()
        if segment.slot is not None:
            arguments[segment.slot] = text
        parts.append(text)
    text = " ".join("".join(parts).split())
    if request.tool is None:
        return text, []
    return text, [Call(request.tool, arguments)]
