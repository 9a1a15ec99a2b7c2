"""What can be told of a recipe before a row is made: names that are not there, calls that break the toolset, and what
both sides would say.

Every check raises `Fault` with the keys of the entry; `train.data.recipe.load_recipe` makes one line of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from router.toolset import Tool
from router.validate import value_errors
from train.data.fillers import NEEDS
from train.data.recipe_file import Fault, expect, mapping, nearest, number, texts
from train.data.slots import SIDES, Side, in_both
from train.data.templates import ARGUMENT, INNER, MACRO, SLOT, without_choices

if TYPE_CHECKING:
    from train.data.recipe import Pattern, Recipe, Template

THIS, OTHER = "this", "other"
"""The slots of a hard frame that hold whole requests."""
_DAYS: Final = ("date", "weekday")
"""Context keys that are drawn where a recipe lists no values."""


def check(recipe: Recipe) -> None:
    """Raises `Fault` for the first thing that is wrong."""
    _sections(recipe)
    _context(recipe)
    _macros(recipe)
    _slots(recipe)
    names: set[str] = set()
    for n, pattern in enumerate(recipe.patterns):
        if pattern.name in names:
            raise Fault(f"pattern {pattern.name!r}: this name is taken by an earlier one", "patterns", n, "name")
        names.add(pattern.name)
        _pattern(recipe, n, pattern)
    for side in SIDES:
        wanted = any(recipe.rows.get(split) for split in ("train", "dev") if side == "train") or recipe.rows.get(side)
        if recipe.patterns and wanted and not any(p.weight[side] for p in recipe.patterns):
            raise Fault(f"patterns: none has a weight above 0 for {side!r}", "patterns")
    _joined(recipe, names)
    _hard(recipe, names)
    _sides(recipe)


def _sections(recipe: Recipe) -> None:
    """The forms of ``types`` and ``modifiers``, and the names in ``shared``."""
    for name, sides in recipe.types.items():
        keys = ("types", name)
        mapping(sides, f"types: {name}", SIDES, SIDES, *keys)
        for side in SIDES:
            forms = mapping(sides[side], f"types: {name}: {side}", ("one", "many"), (), *keys, side)
            for form, said in forms.items():
                texts(said, f"types: {name}: {side}: {form}", *keys, side, form)
    for name, group in recipe.modifiers.items():
        keys, what = ("modifiers", name), f"modifiers: {name}"
        mapping(group, what, ("argument", "skip", "values"), ("argument", "skip", "values"), *keys)
        number(group["skip"], f"{what}: skip", *keys, "skip", most=1)
        expect(group["values"], Mapping, f"{what}: values", *keys, "values")
        for value, sides in group["values"].items():
            mapping(sides, f"{what}: {value}", SIDES, SIDES, *keys, "values", value)
            for side in SIDES:
                texts(sides[side], f"{what}: {value}: {side}", *keys, "values", value, side)
    known = {"types", *recipe.modifiers, *recipe.slots.names(), *(k for f in recipe.words.values() for k in f.lists())}
    for n, name in enumerate(sorted(recipe.shared)):
        if name not in known:
            raise Fault(f"shared: there is no slot or list {name!r}{nearest(name, known)}", "shared", n)


def _context(recipe: Recipe) -> None:
    """Every context key of the toolset has values, and every value belongs to a key."""
    needed = dict.fromkeys((*recipe.toolset.bound_keys, *recipe.toolset.shown))
    for key, sides in recipe.context.items():
        if key not in needed:
            raise Fault(
                f"context: toolset {recipe.toolset.name} neither shows nor binds {key!r}{nearest(key, needed)}",
                "context",
                key,
            )
        if key == "date":
            for value in (v for values in sides.values() for v in values):
                try:
                    date.fromisoformat(value)
                except (TypeError, ValueError):
                    raise Fault(f"context: date: {value!r} is no date such as 2026-03-20", "context", key) from None
    for key in needed:
        if recipe.patterns and key not in recipe.context and key not in _DAYS:
            raise Fault(
                f"toolset {recipe.toolset.name} needs a value for context.{key} in every request; list some: "
                f"context: {{{key}: [...]}}",
                "context",
            )


def _macros(recipe: Recipe) -> None:
    """Macros name macros that there are, and none holds itself."""
    for name, ways in recipe.macros.items():
        if not ways:
            raise Fault(f"macro <{name}>: no text is listed", "macros", name)
        for n, way in enumerate(ways):
            _balanced(way, f"macro <{name}>", "macros", name, n)
            for inner in MACRO.findall(way):
                if inner not in recipe.macros:
                    raise Fault(_no_macro(f"macro <{name}>", inner, recipe), "macros", name, n)
    if endless := _endless({name: [_names(MACRO, way) for way in ways] for name, ways in recipe.macros.items()}):
        raise Fault(f"macro <{endless}>: every way to say it holds itself", "macros", endless)


def _slots(recipe: Recipe) -> None:
    """Slots in slots' fillers are slots that there are, and none holds itself."""
    for name in recipe.slots.names():
        ways = (way for side in SIDES for way in recipe.slots.ways(name, side))
        for inner in (inner for way in ways for inner in INNER.findall(way)):
            if inner not in recipe.slots:
                known = [f"{{{s}}}" for s in recipe.slots.names()]
                raise Fault(f"slots: {name}: no slot {{{inner}}}{nearest(f'{{{inner}}}', known)}", "slots", name)
        if recipe.slots.kind(name) == "date" and "date" not in recipe.toolset.shown:
            text = f"slots: {name}: dates are counted from the context's, and toolset {recipe.toolset.name} shows none"
            raise Fault(f"{text} (show_context: [date])", "slots", name)
    for side in SIDES:
        held = {name: [_names(INNER, way) for way in recipe.slots.ways(name, side)] for name in recipe.slots.names()}
        if endless := _endless(held):
            raise Fault(f"slots: {endless}: every way to say it holds itself", "slots", endless, side)


