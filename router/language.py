"""Languages of strings: the intersection of regular expressions, in the forms that decoding needs.

A `Language` prints as an llguidance terminal (`lark`), checks a text (`matches`) and becomes a finite automaton
(`automaton`), from which `router.gbnf` writes rules, because GBNF cannot intersect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from router.regular import NOTHING, Alt, Cat, Chars, Node, Ranges, Repeat, derive, firsts, nonempty, normal, nullable
from runtimes.errors import UserError

State = tuple[Node, ...]
MAX_STATES: Final = 8_000
"""States of an automaton that is written out as terminals."""


class LanguageError(UserError):
    """A language that llguidance cannot be given."""


@dataclass(frozen=True)
class Automaton:
    """A finite automaton without dead ends, from state 0: whether a state accepts, and where its characters lead."""

    accepting: tuple[bool, ...]
    edges: tuple[tuple[tuple[Ranges, int], ...], ...]
    cut: bool
    """Whether dead ends were cut off: strings that every part lets begin, and that cannot end."""


@dataclass(frozen=True)
class Language:
    """The strings that belong to every one of `parts`."""

    parts: tuple[Node, ...]
    open: bool = False
    """Known to have no dead ends: whatever every part lets begin can be ended."""

    @property
    def empty(self) -> bool:
        """Whether the empty string belongs."""
        return accepts(self.parts)

    def step(self, state: State, character: str) -> State | None:
        """The state after one more character, or None where no string of a part goes on so."""
        after = tuple(derive(p, ord(character)) for p in state)
        return None if NOTHING in after else after

    def matches(self, text: str) -> bool:
        """Whether `text` belongs."""
        state = self.parts
        for character in text:
            after = self.step(state, character)
            if after is None:
                return False
            state = after
        return accepts(state)

    def possible(self, *, empty: bool = True, limit: int = 5000) -> bool:
        """Whether any string belongs (`empty`: the empty one counts). True where `limit` states do not tell."""
        if empty and self.empty:
            return True
        numbers: dict[State, int] = {self.parts: 0}
        for state in _in_order(numbers):
            for a, _ in _atoms([tuple(firsts(p)) for p in state]):
                after = tuple(derive(p, a) for p in state)
                if accepts(after):
                    return True
                if NOTHING not in after:
                    numbers.setdefault(after, len(numbers))
            if len(numbers) > limit:
                return True
        return False

    @lru_cache(maxsize=64)  # noqa: B019 - languages are small and few
    def automaton(self, limit: int) -> Automaton | None:
        """The automaton, or None where it would take more than `limit` states. Its edges are empty for no string."""
        numbers: dict[State, int] = {self.parts: 0}
        edges: list[list[tuple[Ranges, int]]] = []
        for state in _in_order(numbers):
            found: dict[int, list[tuple[int, int]]] = {}
            for a, b in _atoms([tuple(firsts(p)) for p in state]):
                after = tuple(derive(p, a) for p in state)
                if NOTHING not in after:
                    found.setdefault(numbers.setdefault(after, len(numbers)), []).append((a, b))
            if len(numbers) > limit:
                return None
            edges.append([(normal(ranges), target) for target, ranges in found.items()])
        accepting = [accepts(state) for state in numbers]
        return _trim(accepting, edges)

    def lark(self, name: str) -> list[str]:
        """The llguidance terminal `name` and those that it needs; it holds all but the empty string.

        An intersection is left to llguidance only where it has no dead ends: it does not see them, and fails within
        one. Otherwise the automaton is written out. Raises `LanguageError` where that cannot be done.
        """
        first, *others = sorted(self.parts, key=_size)
        together = [f"{name}: " + " & ".join(f"/{regex(p)}/" for p in (nonempty(first), *others))]
        if self.open or not others:
            return together
        automaton = self.automaton(MAX_STATES)
        if automaton is None:
            raise LanguageError("its pattern is too large; make it simpler")
        return _terminals(automaton, name) if automaton.cut else together


def accepts(state: State) -> bool:
    """Whether a string may end here."""
    return all(nullable(p) for p in state)


def _in_order(numbers: dict[State, int]) -> Iterator[State]:
    """The keys of a dictionary that grows while they are walked."""
    done = 0
    while done < len(numbers):
        fresh = list(numbers)[done:]
        done += len(fresh)
        yield from fresh


def _atoms(sets: list[tuple[tuple[int, int], ...]]) -> Iterator[tuple[int, int]]:
    """Ranges whose characters are alike for every part: within one, no part's first ranges begin or end."""
    cuts = sorted({cut for ranges in sets for a, b in ranges for cut in (a, b + 1)})
    for a, b in zip(cuts, cuts[1:], strict=False):
        if all(any(x <= a <= y for x, y in ranges) for ranges in sets):
            yield a, b - 1


