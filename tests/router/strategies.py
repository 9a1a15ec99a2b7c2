"""What hypothesis draws for the wire format: hard strings, JSON values, calls, toolsets."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

from router.toolset import Call, Schema, Tool, Toolset
from router.wire_format import WIRES, key_problem

_UNWRITABLE = re.compile("\0|" + "|".join(re.escape(t) for wire in WIRES.values() for t in wire.reserved))
RESERVED = sorted({token for wire in WIRES.values() for token in wire.reserved})
FRAGMENTS = [
    "<", ">", "{", "}", "[", "]", ",", ":", "<escape", "escape>", '<|"|', '|"|>', "<start_of_turn", "call:", "null",
    " ", "\n", "\t", "ä", "😀", "true", "1", "-", ".", "<|", "|>", "_turn>", "tool_call", "'", '"', "\\",
]  # fmt: skip


def writable(text: str) -> bool:
    """Whether a string can be written in every wire format."""
    return not _UNWRITABLE.search(text)


texts = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)).filter(writable)
words = texts.map(str.strip)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,8}", fullmatch=True)
keys = st.one_of(names, texts.filter(lambda key: not key_problem(key)))
numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**300), 10**300))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=5)
calls = st.builds(Call, names, objects)
call_lists = st.lists(calls, max_size=4)

_described = {"description": st.one_of(st.none(), words)}
_strings = st.builds(
    Schema,
    st.just("string"),
    **_described,
    enum=st.one_of(st.none(), st.lists(texts, min_size=1, max_size=3).map(tuple)),
)
_plain = st.builds(Schema, st.sampled_from(["integer", "number", "boolean"]), **_described)


def _objects(inner: st.SearchStrategy[Schema], *, described: bool) -> st.SearchStrategy[Schema]:
    @st.composite
    def draw_object(draw: st.DrawFn) -> Schema:
        properties = draw(st.dictionaries(names, inner, max_size=4))
        required = tuple(name for name in properties if draw(st.booleans()))
        description = draw(_described["description"]) if described else None
        return Schema("object", description, properties=properties, required=required)

    return draw_object()


schemas: st.SearchStrategy[Schema] = st.recursive(
    st.one_of(_strings, _plain, st.builds(Schema, st.just("array"))),
    lambda inner: st.one_of(
        st.builds(Schema, st.just("array"), items=inner, **_described), _objects(inner, described=True)
    ),
    max_leaves=6,
)
tools = st.builds(Tool, names, texts, _objects(schemas, described=False))
toolsets = st.builds(Toolset, names, st.lists(tools, min_size=1, max_size=3).map(tuple), instruction=words)