def _names(pattern: re.Pattern[str], text: str) -> set[str]:
    """The macros or slots that every way to say `text` has."""
    return {name.rstrip("0123456789") for name in pattern.findall(without_choices(text))}


def _endless(ways: Mapping[str, Sequence[set[str]]]) -> str | None:
    """The first entry that no way to say it brings to an end; `ways` are the entries that each way holds."""
    ends = {name for name, said in ways.items() if not said}
    while more := {name for name, said in ways.items() if name not in ends and any(way <= ends for way in said)}:
        ends |= more
    return next((name for name in ways if name not in ends), None)


def _pattern(recipe: Recipe, n: int, pattern: Pattern) -> None:
    what, keys = f"pattern {pattern.name!r}", ("patterns", n)
    tools = [_tool(recipe, name, what, *keys) for name, _ in pattern.calls]
    if len(tools) > recipe.toolset.max_calls:
        raise Fault(f"{what}: {_too_many(recipe, len(tools))}", *keys)
    for kind in pattern.types:
        if kind not in recipe.types:
            raise Fault(f"{what}: no type {kind!r}{nearest(kind, recipe.types)}", *keys, "types")
    for group in pattern.modifiers.values():
        if group not in recipe.modifiers:
            raise Fault(f"{what}: no modifiers {group!r}{nearest(group, recipe.modifiers)}", *keys, "modifiers")
        for tool in tools:
            _parameter(tool, recipe.modifiers[group]["argument"], f"modifiers: {group}", "modifiers", group, "argument")
            for value in recipe.modifiers[group]["values"]:
                _holds(recipe, tool, recipe.modifiers[group]["argument"], value, what, "modifiers", group, "values")
    said: set[str] = set()
    for side in SIDES:
        known = _known(recipe, pattern, side)
        for t, template in enumerate(pattern.templates[side]):
            said |= _template(recipe, template, known, side, what, *keys, side, t)
    said |= {"type", *(f"context.{key}" for key in (*recipe.context, *recipe.toolset.shown))}
    templates = [t for side in SIDES for t in pattern.templates[side]]
    for tool, (_, arguments) in zip(tools, pattern.calls, strict=True):
        used = {name: v for name, v in arguments.items() if any(name not in t.override for t in templates)}
        _arguments(recipe, tool, used, said, what, *keys)
        for side in SIDES:
            for t, template in enumerate(pattern.templates[side]):
                _arguments(recipe, tool, template.override, said, what, *keys, side, t)
                _kinds(recipe, pattern, template, what, *keys, side, t)
                given = {
                    *arguments,
                    *template.override,
                    *(recipe.modifiers[g]["argument"] for g in pattern.modifiers.values()),
                }
                if lacking := [name for name in tool.required if name not in given]:
                    raise Fault(f"{what}: {tool.name} requires {lacking[0]!r}, which has no argument", *keys, side, t)


