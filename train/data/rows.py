"""From a recipe to cases, row by row: row `n` of a split is a function of the recipe's seed, the split and `n`."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from router.cases import Case
from router.toolset import Call, Toolset
from router.validate import schema_errors
from runtimes.errors import UserError
from train.data.corpora import corpus_cases
from train.data.leakage import Sieve
from train.data.phrasing import say, wording
from train.data.recipe import Group, Parallel, Pattern, Recipe, Split
from train.data.recipe_check import OTHER, THIS
from train.data.slots import WEEKDAYS, Side
from train.data.templates import ARGUMENT, expand

EARLIER: Final[dict[Split, tuple[Split, ...]]] = {"test": (), "dev": ("test",), "train": ("test", "dev")}
"""The splits whose requests a split does not repeat."""


@dataclass(frozen=True)
class Made:
    """A row as it was made, before it is known whether another row forbids it."""

    case: Case
    wordings: tuple[str, ...]
    """What its template says (see `wording`); where the recipe is strict, of a joined or hard row also each part's."""


def rows(recipe: Recipe, split: Split) -> Iterator[Case]:
    """The cases of a split, without repeats; no training row has a test row's text or its template's wording.

    Memory holds the requests of the splits before it, and for dev and test its own. Raises `UserError` for a call that
    breaks the toolset, and where a public corpus cannot be read.
    """
    sieve = Sieve()
    for earlier in EARLIER[split]:
        for made in make(recipe, earlier, row_numbers(recipe, earlier)):
            sieve.forbid(made.case.user, made.wordings if earlier == "test" else ())
    for made in make(recipe, split, row_numbers(recipe, split)):
        if sieve.passes(made.case.user, made.wordings):
            if split != "train":
                sieve.forbid(made.case.user)
            yield made.case
    yield from corpora_rows(recipe, split)


def corpora_rows(recipe: Recipe, split: Split) -> Iterator[Case]:
    """What the recipe's public corpora give to a split; it comes after the patterns' rows."""
    for corpus in recipe.corpora:
        assert recipe.data is not None
        yield from corpus_cases(corpus, recipe.data, recipe.toolset, split, recipe.seed)


def row_numbers(recipe: Recipe, split: Split) -> range:
    """The numbers of a split's rows, as far as patterns make them."""
    return range(recipe.rows[split] if recipe.patterns else 0)


def make(recipe: Recipe, split: Split, numbers: range) -> Iterator[Made]:
    """The rows of a split that have these numbers, each from the seed, the split and its number alone.

    Raises `UserError` with the file and line of the template whose call breaks the toolset.
    """
    side: Side = "test" if split == "test" else "train"
    for number in numbers:
        rng = random.Random(f"{recipe.seed}/{split}/{number}")
        speaker = _Speaker(recipe, side, rng)
        said, bucket = speaker.request()
        user = say(recipe, said.parts, rng, plain=split == "test")
        calls = tuple(_as_it_stands(call, user, recipe.toolset, split) for call, _ in said.calls)
        for call, (_, place) in zip(calls, said.calls, strict=True):
            if errors := schema_errors(call, recipe.toolset):
                told = f"{place}: a call of {user!r} breaks toolset {recipe.toolset.name}: {call.name}: {errors[0]}"
                raise UserError(f"{told}; mend the arguments, or the slots that fill them")
        name = f"{recipe.toolset.name}-{split}-{number:05d}"
        case = Case(name, user, speaker.context, bucket, calls, template=said.template)
        skeletons = [said.skeleton, *(said.halves if recipe.strict else ())]
        yield Made(case, tuple(wording(skeleton, stop=recipe.strict) for skeleton in skeletons))


@dataclass(frozen=True)
class _Said:
    """A request, or a part of one: pieces (and whether each is a slot's), calls and where each comes from, the template
    and its wording."""

    parts: list[tuple[str, bool]]
    calls: list[tuple[Call, str]]
    template: str
    skeleton: str
    halves: tuple[str, ...] = ()
    """The wordings of the requests that it was made of."""


