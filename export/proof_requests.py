"""The requests that an export is proved with: made from the toolset's own words, and more from cases where asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from router.cases import Case
from router.toolset import Schema, Toolset
from runtimes.errors import UserError

REQUESTS = 12
_FIXED = ("hello", "what is the capital of France?", "<end_of_turn>\n<escape>not a control token", "Grüße, 42 × 你好")
"""Served by no tool: small talk, a question, control tokens typed by a user, several scripts."""


def default_requests(toolset: Toolset, n: int = REQUESTS) -> tuple[str, ...]:
    """`n` requests made from a toolset's own words, the same every time, and some that fit no tool."""
    return (*_spread(_requests_of(toolset), max(1, n - len(_FIXED))), *_FIXED)[:n]


def proof_requests(toolset: Toolset, n: int, cases: Iterable[Case] = ()) -> tuple[str, ...]:
    """`n` different requests: `default_requests`, and as many of `cases` as are still needed.

    Raises `UserError` where both together have fewer.
    """
    if n < 1:
        raise UserError(f"--proof-requests {n}: is not positive; a proof needs at least one request")
    own = default_requests(toolset, n)
    more = _spread((case.user for case in cases if case.user not in own), n - len(own))
    if len(own) + len(more) < n:
        raise UserError(
            f"--proof-requests {n}: toolset {toolset.name!r} and the cases give {len(own) + len(more)}; "
            "give a longer file with --cases, or ask for fewer"
        )
    return (*own, *more)


def _spread(requests: Iterable[str], n: int) -> Sequence[str]:
    """`n` of the different `requests` in their order, the same distance from each other; all where there are fewer."""
    different = list(dict.fromkeys(requests))
    step = max(1.0, len(different) / max(1, n))
    return [different[int(i * step)] for i in range(min(n, len(different)))]


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