def _tool(recipe: Recipe, name: str, what: str, *keys: str | int) -> Tool:
    tool = recipe.toolset.tool(name)
    if tool is None:
        there = nearest(name, (t.name for t in recipe.toolset))
        raise Fault(f"{what}: no tool {name!r} in toolset {recipe.toolset.name}{there}", *keys, "call")
    return tool


def _parameter(tool: Tool, name: str, what: str, *keys: str | int) -> None:
    if name not in tool.visible:
        raise Fault(f"{what}: {tool.name} has no parameter {name!r}{nearest(name, tool.visible)}", *keys)


def _arguments(
    recipe: Recipe, tool: Tool, arguments: Mapping[str, Any], said: set[str], what: str, *keys: str | int
) -> None:
    """Arguments are parameters; those without slots hold to the schema, and the others' slots are said somewhere."""
    for name, value in arguments.items():
        _parameter(tool, name, what, *keys)
        slots = [slot for text in _strings(value) for names, _ in ARGUMENT.findall(text) for slot in names.split("|")]
        for slot in slots:
            if slot not in said:
                there = nearest(f"{{{slot}}}", (f"{{{s}}}" for s in said))
                raise Fault(f"{what}: {name}: no template of the pattern says {{{slot}}}{there}", *keys)
        if not slots:
            _holds(recipe, tool, name, value, what, *keys)


def _holds(recipe: Recipe, tool: Tool, name: str, value: Any, what: str, *keys: str | int) -> None:
    errors = [] if value is None else value_errors(value, tool.visible[name], name)
    if errors:
        raise Fault(f"{what}: a call would break toolset {recipe.toolset.name}: {tool.name}: {errors[0]}", *keys)


def _kinds(recipe: Recipe, pattern: Pattern, template: Template, what: str, *keys: str | int) -> None:
    """Where a template itself says the type, ``{one}`` and ``{many}`` need that type."""
    for name in pattern.typed:
        kind = template.override.get(name)
        if kind is not None and kind not in recipe.types:
            raise Fault(f"{what}: {name}: no type {kind!r}{nearest(kind, recipe.types)}", *keys)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _strings(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in _strings(item))


def _known(recipe: Recipe, pattern: Pattern | None, side: Side) -> set[str]:
    """The slots that a template may have: of a pattern, or of a frame (None)."""
    known = {*recipe.slots.names()}
    if side in recipe.words:
        filler = recipe.words[side]
        known |= {slot for slot in (*filler.more, *NEEDS) if filler.lacks(slot) == ""}
    if pattern is not None:
        known |= {form for kind in pattern.types for form in recipe.types[kind][side]}
        known |= {f"{must}{slot}" for slot in pattern.modifiers for must in ("", "+")}
    return known


def _template(recipe: Recipe, template: Template, known: set[str], side: Side, what: str, *keys: str | int) -> set[str]:
    """Checks a template's macros, slots and brackets; the slots that it says."""
    _balanced(template.text, what, *keys)
    macros = set(MACRO.findall(template.text))
    for name in macros:
        if name not in recipe.macros:
            raise Fault(_no_macro(what, name, recipe), *keys)
    pieces, left = [template.text], sorted(macros)
    while left:
        ways = recipe.macros[left.pop()]
        pieces += ways
        new = {name for way in ways for name in MACRO.findall(way)} - macros
        macros |= new
        left += sorted(new)
    found = {slot for text in pieces for slot in SLOT.findall(text)}
    for slot in sorted(found):
        if slot not in known and slot.rstrip("0123456789") not in known:
            lacking = recipe.words[side].lacks(slot) if side in recipe.words else None
            if lacking:
                raise Fault(f"{what}: {{{slot}}} needs a list {lacking!r}", "words", side)
            raise Fault(f"{what}: no slot {{{slot}}}{nearest(f'{{{slot}}}', (f'{{{s}}}' for s in known))}", *keys)
    return found


def _no_macro(what: str, name: str, recipe: Recipe) -> str:
    return f"{what}: no macro <{name}>{nearest(f'<{name}>', (f'<{m}>' for m in recipe.macros))}"


