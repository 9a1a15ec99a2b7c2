"""The scripted peer that needs a thing of its own made first (`tests.bench.scripted_peer`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.peer import Opening, Peer
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from tests.bench.scripted_peer import Parrot, availability

__all__ = ["availability", "open_peer", "prepare"]


def prepare(source: Artifact, folder: Path, progress: Callable[[str], None]) -> None:
    progress("building a nest")
    if os.environ.get("NO_TWIGS"):
        raise UserError("no twigs for the nest; bring some")
    folder.mkdir(exist_ok=True)
    (folder / "nest").write_text(source.name)


def open_peer(opening: Opening) -> Peer:
    assert opening.prepared is not None and (opening.prepared / "nest").read_text() == opening.artifact.name
    return Parrot(opening)
