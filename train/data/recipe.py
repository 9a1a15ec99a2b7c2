"""A data recipe (patterns x phrasings x typed fillers) as it is read; `train.data.rows` makes its cases.

A template is text with choices ``(a|b|)``, macros ``<find>`` and slots ``{topic}``. docs/recipes.md has all keys in one
table; ``configs/examples/shop/recipe.yaml`` is a small recipe and ``configs/data`` has large ones. What can be wrong
with a recipe is told before a row is made (`train.data.recipe_check`): file, line, what, and the name that was perhaps
meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from router.explain import Where
from router.toolset import Toolset
from router.toolset_load import load_toolset
from runtimes.errors import UserError
from train.data.corpora import Corpus, read_corpora
from train.data.fillers import Fillers
from train.data.openwords import OpenWords
from train.data.recipe_check import check
from train.data.recipe_file import EXAMPLE, Fault, expect, mapping, number, read, texts
from train.data.slots import SIDES, Slots, in_both, read_slots

Split = Literal["train", "dev", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "dev", "test")

_KEYS: Final = (
    "toolset", "seed", "strict", "rows", "noise", "parallel", "hard", "context", "shared", "open_words", "macros",
    "types", "modifiers", "words", "slots", "patterns", "corpora",
)  # fmt: skip
_PATTERN: Final = ("name", "weight", "call", "calls", "arguments", "modifiers", "types", "bucket", "train", "test")


@dataclass(frozen=True)
class Template:
    """One way to say something, and what it changes in its pattern's arguments."""

    text: str
    override: dict[str, Any]
    place: str = ""
    """``file:line`` of the recipe."""


@dataclass(frozen=True)
class Pattern:
    """Requests of one kind: how often, what call they are for, and the ways to say them."""

    name: str
    weight: dict[str, float]
    """Its share of a side (``train``, ``test``), against the other patterns' weights; 0 or more."""
    calls: tuple[tuple[str, dict[str, Any]], ...]
    """Tool and arguments of each call, slots in the values not yet filled; none for requests that no tool serves."""
    modifiers: dict[str, str]
    """Slot -> name of the modifier group that fills it."""
    types: tuple[str, ...]
    """Names of the types that ``{one}``, ``{many}`` and ``{type}`` may stand for; one is drawn per request."""
    bucket: str
    """The cases' bucket; those of joined and of hard requests are ``parallel`` and ``hard``."""
    templates: dict[str, tuple[Template, ...]]
    """Side -> ways to say it; a side whose weight is 0 may have none."""

    @property
    def typed(self) -> tuple[str, ...]:
        """The arguments that are the type: a template that gives one of them another value names the type by it."""
        return tuple(key for _, arguments in self.calls for key, value in arguments.items() if value == "{type}")


@dataclass(frozen=True)
class Parallel:
    """Requests that are joined: how often, of which patterns, what joins them, and of how many one consists."""

    share: float
    patterns: frozenset[str]
    joiners: tuple[str, ...]
    calls: tuple[int, ...] = (2,)


@dataclass(frozen=True)
class Group:
    """Patterns that are taken for one another, and frames that put a request of one of them beside what misleads."""

    patterns: tuple[str, ...]
    frames: dict[str, tuple[Template, ...]]
    """Side -> templates with ``{this}``, the request whose call is meant, and values that are not meant: slots, or
    ``{other}``, a request of another pattern of the group (of the same one where it is alone)."""


