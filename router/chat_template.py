"""The wire format as a Jinja chat template, for everything that speaks Hugging Face's: GGUF metadata, mlx-lm, TRL.

It renders byte for byte what `router.render` does, from ``messages`` (roles developer or system, user, assistant with
``tool_calls``, tool) and ``tools`` (OpenAI's form; `template_tools` makes it from a toolset). Two things it cannot
do: keep a control token in a request as text (it raises instead), and tell what a tool's string holds.
"""

from __future__ import annotations

from typing import Any, Final

from router.toolset import DEFAULT_INSTRUCTION, Schema, Toolset
from router.wire_format import FUNCTIONGEMMA, WireFormat

# `s['items']` falls back to the mapping's method in Jinja, hence "'items' in s". A turn's newline is written before
# the next turn, so that a finished conversation ends with the end of its last turn.
_TEMPLATE: Final = r"""
{%- macro plain(text) -%}
    {%- for token in [@RESERVED@] -%}
        {%- if token in text -%}{{- raise_exception('the text contains the control token ' ~ token) -}}{%- endif -%}
    {%- endfor -%}
    {{- text -}}
{%- endmacro -%}
{%- macro quote(text) -%}{{- '@ESCAPE@' ~ plain(text) ~ '@ESCAPE@' -}}{%- endmacro -%}
{%- macro bare(key) -%}
    {%- if key | trim != key or key == '' -%}
        {{- raise_exception('a key is empty or begins or ends with a space') -}}
    {%- endif -%}
    {%- for sign in [':', '{', '}', '[', ']', ','] -%}
        {%- if sign in key -%}{{- raise_exception('a key contains ' ~ sign) -}}{%- endif -%}
    {%- endfor -%}
    {{- plain(key) -}}
{%- endmacro -%}
{%- macro json(value) -%}
    {%- if value is none -%}{{- 'null' -}}
    {%- elif value is boolean -%}{{- 'true' if value else 'false' -}}
    {%- elif value is string -%}{{- quote(value) -}}
    {%- elif value is number -%}{{- value | tojson -}}
    {%- elif value is mapping -%}
        {{- '{' -}}
        {%- for key, item in value | dictsort -%}
            {{- bare(key) ~ ':' ~ json(item) -}}
            {%- if not loop.last -%}{{- ',' -}}{%- endif -%}
        {%- endfor -%}
        {{- '}' -}}
    {%- else -%}
        {{- '[' -}}
        {%- for item in value -%}
            {{- json(item) -}}
            {%- if not loop.last -%}{{- ',' -}}{%- endif -%}
        {%- endfor -%}
        {{- ']' -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro kind(schema) -%}
    {%- if 'type' not in schema -%}{{- raise_exception('a parameter has no type') -}}{%- endif -%}
    {%- if schema['type'] is string -%}{{- schema['type'] | upper -}}
    {%- else -%}{{- schema['type'] | reject('equalto', 'null') | first | upper -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro fields(schema) -%}
    {%- if schema['properties'] -%}
        {{- 'properties:{' -}}
        {%- for key, item in schema['properties'] | dictsort -%}
            {{- bare(key) ~ ':' ~ declared(item) -}}
            {%- if not loop.last -%}{{- ',' -}}{%- endif -%}
        {%- endfor -%}
        {{- '},' -}}
    {%- endif -%}
    {%- if schema['required'] -%}
        {{- 'required:[' -}}
        {%- for key in schema['required'] -%}
            {{- quote(key) -}}
            {%- if not loop.last -%}{{- ',' -}}{%- endif -%}
        {%- endfor -%}
        {{- '],' -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro declared(schema) -%}
    {%- set type = kind(schema) -%}
    {{- '{' -}}
    {%- if schema['description'] -%}{{- 'description:' ~ quote(schema['description']) ~ ',' -}}{%- endif -%}
    {%- if type == 'STRING' and schema['enum'] -%}{{- 'enum:' ~ json(schema['enum']) ~ ',' -}}{%- endif -%}
    {%- if type == 'OBJECT' -%}{{- fields(schema) -}}{%- endif -%}
    {%- if type == 'ARRAY' and 'items' in schema and schema['items'] -%}
        {{- 'items:' ~ declared(schema['items']) ~ ',' -}}
    {%- endif -%}
    {{- 'type:' ~ quote(type) ~ '}' -}}
{%- endmacro -%}
{%- macro declaration(tool) -%}
    {{- '@START_DECLARATION@declaration:' ~ bare(tool['name']) ~ '{description:' -}}
    {{- quote(tool['description'] or '') ~ ',parameters:{' -}}
    {%- if tool['parameters'] -%}{{- fields(tool['parameters']) -}}{%- endif -%}
    {{- 'type:' ~ quote('OBJECT') ~ '}}@END_DECLARATION@' -}}
{%- endmacro -%}
{%- macro words(content) -%}
    {%- if content is string -%}{{- plain(content | trim) -}}
    {%- elif content is not none -%}
        {%- for part in content -%}{{- plain(part['text'] | trim) -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro response(name, value) -%}
    {%- if value is not mapping -%}{%- set value = {'value': value} -%}{%- endif -%}
    {{- 'response:' ~ bare(name) ~ json(value) ~ '@END_RESPONSE@' -}}
{%- endmacro -%}
{{- bos_token -}}
{%- set state = namespace(at='start', calls=[]) -%}
{%- set first = messages[0]['role'] if messages else '' -%}
{%- set led = first == 'developer' or first == 'system' -%}
{%- if led or tools -%}
    {{- '@START_TURN@@DEVELOPER@\n' -}}
    {{- words(messages[0]['content']) if led else '@INSTRUCTION@' -}}
    {%- for tool in tools or [] -%}{{- declaration(tool['function'] or tool) -}}{%- endfor -%}
    {{- '@END_TURN@' -}}
    {%- set state.at = 'turn' -%}
{%- endif -%}
{%- for message in messages -%}
    {%- set role = message['role'] -%}
    {%- if loop.first and led -%}
    {%- elif role == 'tool' -%}
        {%- if state.at != 'calls' and state.at != 'responses' -%}
            {{- raise_exception('a tool message must follow the call that it answers') -}}
        {%- endif -%}
        {%- if message['name'] -%}
            {{- '@START_RESPONSE@' ~ response(message['name'], message['content']) -}}
        {%- elif message['content'] is mapping and 'response' in message['content'] -%}
            {{- '@START_RESPONSE@' ~ response(message['content']['name'], message['content']['response']) -}}
        {%- elif message['tool_call_id'] -%}
            {%- set found = namespace(name='') -%}
            {%- for call in state.calls -%}
                {%- if call['id'] == message['tool_call_id'] -%}
                    {%- set found.name = (call['function'] or call)['name'] -%}
                {%- endif -%}
            {%- endfor -%}
            {%- if not found.name -%}
                {{- raise_exception('a tool message answers a call that was not made') -}}
            {%- endif -%}
            {{- '@START_RESPONSE@' ~ response(found.name, message['content']) -}}
        {%- elif message['content'] is sequence and message['content'] is not string -%}
            {%- for part in message['content'] -%}
                {{- '@START_RESPONSE@' ~ response(part['name'], part['response']) -}}
            {%- endfor -%}
        {%- else -%}
            {{- raise_exception('a tool message needs the name of its tool or the id of its call') -}}
        {%- endif -%}
        {%- set state.at = 'responses' -%}
    {%- elif role == 'assistant' or role == 'model' -%}
        {%- if state.at == 'calls' -%}
            {{- raise_exception('an assistant message follows calls that nothing answered') -}}
        {%- endif -%}
        {%- if state.at == 'turn' -%}{{- '\n' -}}{%- endif -%}
        {%- if state.at != 'responses' -%}{{- '@START_TURN@@MODEL@\n' -}}{%- endif -%}
        {%- set said = words(message['content']) -%}
        {%- if message['tool_calls'] -%}
            {%- if said -%}{{- raise_exception('an assistant message has both text and tool calls') -}}{%- endif -%}
            {%- for call in message['tool_calls'] -%}
                {%- set made = call['function'] or call -%}
                {%- if made['arguments'] is not mapping -%}
                    {{- raise_exception('the arguments of a tool call must be an object, not JSON text') -}}
                {%- endif -%}
                {{- '@START_CALL@call:' ~ bare(made['name']) ~ json(made['arguments']) ~ '@END_CALL@' -}}
            {%- endfor -%}
            {%- set state.calls = message['tool_calls'] -%}
            {%- set state.at = 'calls' -%}
        {%- else -%}
            {{- said ~ '@END_TURN@' -}}
            {%- set state.at = 'turn' -%}
        {%- endif -%}
    {%- elif role == 'user' -%}
        {%- if state.at == 'calls' or state.at == 'responses' -%}{{- '@END_TURN@' -}}{%- endif -%}
        {%- if state.at != 'start' -%}{{- '\n' -}}{%- endif -%}
        {{- '@START_TURN@@USER@\n' ~ words(message['content']) ~ '@END_TURN@' -}}
        {%- set state.at = 'turn' -%}
    {%- else -%}
        {{- raise_exception('unknown role ' ~ role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if state.at == 'calls' -%}
    {{- '@START_RESPONSE@' -}}
{%- elif add_generation_prompt and state.at != 'responses' -%}
    {{- ('\n' if state.at == 'turn' else '') ~ '@START_TURN@@MODEL@\n' -}}
{%- endif -%}
"""