class _Speaker:
    """Says one row: what is drawn for it comes from one generator, in a fixed order."""

    def __init__(self, recipe: Recipe, side: Side, rng: random.Random) -> None:
        self.recipe, self.side, self.rng = recipe, side, rng
        self.context: dict[str, Any] = {}

    def request(self) -> tuple[_Said, str]:
        """What is said, and its bucket."""
        recipe, rng = self.recipe, self.rng
        pattern = self._draw(recipe.patterns)
        self.context = _context(recipe, self.side, rng)
        said = self.say(pattern)
        parallel, hard = recipe.parallel, recipe.hard
        if parallel and pattern.name in parallel.patterns and rng.random() < parallel.share:
            return self._joined(said, parallel), "parallel"
        group = hard.group(pattern.name) if hard else None
        if hard and group and rng.random() < hard.share:
            return self._framed(said, pattern, group), "hard"
        return said, pattern.bucket

    def _draw(self, patterns: Sequence[Pattern]) -> Pattern:
        return self.rng.choices(patterns, [p.weight[self.side] for p in patterns])[0]

    def _joined(self, first: _Said, parallel: Parallel) -> _Said:
        """Requests one after the other, and the calls of all."""
        count = parallel.calls[0] if len(parallel.calls) == 1 else self.rng.choice(parallel.calls)
        patterns = [p for p in self.recipe.patterns if p.name in parallel.patterns]
        said, parts, skeleton = [first], [*first.parts], first.skeleton
        for _ in range(count - 1):
            other = self._draw(patterns)
            joiner = self.rng.choice(parallel.joiners)
            said.append(self.say(other))
            parts += [(joiner, False), *said[-1].parts]
            skeleton += joiner + said[-1].skeleton
        calls = [call for one in said for call in one.calls]
        return _Said(
            parts, calls, " + ".join(one.template for one in said), skeleton, tuple(one.skeleton for one in said)
        )

    def _framed(self, this: _Said, pattern: Pattern, group: Group) -> _Said:
        """A request beside what misleads; its calls alone are meant."""
        frame = self.rng.choice(group.frames[self.side])
        pieces = expand(frame.text, self.recipe.macros, self.rng)
        whole = {THIS: this}
        if any(name == OTHER for _, name in pieces):
            others = [p for p in self.recipe.patterns if p.name in group.patterns and p.name != pattern.name]
            others = [p for p in others if p.weight[self.side]] or [pattern]
            whole[OTHER] = self.say(self._draw(others))
        parts: list[tuple[str, bool]] = []
        skeleton, bare_frame = "", ""
        for n, (text, name) in enumerate(pieces):
            part = whole.get(name) if name else None
            if part:
                ends = n + 1 < len(pieces) and pieces[n + 1][0][:1] in tuple(",.;:")
                parts += _unmarked(part.parts) if ends else part.parts
            else:
                parts.append((self._filled(name)[0], True) if name else (text, False))
            skeleton += part.skeleton if part else "{}" if name else text
            bare_frame += "{}" if name else text
        templates = [this.template, f"hard: {frame.text}", *(one.template for n, one in whole.items() if n == OTHER)]
        halves = (*(one.skeleton for one in whole.values()), bare_frame)
        return _Said(parts, this.calls, " + ".join(templates), skeleton, halves)

    def _filled(self, slot: str) -> tuple[str, Any]:
        """What is said for a slot of the recipe's own or of its word lists, and what that means."""
        if slot in self.recipe.slots:
            return self.recipe.slots.fill(slot, self.side, self.context, self.rng)
        return self.recipe.words[self.side].fill(slot, self.rng)

    def say(self, pattern: Pattern) -> _Said:
        """A request of a pattern, in words of one of its templates."""
        recipe, rng, side = self.recipe, self.rng, self.side
        template = rng.choice(pattern.templates[side])
        named = [template.override[key] for key in pattern.typed if template.override.get(key)]
        kind = named[0] if named else rng.choice(pattern.types) if pattern.types else ""
        given: dict[str, Any] = {}
        """What slots stand for, by name; of a modifier, its argument behind an ``=``."""

        def slot(name: str) -> str:
            if name in ("one", "many") and kind:
                return str(rng.choice(recipe.types[kind][side][name]))
            if name not in recipe.slots and name.lstrip("+") in pattern.modifiers:
                return modifier(recipe.modifiers[pattern.modifiers[name.lstrip("+")]], name.startswith("+"))
            said, given[name] = self._filled(name)
            return said

        def modifier(group: Mapping[str, Any], must: bool) -> str:
            if not must and rng.random() < group["skip"]:
                return ""
            value = rng.choice(list(group["values"]))
            given[f"={group['argument']}"] = value
            return str(rng.choice(group["values"][value][side]))

        pieces = expand(template.text, recipe.macros, rng)
        parts = [(text, False) if name is None else (slot(name), True) for text, name in pieces]
        skeleton = "".join(text if name is None else "{}" for text, name in pieces)
        known = {**given, "type": kind, **{f"context.{key}": value for key, value in self.context.items()}}
        calls = []
        for tool, arguments in pattern.calls:
            found = {k: _resolve(v, known) for k, v in {**arguments, **template.override}.items()}
            found.update({k[1:]: v for k, v in given.items() if k.startswith("=")})
            place = f"{template.place}: pattern {pattern.name!r}"
            calls.append((Call(tool, {k: v for k, v in found.items() if v is not None}), place))
        return _Said(parts, calls, f"{pattern.name}: {template.text}", skeleton)


