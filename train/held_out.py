"""Rows that are withheld from a base's training, so that what chooses its checkpoint was neither trained on nor is what
benchmarks are measured on.

Of a corpus whose tools belong to services (Schema-Guided Dialogue) one service in `SERVICES` is withheld with all its
requests, so that validation asks for declarations that were never seen; of the others one request in `ROWS`, and of
plain text one document in `ROWS`. Which ones, a hash (CRC-32) of the service's name or of the text says. What is
withheld from blocks may still occur in the dialogues of a text stage.
"""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from train.data.corpus import Corpus
from train.data.leakage import normalised
from train.data.texts import Texts

HELD_OUT: Final = "held_out"
DEVELOPMENT: Final = "development"
VALIDATION: Final = (HELD_OUT, DEVELOPMENT)
"""What a stage's `validation` may be."""
ROWS: Final = 20
SERVICES: Final = 10


def withhold(corpus: Corpus) -> tuple[Corpus, Corpus]:
    """The training side of a corpus, and what is withheld from it. Both keep upstream's order."""
    services = {_service(name) for name in corpus.tools} - {""}
    if len(services) > 1:
        chosen = _slice(services, SERVICES)
        return _of_services(corpus, services - chosen), _of_services(corpus, chosen)
    held = _slice({normalised(request.text) for request in corpus.requests}, ROWS)
    train, rest = ([r for r in corpus.requests if (normalised(r.text) in held) == side] for side in (False, True))
    return dataclasses.replace(corpus, requests=train), dataclasses.replace(corpus, requests=rest)


def withhold_texts(texts: Texts) -> tuple[Texts, Texts]:
    """The same for documents of plain text."""
    sides = copy.copy(texts), copy.copy(texts)
    chosen = {kind: _slice(set(found), ROWS) for kind, found in texts.documents.items()}
    for held, side in enumerate(sides):
        side.documents = {
            kind: [text for text in found if (text in chosen[kind]) == bool(held)]
            for kind, found in texts.documents.items()
        }
    return sides


def _slice(names: Iterable[str], share: int) -> frozenset[str]:
    """One in `share` of `names`, at least one: those with the smallest hashes."""
    ranked = sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))
    return frozenset(ranked[: max(1, len(ranked) // share)])


def _service(tool: str) -> str:
    """`find_events.events_2` -> `events_2`; nothing for the tools of other corpora."""
    return tool.partition(".")[2]


def _of_services(corpus: Corpus, services: AbstractSet[str]) -> Corpus:
    tools, *renames = (
        {name: tool for name, tool in found.items() if _service(name) in services}
        for found in (corpus.tools, *corpus.renames)
    )
    requests, partial = (
        [request for request in found if request.tool is not None and _service(request.tool) in services]
        for found in (corpus.requests, corpus.partial)
    )
    return dataclasses.replace(corpus, tools=tools, requests=requests, renames=renames, partial=partial)
