"""Taking tools from where people have them: an MCP server, an OpenAPI document, tool lists in JSON, Python functions.

`tools_from` tells the kind of source apart. What a source says and a toolset cannot carry is dropped or put
differently, and each such loss is told, by name (`losses.KINDS`).
"""

from __future__ import annotations

import urllib.parse
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.explain import ToolsetError
from router.toolset import Toolset
from router.toolset_load import load_toolset
from train.data.tools.assembling import Wish, from_list, toolset_name
from train.data.tools.documents import read_document
from train.data.tools.losses import KINDS, Loss, Lost
from train.data.tools.yaml_out import dump_yaml, write_yaml

__all__ = ["KINDS", "Loss", "LossWarning", "Wish", "dump_yaml", "tools_from", "write_yaml"]

FORMS = "mcp:stdio:COMMAND, https://HOST/mcp, an OpenAPI file or address, a .json or .yaml file, module:f,g or file.py"


class LossWarning(UserWarning):
    """A `Loss` that nobody asked to be told of."""


def _warn(loss: Loss) -> None:
    warnings.warn(str(loss), LossWarning, stacklevel=3)


def tools_from(
    source: str,
    *,
    wish: Wish | None = None,
    lost: Lost = _warn,
    environment: Sequence[str] = (),
    bearer: str | None = None,
) -> Toolset:
    """The toolset of a source. Raises `ToolsetError`.

    - ``mcp:stdio:COMMAND ARGUMENTS``: an MCP server that is started; `environment` names variables that it gets
    - ``https://HOST/mcp``, ``mcp:https://...``: an MCP server by streamable HTTP; `bearer` names its token's variable
    - ``https://...``, ``openapi:SOURCE``: an OpenAPI document
    - a ``.json`` or ``.yaml`` file: OpenAPI, a list of tools (OpenAI's, Anthropic's or MCP's form), or a toolset
    - ``module:f,g``, ``file.py:f,g``, ``file.py``: Python functions; the module is imported

    `lost` is told of every `Loss`; without it they are warnings (`LossWarning`).
    """
    wish = wish or Wish()
    if source.startswith("openapi:"):
        from train.data.tools.openapi import from_openapi

        return from_openapi(source.removeprefix("openapi:"), wish=wish, lost=lost)
    scheme, path = urllib.parse.urlsplit(source)[0], urllib.parse.urlsplit(source).path
    if source.startswith("mcp:") or (scheme in ("http", "https") and path.rstrip("/").endswith("/mcp")):
        from train.data.tools.mcp import from_mcp, server_of

        return from_mcp(server_of(source, environment, bearer), wish=wish, lost=lost)
    if scheme in ("http", "https") or source.endswith((".json", ".yaml", ".yml")):
        return _document(source, wish, lost)
    if source.endswith(".py") or ":" in source:
        from train.data.tools.functions import from_python

        return from_python(source, wish=wish)
    raise ToolsetError(f"{source}: is no source of tools; there are {FORMS}")


def _document(uri: str, wish: Wish, lost: Lost) -> Toolset:
    data = read_document(uri)
    if isinstance(data, dict) and isinstance(data.get("result"), dict):  # an answer to tools/list as it was sent
        data = data["result"]
    tools = data.get("tools") if isinstance(data, dict) else data
    if isinstance(data, dict) and ("openapi" in data or "swagger" in data):
        from train.data.tools.openapi import from_openapi

        return from_openapi(uri, wish=wish, lost=lost, data=data)
    if not isinstance(tools, list):
        raise ToolsetError(f"{uri}: is neither OpenAPI nor a list of tools nor a toolset; there are {FORMS}")
    if isinstance(data, dict) and "name" in data and not _foreign(tools):
        return _own(uri, wish)
    return from_list(tools, uri, wish=wish, lost=lost, name=toolset_name(Path(urllib.parse.urlsplit(uri).path).stem))


def _foreign(tools: list[Any]) -> bool:
    """Whether a list of tools is written as others write it."""
    keys = {key for tool in tools if isinstance(tool, dict) for key in tool}
    return bool(keys & {"function", "inputSchema", "input_schema", "type"})


def _own(path: str, wish: Wish) -> Toolset:
    """A toolset file: what is wished of it, and nothing is lost."""
    from train.data.tools.assembling import chosen

    if not Path(path).is_file():
        raise ToolsetError(f"{path}: toolsets are read from files; download it")
    toolset = load_toolset(path)
    names = chosen([tool.name for tool in toolset], wish, path)
    kept = tuple(tool for tool in toolset if tool.name in names)
    if not kept:
        raise ToolsetError(f"{path}: no tool is left; a toolset needs at least one")
    calls = wish.max_calls if wish.max_calls != 1 else toolset.max_calls
    return replace(toolset, tools=kept, name=wish.name or toolset.name, max_calls=calls)
