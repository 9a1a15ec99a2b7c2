"""Toolsets whose strings may be anything: what a GBNF grammar, or a test of free strings, can speak of."""

from __future__ import annotations

import dataclasses

from router.toolset import Schema, Toolset


def unbound(toolset: Toolset) -> Toolset:
    """`toolset` without strings that must be copied from the request."""

    def schema(node: Schema) -> Schema:
        return dataclasses.replace(
            node,
            copy=None,
            also=(),
            items=schema(node.items) if node.items else None,
            properties={key: schema(child) for key, child in node.properties.items()},
        )

    tools = tuple(dataclasses.replace(tool, parameters=schema(tool.parameters)) for tool in toolset.tools)
    return dataclasses.replace(toolset, tools=tools)
