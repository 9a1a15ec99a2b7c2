"""A Modelfile for Ollama beside the GGUF: the toolset's prompt as its template, the stops, greedy decoding.

Written from Ollama's documentation of the Modelfile and of Go templates; Ollama itself is not needed here.
"""

from __future__ import annotations

from router.toolset import Toolset
from router.wire import WireFormat, render_prefix, render_suffix

CONTEXT = 4096
"""Ollama's ``num_ctx``: room for the declarations, a request and its calls."""
MAX_NEW_TOKENS = 256


def modelfile(weights: str, toolset: Toolset, wire: WireFormat, *, context: int) -> str:
    """The Modelfile for `weights`, a file beside it: ``ollama create NAME -f Modelfile``.

    The template wraps a request in exactly the prompt that the router renders for `toolset` (``<bos>`` included: the
    GGUF says that none is to be added). A client with prompts of its own sends them with ``"raw": true``.
    """
    system = toolset.instruction.strip() if toolset.placed else ""
    head, _, tail = render_prefix(toolset, wire).partition(system) if system else ("", "", render_prefix(toolset, wire))
    prefix = _literal(head) + "{{ .System }}" * bool(system) + _literal(tail)
    template = prefix + "{{ .Prompt }}" + _literal(render_suffix(wire))
    example = ", ".join(f"{key}: ..." for key in toolset.shown if key not in toolset.placed)
    lines = [
        f"# Toolset {toolset.name}: a request goes in as it is typed, calls come out; the stop is cut off.",
        *([f"# It begins with a line of context: {example}"] if example else []),
        *(["# Send the instruction as the system message, with values for what stands in braces."] if system else []),
        f"FROM ./{weights}",
        f'TEMPLATE """{template}"""',
        *([f'SYSTEM """{system}"""'] if system and '"""' not in system else []),
        *(f'PARAMETER stop "{stop}"' for stop in wire.stops),
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {min(context, CONTEXT)}",
        f"PARAMETER num_predict {MAX_NEW_TOKENS}",
    ]
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    """`text` so that a Go template prints it and a Modelfile's triple quotes do not end in it."""
    text = text.replace("{{", '{{ "{{" }}')
    return text.replace('"""', '{{ "\\"\\"\\"" }}')
