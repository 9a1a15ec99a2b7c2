from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench.scripted import REGISTRATIONS


@pytest.fixture(autouse=True, scope="package")
def scripted_runtime() -> Iterator[None]:
    """The scripted runtime is known while the bench's tests run, and to no other test."""
    for registry, name, target in REGISTRATIONS:
        registry[name] = target
    yield
    for registry, name, _ in REGISTRATIONS:
        del registry[name]