def chat_template(wire: WireFormat = FUNCTIONGEMMA) -> str:
    """The template in the spellings of `wire`."""
    text = _TEMPLATE.strip() + "\n"
    for field in (
        "escape", "start_turn", "end_turn", "start_declaration", "end_declaration", "start_call", "end_call",
        "start_response", "end_response", "developer", "user", "model",
    ):  # fmt: skip
        text = text.replace(f"@{field.upper()}@", getattr(wire, field))
    text = text.replace("@RESERVED@", ", ".join(f"'{token}'" for token in wire.reserved))
    return text.replace("@INSTRUCTION@", DEFAULT_INSTRUCTION)


CHAT_TEMPLATE: Final = chat_template()


def template_tools(toolset: Toolset) -> list[dict[str, Any]]:
    """The toolset as the template's ``tools``: OpenAI's form, with what is declared to the model and nothing else."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": {
                    "type": "object",
                    "properties": {name: _declared(schema) for name, schema in tool.visible.items()},
                    "required": list(tool.required),
                },
            },
        }
        for tool in toolset
    ]


def _declared(schema: Schema) -> dict[str, Any]:
    out: dict[str, Any] = {"type": schema.type}
    if schema.description:
        out["description"] = schema.description
    if schema.type == "string" and schema.enum:
        out["enum"] = list(schema.enum)
    if schema.type == "object":
        out["properties"] = {name: _declared(item) for name, item in schema.properties.items()}
        out["required"] = list(schema.required)
    if schema.items is not None:
        out["items"] = _declared(schema.items)
    return out
