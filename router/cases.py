"""Contract 4: a case is one request with its gold calls; a file of cases is JSON lines.

Calls are compared after the same normalisation on both sides: bound parameters removed, schema defaults filled in,
case-insensitive strings folded. The order of arguments does not matter, the order of calls does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from router.explain import near
from router.toolset import MISSING, Call, Schema, Toolset
from router.validate import equal, type_name
from runtimes.errors import UserError

_KEYS = ("id", "user", "context", "bucket", "calls", "accept", "template")


class CaseError(UserError):
    """A line of a case file that is no case: file, line, what is wrong."""


@dataclass(frozen=True)
class Case:
    """One request and the calls that answer it; `calls` is empty where no tool serves."""

    id: str
    user: str
    context: dict[str, Any] = field(default_factory=dict)
    bucket: str = "all"
    calls: tuple[Call, ...] = ()
    accept: tuple[tuple[Call, ...], ...] = ()
    """Further lists of calls that are as right."""
    template: str | None = None
    """What generated it; cases that share one are resampled together when an interval is computed."""

    def to_dict(self) -> dict[str, Any]:
        """The form of one line."""
        template = {} if self.template is None else {"template": self.template}
        return {
            "id": self.id,
            "user": self.user,
            "context": self.context,
            "bucket": self.bucket,
            "calls": [call.to_dict() for call in self.calls],
            "accept": [[call.to_dict() for call in calls] for calls in self.accept],
            **template,
        }


def load_cases(path: str | Path, check: Callable[[str, Case], None] = lambda place, case: None) -> list[Case]:
    """The cases of a JSON-lines file, blank lines passed over. Raises `CaseError` with the line that is wrong, and
    whatever `check` raises of a case and its place."""
    path = Path(path)
    cases: list[Case] = []
    lines: dict[str, int] = {}
    for number, line in _lines(path):
        place = f"{path}:{number}"
        try:
            data = json.loads(line, object_pairs_hook=partial(_distinct, place))
        except json.JSONDecodeError as error:
            raise CaseError(f"{place}: not JSON: {error.msg} (column {error.colno})") from None
        except RecursionError:
            raise CaseError(f"{place}: not JSON: nested too deep") from None
        case = case_from_dict(data, place)
        if case.id in lines:
            raise CaseError(f"{place}: id: {case.id!r} is already the id of line {lines[case.id]}; ids must differ")
        check(place, case)
        lines[case.id] = number
        cases.append(case)
    if not cases:
        raise CaseError(f"{path}: holds no cases")
    return cases


def case_from_dict(data: Any, place: str = "case") -> Case:
    """A case from plain data; `place` names it in errors."""
    if not isinstance(data, dict):
        raise CaseError(f"{place}: a case must be an object, not {type_name(data)}")
    for key in data:
        if key not in _KEYS:
            raise CaseError(f"{place}: unknown key {key!r}; a case has {', '.join(_KEYS)}{near(key, _KEYS)}")
    for key in ("id", "user", "calls"):
        if key not in data:
            raise CaseError(f"{place}: {key!r} is missing; a case needs id, user and calls")
    for key in ("id", "user", "bucket"):
        if not isinstance(data.get(key, "all"), str) or not data.get(key, "all").strip():
            raise CaseError(f"{place}: {key}: must be text that is not empty")
    if not isinstance(data.get("template"), str | None):
        raise CaseError(f"{place}: template: must be text")
    context = data.get("context", {})
    if not isinstance(context, dict):
        raise CaseError(f"{place}: context: must be an object, not {type_name(context)}")
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CaseError(f"{place}: holds half of a surrogate pair, which is no text; mend the row") from None
    accept = data.get("accept", [])
    if not isinstance(accept, list):
        raise CaseError(f"{place}: accept: must be a list of lists of calls, not {type_name(accept)}")
    return Case(
        id=data["id"],
        user=data["user"],
        context=context,
        bucket=data.get("bucket", "all"),
        calls=_calls(data["calls"], f"{place}: calls"),
        accept=tuple(_calls(calls, f"{place}: accept[{i}]") for i, calls in enumerate(accept)),
        template=data.get("template"),
    )


def normalise(calls: Sequence[Call], toolset: Toolset) -> list[Call]:
    """The calls as they are compared. What the toolset does not know is left as it is."""
    return [_normal_call(call, toolset) for call in calls]


def same_calls(a: Sequence[Call], b: Sequence[Call], toolset: Toolset) -> bool:
    """Whether two lists of calls ask for the same, in the same order."""
    left, right = normalise(a, toolset), normalise(b, toolset)
    return len(left) == len(right) and all(
        x.name == y.name and equal(x.arguments, y.arguments) for x, y in zip(left, right, strict=True)
    )


def correct(case: Case, calls: Sequence[Call], toolset: Toolset) -> bool:
    """Whether `calls` are the gold calls or one of the lists that are as right."""
    return any(same_calls(calls, gold, toolset) for gold in (case.calls, *case.accept))


def _normal_call(call: Call, toolset: Toolset) -> Call:
    tool = toolset.tool(call.name)
    if tool is None:
        return call
    free = {name: value for name, value in call.arguments.items() if name not in tool.bound}
    return Call(call.name, _normal_object(free, tool.visible))


def _normal_object(value: Mapping[str, Any], properties: Mapping[str, Schema]) -> dict[str, Any]:
    out = {name: _normal(item, properties[name]) if name in properties else item for name, item in value.items()}
    for name, schema in properties.items():
        if name not in out and schema.default is not MISSING:
            out[name] = _normal(schema.default, schema)
    return out


def _normal(value: Any, schema: Schema) -> Any:
    if schema.type == "string" and schema.case_insensitive and isinstance(value, str):
        return value.casefold()
    if schema.type == "array" and schema.items is not None and isinstance(value, list | tuple):
        return [_normal(item, schema.items) for item in value]
    if schema.type == "object" and isinstance(value, Mapping):
        return _normal_object(value, schema.properties)
    return value


def _calls(data: Any, place: str) -> tuple[Call, ...]:
    if not isinstance(data, list):
        raise CaseError(f"{place}: must be a list of calls, not {type_name(data)}")
    return tuple(_call(call, f"{place}[{i}]") for i, call in enumerate(data))


def _call(data: Any, place: str) -> Call:
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise CaseError(f"{place}: a call must be an object with 'name' and 'arguments'")
    unknown = data.keys() - {"name", "arguments"}
    if unknown:
        raise CaseError(f"{place}: unknown key {min(unknown)!r}; a call has name and arguments")
    arguments = data.get("arguments", {})
    if not isinstance(arguments, dict):
        raise CaseError(f"{place}.arguments: must be an object, not {type_name(arguments)}")
    return Call(data["name"], arguments)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CaseError(f"{path}: no such case file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _distinct(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise CaseError(f"{place}: the key {twice!r} is given twice")
    return out
