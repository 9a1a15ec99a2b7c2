"""A data recipe (patterns x phrasings x typed fillers) as it is read and checked; `train.data.rows` makes its cases.

A template is text with choices ``(a|b|)``, macros ``<find>`` and slots ``{topic}``; the recipes in ``configs/data`` are
worked examples and explain their keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from router.toolset import Toolset
from router.toolset_load import load_toolset
from runtimes.errors import UserError
from train.data.corpora import Corpus, read_corpora
from train.data.fillers import Fillers
from train.data.openwords import OpenWords
from train.data.slots import Slots, read_slots

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
    return recipe if "open_words" not in data else _opened(recipe, path.parent / data["open_words"])


def _opened(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with words for what is open: none that templates say, none that the test side fills in."""
    templates = [t.text for p in recipe.patterns for side in p.templates.values() for t in side]
    around = [templates, recipe.macros.values(), [str(recipe.types), str(recipe.modifiers)]]
    held = [recipe.slots.said_on("test"), recipe.words["test"].listed() if "test" in recipe.words else []]
    words = OpenWords.read(path, (str(text) for texts in (*around, *held) for text in texts))
    given = {side: replace(f, words=words) if side == "train" else f for side, f in recipe.words.items()}
    return replace(recipe, slots=recipe.slots.opened(words), words=given)


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
