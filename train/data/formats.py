"""Cases as the rows that other trainers and APIs read, one JSON object a line.

===========  ==================  ==================================================================================
target       style               row
===========  ==================  ==================================================================================
unsloth      messages            ``messages`` and ``tools``, for ``apply_chat_template(messages, tools=tools)``
             conversations       the same under the column name that ``standardize_data_formats`` expects
             text                ``text``: prompt and completion, rendered
axolotl      messages            ``messages`` and ``tools`` for ``type: chat_template``
trl          messages            ``messages`` and ``tools`` (language modeling)
             prompt-completion   ``prompt``, ``completion`` and ``tools``: loss on the completion alone
openai       messages            ``messages``, ``tools``, ``parallel_tool_calls``: supervised fine-tuning of chat models
anthropic    messages            ``messages`` with ``tool_use`` blocks, ``tools`` with ``input_schema``
===========  ==================  ==================================================================================

Sources of the formats:

- Unsloth: the FunctionGemma notebooks of github.com/unslothai/notebooks (``FunctionGemma_(270M)-Mobile-Actions``).
- Axolotl: docs.axolotl.ai/docs/dataset-formats/conversation.html and ``prompt_strategies/chat_template.py``. It decodes
  ``arguments`` and ``parameters`` given as JSON text; its page recommends that, because `datasets` otherwise gives all
  rows the keys of all others.
- TRL: huggingface.co/docs/trl/dataset_formats, "Tool Calling", and `SFTTrainer` of trl 0.29. Older `datasets` (before
  they had a JSON type) fill missing arguments with null: read the file line by line there.
- OpenAI: FineTuneChatRequestInput of the API reference; platform.openai.com/docs/guides/function-calling.
- Anthropic: platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools.

Arguments that the router fills in (bound parameters) and further right answers (``accept``) do not appear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from router.cases import Case, CaseError, case_from_dict
from router.chat_template import template_tools
from router.toolset import DEFAULT_INSTRUCTION, Call, Tool, Toolset, schema_to_dict
from router.validate import schema_errors
from router.wire import FUNCTIONGEMMA, WireError, placed, render_completion, render_prompt, user_turn
from runtimes.errors import UserError
from train.data.importers.files import replacing

STYLES: Final[dict[str, tuple[str, ...]]] = {
    "unsloth": ("messages", "conversations", "text"),
    "axolotl": ("messages",),
    "trl": ("messages", "prompt-completion"),
    "openai": ("messages",),
    "anthropic": ("messages",),
}
"""Target -> its styles, the default first."""
NO_CALL_TEXT: Final = "None of the tools can do this."
"""What the assistant says where no call is right and the API does not take silence (OpenAI, Anthropic)."""
Words = Callable[[Case, Toolset], str]
"""What the user's turn says for a case."""

_API_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OWN: Final = ("copy", "also", "bind", "case_insensitive")


def export(
    cases: Iterable[tuple[str, Case]],
    toolset_of: Callable[[str], Toolset],
    to: str,
    out: Path,
    *,
    style: str | None = None,
    words: Words = lambda case, toolset: user_turn(toolset, case.user, case.context),
) -> int:
    """Write the cases (with their places) for a target; returns the number of rows.

    `toolset_of` gives a case's toolset by its id, `words` the user's turn. Raises `UserError` with the place of a case
    whose calls its toolset does not allow; then `out` is as it was.
    """
    style = style or STYLES[to][0]
    if style not in STYLES[to]:
        raise UserError(f"--style {style}: {to} has {', '.join(STYLES[to])}")
    tools: dict[str, list[dict[str, Any]]] = {}
    rows = 0
    with replacing(out) as file:
        for place, case in cases:
            toolset = toolset_of(case.id)
            check_case(place, case, toolset)
            if toolset.name not in tools:
                tools[toolset.name] = tool_schemas(toolset, to)
            try:
                shown = placed(toolset, case.context)
                row = _ROWS[to, style](case, shown, tools[toolset.name], words(case, toolset).strip())
            except WireError as error:
                raise UserError(f"{place}: {case.id}: {error}; leave the case out, or use another style") from None
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            rows += 1
        if not rows:
            raise UserError("there are no cases to export; nothing is written")
    return rows


