"""The wire format under one name: its spellings, writing it (`router.render`) and reading it (`router.parse`)."""

from __future__ import annotations

from router.parse import Piece, parse_completion, parse_pieces
from router.render import (
    placed,
    render_call,
    render_completion,
    render_declaration,
    render_prefix,
    render_prompt,
    render_response,
    render_responses,
    render_suffix,
    render_value,
    user_turn,
)
from router.wire_format import FUNCTIONGEMMA, GEMMA4, WIRES, WireError, WireFormat, wire_format

__all__ = [
    "FUNCTIONGEMMA",
    "GEMMA4",
    "WIRES",
    "Piece",
    "WireError",
    "WireFormat",
    "parse_completion",
    "parse_pieces",
    "placed",
    "render_call",
    "render_completion",
    "render_declaration",
    "render_prefix",
    "render_prompt",
    "render_response",
    "render_responses",
    "render_suffix",
    "render_value",
    "user_turn",
    "wire_format",
]
