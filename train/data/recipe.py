"""From a recipe (patterns x phrasings x typed fillers) to cases, row by row from a seed.

A template is text with choices ``(a|b|)``, macros ``<find>`` and slots ``{topic}``; the recipes in ``configs/data`` are
worked examples and explain their keys. Row `n` of a split is a function of the seed, the split and `n`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from router.cases import Case
from router.toolset import Call, Toolset
from router.toolset_load import load_toolset
from runtimes.errors import UserError
from train.data.corpora import Corpus, corpus_cases, read_corpora
from train.data.fillers import Fillers
from train.data.leakage import Sieve, bare
from train.data.noise import polite, roughen, surface
from train.data.slots import WEEKDAYS, Side, Slots, read_slots

Split = Literal["train", "dev", "test"]

EARLIER: Final[dict[Split, tuple[Split, ...]]] = {"test": (), "dev": ("test",), "train": ("test", "dev")}
"""The splits whose requests a split does not repeat."""


@dataclass(frozen=True)
class Template:
    """One way to say something, and what it changes in its pattern's arguments."""

    text: str
    override: dict[str, Any]


@dataclass(frozen=True)
class Pattern:
    name: str
    weight: dict[str, float]
    """Its share of a side (``train``, ``test``), against the other patterns' weights."""
    calls: tuple[tuple[str, dict[str, Any]], ...]
    """Tool and arguments of each call; none for requests that no tool serves."""
    modifiers: dict[str, str]
    """Slot -> name of the modifier group that fills it."""
    types: tuple[str, ...]
    bucket: str
    templates: dict[str, tuple[Template, ...]]


@dataclass(frozen=True)
class Several:
    """Requests made of two: how often, of which patterns, and what joins them."""

    share: float
    patterns: frozenset[str]
    joiners: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe file."""

    toolset: Toolset
    seed: int
    rows: dict[str, int]
    types: dict[str, Any]
    modifiers: dict[str, Any]
    macros: dict[str, list[str]]
    words: dict[str, Fillers]
    patterns: tuple[Pattern, ...]
    noise_rate: float
    noise_share: float
    slots: Slots
    several: Several | None
    strict: bool
    """No training row has a test row's wording, even where slots and stop words differ."""
    corpora: tuple[Corpus, ...] = ()
    data: Path | None = None
    """Where the corpora lie, a folder of each."""
    cities: tuple[str, ...] = ("paris", "oslo", "berlin", "tokyo", "madrid", "boston", "cairo", "lima")


def load_recipe(path: Path, data: Path | None = None) -> Recipe:
    """Read a recipe; `data` is the folder of its public corpora. Raises `UserError` naming file and fault."""
    try:
        recipe = _recipe(yaml.safe_load(path.read_text(encoding="utf-8")), path)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot read the recipe ({' '.join(str(error).split())})") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a recipe ({type(error).__name__}: {error}); see configs/data/kiwi.yaml") from None
    if recipe.corpora and data is None:
        names = ", ".join(corpus.source for corpus in recipe.corpora)
        raise UserError(f"{path}: it draws on public corpora ({names}); say where they lie with --data FOLDER")
    return replace(recipe, data=data)


def beside(path: Path, toolset: str) -> str:
    """A toolset's file as a file at `path` names it: relative to where that lies, else as it is (a shipped name)."""
    near = path.parent / toolset
    return str(near) if near.is_file() else toolset


def _recipe(data: dict[str, Any], path: Path) -> Recipe:
    toolset = load_toolset(beside(path, data["toolset"]))
    slots = read_slots(data.get("slots", {}))
    patterns = []
    for p in data.get("patterns", ()):
        modifiers = {"source": p["modifier"]} if "modifier" in p else {}
        if p.get("modifier") == "destination":
            modifiers = {"destination": "destination", "second": p["second"]}
        patterns.append(
            Pattern(
                p["name"],
                {
                    side: float(w[side] if isinstance(w, dict) else w)
                    for side in ("train", "test")
                    for w in [p["weight"]]
                },
                _calls_of(p),
                modifiers,
                tuple(p.get("types", data.get("types", ()))),
                p.get("bucket", "easy"),
                {s: tuple(_template(t) for t in p[s]) for s in ("train", "test")},
            )
        )
    words = {s: Fillers.read(lists, path.parent) for s, lists in data.get("words", {}).items()}
    several = data.get("several")
    recipe = Recipe(
        toolset,
        int(data["seed"]),
        data.get("rows", {}),
        data.get("types", {}),
        data.get("modifiers", {}),
        data.get("macros", {}),
        words,
        tuple(patterns),
        float(data.get("noise", {}).get("rate", 0)),
        float(data.get("noise", {}).get("share", 0)),
        slots,
        several and Several(float(several["share"]), frozenset(several["patterns"]), tuple(several["joiners"])),
        bool(data.get("strict", False)),
        read_corpora(data.get("corpora", ())),
    )
    _check(recipe)
    return recipe


