from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.peer import PEERS
from tests.bench.scripted import REGISTRATIONS
from tests.bench.scripted_peer import KINDS


@pytest.fixture(autouse=True, scope="package")
def scripted_runtime() -> Iterator[None]:
    """The scripted runtime and peers are known while the bench's tests run, and to no other test."""
    for registry, name, target in REGISTRATIONS:
        registry[name] = target
    PEERS.update(KINDS)
    yield
    for registry, name, _ in REGISTRATIONS:
        del registry[name]
    for name in KINDS:
        del PEERS[name]
