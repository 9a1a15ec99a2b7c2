"""A tool from a plain Python function: its signature gives the parameters, its docstring the descriptions."""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from router.explain import ToolsetError

_SCALARS: Final[dict[Any, str]] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_LISTS: Final = (list, Sequence, typing.Sequence)
_MAPPINGS: Final = (dict, Mapping, typing.Mapping)
_HINTS: Final = "str, int, float, bool, list[...], dict, Literal[...], Enum, TypedDict, Annotated and Optional of these"
_SECTION: Final = re.compile(r"(Args|Arguments|Parameters|Params):\s*$")
_NEXT_SECTION: Final = re.compile(r"[A-Z][A-Za-z ]*:\s*$")
_ENTRY: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_FIELD: Final = re.compile(r":param\s+(?:\S+\s+)?(\w+)\s*:\s*(.*)$")


def function_tool(function: Callable[..., Any]) -> dict[str, Any]:
    """The tool's plain form. Raises `ToolsetError` naming the function and the parameter that cannot be declared.

    A parameter is required when it has no default; `None` as default means that it may be left out. Descriptions come
    from ``Annotated[T, "…"]``, a Google-style ``Args:`` section or ``:param x:`` fields, in that order.
    """
    name = getattr(function, "__name__", repr(function))
    if not callable(function) or isinstance(function, type):
        raise ToolsetError(f"functions: {name} is not a function")
    place = f"function {getattr(function, '__module__', '?')}.{name}"
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise ToolsetError(f"{place}: its signature cannot be read: {error}") from None
    summary, described = _docstring(inspect.getdoc(function) or "")
    if not summary:
        raise ToolsetError(f"{place}: has no docstring; the model chooses a tool by its description")
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in signature.parameters.values():
        where = f"{place}: parameter {parameter.name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToolsetError(f"{where}: takes any number of arguments; a tool's parameters must be named")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToolsetError(f"{where}: is positional-only; a call names its arguments")
        if parameter.name not in hints:
            raise ToolsetError(f"{where}: has no type hint; allowed are {_HINTS}")
        schema, optional = _schema(hints[parameter.name], where)
        if parameter.name in described:
            schema.setdefault("description", described[parameter.name])
        if parameter.default is parameter.empty:
            if optional:
                raise ToolsetError(f"{where}: may be None but has no default; give it one (= None) or drop None")
            required.append(parameter.name)
        elif parameter.default is not None:
            default = parameter.default
            schema["default"] = default.value if isinstance(default, enum.Enum) else _listed(default)
        properties[parameter.name] = schema
    return {
        "name": name,
        "description": summary,
        "parameters": {"type": "object", "properties": properties, "required": required},
    }


def _schema(hint: Any, where: str) -> tuple[dict[str, Any], bool]:
    """The schema of a type hint, and whether it may be None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        schema, optional = _schema(arguments[0], where)
        text = next((a for a in arguments[1:] if isinstance(a, str)), None)
        return ({**schema, "description": text} if text else schema), optional
    if origin in (typing.Union, types.UnionType):
        kinds = [a for a in arguments if a is not type(None)]
        if len(kinds) != 1:
            raise ToolsetError(f"{where}: {_name(hint)} is a choice of types; give it one, or make one tool for each")
        return _schema(kinds[0], where)[0], len(kinds) < len(arguments)
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}, False
    if origin is typing.Literal:
        optional = None in arguments
        values = [a.value if isinstance(a, enum.Enum) else a for a in arguments if a is not None]
        return _enum(values, hint, where), optional
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum([member.value for member in hint], hint, where), False
    if hint in _LISTS or origin in _LISTS:
        schema = {"type": "array"}
        if arguments and arguments[0] is not Any:
            schema["items"] = _inner(arguments[0], where)
        return schema, False
    if hint in _MAPPINGS or origin in _MAPPINGS:
        if arguments and arguments[0] is not str:
            raise ToolsetError(f"{where}: {_name(hint)} has keys that are not strings")
        return {"type": "object", "additionalProperties": True}, False
    if typing.is_typeddict(hint):
        return _typed_dict(hint, where), False
    _refuse(hint, where)


def _inner(hint: Any, where: str) -> dict[str, Any]:
    """The schema of a type within another, where None has no meaning of its own."""
    schema, optional = _schema(hint, where)
    if optional:
        raise ToolsetError(f"{where}: {_name(hint)} stands inside a list or TypedDict and may be None; drop None")
    return schema


def _typed_dict(hint: Any, where: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, kind in typing.get_type_hints(hint, include_extras=True).items():
        # `__required_keys__` does not see these two where annotations are text (from __future__ import annotations).
        mark = typing.get_origin(kind) if typing.get_origin(kind) in (typing.Required, typing.NotRequired) else None
        properties[name] = _inner(typing.get_args(kind)[0] if mark else kind, f"{where}.{name}")
        if mark is typing.Required or (mark is None and name in hint.__required_keys__):
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _enum(values: list[Any], hint: Any, where: str) -> dict[str, Any]:
    kinds = {type(value) for value in values}
    if len(kinds) != 1 or (kind := _SCALARS.get(kinds.pop())) not in ("string", "integer", "number"):
        raise ToolsetError(f"{where}: the values of {_name(hint)} must be all strings or all numbers")
    return {"type": kind, "enum": values}


def _refuse(hint: Any, where: str) -> NoReturn:
    raise ToolsetError(f"{where}: {_name(hint)} cannot be declared; allowed are {_HINTS}")


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph as one line, and what is said about each parameter."""
    lines = text.splitlines()
    first = []
    for line in lines:
        if not line.strip() or _SECTION.match(line) or line.startswith(":param"):
            break
        first.append(line.strip())
    return " ".join(first), _arguments(lines)


def _arguments(lines: list[str]) -> dict[str, str]:
    out: dict[str, list[str]] = {}
    current: list[str] | None = None
    inside, indent = False, None
    for line in lines:
        field = _FIELD.match(line.strip())
        if field:
            current = out.setdefault(field.group(1), [])
            current.append(field.group(2).strip())
            inside = False
        elif _SECTION.match(line):
            inside, indent, current = True, None, None
        elif not line.strip() or (not line.startswith(" ") and (_NEXT_SECTION.match(line) or inside)):
            inside, current = inside and not line.strip(), None
        elif inside:
            depth = len(line) - len(line.lstrip())
            indent = depth if indent is None else indent
            entry = _ENTRY.match(line.strip()) if depth == indent else None
            if entry:
                current = out.setdefault(entry.group(1), [])
                current.append(entry.group(2).strip())
            elif current is not None:
                current.append(line.strip())
        elif current is not None and line.startswith(" "):
            current.append(line.strip())
    return {name: joined for name, parts in out.items() if (joined := " ".join(p for p in parts if p))}
