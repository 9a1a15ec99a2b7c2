"""What a cache holds behind a prompt's prefix, kept as bytes: in memory for prompts that take turns, in files for the
next process, which then answers its first request without reading hundreds of tokens.

A file is a line of JSON (what it belongs to, length and SHA-256 of what follows) and a session's snapshot. One that
does not fit or is damaged is as good as none. Files lie in a folder of the artifact, so that they go with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from runtimes import runtime
from runtimes.artifact import Artifact
from runtimes.base import Model, Session, Snapshots
from runtimes.errors import SessionError

FOLDER: Final = "prefixes"
"""In an artifact's folder."""
MEMORY_BYTES: Final = 64 << 20
DISK_BYTES: Final = 256 << 20
"""What all prefixes together may take; the ones that were not used for longest go."""

_SCHEMA: Final = "edgecall.prefix/1"


class PrefixMemory:
    """Snapshots by the tokens they stand for, the latest used last, of a bounded size together."""

    def __init__(self, limit: int = MEMORY_BYTES) -> None:
        self.limit = limit
        self._kept: OrderedDict[tuple[int, ...], bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, tokens: Sequence[int], session: Session) -> None:
        """Remember the cache of `session`, which holds `tokens`, if it can tell it and it is not too large."""
        key = tuple(tokens)
        if key in self._kept or not isinstance(session, Snapshots):
            return
        data = session.snapshot()
        if len(data) > self.limit:
            return
        self._kept[key] = data
        self._bytes += len(data)
        while self._bytes > self.limit:
            self._bytes -= len(self._kept.popitem(last=False)[1])

    def restore(self, tokens: Sequence[int], session: Session) -> bool:
        """Put the cache behind `tokens` into `session`; whether it was there. Otherwise the session is as it was, or
        empty."""
        data = self._kept.get(tuple(tokens))
        if data is None or not isinstance(session, Snapshots):
            return False
        self._kept.move_to_end(tuple(tokens))
        try:
            session.restore(data)
        except SessionError:
            return False
        return True


class PrefixFiles:
    """Snapshots in files beside an artifact, for this model of it alone: its runtime, version, device and settings."""

    def __init__(self, artifact: Artifact, model: Model, runtime_name: str, limit: int = DISK_BYTES) -> None:
        self.folder = artifact.folder / FOLDER
        self.limit = limit
        self._artifact, self._model, self._runtime = artifact, model, runtime_name

    @cached_property
    def _belongs(self) -> dict[str, Any]:
        model = self._model
        return {
            "artifact": self._artifact.sha256, "runtime": self._runtime,
            "version": runtime(self._runtime).availability().version, "device": model.device, "dtype": model.dtype,
            "context_length": model.context_length,
        }  # fmt: skip

    def restore(self, tokens: Sequence[int], session: Session) -> bool:
        """Put the cache behind `tokens` into `session`; whether it was there. Otherwise the session is as it was, or
        empty."""
        if not isinstance(session, Snapshots):
            return False
        path = self._path(tokens)
        try:
            head, _, data = path.read_bytes().partition(b"\n")
            if json.loads(head) != self._head(data):
                return False
        except (OSError, ValueError):
            return False
        try:
            session.restore(data)
        except SessionError:
            session.rewind(0)
            return False
        if session.position != len(tokens):
            session.rewind(0)
            return False
        with suppress(OSError):
            os.utime(path)
        return True

    def keep(self, tokens: Sequence[int], session: Session) -> None:
        """Write the cache of `session`, which holds `tokens`. Where nothing can be written nothing is kept."""
        if not isinstance(session, Snapshots):
            return
        data = session.snapshot()
        if len(data) > self.limit:
            return
        path = self._path(tokens)
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with suppress(OSError):
            try:
                self.folder.mkdir(exist_ok=True)
                scratch.write_bytes(json.dumps(self._head(data)).encode() + b"\n" + data)
                scratch.replace(path)
                self._make_room(path)
            finally:
                scratch.unlink(missing_ok=True)

    def _path(self, tokens: Sequence[int]) -> Path:
        named = json.dumps([self._belongs, list(tokens)], sort_keys=True)
        return self.folder / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.kv"

    def _head(self, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        return {"schema": _SCHEMA, "belongs": self._belongs, "bytes": len(data), "sha256": digest}

    def _make_room(self, newest: Path) -> None:
        found = sorted(self.folder.glob("*.kv"), key=lambda p: (p != newest, -p.stat().st_mtime))
        total = 0
        for path in found:
            total += path.stat().st_size
            if total > self.limit:
                path.unlink(missing_ok=True)
