"""What a recipe's file must hold, entry by entry: keys and kinds, and otherwise one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from router.explain import KeyPath, Where, near
from router.toolset_load import read_yaml
from router.validate import type_name
from runtimes.errors import UserError

EXAMPLE: Final = "configs/examples/shop/recipe.yaml"
"""A small recipe to look at when one's own is not understood."""
_MOST: Final = 1_000_000
"""Values in one recipe."""
_LISTED: Final = 12
"""Names that are listed where none is near."""
_KINDS: Final[Mapping[type, str]] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", Mapping: "a mapping",
}  # fmt: skip


class Fault(ValueError):
    """What is wrong in a recipe, and the keys and list positions that lead to it from the top."""

    def __init__(self, message: str, *keys: str | int) -> None:
        super().__init__(message)
        self.keys: KeyPath = keys


def read(path: Path) -> tuple[Any, Where]:
    """A recipe as plain data, and its lines. Raises `UserError` for what cannot be read or has a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the recipe ({' '.join(str(error).split())})") from None
    # Keys of a slot are the values that it stands for, and those need not be text.
    data, lines = read_yaml(text, str(path), needs=f"see {EXAMPLE}", keys=(str, int, float, bool), most=_MOST)
    return data, Where(str(path), lines)


def mapping(data: Any, what: str, known: Collection[str], needed: Iterable[str], *keys: str | int) -> Mapping[str, Any]:
    """`data`, which must be a mapping that has the keys `needed` and none but those `known`. Raises `Fault`."""
    expect(data, Mapping, what, *keys)
    for key in data:
        if key not in known:
            raise Fault(f"{what}: unknown key {key!r}{nearest(key, known)}", *keys, key)
    for key in needed:
        if key not in data:
            raise Fault(f"{what}: {key!r} is missing; {EXAMPLE} shows what it looks like", *keys)
    return data  # type: ignore[no-any-return]


def expect(data: Any, kind: type, what: str, *keys: str | int) -> None:
    """Raises `Fault` where `data` is not of a kind: one of `_KINDS`, ``float`` standing for any number."""
    right = isinstance(data, int | float) if kind is float else isinstance(data, kind)
    if not right or (isinstance(data, bool) and kind is not bool):
        quote = "; quote it" if kind is str and isinstance(data, bool | int | float) else ""
        raise Fault(f"{what}: {_KINDS[kind]} is expected, not {data!r:.60} ({type_name(data)}){quote}", *keys)


def texts(data: Any, what: str, *keys: str | int) -> tuple[str, ...]:
    """`data`, which must be a list of strings. Raises `Fault` at the first that is none."""
    expect(data, list, what, *keys)
    for number, text in enumerate(data):
        expect(text, str, what, *keys, number)
    return tuple(data)


def number(data: Any, what: str, *keys: str | int, most: float | None = None) -> float:
    """`data`, which must be a number from 0 to `most`. Raises `Fault`."""
    expect(data, float, what, *keys)
    if data < 0 or (most is not None and data > most):
        raise Fault(f"{what}: {data} is {'below 0' if data < 0 else f'above {most:g}'}", *keys)
    return float(data)


def nearest(name: object, names: Iterable[str]) -> str:
    """What to say behind a name that is not among `names`: the one that is near, or those that there are."""
    known = sorted(set(map(str, names)))
    more = ", …" if len(known) > _LISTED else ""
    return near(name, known) or (f"; there are {', '.join(known[:_LISTED])}{more}" if known else "; there are none")