def tool_schemas(toolset: Toolset, to: str) -> list[dict[str, Any]]:
    """The tools in the form of a target: for trainers what is declared to the model, for APIs the whole JSON Schema."""
    if to not in ("openai", "anthropic"):
        tools = template_tools(toolset)
        if to == "axolotl":
            for tool in tools:
                tool["function"]["parameters"] = json.dumps(tool["function"]["parameters"], ensure_ascii=False)
        return tools
    names = api_names(toolset)
    schema = "parameters" if to == "openai" else "input_schema"
    found = [{"name": names[t.name], "description": t.description, schema: _json_schema(t)} for t in toolset]
    return [{"type": "function", "function": tool} for tool in found] if to == "openai" else found


def api_names(toolset: Toolset) -> dict[str, str]:
    """Tool name -> its name for OpenAI and Anthropic, which allow no dots. Raises `UserError` where that fails."""
    names = {tool.name: tool.name.replace(".", "_") for tool in toolset}
    for name, changed in names.items():
        if not _API_NAME.fullmatch(changed):
            raise UserError(
                f"toolset {toolset.name}: {name!r} is too long a name for this API; it allows 64 characters"
            )
        if sum(other == changed for other in names.values()) > 1:
            raise UserError(
                f"toolset {toolset.name}: {name!r} and another tool are both {changed!r} without dots; rename one"
            )
    return names


def axolotl_config(path: Path) -> dict[str, Any]:
    """What an Axolotl configuration for FunctionGemma needs besides: calls end in the response token, not in eos."""
    dataset = {"path": str(path), "ds_type": "json", "type": "chat_template", "roles_to_train": ["assistant"]}
    return {"datasets": [dataset], "eot_tokens": [FUNCTIONGEMMA.end_turn, FUNCTIONGEMMA.start_response]}


def stream_cases(path: Path) -> Iterator[tuple[str, Case]]:
    """Place and case of every line, one at a time. Raises `CaseError` with the line that is wrong."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = f"{path}:{number}"
                    try:
                        data = json.loads(line)
                    except json.JSONDecodeError as error:
                        raise CaseError(f"{place}: not JSON: {error.msg} (column {error.colno})") from None
                    except RecursionError:
                        raise CaseError(f"{place}: not JSON: nested too deep") from None
                    yield place, case_from_dict(data, place)
    except FileNotFoundError:
        raise CaseError(f"{path}: no such case file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: cannot be read ({error})") from None


def check_case(place: str, case: Case, toolset: Toolset) -> None:
    """Raises `UserError` with the `place` of a case whose calls the toolset does not allow, one of them or so many."""
    if len(case.calls) > toolset.max_calls:
        more = f"{len(case.calls)} calls, where toolset {toolset.name} allows {toolset.max_calls} (its max_calls)"
        raise UserError(f"{place}: {case.id}: {more}; mend the case, or the toolset")
    for call in case.calls:
        errors = schema_errors(call, toolset)
        if errors:
            raise UserError(f"{place}: {case.id}: a call breaks toolset {toolset.name}: {errors[0]}; mend the case")


def _given(call: Call, toolset: Toolset) -> dict[str, Any]:
    """A call's arguments without those that the router fills in."""
    tool = toolset.tool(call.name)
    bound = tool.bound if tool else {}
    return {name: value for name, value in call.arguments.items() if name not in bound}


def _prompt(toolset: Toolset, user: str, role: str = "developer") -> list[dict[str, Any]]:
    return [{"role": role, "content": toolset.instruction.strip()}, {"role": "user", "content": user}]


def _answer(case: Case, toolset: Toolset) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": c.name, "arguments": _given(c, toolset)}} for c in case.calls]
    return {"role": "assistant", "content": "", **({"tool_calls": calls} if calls else {})}


