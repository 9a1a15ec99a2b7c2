"""The tools of an MCP server, started as a command (stdio) or reached at an address (streamable HTTP).

Speaks through the official SDK (``mcp``, 2.0 or newer): https://modelcontextprotocol.io. Only ``tools/list`` is asked
for; no tool is called.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

from router.explain import ToolsetError
from router.toolset import Toolset
from train.data.tools.assembling import Wish, from_list
from train.data.tools.losses import Lost

if TYPE_CHECKING:
    from mcp import Client

TIMEOUT_S: Final = 60.0
"""For each answer of the server; the first one waits for it to start, which may mean a download."""
MAX_PAGES: Final = 1000


@dataclass(frozen=True)
class Server:
    """An MCP server: a command and its arguments, or an address."""

    target: str
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    """Variables that the command gets besides PATH, HOME and the like (the SDK withholds the rest)."""
    bearer: str | None = None
    """The variable that holds the token for an address that wants one."""
    timeout_s: float = TIMEOUT_S


def server_of(source: str, environment: Sequence[str] = (), bearer: str | None = None) -> Server:
    """The server that ``mcp:stdio:COMMAND ...`` or an address names. Raises `ToolsetError`."""
    for name in (*environment, *([bearer] if bearer else ())):
        if name not in os.environ:
            raise ToolsetError(f"{source}: the environment has no {name}; set it")
    if not source.startswith("mcp:stdio:"):
        return Server(source.removeprefix("mcp:"), bearer=bearer)
    try:
        command = shlex.split(source.removeprefix("mcp:stdio:"))
    except ValueError as error:
        raise ToolsetError(f"{source}: cannot be split into words ({error}); mind the quotes") from None
    if not command:
        raise ToolsetError(f"{source}: names no command; write mcp:stdio:COMMAND ARGUMENTS")
    return Server(source, tuple(command), tuple(environment))


def from_mcp(server: Server, *, wish: Wish, lost: Lost) -> Toolset:
    """The tools that a server offers. Raises `ToolsetError` where it cannot be started, reached or understood."""
    import mcp  # noqa: F401  # first, so that a missing package is told as such

    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            name, tools = asyncio.run(_listing(server, errors))
        except ToolsetError:
            raise
        except Exception as error:  # whatever the SDK, its transports and their groups of tasks raise
            raise ToolsetError(f"{server.target}: {_reason(error)}{_last_words(errors)}") from error
    return from_list(tools, server.target, wish=wish, lost=lost, name=name or "mcp")


async def _listing(server: Server, errors: TextIO) -> tuple[str, list[dict[str, Any]]]:
    """The server's name, and every page of its tools."""
    from mcp import Client, StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    async with AsyncExitStack() as stack:
        transport: Any
        if server.command:
            given = {name: os.environ[name] for name in server.environment}
            command, *arguments = server.command
            transport = stdio_client(StdioServerParameters(command=command, args=arguments, env=given), errlog=errors)
        else:
            headers = {"Authorization": f"Bearer {os.environ[server.bearer]}"} if server.bearer else None
            http = await stack.enter_async_context(create_mcp_http_client(headers))
            transport = streamable_http_client(server.target, http_client=http)
        client = Client(transport, read_timeout_seconds=server.timeout_s)
        await stack.enter_async_context(client)
        name = client.server_info.name if client.server_info else ""
        return name, await _pages(client, server)


async def _pages(client: Client, server: Server) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = []
    cursor: str | None = None
    seen: set[str] = set()
    while True:
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            described = tool.description or tool.title
            tools.append({"name": tool.name, "description": described, "inputSchema": tool.input_schema})
        cursor = page.next_cursor
        if cursor is None:
            return tools
        if cursor in seen or len(seen) > MAX_PAGES:
            raise ToolsetError(f"{server.target}: the server's list of tools does not end; report it to its authors")
        seen.add(cursor)


def _reason(error: BaseException) -> str:
    """The first cause within groups of errors, as one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError | PermissionError):
        return f"the command cannot be started ({error.strerror}: {error.filename})"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"the server did not list its tools ({type(error).__name__}: {text})"


def _last_words(errors: TextIO) -> str:
    """What a command wrote last before it failed."""
    errors.flush()
    errors.seek(0)
    lines = [line.strip() for line in errors.read()[-4000:].splitlines() if line.strip()]
    return f"; its last words: {lines[-1][:300]}" if lines else ""