def _calls_of(pattern: dict[str, Any]) -> tuple[tuple[str, dict[str, Any]], ...]:
    if "calls" in pattern:
        return tuple((call["call"], call.get("arguments", {})) for call in pattern["calls"])
    return () if pattern["call"] is None else ((pattern["call"], pattern.get("arguments", {})),)


def _check(recipe: Recipe) -> None:
    """Every tool, parameter and joined pattern that is named is there."""
    names = {p.name for p in recipe.patterns}
    if recipe.several and not recipe.several.patterns <= names:
        raise ValueError(f"several: no pattern {sorted(recipe.several.patterns - names)[0]!r}")
    for pattern in recipe.patterns:
        for name, arguments in pattern.calls:
            tool = recipe.toolset.tool(name)
            if tool is None:
                raise ValueError(f"pattern {pattern.name}: no tool {name!r} in toolset {recipe.toolset.name}")
            for key in arguments:
                if key not in tool.visible:
                    raise ValueError(f"pattern {pattern.name}: {name} has no parameter {key!r}")


def _template(entry: str | dict[str, dict[str, Any]]) -> Template:
    if isinstance(entry, str):
        return Template(entry, {})
    ((text, override),) = entry.items()
    return Template(text, override)


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
        user = _say(recipe, parts, rng, plain=split == "test")
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
        if schema and schema.copy == "span" and (split != "test" or not schema.case_insensitive):
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


def wording(skeleton: str, *, stop: bool) -> str:
    """What a row's template says, spaces and case aside; with `stop`, without slots and stop words too."""
    words = skeleton.lower().split()
    if not stop:
        return " ".join(words)
    return bare(skeleton.replace("{}", " "))


def expand(text: str, macros: dict[str, list[str]], rng: random.Random) -> list[tuple[str, str | None]]:
    """Choices and macros resolved: literal pieces, and slots by name, in order."""
    while True:
        inner = re.search(r"\(([^()]*\|[^()]*)\)", text)
        if inner:
            text = text[: inner.start()] + rng.choice(inner.group(1).split("|")) + text[inner.end() :]
            continue
        macro = re.search(r"<([a-z_]+)>", text)
        if not macro:
            break
        text = text[: macro.start()] + rng.choice(macros[macro.group(1)]) + text[macro.end() :]
    out: list[tuple[str, str | None]] = []
    position = 0
    for found in re.finditer(r"\{([+a-z_0-9]+)\}", text):
        out += [(text[position : found.start()], None), ("", found.group(1))]
        position = found.end()
    return [*out, (text[position:], None)]


_IMPERATIVE = re.compile(
    r"(find|search|look|show|list|get|check|load|open|read|run|execute|start|launch|trigger|create|make|add|write|update|edit|"
    r"modify|delete|remove|publish|share|upload|copy|pull|import|sync|bootstrap|bring|fetch|view|display|use|set|drop)\b"
)


def _say(recipe: Recipe, parts: list[tuple[str, bool]], rng: random.Random, *, plain: bool) -> str:
    if not plain and rng.random() < recipe.noise_share:
        parts = [(t if is_slot else roughen(t, rng, rate=recipe.noise_rate * 3), is_slot) for t, is_slot in parts]
    kept: list[str] = []
    text = _squeezed("".join(_held(t, kept) if is_slot else t for t, is_slot in parts))
    if plain:
        return _given_back(text, kept)
    text = polite(text, rng, imperative=_IMPERATIVE.match(text) is not None)
    out = surface(text, rng)
    first = next(((t, is_slot) for t, is_slot in parts if t.strip()), ("", False))
    if first[1] and " " not in first[0] and text.startswith(first[0]):  # an identifier keeps its case
        out = first[0] + out[len(first[0]) :]
    return _given_back(out, kept)


_AS_IT_STANDS = re.compile(r"\s\s|[^\S ]| [?.,;]")
"""What squeezing would change: line breaks, indentation, ``ls .``."""


def _held(text: str, kept: list[str]) -> str:
    """A slot's text, or a mark in its place (a private character, which no case or spacing rule touches)."""
    if not _AS_IT_STANDS.search(text):
        return text
    kept.append(text)
    return chr(0xE000 + len(kept) - 1)


def _given_back(text: str, kept: list[str]) -> str:
    for number, one in enumerate(kept):
        text = text.replace(chr(0xE000 + number), one)
    return text


def _squeezed(text: str) -> str:
    """Single spaces, none before a mark nor at either end; line breaks stay."""
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"[^\S\n]*\n[^\S\n]*", "\n", text)).strip()
    return re.sub(r" ([?.,;])", r"\1", text)