def _messages(case: Case, toolset: Toolset, tools: list[dict[str, Any]], user: str) -> dict[str, Any]:
    return {"messages": [*_prompt(toolset, user), _answer(case, toolset)], "tools": tools}


def _conversations(case: Case, toolset: Toolset, tools: list[dict[str, Any]], user: str) -> dict[str, Any]:
    return {"conversations": _messages(case, toolset, tools, user)["messages"], "tools": tools}


def _prompt_completion(case: Case, toolset: Toolset, tools: list[dict[str, Any]], user: str) -> dict[str, Any]:
    return {"prompt": _prompt(toolset, user), "completion": [_answer(case, toolset)], "tools": tools}


def _text(case: Case, toolset: Toolset, tools: list[dict[str, Any]], user: str) -> dict[str, Any]:
    calls = [Call(call.name, _given(call, toolset)) for call in case.calls]
    return {"text": render_prompt(toolset, user) + render_completion(calls)}


def _axolotl(case: Case, toolset: Toolset, tools: list[dict[str, Any]], user: str) -> dict[str, Any]:
    answer = _answer(case, toolset)
    for call in answer.get("tool_calls", []):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {"messages": [*_prompt(toolset, user, "system"), answer], "tools": tools}


def _openai(case: Case, toolset: Toolset, tools: list[dict[str, Any]], user: str) -> dict[str, Any]:
    names = api_names(toolset)
    messages: list[dict[str, Any]] = _prompt(toolset, user, "system")[_own_instruction(toolset) :]
    calls = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {
                "name": names[call.name],
                "arguments": json.dumps(_given(call, toolset), ensure_ascii=False),
            },
        }
        for number, call in enumerate(case.calls, start=1)
    ]
    answer = {"tool_calls": calls} if calls else {"content": NO_CALL_TEXT}
    return {
        "messages": [*messages, {"role": "assistant", **answer}],
        "tools": tools,
        "parallel_tool_calls": toolset.max_calls > 1,
    }


def _anthropic(case: Case, toolset: Toolset, tools: list[dict[str, Any]], user: str) -> dict[str, Any]:
    names = api_names(toolset)
    blocks: list[dict[str, Any]] = [
        {"type": "tool_use", "id": f"toolu_{number}", "name": names[call.name], "input": _given(call, toolset)}
        for number, call in enumerate(case.calls, start=1)
    ]
    system = {} if _own_instruction(toolset) else {"system": toolset.instruction.strip()}
    return {
        **system,
        "messages": [
            {"role": "user", "content": user},
            {"role": "assistant", "content": blocks or [{"type": "text", "text": NO_CALL_TEXT}]},
        ],
        "tools": tools,
    }


def _own_instruction(toolset: Toolset) -> int:
    """1 where the instruction is FunctionGemma's own sentence, which says nothing to another model."""
    return int(toolset.instruction.strip() == DEFAULT_INSTRUCTION)


def _json_schema(tool: Tool) -> dict[str, Any]:
    schema = _plain(schema_to_dict(tool.parameters))
    schema["properties"] = {name: s for name, s in schema["properties"].items() if name not in tool.bound}
    schema["required"] = list(tool.required)
    return schema


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without edgecall's own keywords."""
    out = {key: value for key, value in schema.items() if key not in _OWN}
    if "properties" in out:
        out["properties"] = {name: _plain(inner) for name, inner in out["properties"].items()}
    if "items" in out:
        out["items"] = _plain(out["items"])
    return out


_ROWS: Final[dict[tuple[str, str], Callable[[Case, Toolset, list[dict[str, Any]], str], dict[str, Any]]]] = {
    ("unsloth", "messages"): _messages,
    ("unsloth", "conversations"): _conversations,
    ("unsloth", "text"): _text,
    ("axolotl", "messages"): _axolotl,
    ("trl", "messages"): _messages,
    ("trl", "prompt-completion"): _prompt_completion,
    ("openai", "messages"): _openai,
    ("anthropic", "messages"): _anthropic,
}
