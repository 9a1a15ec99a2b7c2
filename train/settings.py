"""Training configurations: YAML mappings that become dataclasses, every key checked against its field's type."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import yaml

from runtimes.errors import UserError


def read_config(path: Path) -> dict[str, Any]:
    """A YAML mapping; `UserError` naming the file otherwise."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the configuration ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    return mapping(data, str(path))


def mapping(value: Any, place: str) -> dict[str, Any]:
    """`value`, if it is a mapping of names; `UserError` naming `place` (file and key) otherwise."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{place}: a mapping of settings is expected, not {_shown(value)}")
    return value


def make(kind: type[Any], place: str, data: Mapping[str, Any]) -> Any:
    """A config dataclass out of a mapping.

    `place` begins every message: the file, and the key of the mapping in it. Numbers that YAML takes for text (``2e-4``
    lacks the point that it wants) become numbers. Raises `UserError` for a key that is unknown or missing, for a value
    of another type than the field's, and with `place` before it for what the dataclass itself refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(fields)}"
            raise UserError(f"{place}: unknown setting {key!r}{hint}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise UserError(f"{place}: setting {name!r} is missing")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in data.items():
        try:
            values[key] = convert(value, hints[key])
        except TypeError as error:
            raise UserError(f"{place}: {key}: {error} is expected, not {_shown(value)}") from None
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def at_least(config: Any, low: float, *names: str) -> None:
    """Raise `UserError` for the first of the fields `names` of `config` that is below `low`."""
    for name in names:
        if getattr(config, name) < low:
            raise UserError(f"{name} is {getattr(config, name)}; at least {low} is expected")


def above(config: Any, low: float, *names: str) -> None:
    """The same for those that are not above `low`."""
    for name in names:
        if getattr(config, name) <= low:
            raise UserError(f"{name} is {getattr(config, name)}; more than {low} is expected")


def convert(value: Any, hint: Any) -> Any:
    """`value` as the type `hint` (an annotation) wants it. Raises `TypeError`, whose text is what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _either(value, arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise TypeError(f"a list of {len(arguments)} values")
        return tuple(convert(v, a) for v, a in zip(value, arguments, strict=True))
    if origin in (Sequence, list, tuple):
        if not isinstance(value, list | tuple):
            raise TypeError("a list")
        return [convert(v, arguments[0]) for v in value]
    if origin in (dict, Mapping):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise TypeError("a mapping of names")
        return {key: convert(v, arguments[1]) for key, v in value.items()}
    if hint is Any:
        return value
    if hint in _SIMPLE:
        return _SIMPLE[hint](value)
    if isinstance(hint, type) and not isinstance(value, hint):
        raise TypeError(f"a {hint.__name__}")
    return value


def _either(value: Any, kinds: Sequence[Any]) -> Any:
    if value is None and type(None) in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not type(None))
    try:
        return convert(value, kind)
    except TypeError as error:
        raise TypeError(f"{error} or nothing") from None


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _whole(value: Any) -> int:
    number = _number(value, "a whole number")
    if not number.is_integer():
        raise TypeError("a whole number")
    return value if isinstance(value, int) else int(number)


def _number(value: Any, what: str = "a number") -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise TypeError(what)
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text (in quotes, if it looks like something else)")
    return value


_SIMPLE = {bool: _flag, int: _whole, float: _number, str: _text}


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