@dataclass(frozen=True)
class Hard:
    """Requests made hard: which share of those that a group can frame, and the groups."""

    share: float
    groups: tuple[Group, ...]

    def group(self, pattern: str) -> Group | None:
        """The group that has this pattern."""
        return next((group for group in self.groups if pattern in group.patterns), None)


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe file."""

    toolset: Toolset
    seed: int
    rows: dict[str, int]
    """Split -> rows that are made of it; what may not be repeated is left out of them."""
    types: dict[str, Any]
    """Type -> side -> ``one`` and ``many`` -> ways to name it."""
    modifiers: dict[str, Any]
    """Group -> ``argument``, ``skip`` (share of the requests that leave it out), ``values``: value -> side -> ways."""
    macros: dict[str, list[str]]
    words: dict[str, Fillers]
    """Side -> word lists; empty without ``words``."""
    patterns: tuple[Pattern, ...]
    noise_rate: float
    noise_share: float
    slots: Slots
    parallel: Parallel | None
    strict: bool
    """No training row has a test row's wording, even where slots and stop words differ."""
    corpora: tuple[Corpus, ...] = ()
    data: Path | None = None
    """Where the corpora lie, a folder of each."""
    hard: Hard | None = None
    context: dict[str, dict[str, tuple[Any, ...]]] = field(default_factory=dict)
    """Context key -> side -> values, one of which a request brings."""
    shared: frozenset[str] = frozenset()
    """Sections, slots and lists whose entries both sides may have."""
    path: Path = Path("recipe")


def load_recipe(path: Path, data: Path | None = None) -> Recipe:
    """Read a recipe; `data` is the folder of its public corpora, needed where it draws on some.

    Raises `UserError` with file, line, what is wrong and what to do, for all that can be told before rows are made:
    unknown or missing keys, slots, macros, tools and parameters that are not there, calls that break the toolset,
    fillers and templates that both sides have.
    """
    raw, where = read(path)
    try:
        recipe = _recipe(raw, path, where)
        check(recipe)
    except Fault as fault:
        raise UserError(f"{where.place(fault.keys)}: {fault}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a recipe ({type(error).__name__}: {error}); see {EXAMPLE}") from None
    if recipe.corpora and data is None:
        names = ", ".join(corpus.source for corpus in recipe.corpora)
        raise UserError(f"{path}: it draws on public corpora ({names}); say where they lie with --data FOLDER")
    recipe = replace(recipe, data=data)
    return recipe if raw.get("open_words") is None else _opened(recipe, path.parent / raw["open_words"])


def beside(path: Path, toolset: str) -> str:
    """A toolset's file as a file at `path` names it: relative to where that lies, else as it is (a shipped name)."""
    near = path.parent / toolset
    return str(near) if near.is_file() else toolset


def _recipe(data: Any, path: Path, where: Where) -> Recipe:
    mapping(data, "recipe", _KEYS, ("toolset", "seed"))
    data = {key: value for key, value in data.items() if value is not None}  # an empty section is none
    expect(data["toolset"], str, "toolset", "toolset")
    expect(data["seed"], int, "seed", "seed")
    expect(data.get("strict", False), bool, "strict", "strict")
    for key in ("slots", "words", "types", "modifiers", "macros", "context", "noise"):
        expect(data.get(key, {}), Mapping, key, key)
    expect(data.get("patterns", []), list, "patterns", "patterns")
    noise = mapping(data.get("noise", {}), "noise", ("rate", "share"), (), "noise")
    shared = frozenset(texts(data.get("shared", []), "shared", "shared"))
    return Recipe(
        toolset=load_toolset(beside(path, data["toolset"])),
        seed=data["seed"],
        rows=_rows(data),
        types=data.get("types", {}),
        modifiers=data.get("modifiers", {}),
        macros={name: list(texts(ways, f"macro <{name}>", "macros", name)) for name, ways in _items(data, "macros")},
        words=_words(data, path.parent),
        patterns=tuple(_pattern(data, n, where) for n in range(len(data.get("patterns", ())))),
        noise_rate=number(noise.get("rate", 0), "noise: rate", "noise", "rate", most=1),
        noise_share=number(noise.get("share", 0), "noise: share", "noise", "share", most=1),
        slots=read_slots(data.get("slots", {}), shared),
        parallel=_parallel(data["parallel"]) if "parallel" in data else None,
        strict=data.get("strict", False),
        corpora=read_corpora(data.get("corpora", [])),
        hard=_hard(data["hard"], where) if "hard" in data else None,
        context={key: _values(values, key) for key, values in _items(data, "context")},
        shared=shared,
        path=path,
    )


