"""A recipe's blocks made by the workers of a Ray cluster, and handed back in order.

Workers get this project's code and the recipe from here, so they need Ray, numpy and PyYAML alone. Public corpora are
read here: their files lie on this machine.
"""

from __future__ import annotations

import os
import re
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from runtimes.console import need
from runtimes.errors import UserError
from train.data.blocks import Block, Row, Source, make_block, split_blocks
from train.data.recipe import Recipe, Split

LOCAL: Final = "local"
"""Ray's own word for a cluster of this machine, started for one program and ended with it."""
PER_CPU: Final = 2
"""Blocks on their way per CPU of the cluster: one that is made, one that waits."""
SECONDS: Final = 20.0
"""For an answer from a cluster's address."""
_ADDRESS: Final = re.compile(r"auto|local|(ray://)?(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}")
_ROOMS: Final = ("router", "runtimes", "train")
"""Packages that making a row imports."""


@contextmanager
def made_on_ray(recipe: Recipe, address: str = LOCAL) -> Iterator[Source]:
    """The source of a recipe's blocks on the cluster at `address`: ``auto``, host:port, ``ray://host:port`` or `LOCAL`.

    The connection (and a local cluster) ends with the block. Raises `UserError` where Ray is not installed, the
    cluster cannot be joined, or a block could not be made.
    """
    if not _ADDRESS.fullmatch(address):
        raise UserError(f"--ray {address}: is no address; there are auto, host:port and ray://host:port")
    need("ray")
    import ray

    _join(ray, address)
    try:
        yield _source(ray, recipe)
    finally:
        ray.shutdown()


def _join(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless somebody wants it
    root = Path(__file__).resolve().parents[2]
    environment = {"py_modules": [str(root / room) for room in _ROOMS], "excludes": ["__pycache__"]}
    options = {"include_dashboard": False} if address == LOCAL else {}
    try:
        _knock(address)
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level="error", **options)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, its own and gRPC's
        where = "a local Ray cluster cannot be started" if address == LOCAL else f"no Ray cluster at {address}"
        raise UserError(f"--ray: {where} ({_reason(error)}); nothing written") from error


def _knock(address: str) -> None:
    """Raise `OSError` where nobody listens at an address with a port: Ray itself tries for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()


def _source(ray: Any, recipe: Recipe) -> Source:
    remote = ray.remote(make_block)
    shared = ray.put(recipe)
    waiting: deque[tuple[Block, Any]] = deque()

    def result() -> list[Row]:
        block, reference = waiting.popleft()
        try:
            rows: list[Row] = ray.get(reference)
        except (ray.exceptions.RayError, ConnectionError) as error:
            if isinstance(fault := getattr(error, "cause", None), UserError):  # the recipe's, not the cluster's
                raise fault from None
            rest = f"rows {block.start} to {block.stop - 1} of {block.split} could not be made ({_reason(error)})"
            raise UserError(f"--ray: {rest}; nothing written") from error
        return rows

    def source(split: Split) -> Iterator[list[Row]]:
        # Asked anew for every split, since machines come and go.
        room = PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        for block in split_blocks(recipe, split):
            if len(waiting) >= room:
                yield result()
            waiting.append((block, remote.remote(shared, block)))
        while waiting:
            yield result()

    return source


def _reason(error: BaseException) -> str:
    """A failure in a few words: of a task's, what it raised."""
    cause = getattr(error, "cause", None) or error
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return " ".join(f"{type(cause).__name__}: {first}".split())[:300]
