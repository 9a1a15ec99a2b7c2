"""What `bench scaling` asks: the same call at growing numbers of tools, lengths of prompt and argument, vocabularies.

Everything is generated, and the same every time. The tool that is called is the first, ``open_archive``; all tools take
one free string. Names are a verb and a noun whose first letters all differ, so a name parts from another at two places
at most, however many tools there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final, Literal, get_args

from bench.routing import completion_of
from router.cases import Case
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Schema, Tool, Toolset

Sweep = Literal["tools", "prompt", "argument", "vocabulary"]
SWEEPS: Final[tuple[Sweep, ...]] = get_args(Sweep)

SIZES: Final[dict[Sweep, tuple[int, ...]]] = {
    "tools": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "prompt": (64, 128, 256, 512, 1024, 2048, 4096),
    "argument": (4, 8, 16, 32, 64, 128, 256),
    "vocabulary": (4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144),
}
QUICK_SIZES: Final[dict[Sweep, tuple[int, ...]]] = {
    "tools": (1, 4, 16, 64),
    "prompt": (64, 512, 2048),
    "argument": (4, 32, 128),
    "vocabulary": (4096, 32_768, 131_072),
}
USER: Final = "put the words into the archive"
CALLED: Final = "open_archive"
SHORT: Final = 4
"""Tokens of the argument wherever its length is not what grows."""

_VERBS: Final = (
    "open", "add", "build", "copy", "delete", "edit", "find", "give", "hide", "join", "keep", "list", "move", "name",
    "print", "query",
)  # fmt: skip
_NOUNS: Final = (
    "archive", "book", "card", "door", "event", "file", "group", "house", "image", "job", "key", "lamp", "map", "note",
    "order", "page",
)  # fmt: skip
_WORDS: Final = (
    "the word and time for people over water after sound little work place year back good great where help through "
    "much before line right too means old any same tell boy follow came want show also around form three small set"
).split()
"""Filling: words that most vocabularies have."""


@dataclass(frozen=True)
class Point:
    """One size of one sweep: what is declared, asked and called there."""

    sweep: Sweep
    size: int
    toolset: Toolset
    case: Case

    @property
    def id(self) -> str:
        return self.case.id


def points(sweep: Sweep, sizes: Sequence[int], tokenizer: RouterTokenizer) -> list[Point]:
    """The points of a sweep on a tokenizer, smallest first; for vocabularies one, which every vocabulary is asked."""
    if sweep == "vocabulary":
        return [_point(sweep, 0, tools(1), words(SHORT, tokenizer))]
    out = []
    for size in sorted(set(sizes)):
        toolset, count = tools(size if sweep == "tools" else 1), size if sweep == "argument" else SHORT
        if sweep == "prompt":
            toolset = padded(size, tokenizer)
        out.append(_point(sweep, size, toolset, words(count, tokenizer)))
    return out


def tools(count: int) -> Toolset:
    """So many tools, ``open_archive`` first, all with other names and descriptions; 256 at most."""
    if not 1 <= count <= len(_VERBS) * len(_NOUNS):
        raise ValueError(f"{count} tools cannot be made of {len(_VERBS)} verbs and {len(_NOUNS)} nouns")
    return Toolset(f"tools-{count}", tuple(_tool(number) for number in range(count)))


def padded(tokens: int, tokenizer: RouterTokenizer) -> Toolset:
    """One tool whose description makes the cached part of the prompt so many tokens long, or as few as it can be."""
    parameters = Schema("object", properties={"text": Schema("string")}, required=("text",))

    def made(count: int) -> Toolset:
        description = " ".join(islice(cycle(_WORDS), count))
        return Toolset(f"prompt-{tokens}", (Tool(CALLED, description, parameters),), instruction="You call functions")

    return made(_largest(tokens, lambda count: len(tokenizer.prefix_ids(made(count)))))


def words(tokens: int, tokenizer: RouterTokenizer) -> str:
    """A string that takes so many tokens as an argument; where no words come out even, the nearest below."""
    empty = _call_tokens("", tokenizer)

    def text(count: int) -> str:
        return " ".join(islice(cycle(_WORDS), max(1, count)))

    return text(_largest(tokens, lambda count: _call_tokens(text(count), tokenizer) - empty))


def branches(toolset: Toolset, name: str = CALLED) -> int:
    """At how many places of its name, its end included, a tool's name parts from another's."""
    others = [tool.name for tool in toolset if tool.name != name]
    return len({_common(name, other) for other in others})


def argument_tokens(case: Case, tokenizer: RouterTokenizer) -> int:
    """Tokens of the case's argument."""
    return _call_tokens(case.calls[0].arguments["text"], tokenizer) - _call_tokens("", tokenizer)


def _point(sweep: Sweep, size: int, toolset: Toolset, text: str) -> Point:
    name = f"{sweep}-{size}" if size else sweep
    return Point(sweep, size, toolset, Case(name, USER, bucket=sweep, calls=(Call(CALLED, {"text": text}),)))


def _tool(number: int) -> Tool:
    verb = number % len(_VERBS)
    noun = (verb + number // len(_VERBS)) % len(_NOUNS)
    text = Schema("string", description="What to put")
    description = f"{_VERBS[verb].title()} the {_NOUNS[noun]}."
    parameters = Schema("object", properties={"text": text}, required=("text",))
    return Tool(f"{_VERBS[verb]}_{_NOUNS[noun]}", description, parameters)


def _call_tokens(text: str, tokenizer: RouterTokenizer) -> int:
    return len(completion_of(tokenizer, tools(1), [Call(CALLED, {"text": text})]))


def _largest(most: int, measure: Callable[[int], int]) -> int:
    """The largest count, from 0, of what takes at most `most` by a measure that grows with it."""
    low, high = 0, 1
    while measure(high) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(middle) <= most else (low, middle)
    return low


def _common(one: str, other: str) -> int:
    """How many characters two names begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
