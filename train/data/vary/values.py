"""What a request must keep so that its gold calls stay right, and where it says it.

Free strings, numbers and the keys of free-form objects are copied from the request, so they must be found in it.
Values out of a list, and defaults, may be meant by other words; where they stand they are protected as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router.cases import Case, CaseError
from router.explain import near
from router.toolset import MISSING, Schema, Toolset
from router.validate import equal

_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()

Span = tuple[int, int]


@dataclass(frozen=True)
class Value:
    """Something of a call that a request says: the ways to spell it, the call's own first."""

    forms: tuple[str, ...]
    fold: bool = False
    """Whether the toolset compares it without case."""
    cue: bool = False
    """Whether other words may stand for it."""


@dataclass(frozen=True)
class Said:
    """Where a request says its values."""

    spans: tuple[Span, ...]
    """Of all values found, in order, not overlapping."""
    forms: tuple[tuple[Value, tuple[str, ...]], ...]
    """Every copied value that was found, and how the request spells it."""
    missing: tuple[str, ...]
    """Copied values that the request does not say."""


def values_of(case: Case, toolset: Toolset) -> tuple[Value, ...]:
    """What the gold calls need said. Raises `CaseError` for a tool or parameter that the toolset does not have."""
    found: list[Value] = []
    for call in case.calls:
        tool = toolset.tool(call.name)
        if tool is None:
            hint = near(call.name, [t.name for t in toolset])
            raise CaseError(f"case {case.id}: the toolset {toolset.name} has no tool {call.name!r}{hint}")
        for name, value in call.arguments.items():
            schema = tool.parameters.properties.get(name)
            if schema is None:
                hint = near(name, tool.visible)
                raise CaseError(f"case {case.id}: {call.name} has no parameter {name!r}{hint}")
            if schema.bind is None:
                found += _values(value, schema)
    return tuple(dict.fromkeys(found))


def said_in(text: str, values: tuple[Value, ...]) -> Said:
    """Where `text` says the values; case, spaces, hyphens and underscores may differ from the call's."""
    spans: list[Span] = []
    forms: list[tuple[Value, tuple[str, ...]]] = []
    missing: list[str] = []
    for value in values:
        here = _find(text, value)
        spans += here
        if here and not value.cue:
            forms.append((value, tuple(dict.fromkeys(text[a:b] for a, b in here))))
        elif not value.cue:
            missing.append(value.forms[0])
    return Said(_merged(spans), tuple(forms), tuple(missing))


def keeps(text: str, said: Said) -> str | None:
    """The first value that `text` has lost: it must be spelled as in the request, or as in the call. None: no loss."""
    for value, as_said in said.forms:
        forms = (*as_said, *value.forms)
        if not any(_spelled(form, fold=value.fold).search(_spaced(text)) for form in forms):
            return as_said[0]
    return None


def _values(value: Any, schema: Schema | None) -> Iterator[Value]:
    """`schema` is None within a free-form object."""
    chosen = schema is not None and (
        schema.enum is not None or (schema.default is not MISSING and equal(value, schema.default))
    )
    if isinstance(value, str):
        if value.strip():
            yield Value((value,), schema is not None and schema.case_insensitive, chosen)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        yield Value(_numerals(value), fold=True, cue=chosen)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _values(item, schema.items if schema else None)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            inner = schema.properties.get(key) if schema else None
            if inner is None:
                yield Value((str(key),))
            yield from _values(item, inner)


def _numerals(value: int | float) -> tuple[str, ...]:
    """How people write a number: 1500, 1,500, twenty five."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    forms = [str(value)]
    if isinstance(value, int):
        forms.append(f"{value:,}")
        if 0 <= value < 20:
            forms.append(_ONES[value])
        elif 20 <= value < 100:
            ten, one = _TENS[value // 10 - 2], value % 10
            forms += [f"{ten} {_ONES[one]}"] if one else [ten]
    return tuple(dict.fromkeys(forms))


def _find(text: str, value: Value) -> list[Span]:
    """Every place, as whole words; within words only where a script writes none (the value is not ASCII)."""
    for form in value.forms:
        pattern = _loose(form, plural=value.cue)
        found = [m.span() for m in re.finditer(_edged(pattern, form), text, re.IGNORECASE)]
        if not found and not form.isascii():
            found = [m.span() for m in re.finditer(pattern, text, re.IGNORECASE)]
        if found:
            return found
    return []


def _loose(form: str, *, plural: bool) -> str:
    parts = [re.escape(part) for part in re.split(r"[\s_\-]+", form) if part]
    return (r"[\s_\-]+".join(parts) or re.escape(form)) + (r"(?:e?s)?" if plural else "")


def _edged(pattern: str, form: str) -> str:
    """Not within a longer word or number: 5 is not in 2.5 or 15."""
    before = r"(?<![\w])(?<!\d[.,])" if re.match(r"\w", form) else ""
    after = r"(?![\w])(?![.,]\d)" if re.search(r"\w$", form) else ""
    return f"{before}{pattern}{after}"


def _spelled(form: str, *, fold: bool) -> re.Pattern[str]:
    pattern = re.escape(_spaced(form))
    edged = _edged(pattern, form) if form.isascii() else pattern
    return re.compile(edged, re.IGNORECASE if fold else 0)


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _merged(spans: list[Span]) -> tuple[Span, ...]:
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return tuple(out)
