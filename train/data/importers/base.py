"""What an importer is: where a public corpus comes from, and how its upstream files become rows.

A source is one module with one `Importer`. Its `read` yields a `Row` for every request that it can turn into a case,
and a `Skipped` for every one that it cannot, so that nothing disappears uncounted. Whether calls hold to their
toolset is checked once, for all sources, in `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from router.cases import Case
from router.toolset import Toolset
from router.validate import schema_errors, type_name
from router.wire import WireError, render_completion
from runtimes.errors import UserError

Split = Literal["train", "dev", "test"]

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One request as a case, the toolset that it is asked of, and where it was read (``file:line``)."""

    case: Case
    split: Split
    toolset: Toolset
    place: str
    notes: tuple[str, ...] = ()
    """What was lost in it, counted in the report."""


@dataclass(frozen=True)
class Skipped:
    """A request that did not become a row. With `fault` the file is wrong; else a router has no use for it."""

    place: str
    reason: str
    """Short, the same for all of its kind: the report counts them."""
    detail: str = ""
    fault: bool = False


@dataclass(frozen=True)
class Options:
    """What a reader may be told."""

    seed: int = 0
    samples: int = 8
    """Sentences made from one template, for sources that consist of templates."""


@dataclass(frozen=True)
class Importer:
    """A source: its name, what it is, under which licence and from where, and its two functions."""

    name: str
    title: str
    licence: str
    address: str
    files: Callable[[Path], list[Path]]
    """The upstream files that are read, found below a folder. Raises `UserError` where they are missing."""
    read: Callable[[Path, Options], Iterator[Row | Skipped]]
    toolset: bool = True
    """Whether all rows have one toolset, which a caller may replace by another."""
    held_out: str = ""
    """Which of its rows are kept for development and never trained on, in words."""


class RowError(Exception):
    """A row that cannot become a case; only `each` catches it."""

    def __init__(self, reason: str, detail: str = "", *, fault: bool = True) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.fault = reason, detail, fault


def each(found: Iterable[tuple[str, T]], make: Callable[[str, T], Row]) -> Iterator[Row | Skipped]:
    """`make(place, data)` for every row; a `RowError` becomes a `Skipped`."""
    for place, data in found:
        try:
            yield make(place, data)
        except RowError as error:
            yield Skipped(place, error.reason, error.detail, error.fault)


def want(data: Any, key: str, kind: type[T]) -> T:
    """``data[key]``, which must be of a kind. Raises `RowError` otherwise."""
    if not isinstance(data, dict):
        raise RowError("corrupt row", f"an object with {key!r} is expected, not {type_name(data)}")
    if key not in data:
        raise RowError("corrupt row", f"{key!r} is missing")
    value = data[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RowError("corrupt row", f"{key!r} is {type_name(value)}, not {_KINDS.get(kind, kind.__name__)}")
    return value


def squeeze(text: str) -> str:
    """`text` without outer spaces, runs of white space collapsed to one space."""
    return " ".join(text.split())


def rows(
    importer: Importer,
    folder: Path,
    options: Options | None = None,
    *,
    toolset: Toolset | None = None,
    keep_going: bool = False,
) -> Iterator[Row | Skipped]:
    """The rows of a source, every call checked against its toolset.

    `toolset` takes the place of the one that the source declares. Raises `UserError` with file and line at the first
    fault (a corrupt row, a missing tool, a call that breaks its schema); with `keep_going` faults are yielded instead.
    """
    if toolset is not None and not importer.toolset:
        raise UserError(f"{importer.name}: its requests bring their own tools; leave the toolset out")
    for item in importer.read(folder, options or Options()):
        if isinstance(item, Row):
            item = _checked(item if toolset is None else replace(item, toolset=toolset))
        if isinstance(item, Skipped) and item.fault and not keep_going:
            raise UserError(fault_line(item))
        yield item


def fault_line(item: Skipped) -> str:
    """One line about a fault."""
    detail = f": {item.detail}" if item.detail else ""
    return f"{item.place}: {item.reason}{detail}; mend the file, or leave such rows out with --keep-going"


_KINDS: dict[Any, str] = {str: "a string", int: "an integer", list: "an array", dict: "an object", bool: "a boolean"}


def _checked(row: Row) -> Row | Skipped:
    case = row.case
    if not case.user.strip():
        return Skipped(row.place, "corrupt row", "the request is empty", fault=True)
    if len(case.calls) > row.toolset.max_calls:
        detail = f"{len(case.calls)} calls, where the toolset allows {row.toolset.max_calls}"
        return Skipped(row.place, "more calls than a toolset allows", detail)
    for calls in (case.calls, *case.accept):
        for call in calls:
            if row.toolset.tool(call.name) is None:
                return Skipped(row.place, "missing tool", f"{call.name!r} is not in {row.toolset.name}", fault=True)
            errors = schema_errors(call, row.toolset)
            if errors:
                return Skipped(row.place, "a call breaks its schema", f"{call.name}: {errors[0]}", fault=True)
        try:
            render_completion(calls)
        except WireError as error:
            return Skipped(row.place, "cannot be written in the wire format", str(error))
    return row
