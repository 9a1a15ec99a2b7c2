"""Buffers that stay and passes that are captured: tested on the CPU, where a traced graph stands in for a CUDA graph.

It is as rigid as one: tensors are taken by where they lie, and whatever else a pass read is as it was when captured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from runtimes import torch as torch_runtime
from runtimes import torch_static
from runtimes.base import Logits, Pass
from runtimes.torch_static import Capture, StaticCache
from tests.exports import Maker

torch = pytest.importorskip("torch")

TOLERANCE = 2e-4
"""Logits of the same network, summed in another order."""


class Recorder:
    """Captures by computing again, and counts."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.replays = 0

    def __call__(self, compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        again = self.captured(compute)
        out = torch.zeros_like(again())
        self.widths.append(len(out))

        def replay() -> None:
            self.replays += 1
            out.copy_(again())

        return replay, out

    def captured(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        return compute


class Tracer(Recorder):
    """Captures the operations alone; takes seconds."""

    def captured(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        from torch.fx.experimental.proxy_tensor import make_fx

        return make_fx(compute)()


Opened = Callable[[Capture | None], torch_runtime.TorchModel]


@pytest.fixture
def opened(exported: Maker, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """The tiny model with static caches that are captured as told."""

    def make(capture: Capture | None) -> torch_runtime.TorchModel:
        monkeypatch.setattr(torch_runtime.TorchModel, "cache", lambda model: StaticCache(model, capture))
        return torch_runtime.open_model(exported("safetensors", "fp32"), device="cpu", threads=1)

    return make


def tokens(count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 700, count)]


def plain(exported: Maker, ids: list[int]) -> Logits:
    model = torch_runtime.open_model(exported("safetensors", "fp32"), device="cpu", threads=1)
    return model.session().append(ids, rows="all")


def test_what_is_captured_depends_on_its_tensors_alone(exported: Maker, opened: Opened) -> None:
    """Each is replayed behind other tokens, past the sliding window of 64 and over other ids than it was made with."""
    ids = tokens(300)
    wanted = plain(exported, ids)
    capture = Tracer()
    session = opened(capture).session()
    session.append(ids[:100])
    for begin, count in ((100, 3), (103, 4), (107, 1), (40, 3), (43, 1), (44, 4)):
        session.rewind(min(begin, session.position))
        if session.position < begin:
            session.append(ids[session.position : begin])
        assert np.abs(session.append(ids[begin : begin + count], rows="all") - wanted[begin : begin + count]).max() < (
            TOLERANCE
        )
    assert capture.widths == [4, 1] and capture.replays == 6


def test_any_split_any_rewind_and_two_sessions_at_once(exported: Maker, opened: Opened) -> None:
    ids = tokens(300)
    wanted = plain(exported, ids)
    capture = Recorder()
    model = opened(capture)
    sessions = [model.session(), model.session()]
    rng = np.random.default_rng(1)
    for session in sessions:
        session.append(ids[:150])
    for step in range(24):
        session = sessions[step % 2]
        session.rewind(int(rng.integers(100, session.position + 1)))
        begin = session.position
        end = begin + int(rng.integers(1, 20))
        rows = session.append(ids[begin:end], rows="all")
        assert np.abs(rows - wanted[begin:end]).max() < TOLERANCE
    assert capture.replays == 24


def test_one_graph_for_each_power_of_two(exported: Maker, opened: Opened) -> None:
    ids = tokens(400)
    wanted = plain(exported, ids)
    capture = Recorder()
    session = opened(capture).session()
    for count in (1, 2, 3, 4, 5, 1, 33, 64, 65, 7, 2):
        begin = session.position
        assert np.abs(session.append(ids[begin : begin + count]) - wanted[begin + count - 1]).max() < TOLERANCE
    assert capture.widths == [1, 2, 4, 8, 64]
    assert capture.replays == 10, "the pass of 65 is not captured"


def test_growing_keeps_what_is_cached_and_captures_anew(
    exported: Maker, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_static, "_LEAST", 32)
    ids = tokens(150)
    wanted = plain(exported, ids)
    capture = Recorder()
    session = opened(capture).session()
    for begin in range(0, len(ids), 10):
        rows = session.append(ids[begin : begin + 10], rows="all")
        assert np.abs(rows - wanted[begin : begin + 10]).max() < TOLERANCE
    assert capture.widths == [16] * 4, "room for 32, 64, 128 and 256 tokens"


def test_a_snapshot_goes_into_buffers_that_stay(exported: Maker, opened: Opened) -> None:
    """Also of a session whose buffers grow; what was captured over them goes on to hold."""
    ids = tokens(150)
    growing = torch_runtime.open_model(exported("safetensors", "fp32"), device="cpu", threads=1).session()
    wanted = growing.append(ids, rows="all")
    growing.rewind(120)
    capture = Recorder()
    session = opened(capture).session()
    session.append(tokens(4, seed=2))
    session.restore(growing.snapshot())
    assert session.position == 120
    assert np.abs(session.append(ids[120:124], rows="all") - wanted[120:124]).max() < TOLERANCE
    assert (capture.widths, capture.replays) == ([4], 2)
    growing.restore(session.snapshot())
    assert np.abs(growing.append(ids[124:], rows="all") - wanted[124:]).max() < TOLERANCE


def test_the_end_of_the_context_can_be_filled(exported: Maker, opened: Opened) -> None:
    """Rounding up goes past it, where nothing is read."""
    model = opened(Recorder())
    ids = tokens(model.context_length)
    session = model.session()
    session.append(ids[:-3])
    found = session.append(ids[-3:])
    assert np.abs(found - plain(exported, ids)[-1]).max() < TOLERANCE


def test_without_graphs_it_computes_the_same_and_rounds_nothing_up(exported: Maker, opened: Opened) -> None:
    ids = tokens(90)
    session = opened(None).session()
    session.append(ids[:80])
    assert np.abs(session.append(ids[80:], rows="all") - plain(exported, ids)[80:]).max() < TOLERANCE


def test_where_capturing_fails_it_goes_on_without_and_says_so(exported: Maker, opened: Opened) -> None:
    asked: list[int] = []

    def broken(compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        asked.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nsome more lines")

    ids = tokens(90)
    wanted = plain(exported, ids)
    session = opened(broken).session()
    with pytest.warns(UserWarning, match=r"not CUDA graphs here.*\(operation not permitted when stream is capturing\)"):
        first = session.append(ids[:3])
    assert np.abs(first - wanted[2]).max() < TOLERANCE
    assert np.abs(session.append(ids[3:], rows="all") - wanted[3:]).max() < TOLERANCE
    assert asked == [1]


def test_the_bare_loop_replays_them_too(exported: Maker, opened: Opened) -> None:
    capture = Recorder()
    opened(capture)
    ids = tokens(70)
    passes = [Pass(50, ids[50:53]), Pass(53, ids[53:60]), Pass(60, ids[60:61])]
    loop = torch_runtime.bare_loop(
        exported("safetensors", "fp32"), device="cpu", threads=1, prefix=ids[:50], passes=passes
    )
    loop()
    loop()
    assert capture.widths == [64, 4, 8, 1] and capture.replays == 7


def test_other_devices_keep_caches_that_grow(exported: Maker) -> None:
    model = torch_runtime.open_model(exported("safetensors", "fp32"), device="cpu", threads=1)
    assert not isinstance(model.cache(), StaticCache)


@pytest.mark.gpu
@pytest.mark.parametrize("quant", ["fp32", "bf16"])
def test_on_cuda_the_graphs_are_real(exported: Maker, quant: str) -> None:
    state = torch_runtime.availability().devices["cuda"]
    if not state.available:
        pytest.skip(f"cuda: {state.detail}")
    model = torch_runtime.open_model(exported("safetensors", quant), device="cuda", threads=1)
    ids = tokens(120)
    captured, eager = model.session(), model.session()
    eager._cache = StaticCache(model, None)
    for session in (captured, eager):
        session.append(ids[:80])
    for begin, count in ((80, 1), (81, 3), (84, 4), (88, 1), (89, 30)):
        rows = [session.append(ids[begin : begin + count], rows="all").copy() for session in (captured, eager)]
        assert np.abs(rows[0] - rows[1]).max() <= (1e-3 if quant == "fp32" else 0.5)
    assert isinstance(captured._cache, StaticCache) and sorted(captured._cache._graphs) == [1, 4, 32]
