"""What makes a runtime a runtime: on a tiny random model it gives the logits of PyTorch fp32, however it is asked.

Every registered runtime is tested with the quantizations of its format (`tests.exports.variants`). The reference is
transformers' own forward pass over the whole sequence, without cache, in eager attention: nothing of this project is in
it. Sequences are longer than the sliding window (64) and than 600 tokens, below which a wrongly rewound window cache
may go unseen; after a rewind other tokens follow than before it, or stale keys would be the right ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import exporter
from export.base import Checkpoint, Quant
from runtimes import runtime
from runtimes.artifact import Artifact
from runtimes.base import Logits, Model, Pass, Session, Snapshots
from runtimes.errors import SessionError, UserError
from runtimes.shortlist import Shortlists
from tests.exports import Maker, variants
from tests.passes import consecutive

LENGTH = 720

MEAN_ERROR = {16: 0.15, 8: 0.2, 4: 2.2}
"""Mean |logit - reference| allowed to rounded weights. The logits' standard deviation is 2.9; on this model a window
off by one gives 0.24 (max 4), the wrong rope base on local layers 1.3, no window 2.7, rounding to 8 bits 0.06, to 4
bits 0.95 (a single row up to 1.8). What is as subtle as 4 bits is left to the 32-bit variant of the same runtime."""


@dataclass(frozen=True)
class Subject:
    """One artifact, opened, and what is asked of it."""

    module: Any
    artifact: Artifact
    model: Model
    spec: Quant
    reference: Path

    def check(self, got: Logits, tokens: list[int], start: int) -> None:
        """`got` is what the reference says behind `tokens`, from row `start` on (or for the last row alone)."""
        want = reference(self.reference, tuple(tokens))[start:]
        if got.ndim == 1:
            want = want[-1]
        assert got.dtype == np.float32
        assert got.shape == want.shape
        assert np.isfinite(got).all()
        error = np.abs(got - want)
        if self.spec.precision == 32:
            assert error.max() <= self.spec.logit_tolerance
        else:
            assert error.mean() <= MEAN_ERROR[self.spec.precision]


@pytest.fixture(scope="module", params=list(variants()), ids="-".join)
def subject(request: pytest.FixtureRequest, exported: Maker, tiny: Checkpoint) -> Iterator[Subject]:
    name, fmt, quant = request.param
    module = exporter(fmt)
    opener = runtime(name)
    state = opener.availability()
    if not state.available:
        pytest.skip(f"{name}: {state.reason}; {state.fix}")
    artifact = exported(fmt, quant)
    model = opener.open_model(artifact, device="cpu", threads=1)
    yield Subject(opener, artifact, model, module.QUANTS[quant], tiny.folder)
    model.close()


@cache
def reference(folder: Path, tokens: tuple[int, ...]) -> Logits:
    """Logits of every position, (len(tokens), vocab), by transformers in fp32 without cache."""
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():
        logits: Logits = _net(folder)(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    return logits


@cache
def _net(folder: Path) -> Any:
    import torch
    from transformers import Gemma3ForCausalLM

    return Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def once_if_rounded(subject: Subject, first: bool) -> None:
    """The code is the same for every quantization of a format: the rounded ones get the first seed only."""
    if not first and subject.spec.precision < 32:
        pytest.skip("further seeds are for the 32-bit variant")


def random_tokens(subject: Subject, n: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(subject.model.vocab_size), k=n)


def test_says_what_it_is(subject: Subject, tiny: Checkpoint) -> None:
    model = subject.model
    assert model.vocab_size == tiny.vocab_size
    assert model.context_length == tiny.context_length
    assert model.device == "cpu"
    assert model.dtype
    assert model.threads == 1


def test_one_pass(subject: Subject) -> None:
    tokens = random_tokens(subject, LENGTH, 1)
    session = subject.model.session()
    subject.check(session.append(tokens, rows="all"), tokens, 0)
    assert session.position == LENGTH


def test_one_by_one_past_the_window(subject: Subject) -> None:
    tokens = random_tokens(subject, 80, 2)
    session = subject.model.session()
    rows = [session.append([token]).copy() for token in tokens]
    subject.check(np.stack(rows), tokens, 0)


@pytest.mark.parametrize("seed", [3, 4])
def test_random_splits(subject: Subject, seed: int) -> None:
    once_if_rounded(subject, seed == 3)
    tokens, chance = random_tokens(subject, LENGTH, seed), random.Random(seed)
    session = subject.model.session()
    while session.position < LENGTH:
        start = session.position
        end = min(LENGTH, start + chance.choice([1, 1, 2, 7, 33, 64, 65, chance.randint(1, 600)]))
        rows = chance.choice(["last", "all"])
        subject.check(session.append(tokens[start:end], rows=rows), tokens[:end], start)
        assert session.position == end


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_random_rewinds(subject: Subject, seed: int) -> None:
    """Grow past 600 tokens, rewind anywhere (far behind the window too), go on with other tokens."""
    once_if_rounded(subject, seed == 5)
    chance = random.Random(seed)
    tokens = random_tokens(subject, LENGTH, seed)
    session = subject.model.session()
    session.append(tokens)
    for turn, target in enumerate([LENGTH - 1, 650, chance.randint(100, 600), chance.randint(0, 80), 0]):
        session.rewind(target)
        assert session.position == target
        tokens = tokens[:target] + random_tokens(subject, LENGTH - target, 100 * seed + turn)
        cuts = sorted({target, *(chance.randint(target, LENGTH) for _ in range(3)), min(LENGTH, target + 1), LENGTH})
        for start, end in zip(cuts, cuts[1:], strict=False):
            subject.check(session.append(tokens[start:end], rows="all"), tokens[:end], start)


def test_prefix_kept_over_many_requests(subject: Subject) -> None:
    """What a router does all day: the prefix stays, requests come and go, longer than the window and shorter."""
    prefix = random_tokens(subject, 300, 8)
    session = subject.model.session()
    session.append(prefix)
    for turn, n in enumerate([5, 120, 1, 70]):
        tokens = prefix + random_tokens(subject, n + 3, 80 + turn)
        session.append(tokens[len(prefix) : -3])
        subject.check(session.append(tokens[-3:], rows="all"), tokens, len(tokens) - 3)
        session.rewind(len(prefix))


def test_guess_and_take_back(subject: Subject) -> None:
    tokens = random_tokens(subject, 200, 9)
    session = subject.model.session()
    session.append(tokens)
    session.append(random_tokens(subject, 5, 10), rows="all")
    session.rewind(202)
    session.rewind(200)
    following = random_tokens(subject, 2, 11)
    subject.check(session.append(following), tokens + following, 200)


def test_two_sessions_interleaved(subject: Subject) -> None:
    texts = [random_tokens(subject, LENGTH, 12), random_tokens(subject, LENGTH, 13)]
    sessions: list[Session] = [subject.model.session(), subject.model.session()]
    for start, end in [(0, 300), (300, 301), (301, 700), (700, LENGTH)]:
        for tokens, session in zip(texts, sessions, strict=True):
            subject.check(session.append(tokens[start:end], rows="all"), tokens[:end], start)
    sessions[0].rewind(10)
    assert sessions[1].position == LENGTH
    following = random_tokens(subject, 3, 14)
    subject.check(sessions[1].append(following), texts[1] + following, LENGTH)
    subject.check(sessions[0].append(following), texts[0][:10] + following, 10)


def test_last_is_the_last_of_all(subject: Subject) -> None:
    tokens = random_tokens(subject, 130, 15)
    one, other = subject.model.session(), subject.model.session()
    last, rows = one.append(tokens, rows="last").copy(), other.append(tokens, rows="all")
    assert last.shape == (subject.model.vocab_size,)
    assert rows.shape == (130, subject.model.vocab_size)
    subject.check(last, tokens, 129)
    assert np.abs(last - rows[-1]).mean() <= (1e-3 if subject.spec.precision == 32 else 0.15)


@pytest.mark.parametrize("rows", [[0], [4], [0, 1, 2, 3, 4], [1, 3]])
def test_rows_by_their_offsets(subject: Subject, rows: list[int]) -> None:
    tokens = random_tokens(subject, 105, 20)
    one, other = subject.model.session(), subject.model.session()
    one.append(tokens[:100])
    other.append(tokens[:100])
    found, every = one.append(tokens[100:], rows=rows).copy(), other.append(tokens[100:], rows="all")
    assert found.shape == (len(rows), subject.model.vocab_size)
    assert one.position == 105
    assert np.abs(found - every[rows]).mean() <= (1e-3 if subject.spec.precision == 32 else 0.15)
    following = random_tokens(subject, 2, 21)
    subject.check(one.append(following, rows=[1])[-1], tokens + following, 106)


def test_logits_of_some_ids(subject: Subject) -> None:
    """What a runtime may offer besides: a few columns alone, in any pass, past the window and after rewinds."""
    if not isinstance(subject.model.session(), Shortlists):
        pytest.skip("this runtime computes whole rows")
    chance = random.Random(24)
    tokens = random_tokens(subject, 120, 24)
    one, other = subject.model.session(), subject.model.session()
    assert isinstance(one, Shortlists) and one.shortlist_limit == 0  # so small a matrix is not worth it
    asked: list[tuple[int, int, Any]] = [(0, 100, "last"), (100, 101, "last"), (70, 76, [0, 2]), (76, 79, "all")]
    for start, end, rows in asked:
        if one.position > start:
            one.rewind(start)
            other.rewind(start)
        ids = np.array(sorted(chance.sample(range(subject.model.vocab_size), chance.choice([1, 2, 17]))))
        few = one.append_shortlist(tokens[start:end], ids, rows=rows).copy()
        every = other.append(tokens[start:end], rows=rows)
        assert few.dtype == np.float32
        assert few.shape == every[..., ids].shape
        assert one.position == end
        assert np.abs(few - every[..., ids]).max() <= (1e-4 if subject.spec.precision == 32 else 0.15)
    following = random_tokens(subject, 2, 25)
    subject.check(one.append(following), tokens[:79] + following, 80)


@pytest.mark.parametrize("ids", [[], [-1], [3, 3], [4, 3], [0, 10**6], [[1, 2]]])
def test_ids_that_are_none(subject: Subject, ids: Any) -> None:
    session = subject.model.session()
    if not isinstance(session, Shortlists):
        pytest.skip("this runtime computes whole rows")
    session.append([5, 6])
    with pytest.raises(SessionError, match="ids below") as raised:
        session.append_shortlist([7], np.array(ids, dtype=np.int64))
    assert "\n" not in str(raised.value)
    assert session.position == 2


@pytest.mark.parametrize("rows", [[], [5], [-1], [1, 1], [2, 1], "first"])
def test_rows_that_a_pass_does_not_have(subject: Subject, rows: Any) -> None:
    session = subject.model.session()
    session.append(random_tokens(subject, 7, 22))
    with pytest.raises(SessionError, match="rows"):
        session.append(random_tokens(subject, 5, 23), rows=rows)
    assert session.position == 7


def test_a_snapshot_is_the_cache(subject: Subject) -> None:
    """What a runtime may offer besides, past the window; it does not keep what comes later."""
    tokens = random_tokens(subject, 130, 26)
    one, other = subject.model.session(), subject.model.session()
    if not isinstance(one, Snapshots) or not isinstance(other, Snapshots):
        pytest.skip("this runtime's caches cannot be kept")
    nothing = one.snapshot()
    one.append(tokens[:120])
    data = one.snapshot()
    one.append(tokens[120:])
    other.append(tokens[:7])
    other.restore(data)
    assert other.position == 120
    subject.check(other.append(tokens[120:], rows="all"), tokens, 120)
    other.rewind(90)
    subject.check(other.append([7]), [*tokens[:90], 7], 90)
    other.restore(nothing)
    assert other.position == 0
    subject.check(other.append(tokens[:3]), tokens[:3], 2)
    for wrong in (b"", b"none", data[: len(data) // 2]):
        with pytest.raises(SessionError, match="restore") as raised:
            other.restore(wrong)
        assert other.position == 0 and "\n" not in str(raised.value)
    subject.check(other.append(tokens[:3]), tokens[:3], 2)


def test_the_whole_context(subject: Subject) -> None:
    limit = subject.model.context_length
    tokens = random_tokens(subject, limit, 16)
    session = subject.model.session()
    session.append(tokens[:-1])
    subject.check(session.append(tokens[-1:]), tokens, limit - 1)
    with pytest.raises(SessionError, match="context"):
        session.append([5])
    assert session.position == limit


@pytest.mark.parametrize("rows", ["last", "all"])
def test_a_failed_append_changes_nothing(subject: Subject, rows: Any) -> None:
    tokens = random_tokens(subject, 100, 17)
    session = subject.model.session()
    session.append(tokens)
    wrong: list[list[int]] = [[], [subject.model.vocab_size], [3, -1], [3] * (subject.model.context_length - 99)]
    for bad in wrong:
        with pytest.raises(SessionError) as raised:
            session.append(bad, rows=rows)
        assert "\n" not in str(raised.value)
        assert session.position == 100
    following = random_tokens(subject, 4, 18)
    subject.check(session.append(following, rows="all"), tokens + following, 100)


def test_a_wrong_rewind_changes_nothing(subject: Subject) -> None:
    tokens = random_tokens(subject, 20, 19)
    session = subject.model.session()
    with pytest.raises(SessionError):
        session.rewind(1)
    session.rewind(0)
    session.append(tokens)
    for bad in (21, -1):
        with pytest.raises(SessionError):
            session.rewind(bad)
        assert session.position == 20
    session.rewind(20)
    subject.check(session.append([7]), [*tokens, 7], 20)


def test_use_after_close(subject: Subject) -> None:
    model = subject.module.open_model(subject.artifact, device="cpu", threads=1)
    session = model.session()
    session.append([5, 6])
    model.close()
    for use in (lambda: session.append([7]), lambda: session.rewind(0), lambda: model.session()):
        with pytest.raises(SessionError):
            use()
    model.close()
    tokens = random_tokens(subject, 3, 20)
    subject.check(subject.model.session().append(tokens), tokens, 0)


def test_wrong_threads_and_devices(subject: Subject) -> None:
    with pytest.raises(UserError):
        subject.module.open_model(subject.artifact, device="cpu", threads=0)
    absent = [name for name, state in subject.module.availability().devices.items() if not state.available]
    for device in ("abacus", *absent):
        with pytest.raises(UserError) as raised:
            subject.module.open_model(subject.artifact, device=device, threads=1)
        assert device in str(raised.value)
        assert "\n" not in str(raised.value)


def test_bare_loop_repeats(subject: Subject) -> None:
    tokens = random_tokens(subject, 120, 21)
    passes = [*consecutive(100, [tokens[100:112], tokens[112:113]]), Pass(110, tokens[110:118], [1, 2, 7])]
    if isinstance(subject.model.session(), Shortlists):
        passes.append(Pass(118, tokens[118:120], "last", np.array([3, 9])))
    loop = subject.module.bare_loop(subject.artifact, device="cpu", threads=1, prefix=tokens[:100], passes=passes)
    loop()
    loop()