def _balanced(text: str, what: str, *keys: str | int) -> None:
    """Raises where brackets are open or braces hold no slot's name. A ``|`` outside of brackets is text."""
    rest = without_choices(text)
    while (fewer := re.sub(r"\([^()]*\)", "", rest)) != rest:
        rest = fewer
    if "(" in rest or ")" in rest:
        raise Fault(f"{what}: an open bracket in {text!r:.100}", *keys)
    if odd := re.search(r"\{[^{}]*\}?|\}", SLOT.sub("", text)):
        raise Fault(f"{what}: {odd.group()!r} is no slot; {{name}} in small letters is one", *keys)


def _joined(recipe: Recipe, names: set[str]) -> None:
    if recipe.parallel is None:
        return
    for name in sorted(recipe.parallel.patterns):
        if name not in names:
            raise Fault(f"parallel: no pattern {name!r}{nearest(name, names)}", "parallel", "patterns")
    joined = [len(p.calls) for p in recipe.patterns if p.name in recipe.parallel.patterns]
    most = max(recipe.parallel.calls) * max(joined, default=0)
    if most > recipe.toolset.max_calls:
        raise Fault(f"parallel: {_too_many(recipe, most)}", "parallel")


def _too_many(recipe: Recipe, calls: int) -> str:
    toolset = recipe.toolset
    return f"{calls} calls in one request, where toolset {toolset.name} allows {toolset.max_calls} (its max_calls)"


def _hard(recipe: Recipe, names: set[str]) -> None:
    if recipe.hard is None:
        return
    taken: set[str] = set()
    for n, group in enumerate(recipe.hard.groups):
        keys = ("hard", "groups", n)
        for name in group.patterns:
            if name not in names:
                raise Fault(f"hard: no pattern {name!r}{nearest(name, names)}", *keys, "patterns")
            if name in taken:
                raise Fault(f"hard: pattern {name!r} stands in two groups", *keys, "patterns")
            taken.add(name)
        for side in SIDES:
            known = _known(recipe, None, side) | {THIS, OTHER}
            for t, frame in enumerate(group.frames[side]):
                _template(recipe, frame, known, side, "hard", *keys, side, t)
                for slot in (THIS, OTHER):
                    if frame.text.count(f"{{{slot}}}") > 1:
                        raise Fault(f"hard: {{{slot}}} stands there more than once", *keys, side, t)
                if f"{{{THIS}}}" not in without_choices(frame.text):
                    raise Fault(
                        f"hard: a frame needs {{{THIS}}}, the request that is meant, outside choices", *keys, side, t
                    )


def _sides(recipe: Recipe) -> None:
    """Templates, words, modifiers and context values of the test side are none of the training side's."""
    groups = recipe.hard.groups if recipe.hard else ()
    own: dict[Side, dict[str, tuple[str | int, ...]]] = {side: {} for side in SIDES}
    for side in SIDES:
        for n, pattern in enumerate(recipe.patterns):
            own[side] |= {t.text: ("patterns", n, side, i) for i, t in enumerate(pattern.templates[side])}
        for n, group in enumerate(groups):
            own[side] |= {t.text: ("hard", "groups", n, side, i) for i, t in enumerate(group.frames[side])}
    for text, keys in own["test"].items():
        if text in own["train"]:
            raise Fault(f"template {text!r} is in train and in test; the sides need templates of their own", *keys)
    for what, keys, train, test in _lists(recipe):
        if both := in_both(train, test):
            raise Fault(
                f"{what}: {both!r} is in train and in test; they must differ, or be named under 'shared'", *keys
            )


def _lists(recipe: Recipe) -> Iterator[tuple[str, tuple[str, ...], Iterable[str], Iterable[str]]]:
    """What must differ between the sides: what it is, its keys, and all that either side may say of it."""
    if set(recipe.words) == set(SIDES):
        train, test = (recipe.words[side].lists() for side in SIDES)
        yield from (
            (f"words: {name}", ("words", "test", name), train[name], test[name])
            for name in train
            if name in test and name not in recipe.shared
        )
    if "types" not in recipe.shared:
        said = {side: [w for t in recipe.types.values() for ws in t[side].values() for w in ws] for side in SIDES}
        yield "types", ("types",), said["train"], said["test"]
    for name, group in recipe.modifiers.items():
        if name not in recipe.shared:
            ways = {side: [w for sides in group["values"].values() for w in sides[side]] for side in SIDES}
            yield f"modifiers: {name}", ("modifiers", name), ways["train"], ways["test"]