def _items(data: Mapping[str, Any], section: str) -> list[tuple[str, Any]]:
    return list(data.get(section, {}).items())


def _rows(data: Mapping[str, Any]) -> dict[str, int]:
    rows = mapping(data.get("rows", {}), "rows", SPLITS, SPLITS if data.get("patterns") else (), "rows")
    for split, wanted in rows.items():
        expect(wanted, int, f"rows: {split}", "rows", split)
        number(wanted, f"rows: {split}", "rows", split)
    return dict(rows)


def _words(data: Mapping[str, Any], folder: Path) -> dict[str, Fillers]:
    if "words" not in data:
        return {}
    sides = mapping(data["words"], "words", SIDES, SIDES, "words")
    return {side: Fillers.read(lists, folder, "words", side) for side, lists in sides.items()}


def _values(data: Any, key: str) -> dict[str, tuple[Any, ...]]:
    """Values of a context key by side; a plain list is for both."""
    given = data if isinstance(data, Mapping) else dict.fromkeys(SIDES, data)
    sides = mapping(given, f"context: {key}", SIDES, SIDES, "context", key)
    for values in sides.values():
        expect(values, list, f"context: {key}", "context", key)
        _some(tuple(values), f"context: {key}", "context", key)
    if isinstance(data, Mapping) and (both := in_both(*(map(str, sides[side]) for side in SIDES))):
        raise Fault(f"context: {key}: {both!r} is in train and in test; a plain list is for both", "context", key)
    return {side: tuple(values) for side, values in sides.items()}


def _parallel(data: Any) -> Parallel:
    mapping(data, "parallel", ("share", "patterns", "joiners", "calls"), ("share", "patterns", "joiners"), "parallel")
    calls = data.get("calls", [2])
    expect(calls, list, "parallel: calls", "parallel", "calls")
    for count in calls:
        expect(count, int, "parallel: calls", "parallel", "calls")
    if not calls or min(calls) < 2:
        raise Fault("parallel: calls: numbers from 2 are expected, such as [2, 3]", "parallel", "calls")
    return Parallel(
        number(data["share"], "parallel: share", "parallel", "share", most=1),
        frozenset(texts(data["patterns"], "parallel: patterns", "parallel", "patterns")),
        _some(
            texts(data["joiners"], "parallel: joiners", "parallel", "joiners"),
            "parallel: joiners",
            "parallel",
            "joiners",
        ),
        tuple(calls),
    )


def _hard(data: Any, where: Where) -> Hard:
    mapping(data, "hard", ("share", "groups"), ("share", "groups"), "hard")
    expect(data["groups"], list, "hard: groups", "hard", "groups")
    groups = []
    for n, group in enumerate(data["groups"]):
        keys = ("hard", "groups", n)
        mapping(group, "hard", ("patterns", *SIDES), ("patterns", *SIDES), *keys)
        patterns = _some(texts(group["patterns"], "hard: patterns", *keys, "patterns"), "hard: patterns", *keys)
        frames = {side: _templates(group[side], "hard", where, *keys, side) for side in SIDES}
        groups.append(Group(patterns, {side: _some(found, "hard", *keys, side) for side, found in frames.items()}))
    return Hard(number(data["share"], "hard: share", "hard", "share", most=1), tuple(groups))


def _some(found: tuple[Any, ...], what: str, *keys: str | int) -> tuple[Any, ...]:
    if not found:
        raise Fault(f"{what}: nothing is listed", *keys)
    return found


