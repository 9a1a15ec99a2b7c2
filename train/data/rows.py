"""From a recipe to cases, row by row: row `n` of a split is a function of the recipe's seed, the split and `n`."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from router.cases import Case
from router.toolset import Call, Toolset
from train.data.corpora import corpus_cases
from train.data.leakage import Sieve
from train.data.phrasing import expand, say, wording
from train.data.recipe import Pattern, Recipe, Split
from train.data.slots import WEEKDAYS, Side

EARLIER: Final[dict[Split, tuple[Split, ...]]] = {"test": (), "dev": ("test",), "train": ("test", "dev")}
"""The splits whose requests a split does not repeat."""


@dataclass(frozen=True)
class Made:
    """A row as it was made, before it is known whether another row forbids it."""

    case: Case
    wordings: tuple[str, ...]
    """What its template says (see `wording`); where the recipe is strict, of a row made of two also each half's."""


def rows(recipe: Recipe, split: Split) -> Iterator[Case]:
    """The cases of a split, without repeats; no training row has a test row's text or its template's wording."""
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
    """The rows of a split that have these numbers, each from the seed, the split and its number alone."""
    weights = [p.weight["test" if split == "test" else "train"] for p in recipe.patterns]
    for number in numbers:
        rng = random.Random(f"{recipe.seed}/{split}/{number}")
        pattern = rng.choices(recipe.patterns, weights)[0]
        context = _context(recipe.toolset, rng)
        said = [_said(recipe, pattern, split, context, rng)]
        joiner = ""
        several = recipe.several
        if several and pattern.name in several.patterns and rng.random() < several.share:
            others = [(p, w) for p, w in zip(recipe.patterns, weights, strict=True) if p.name in several.patterns]
            other = rng.choices([p for p, _ in others], [w for _, w in others])[0]
            joiner = rng.choice(several.joiners)
            said.append(_said(recipe, other, split, context, rng))
        parts = said[0].parts if len(said) == 1 else [*said[0].parts, (joiner, False), *said[1].parts]
        user = say(recipe, parts, rng, plain=split == "test")
        calls = tuple(_as_it_stands(call, user, recipe.toolset, split) for one in said for call in one.calls)
        case = Case(
            f"{recipe.toolset.name}-{split}-{number:05d}",
            user,
            context,
            pattern.bucket if len(said) == 1 else "several",
            calls,
            template=" + ".join(one.template for one in said),
        )
        skeletons = [one.skeleton for one in said]
        if len(said) > 1:
            skeletons = [joiner.join(skeletons), *(skeletons if recipe.strict else ())]
        yield Made(case, tuple(wording(skeleton, stop=recipe.strict) for skeleton in skeletons))


@dataclass(frozen=True)
class _Said:
    """A pattern said once: pieces (and whether each is a slot's), calls, the template and its wording."""

    parts: list[tuple[str, bool]]
    calls: list[Call]
    template: str
    skeleton: str


def _said(recipe: Recipe, pattern: Pattern, split: Split, context: dict[str, Any], rng: random.Random) -> _Said:
    side: Side = "test" if split == "test" else "train"
    template = rng.choice(pattern.templates[side])
    kind = template.override.get("item_type") or (rng.choice(pattern.types) if pattern.types else "")
    given: dict[str, Any] = {}
    parts: list[tuple[str, bool]] = []

    def slot(name: str) -> str:
        if name in ("one", "many") and kind:
            return str(rng.choice(recipe.types[kind][side][name]))
        if name in recipe.slots:
            said, given[name] = recipe.slots.fill(name, side, context, rng)
            return said
        if name == "city":
            return rng.choice(recipe.cities)
        must = name.startswith("+")
        if name.lstrip("+") in ("source", "destination", "second"):
            return modifier(name.lstrip("+"), must)
        said, given[name] = recipe.words[side].fill(name, rng)
        return said

    def modifier(name: str, must: bool) -> str:
        group = recipe.modifiers[pattern.modifiers[name]]
        if not must and rng.random() < group["skip"]:
            return ""
        value = rng.choice(list(group["values"]))
        given[f"={group['argument']}"] = value
        return str(rng.choice(group["values"][value][side]))

    skeleton: list[str] = []
    for text, name in expand(template.text, recipe.macros, rng):
        if name is None:
            parts.append((text, False))
            skeleton.append(text)
        else:
            parts.append((slot(name), True))
            skeleton.append("{}")
    calls = []
    for tool, arguments in pattern.calls:
        wanted = {**arguments, **template.override}
        found = {k: _resolve(v, {**given, "type": kind}) for k, v in wanted.items()}
        found.update({k[1:]: v for k, v in given.items() if k.startswith("=")})
        if "query" in found and "vtopic" in given:
            found["query"] = given["vtopic"]
        calls.append(Call(tool, {k: v for k, v in found.items() if v is not None}))
    return _Said(parts, calls, f"{pattern.name}: {template.text}", "".join(skeleton))


def _context(toolset: Toolset, rng: random.Random) -> dict[str, Any]:
    """What a request brings: bound values that do not matter, and a day where the model is shown one."""
    context: dict[str, Any] = dict.fromkeys(toolset.bound_keys, "/home/me/project")
    if "date" in toolset.shown:
        day = date(2024, 1, 1) + timedelta(days=rng.randrange(4 * 365))
        context["date"] = day.isoformat()
        if "weekday" in toolset.shown:
            context["weekday"] = WEEKDAYS[day.weekday()]
    return context


def _as_it_stands(call: Call, user: str, toolset: Toolset, split: Split) -> Call:
    """Copied strings as the request writes them: what is said may have changed case since it was drawn.

    Held-out requests are said as drawn, and where case does not count, theirs is left alone.
    """
    tool = toolset.tool(call.name)
    arguments = dict(call.arguments)
    for key, value in arguments.items():
        schema = tool.visible[key] if tool else None
        if schema and schema.copy in ("span", "words") and (split != "test" or not schema.case_insensitive):
            found = re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", user, re.IGNORECASE)
            if found and str(value) not in user:
                arguments[key] = found.group()
    return Call(call.name, arguments)


def _resolve(value: Any, given: dict[str, Any]) -> Any:
    """An argument's value; None where its slot was not said.

    ``{x}`` is what slot `x` means; text around slots makes a string of them, ``{x=default}`` names one's default there.
    """
    if isinstance(value, dict):
        return {k: v for k, v in ((k, _resolve(v, given)) for k, v in value.items()) if v is not None}
    if isinstance(value, list):
        return [v for v in (_resolve(v, given) for v in value) if v is not None]
    if not isinstance(value, str) or "{" not in value:
        return value
    if re.fullmatch(r"\{[+a-z_0-9]+\}", value):
        name = value[1:-1]
        return given.get(name, given.get("vtopic") if name == "topic" else None)
    if not any(given.get(name) is not None for name in re.findall(r"\{([+a-z_0-9]+)", value)):
        return None
    return re.sub(r"\{([+a-z_0-9]+)(?:=([^}]*))?\}", lambda m: str(given.get(m[1], m[2] or "")), value)