def _trim(accepting: list[bool], edges: list[list[tuple[Ranges, int]]]) -> Automaton:
    """Leave out edges into states from which no end can be reached."""
    sources: list[list[int]] = [[] for _ in edges]
    for state, out in enumerate(edges):
        for _, target in out:
            sources[target].append(state)
    alive = {state for state, end in enumerate(accepting) if end}
    todo = list(alive)
    while todo:
        for source in sources[todo.pop()]:
            if source not in alive:
                alive.add(source)
                todo.append(source)
    kept = tuple(tuple(edge for edge in out if edge[1] in alive) if s in alive else () for s, out in enumerate(edges))
    return Automaton(tuple(accepting), kept, any(len(k) < len(e) for k, e in zip(kept, edges, strict=True)))


def _terminals(automaton: Automaton, name: str) -> list[str]:
    """A terminal per state, which llguidance shares. Terminals cannot recur, so an automaton with a circle has none."""
    after: list[int] = [len({t for _, t in out}) for out in automaton.edges]
    before: list[set[int]] = [set() for _ in automaton.edges]
    for state, out in enumerate(automaton.edges):
        for _, target in out:
            before[target].add(state)
    done = [state for state, count in enumerate(after) if count == 0]
    for state in done:
        for source in before[state]:
            after[source] -= 1
            if after[source] == 0:
                done.append(source)
    if len(done) < len(automaton.edges):
        raise LanguageError("its pattern leads to strings that cannot be ended; give it a maxLength or make it simpler")

    def terminal(state: int) -> str:
        return name if state == 0 else f"{name}S{state}"

    lines = []
    for state, out in enumerate(automaton.edges):
        options = [f"/{regex(Chars(ranges))}/ {terminal(target)}" for ranges, target in out]
        if automaton.accepting[state] and state != 0:
            options.append('""')
        if options:
            lines.append(f"{terminal(state)}: {' | '.join(options)}")
    return lines


def _size(node: Node) -> int:
    match node:
        case Chars():
            return 1
        case Cat(parts) | Alt(parts):
            return sum(_size(p) for p in parts)
        case Repeat(inner, _, _):
            return 1 + _size(inner)


def regex(node: Node) -> str:
    """`node` in the syntax of Rust's regex crate, safe between slashes: all but ASCII letters and digits is escaped."""
    match node:
        case Chars(ranges):
            if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
                return _point(ranges[0][0])
            return "[" + "".join(_point(a) if a == b else f"{_point(a)}-{_point(b)}" for a, b in ranges) + "]"
        case Cat(parts):
            return "".join(regex(p) for p in parts)
        case Alt(parts):
            return "(?:" + "|".join(regex(p) for p in parts) + ")"
        case Repeat(inner, low, high):
            body = regex(inner) if isinstance(inner, Chars | Alt) else f"(?:{regex(inner)})"
            times = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high))
            if times is None:
                times = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
            return body + times


def _point(point: int) -> str:
    character = chr(point)
    return character if character.isascii() and character.isalnum() else f"\\x{{{point:x}}}"
