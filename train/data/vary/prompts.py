"""What a language model is asked, and how its answers are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from router.cases import Case
from router.toolset import Call, Tool, Toolset, schema_to_dict
from train.data.vary.clients import Question
from train.data.vary.values import Said

VARY: Final = """\
You write requests that people type or say to an assistant with the tools below. You are given one request and the \
tool calls that answer it, and write other requests that must be answered by exactly the same calls.

- Vary how it is said: wording, order, length, politeness, directness, questions and commands, small slips as in chats.
- Ask for the same thing. Add no detail and drop none; what the calls do not say must not be said.
- Copy the values listed under "keep" letter by letter.
- Where there are no calls, no tool may fit your requests either.
- Write in the language of the request.

Answer with JSON alone: {"requests": ["...", "..."]}"""
CHECK: Final = """\
You turn a request into calls of the tools below. Take arguments from the request; leave out what it does not say. If \
no tool fits, there are no calls.

Answer with JSON alone: {"calls": [{"name": "...", "arguments": {...}}]}"""


def vary_question(
    case: Case,
    toolset: Toolset,
    said: Said,
    count: int,
    *,
    known: Sequence[str],
    remarks: Sequence[str],
    hint: str = "",
    max_tokens: int,
    temperature: float | None = None,
) -> Question:
    """Ask for `count` more requests beside those `known`; `remarks` say what was wrong with earlier answers."""
    body: dict[str, Any] = {
        "request": case.user,
        "calls": [{"name": c.name, "arguments": _visible(c, toolset)} for c in case.calls],
        "keep": list(dict.fromkeys(forms[0] for _, forms in said.forms)),
        "write": count,
    }
    if known:
        body["already written"] = list(known)
    if remarks:
        body["not good enough"] = list(remarks)
    system = "\n\n".join(part for part in (VARY, hint, _tools(toolset)) if part)
    return Question(system, json.dumps(body, ensure_ascii=False, indent=1), max_tokens, temperature)


def check_question(text: str, toolset: Toolset, *, max_tokens: int) -> Question:
    """Ask for the calls of one request. It stands alone, so that no other request gives its answer away."""
    return Question(f"{CHECK}\n\n{_tools(toolset)}", text, max_tokens)


def read_requests(answer: str) -> list[str]:
    """The requests of an answer. Raises `ValueError` for what is no answer."""
    data = _json(answer)
    listed = data.get("requests") if isinstance(data, dict) else data
    if not isinstance(listed, list):
        raise ValueError("no list of requests")
    requests = [" ".join(text.split()) for text in listed if isinstance(text, str)]
    if not requests:
        raise ValueError("an empty list")
    return requests


def read_calls(answer: str) -> list[Call]:
    """The calls of an answer. Raises `ValueError` for what is no answer."""
    data = _json(answer)
    listed = data.get("calls") if isinstance(data, dict) else data
    if not isinstance(listed, list):
        raise ValueError("no list of calls")
    calls = []
    for entry in listed:
        arguments = entry.get("arguments", {}) if isinstance(entry, dict) else None
        if not isinstance(arguments, dict) or not isinstance(entry.get("name"), str):
            raise ValueError("a call that is none")
        calls.append(Call(entry["name"], {k: v for k, v in arguments.items() if v is not None}))
    return calls


def _json(answer: str) -> Any:
    """The first JSON object or list of an answer, whatever stands around it (fences, a sentence)."""
    decoder = json.JSONDecoder()
    for at, sign in enumerate(answer):
        if sign in "{[":
            try:
                return decoder.raw_decode(answer, at)[0]
            except RecursionError:
                break
            except ValueError:
                continue
    raise ValueError("no JSON")


def _tools(toolset: Toolset) -> str:
    return "Tools:\n" + "\n".join(json.dumps(_tool(tool), ensure_ascii=False) for tool in toolset)


def _tool(tool: Tool) -> dict[str, Any]:
    """A declaration without what the router fills in itself."""
    properties = {name: schema_to_dict(schema) for name, schema in tool.visible.items()}
    parameters = {"type": "object", "properties": properties, "required": list(tool.required)}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _visible(call: Call, toolset: Toolset) -> dict[str, Any]:
    tool = toolset.tool(call.name)
    bound = tool.bound if tool else {}
    return {name: value for name, value in call.arguments.items() if name not in bound}
