"""Several sequences in one pass compute what sessions of their own compute, on every runtime that offers it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint
from export.pipeline import export_one
from router.toolset import Toolset
from runtimes import open_model
from runtimes.artifact import Artifact
from runtimes.base import Batches, Rows
from runtimes.errors import SessionError

PREFIX = list(range(40, 140))


RUNTIMES = {
    "llama_cpp": ("gguf", "f32"),
    "torch": ("safetensors", "fp32"),
    "onnxruntime": ("onnx", "fp32"),
    "mlx": ("mlx", "fp32"),
}


@pytest.fixture(scope="module", params=RUNTIMES)
def artifact(
    request: pytest.FixtureRequest, tiny: Checkpoint, kiwi: Toolset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    pytest.importorskip(request.param)
    return export_one(tiny, *RUNTIMES[request.param], tmp_path_factory.mktemp("batch"), kiwi)


@pytest.fixture
def model(artifact: Artifact) -> Iterator[Any]:
    found = open_model(artifact, device="cpu", threads=1)
    yield found
    found.close()


def tokens(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(20, 500) for _ in range(count)]


def test_lanes_compute_what_sessions_do(model: Any) -> None:
    """Appends of different lengths, some lanes resting, rewinds; past the sliding window."""
    assert isinstance(model, Batches)
    chance = random.Random(1)
    batch = model.batch(3, PREFIX)
    sessions = [model.session() for _ in range(3)]
    for session in sessions:
        session.append(PREFIX)
    for turn in range(12):
        lanes = chance.sample(range(3), chance.randint(1, 3))
        parts = {lane: tokens(chance, chance.choice([1, 2, 5, 17])) for lane in lanes}
        asked: dict[int, Rows] = {}
        for lane, part in parts.items():
            asked[lane] = chance.choice(["last", "all", [0], sorted({0, len(part) - 1})])
        found = batch.append([(lane, parts[lane], asked[lane]) for lane in lanes])
        for lane, logits in zip(lanes, found, strict=True):
            want = sessions[lane].append(parts[lane], rows=asked[lane])
            assert logits.shape == want.shape
            np.testing.assert_allclose(logits, want, atol=5e-3)
            assert batch.position(lane) == sessions[lane].position
        if turn % 3 == 2:
            lane = chance.randrange(3)
            target = chance.randint(len(PREFIX) - 10, batch.position(lane))
            batch.rewind(lane, target)
            sessions[lane].rewind(target)
    assert batch.lanes == 3


def test_a_failed_append_changes_nothing(model: Any) -> None:
    batch = model.batch(2, PREFIX)
    before = batch.append([(1, [5], "last")])[0].copy()
    batch.rewind(1, len(PREFIX))
    size = model.vocab_size
    for wrong in (
        [(0, [], "last")],
        [(0, [size], "last")],
        [(0, [5], "last"), (1, [-1], "last")],
        [(0, [5], "last"), (0, [6], "last")],
        [(0, [5] * (model.context_length - len(PREFIX) + 1), "last")],
        [(0, [5, 6], [2])],
    ):
        with pytest.raises(SessionError) as raised:
            batch.append(wrong)  # type: ignore[arg-type]
        assert "\n" not in str(raised.value)
        assert [batch.position(lane) for lane in (0, 1)] == [len(PREFIX)] * 2
    np.testing.assert_allclose(batch.append([(1, [5], "last")])[0], before, atol=1e-4)


def test_lanes_that_fill_a_shared_context_are_told(model: Any) -> None:
    """llama.cpp's lanes share one context; the others' have one each."""
    batch = model.batch(4, PREFIX)
    each = (model.context_length - len(PREFIX)) // 2
    part = [7] * each
    shares = type(batch).__name__ == "LlamaBatch"
    with pytest.raises(SessionError, match="fewer lanes") if shares else nullcontext():
        for lane in range(4):
            batch.append([(lane, part, "last")])
    assert batch.position(0) == len(PREFIX) + each
    batch.rewind(0, len(PREFIX))
    batch.append([(0, part[:5], "last")])


def test_a_lane_may_leave_the_prefix(model: Any) -> None:
    batch, session = model.batch(2, PREFIX), model.session()
    session.append(PREFIX[:30])
    batch.rewind(1, 30)
    want = session.append([9, 8, 7], rows="all")
    np.testing.assert_allclose(batch.append([(1, [9, 8, 7], "all"), (0, [5], "last")])[0], want, atol=5e-3)
    assert [batch.position(lane) for lane in (0, 1)] == [len(PREFIX) + 1, 33]


def test_after_close(model: Any) -> None:
    batch, other = model.batch(2, PREFIX), model.batch(1, [])
    batch.close()
    with pytest.raises(SessionError, match="closed"):
        batch.append([(0, [5], "last")])
    assert other.append([(0, [5], "last")])[0].shape == (model.vocab_size,)
    model.close()
    with pytest.raises(SessionError, match="closed"):
        other.rewind(0, 0)
    with pytest.raises(SessionError, match="closed"):
        model.batch(1, [])


@pytest.mark.parametrize("lanes", [0, -1])
def test_a_number_of_lanes_that_cannot_be(model: Any, lanes: int) -> None:
    with pytest.raises(SessionError, match="lanes"):
        model.batch(lanes, PREFIX)
