"""The texts whose tokens a trimmed vocabulary keeps: a toolset's own, and those of files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from router.known import sample_context
from router.render import render_completion, render_prefix, render_responses, render_suffix, user_turn
from router.toolset import MISSING, Call, Schema, Toolset
from router.wire_format import WireError, WireFormat
from runtimes.errors import UserError

_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_JSONL: Final = (".jsonl", ".ndjson")
_FIELDS: Final = "'user' and 'calls', 'text', 'messages' or 'conversations'"


@dataclass(frozen=True)
class Said:
    """A text as one tokenization. `rendered`: what spells a control token in it is one."""

    text: str
    rendered: bool = False


def toolset_texts(toolset: Toolset, wire: WireFormat) -> Iterator[Said]:
    """All that a router reads or writes because of its tools, whatever the request: declarations, names, keys, values.

    Calls are made so that every key follows every other, and every value that the schemas name stands in one.
    """
    yield Said(render_prefix(toolset, wire), True)
    yield Said(render_suffix(wire), True)
    for day in _WEEKDAYS if toolset.shown else ():
        context = sample_context(toolset)
        yield Said(user_turn(toolset, "x", context | ({"weekday": day} if "weekday" in context else {})))
    for tool in toolset:
        yield Said(render_responses([(tool.name, {"value": ""})], wire), True)
        for arguments in _objects(tool.visible):
            try:
                yield Said(render_completion([Call(tool.name, arguments)], wire), True)
            except WireError:
                continue  # a value that cannot be written is never decoded


def file_texts(path: Path, toolset: Toolset, wire: WireFormat) -> Iterator[Said]:
    """The texts of a file, line by line: rows of JSON where its name ends in ``.jsonl``, else plain text.

    Of a row ``user``, ``context`` and ``calls`` (with ``accept``) are read as in a suite's case, ``text`` as rendered,
    and the contents and calls of ``messages`` or ``conversations``. Raises `UserError` with the line that is wrong,
    and for a file without any text.
    """
    number, empty = 0, True
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007 - named in the error
                if not line.strip():
                    continue
                empty = False
                if path.suffix in _JSONL:
                    yield from _row(json.loads(line), toolset, wire)
                else:
                    yield Said(line.rstrip("\n"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{number}: not JSON: {error.msg} (column {error.colno}); give a row a line, or plain text as .txt"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error.reason}); give a text or JSONL file") from None
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}:{number}: not a row with {_FIELDS} ({line})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a text or JSONL file") from None
    except WireError as error:
        raise UserError(f"{path}:{number}: {error}") from None
    if empty:
        raise UserError(f"{path}: holds no text; give some that your users write")


def _row(data: Any, toolset: Toolset, wire: WireFormat) -> Iterator[Said]:
    if not isinstance(data, dict):
        raise ValueError(f"it is {type(data).__name__}")
    messages = data.get("messages", data.get("conversations"))
    if messages is None and not {"user", "text"} & data.keys():
        raise ValueError(f"it has {', '.join(map(str, data)) or 'nothing'}")
    if "user" in data:
        if not isinstance(data["user"], str):
            raise ValueError(f"'user' is {type(data['user']).__name__}, not text")
        context = data.get("context") or {}
        shown = all(key in context for key in toolset.shown)
        yield Said(user_turn(toolset, data["user"], context) if shown else data["user"].strip())
    for calls in [data.get("calls") or [], *(data.get("accept") or [])]:
        yield from _calls([(call["name"], call.get("arguments") or {}) for call in calls], wire)
    if "text" in data:
        yield Said(str(data["text"]), True)
    for message in messages or ():
        yield from _message(message, wire)


def _message(message: Mapping[str, Any], wire: WireFormat) -> Iterator[Said]:
    content = message.get("content") or ""
    calls = [one["function"] for one in message.get("tool_calls") or ()]
    if isinstance(content, str):
        yield Said(content.strip())
    else:  # a list of blocks: texts, and Anthropic's calls
        yield from (Said(block["text"].strip()) for block in content if "text" in block)
        calls += [{"name": b["name"], "arguments": b["input"]} for b in content if b.get("type") == "tool_use"]
    given = [(call["name"], call.get("arguments") or {}) for call in calls]
    yield from _calls([(name, json.loads(a) if isinstance(a, str) else a) for name, a in given], wire)


def _calls(calls: Sequence[tuple[str, dict[str, Any]]], wire: WireFormat) -> Iterator[Said]:
    if calls:
        yield Said(render_completion([Call(name, arguments) for name, arguments in calls], wire), True)


def _objects(properties: Mapping[str, Schema]) -> list[dict[str, Any]]:
    """Objects in which every sample value stands, first and last, and behind each key every later one."""
    values = {name: _samples(schema) for name, schema in properties.items()}
    names = sorted(values, key=str.lower)
    out: list[dict[str, Any]] = [{}]
    for i, name in enumerate(names):
        out += [{name: value} for value in values[name]]
        # A bare value and the key behind it may share a token; what a string's end and a key share is the same for all.
        bare = [value for value in values[name] if not isinstance(value, str)] or values[name][:1]
        out += [{name: value, other: values[other][0]} for other in names[i + 1 :] for value in bare]
    return out


def _samples(schema: Schema) -> list[Any]:
    """Every value that a schema names, and simple ones of its type; at least one."""
    if schema.enum is not None:
        return list(schema.enum)
    found = [] if schema.default is MISSING else [schema.default]
    match schema.type:
        case "string":
            found += [*schema.also, ""]
        case "boolean":
            found += [True, False]
        case "integer" | "number":
            bounds = (schema.minimum, schema.maximum, schema.exclusive_minimum, schema.exclusive_maximum)
            found += [0, *(bound for bound in bounds if bound is not None)]
        case "array":
            items = _samples(schema.items) if schema.items is not None else [""]
            found += [[], [items[0], items[-1]], *([item, item] for item in items)]
        case "object":
            found += _objects(schema.properties)
    return found