def _pattern(data: Mapping[str, Any], n: int, where: Where) -> Pattern:
    p, keys = data["patterns"][n], ("patterns", n)
    name = p["name"] if isinstance(p, Mapping) and isinstance(p.get("name"), str) else None
    what = f"pattern {name!r}" if name else f"pattern {n + 1} of the list"
    mapping(p, what, _PATTERN, ("name", "weight", *SIDES), *keys)
    expect(p["name"], str, f"{what}: name", *keys, "name")
    expect(p.get("bucket", ""), str, f"{what}: bucket", *keys, "bucket")
    modifiers = p.get("modifiers", {})
    expect(modifiers, Mapping, f"{what}: modifiers", *keys, "modifiers")
    given = p["weight"] if isinstance(p["weight"], Mapping) else dict.fromkeys(SIDES, p["weight"])
    mapping(given, f"{what}: weight", SIDES, SIDES, *keys, "weight")
    weight = {side: number(given[side], f"{what}: weight", *keys, "weight") for side in SIDES}
    templates = {side: _templates(p[side], what, where, *keys, side) for side in SIDES}
    for side in SIDES:
        if weight[side] and not templates[side]:
            raise Fault(f"{what}: no template under {side!r}; list some, or give it the weight 0 there", *keys, side)
    types = texts(p.get("types", list(data.get("types", {}))), f"{what}: types", *keys, "types")
    return Pattern(
        p["name"], weight, _calls_of(p, what, *keys), dict(modifiers), types, p.get("bucket", "easy"), templates
    )


def _templates(data: Any, what: str, where: Where, *keys: str | int) -> tuple[Template, ...]:
    expect(data, list, f"{what}: {keys[-1]}", *keys)
    return tuple(_template(entry, what, where, *keys, n) for n, entry in enumerate(data))


def _template(entry: Any, what: str, where: Where, *keys: str | int) -> Template:
    """A template from text, or from ``text: {argument: value}``."""
    text, override = entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((text, override),) = entry.items()
        if not isinstance(override, Mapping):
            raise Fault(f"{what}: {text!r} is followed by a colon; quote the whole template", *keys)
    expect(text, str, f"{what}: a template", *keys)
    return Template(text, dict(override), where.place(keys))


def _calls_of(p: Mapping[str, Any], what: str, *keys: str | int) -> tuple[tuple[str, dict[str, Any]], ...]:
    if ("call" in p) == ("calls" in p):
        raise Fault(f"{what}: one of 'call' (a tool, or null where none serves) and 'calls' (a list) is needed", *keys)
    if "calls" in p:
        if "arguments" in p:
            raise Fault(f"{what}: 'arguments' belongs to each entry of 'calls'", *keys, "arguments")
        expect(p["calls"], list, f"{what}: calls", *keys, "calls")
        return tuple(_call(c, what, *keys, "calls", n) for n, c in enumerate(p["calls"]))
    return () if p["call"] is None else (_call({k: p[k] for k in ("call", "arguments") if k in p}, what, *keys),)


def _call(data: Any, what: str, *keys: str | int) -> tuple[str, dict[str, Any]]:
    mapping(data, f"{what}: calls", ("call", "arguments"), ("call",), *keys)
    expect(data["call"], str, f"{what}: call", *keys, "call")
    expect(data.get("arguments", {}), Mapping, f"{what}: arguments", *keys, "arguments")
    return data["call"], dict(data.get("arguments", {}))


def _opened(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with words for what is open: none that templates say, none that the test side fills in."""
    frames = [group.frames for group in recipe.hard.groups] if recipe.hard else []
    said = [
        t.text for sides in (*(p.templates for p in recipe.patterns), *frames) for side in sides.values() for t in side
    ]
    around = [said, recipe.macros.values(), [str(recipe.types), str(recipe.modifiers)]]
    held = [recipe.slots.said_on("test"), recipe.words["test"].listed(recipe.shared) if "test" in recipe.words else []]
    words = OpenWords.read(path, (str(text) for texts in (*around, *held) for text in texts))
    given = {side: replace(f, words=words) if side == "train" else f for side, f in recipe.words.items()}
    return replace(recipe, slots=recipe.slots.opened(words), words=given)