def _unmarked(parts: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """A request without the marks at its end, for where a frame sets its own."""
    ends = [(text.rstrip(" ?!."), slot) if text and not slot else (text, slot) for text, slot in parts[-1:]]
    return [*parts[:-1], *ends]


def _context(recipe: Recipe, side: Side, rng: random.Random) -> dict[str, Any]:
    """What a request brings: a value of each context key that the toolset binds or shows.

    Where the recipe lists none for the date, it is any day of the years 2024 to 2027; the weekday is the date's.
    """
    keys = dict.fromkeys((*recipe.toolset.bound_keys, *recipe.toolset.shown))
    listed = {key: recipe.context[key][side] for key in keys if key in recipe.context}
    context = {key: values[0] if len(values) == 1 else rng.choice(values) for key, values in listed.items()}
    if "date" not in listed and not {"date", "weekday"}.isdisjoint(keys):
        context["date"] = (date(2024, 1, 1) + timedelta(days=rng.randrange(4 * 365))).isoformat()
    if "weekday" in keys and "weekday" not in listed:
        context["weekday"] = WEEKDAYS[date.fromisoformat(context["date"]).weekday()]
    return {key: context[key] for key in keys}


def _as_it_stands(call: Call, user: str, toolset: Toolset, split: Split) -> Call:
    """Copied strings as the request writes them: what is said may have changed case since it was drawn.

    Held-out requests are said as drawn, and where case does not count, theirs is left alone.
    """
    tool = toolset.tool(call.name)
    arguments = dict(call.arguments)
    for key, value in arguments.items():
        schema = tool.visible[key] if tool else None
        if not schema or not isinstance(value, str) or (split == "test" and schema.case_insensitive):
            continue
        if schema.copy in ("span", "words") and value not in user:
            found = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", user, re.IGNORECASE)
            if found:
                arguments[key] = found.group()
    return Call(call.name, arguments)


def _resolve(value: Any, given: Mapping[str, Any]) -> Any:
    """An argument's value; None where its slot was not said.

    ``{x}`` is what slot `x` means, ``{x|y}`` what the first of them that was said means, ``{context.key}`` a value of
    the request's context; text around slots makes a string of them, ``{x=default}`` names one's default there.
    """
    if isinstance(value, dict):
        return {k: v for k, v in ((k, _resolve(v, given)) for k, v in value.items()) if v is not None}
    if isinstance(value, list):
        return [v for v in (_resolve(v, given) for v in value) if v is not None]
    if not isinstance(value, str) or "{" not in value:
        return value
    whole = ARGUMENT.fullmatch(value)
    if whole and whole[2] is None:
        return _meant(whole[1], given)
    if not any(_meant(names, given) is not None for names, _ in ARGUMENT.findall(value)):
        return None
    return ARGUMENT.sub(lambda m: str(m[2] or "" if (v := _meant(m[1], given)) is None else v), value)


def _meant(names: str, given: Mapping[str, Any]) -> Any:
    """What the first of some slots (``a|b``) that was said stands for; None where none was."""
    return next((given[name] for name in names.split("|") if name in given), None)
