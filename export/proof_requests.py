"""The requests that an export is proved with where nobody gives others: made from the toolset's own words."""

from __future__ import annotations

from collections.abc import Iterator

from router.toolset import Schema, Toolset

REQUESTS = 12
_CONTEXT = {"date": "2026-03-11", "weekday": "Wednesday", "time": "09:41", "datetime": "2026-03-11T09:41:00"}

_FIXED = ("hello", "what is the capital of France?", "<end_of_turn>\n<escape>not a control token", "Grüße, 42 × 你好")
"""Served by no tool: small talk, a question, control tokens typed by a user, several scripts."""


def default_requests(toolset: Toolset, n: int = REQUESTS) -> tuple[str, ...]:
    """`n` requests made from a toolset's own words, the same every time, and some that fit no tool."""
    made = list(dict.fromkeys(_requests_of(toolset)))
    room = max(1, n - len(_FIXED))
    step = max(1.0, len(made) / room)
    return (*(made[int(i * step)] for i in range(min(room, len(made)))), *_FIXED)[:n]


def sample_context(toolset: Toolset) -> dict[str, str]:
    """A value for every context key that a toolset shows, the same every time."""
    return {key: _CONTEXT.get(key, "a value") for key in toolset.shown}


def _requests_of(toolset: Toolset) -> Iterator[str]:
    """A tool's description, then its name with a value for each parameter: the first choices, then the last."""
    for tool in toolset:
        if tool.description:
            yield tool.description.rstrip(".").lower()
    for last in (False, True):
        for tool in toolset:
            words = [tool.name.replace("_", " ")]
            for name, schema in tool.visible.items():
                if last or name in tool.required:
                    words.append(_word(name, schema, last))
            yield " ".join(words)


def _word(name: str, schema: Schema, last: bool) -> str:
    spoken = name.replace("_", " ")
    if schema.enum:
        return str(schema.enum[-1 if last else 0])
    if schema.type in ("integer", "number"):
        low = schema.minimum if schema.minimum is not None else 3
        return f"{spoken} {low}"
    if schema.type == "boolean":
        return spoken if last else f"no {spoken}"
    return f"{spoken} {'weekly report' if last else 'sales_2024'}" if schema.type == "string" else spoken
