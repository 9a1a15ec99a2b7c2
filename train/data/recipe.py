"""From a recipe (patterns x phrasings x typed fillers) to cases, row by row from a seed.

A template is text with choices ``(a|b|)``, macros ``<find>`` and slots ``{topic}``; `configs/data/kiwi.yaml` is the
worked example and explains its keys. Row `n` of a split is a function of the seed, the split and `n`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from router.cases import Case
from router.toolset import Call
from runtimes.errors import UserError
from train.data.fillers import Fillers
from train.data.noise import polite, roughen, surface

Split = Literal["train", "dev", "test"]


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
    call: str | None
    arguments: dict[str, Any]
    modifiers: dict[str, str]
    """Slot -> name of the modifier group that fills it."""
    types: tuple[str, ...]
    bucket: str
    templates: dict[str, tuple[Template, ...]]


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe file."""

    toolset: str
    seed: int
    rows: dict[str, int]
    types: dict[str, Any]
    modifiers: dict[str, Any]
    macros: dict[str, list[str]]
    words: dict[str, Fillers]
    patterns: tuple[Pattern, ...]
    noise_rate: float
    noise_share: float
    cities: tuple[str, ...] = ("paris", "oslo", "berlin", "tokyo", "madrid", "boston", "cairo", "lima")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises `UserError` naming the file and what is wrong in it."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _recipe(data, path.parent)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot read the recipe ({' '.join(str(error).split())})") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a recipe ({type(error).__name__}: {error}); see configs/data/kiwi.yaml") from None


def _recipe(data: dict[str, Any], folder: Path) -> Recipe:
    patterns = []
    for p in data["patterns"]:
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
                p["call"],
                p.get("arguments", {}),
                modifiers,
                tuple(p.get("types", data["types"])),
                p.get("bucket", "easy"),
                {s: tuple(_template(t) for t in p[s]) for s in ("train", "test")},
            )
        )
    macros = data["macros"]
    words = {s: Fillers.read(data["words"][s], folder) for s in ("train", "test")}
    return Recipe(
        data["toolset"],
        int(data["seed"]),
        data["rows"],
        data["types"],
        data["modifiers"],
        macros,
        words,
        tuple(patterns),
        float(data["noise"]["rate"]),
        float(data["noise"]["share"]),
    )


def _template(entry: str | dict[str, dict[str, Any]]) -> Template:
    if isinstance(entry, str):
        return Template(entry, {})
    ((text, override),) = entry.items()
    return Template(text, override)


def rows(recipe: Recipe, split: Split) -> Iterator[Case]:
    """The cases of a split, without repeats; no training row has a test row's text or its template's wording."""
    taken: set[str] = set()
    forbidden: set[str] = set()
    skeletons: set[str] = set()
    if split != "test":
        for case, skeleton in _made(recipe, "test"):
            forbidden.add(case.user.lower())
            skeletons.add(skeleton)
        if split == "train":
            forbidden |= {c.user.lower() for c, _ in _made(recipe, "dev")}
    for case, skeleton in _made(recipe, split):
        key = case.user.lower()
        if key in forbidden or skeleton in skeletons or (split != "train" and key in taken):
            continue
        taken.add(key)
        yield case


def _made(recipe: Recipe, split: Split) -> Iterator[tuple[Case, str]]:
    weights = [p.weight["test" if split == "test" else "train"] for p in recipe.patterns]
    for number in range(recipe.rows[split]):
        rng = random.Random(f"{recipe.seed}/{split}/{number}")
        pattern = rng.choices(recipe.patterns, weights)[0]
        yield _row(recipe, pattern, split, number, rng)


def _row(recipe: Recipe, pattern: Pattern, split: Split, number: int, rng: random.Random) -> tuple[Case, str]:
    side = "test" if split == "test" else "train"
    template = rng.choice(pattern.templates[side])
    fillers = recipe.words[side]
    kind = template.override.get("item_type") or rng.choice(pattern.types)
    given: dict[str, Any] = {}
    parts: list[tuple[str, bool]] = []

    def slot(name: str) -> str:
        if name in ("one", "many"):
            return str(rng.choice(recipe.types[kind][side][name]))
        if name == "city":
            return rng.choice(recipe.cities)
        must = name.startswith("+")
        if name.lstrip("+") in ("source", "destination", "second"):
            return modifier(name.lstrip("+"), must)
        said, given[name] = fillers.fill(name, rng)
        return said

    def modifier(name: str, must: bool) -> str:
        group = recipe.modifiers[pattern.modifiers[name]]
        if not must and rng.random() < group["skip"]:
            return ""
        value = rng.choice(list(group["values"]))
        given[f"={group['argument']}"] = value
        return str(rng.choice(group["values"][value][side]))

    skeleton: list[str] = []
    for text, name in _expand(template.text, recipe.macros, rng):
        if name is None:
            parts.append((text, False))
            skeleton.append(text)
        else:
            parts.append((slot(name), True))
            skeleton.append("{}")
    user = _say(recipe, parts, rng, plain=split == "test")
    calls: list[Call] = []
    if pattern.call is not None:
        wanted = {**pattern.arguments, **template.override}
        arguments = {k: _resolve(v, {**given, "type": kind}) for k, v in wanted.items()}
        arguments.update({k[1:]: v for k, v in given.items() if k.startswith("=")})
        if "query" in arguments and "vtopic" in given:
            arguments["query"] = given["vtopic"]
        calls = [Call(pattern.call, arguments)]
    key = f"{pattern.name}: {template.text}"
    name = f"{recipe.toolset}-{split}-{number:05d}"
    case = Case(name, user, {"project_path": "/home/me/project"}, pattern.bucket, tuple(calls), template=key)
    return case, " ".join("".join(skeleton).lower().split())


def _resolve(value: Any, given: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {k: _resolve(v, given) for k, v in value.items()}
    if isinstance(value, str) and value.startswith("{"):
        name = value[1:-1]
        return given.get(name, given.get("vtopic") if name == "topic" else None)
    return value


def _expand(text: str, macros: dict[str, list[str]], rng: random.Random) -> list[tuple[str, str | None]]:
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
    text = " ".join("".join(t for t, _ in parts).split())
    text = re.sub(r" ([?.,;])", r"\1", text)
    if plain:
        return text
    text = polite(text, rng, imperative=_IMPERATIVE.match(text) is not None)
    out = surface(text, rng)
    first = next(((t, is_slot) for t, is_slot in parts if t.strip()), ("", False))
    if first[1] and " " not in first[0] and text.startswith(first[0]):  # an identifier keeps its case
        return first[0] + out[len(first[0]) :]
    return out
