"""JSON lines of tools and messages, as google/mobile-actions writes them.

``{"metadata": "train"|"eval", "tools": [{"function": {…}}], "messages": [{"role": "developer", …}, {"role": "user", …},
{"role": "assistant", "tool_calls": [{"function": {"name", "arguments"}}]}, …]}``. Source: the data set's card
(huggingface.co/datasets/google/mobile-actions) and Google's fine-tuning recipe for FunctionGemma. Any file of that
form is read, also with arguments as JSON text, as OpenAI writes them.

The first exchange of a row is the case. What the developer says is the toolset's instruction; the date and the weekday
in it are the case's context, shown where they stand (``{date}T{time}``, ``{weekday}``). ``eval`` rows are test rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.explain import ToolsetError
from router.toolset import DEFAULT_INSTRUCTION, Call, Toolset
from router.toolset_load import from_openai
from router.toolset_schema import MAX_CALLS
from router.validate import type_name
from train.data.importers.base import Importer, Options, Row, RowError, Skipped, Split, each, want
from train.data.importers.files import json_lines, missing

SPLITS: Final[dict[str, Split]] = {"train": "train", "eval": "test", "test": "test", "dev": "dev", "validation": "dev"}
"""``metadata`` -> split; a row without it is a training row."""

_CLOCK: Final = re.compile(r"^Current date and time given in [^\n]*: *(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d) *$", re.M)
_WEEKDAY: Final = re.compile(r"^Day of week is (\w+) *$", re.M)


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.jsonl"))
    if not found:
        raise missing(folder, "*.jsonl", IMPORTER)
    return found


def read(folder: Path, options: Options) -> Iterator[Row | Skipped]:
    toolsets: dict[str, Toolset] = {}
    for path in files(folder):

        def make(place: str, data: Any, stem: str = path.stem) -> Row:
            return _row(place, data, stem, toolsets)

        yield from each(json_lines(path), make)


def _row(place: str, data: Any, stem: str, toolsets: dict[str, Toolset]) -> Row:
    split = data.get("metadata", "train") if isinstance(data, dict) else None
    if split not in SPLITS:
        raise RowError("corrupt row", f"'metadata' is {split!r}; known are {', '.join(SPLITS)}")
    developer, user, answer = _exchange(want(data, "messages", list))
    context: dict[str, Any] = {}
    instruction = developer.strip() or DEFAULT_INSTRUCTION
    if clock := _CLOCK.search(instruction):
        context |= {"date": clock.group(1), "time": clock.group(2)}
        instruction = _put(instruction, clock, 1, "{date}T{time}", through=2)
    if weekday := _WEEKDAY.search(instruction):
        context["weekday"] = weekday.group(1)
        instruction = _put(instruction, weekday, 1, "{weekday}")
    tools = _toolset(want(data, "tools", list), instruction, tuple(context), toolsets)
    calls = tuple(_call(call) for call in answer.get("tool_calls") or [])
    name = f"mobile_actions/{stem}/{place.rpartition(':')[2]}"
    bucket = "no-call" if not calls else "parallel" if len(calls) > 1 else calls[0].name
    return Row(Case(name, user, context, bucket, calls), SPLITS[split], tools, place)


def _exchange(messages: list[Any]) -> tuple[str, str, dict[str, Any]]:
    """What the developer says, the first request, and the message that answers it."""
    developer: list[str] = []
    for i, message in enumerate(messages):
        role = want(message, "role", str)
        if role in ("developer", "system"):
            developer.append(_text(message))
        elif role == "user":
            if i + 1 == len(messages) or want(messages[i + 1], "role", str) not in ("assistant", "model"):
                raise RowError("corrupt row", "no assistant message follows the request")
            return "\n".join(developer), _text(message).strip(), messages[i + 1]
        else:
            raise RowError("corrupt row", f"a message of the role {role!r} comes before the request")
    raise RowError("corrupt row", "there is no request")


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(want(part, "text", str) for part in content)
    return want(message, "content", str)


def _call(data: Any) -> Call:
    function = data.get("function", data) if isinstance(data, dict) else data
    given = function.get("arguments", {}) if isinstance(function, dict) else {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            raise RowError("corrupt row", f"the arguments of a call are not JSON ({error.msg})") from None
    if not isinstance(given, dict):
        raise RowError("corrupt row", f"the arguments of a call are {type_name(given)}, not an object")
    # Libraries that load rows into columns fill a call's missing arguments with null.
    return Call(want(function, "name", str), {name: value for name, value in given.items() if value is not None})


def _put(text: str, found: re.Match[str], group: int, words: str, *, through: int | None = None) -> str:
    """`text` with `words` in the place of a group (of all from it through another) of what was found in it."""
    return text[: found.start(group)] + words + text[found.end(through or group) :]


def _toolset(tools: list[Any], instruction: str, shown: tuple[str, ...], toolsets: dict[str, Toolset]) -> Toolset:
    text = json.dumps([tools, instruction], sort_keys=True)
    name = f"mobile_actions-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if name not in toolsets:
        try:
            built = from_openai(_without_null(tools), name=name, max_calls=MAX_CALLS, source="tools")
        except ToolsetError as error:
            raise RowError("tools that cannot be read", str(error)) from None
        toolsets[name] = replace(built, instruction=instruction, shown=shown)
    return toolsets[name]


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


IMPORTER: Final = Importer(
    "mobile_actions",
    "Mobile Actions, or any JSON lines of tools and messages",
    "CC-BY-4.0 (google/mobile-actions)",
    "huggingface.co/datasets/google/mobile-actions (dataset.jsonl)",
    files,
    read,
    toolset=False,
    held_out="rows marked `eval`",
)
