"""How a pass over any tokens is cut into functions of fixed shapes: sizes, padding, masks, rows; and whose state it is.

What the functions compute is the exported package's, run by the reference interpreter in `MLModel`'s place.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtimes.coreml_package import MASKED, Fixed, PackageSession, Signature, fixed_inputs, interface_of
from runtimes.errors import ArtifactError, SessionError
from tests.coreml_fake import Foreign, fake_mlmodel, on_a_mac
from tests.exports import Neural
from tests.odd import WINDOW, random_tokens, reference, walk
from tests.passes import consecutive

CAPACITY = 200
FIXED = Fixed(
    CAPACITY,
    WINDOW,
    768,
    {1: "decode_1", 8: "prefill_8", 32: "prefill_32", 128: "prefill_128"},
    {1: "decode_1", 8: "verify_8", 32: "verify_32"},
    "choose_1",
    ("decode_1", "prefill_8", "prefill_32", "prefill_128", "verify_8", "verify_32", "choose_1"),
    ("keys", "values"),
)


@pytest.mark.parametrize(
    ("count", "rows", "want"),
    [
        (1, "last", "decode_1"),
        (1, "all", "decode_1"),
        (2, "last", "prefill_8"),
        (8, "last", "prefill_8"),
        (9, "last", "prefill_32"),
        (45, "last", "prefill_128"),
        (129, "last", "prefill_128 decode_1"),
        (160, "last", "prefill_128 prefill_32"),
        (5, "all", "verify_8"),
        (45, "all", "verify_32 verify_32"),
        (40, [38, 39], "prefill_128 verify_8"),
        (40, [39], "prefill_128"),
        (40, [0, 39], "verify_32 verify_8"),
        (34, [1], "decode_1 verify_32 decode_1"),
    ],
)
def test_the_fewest_functions_are_called(count: int, rows: Any, want: str) -> None:
    steps = list(FIXED.steps(range(5, 5 + count), 3, rows))
    assert [step.function for step in steps] == want.split()
    asked = {"last": 1, "all": count}.get(rows) if isinstance(rows, str) else len(rows)
    assert sum(len(step.keep) for step in steps) == asked


@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_taken_once_where_it_stands(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = int(rng.integers(0, 60))
    tokens = [int(t) for t in rng.integers(5, 700, rng.integers(1, CAPACITY - start))]
    written = np.zeros(CAPACITY)
    for step in FIXED.steps(tokens, start, "all" if seed % 2 else "last"):
        write = step.inputs["write"][0, :, 0]
        rows, places = np.nonzero(write)
        assert rows.tolist() == list(range(len(rows)))
        assert step.inputs["positions"][rows].tolist() == places.tolist()
        assert step.inputs["input_ids"][0, rows].tolist() == [tokens[place - start] for place in places]
        written += write.sum(axis=0)
    assert written.tolist() == [float(start <= place < start + len(tokens)) for place in range(CAPACITY)]


def test_masks_and_padding() -> None:
    """By the definition: a query sees itself and what is behind it, a local one less than a window far."""
    inputs = fixed_inputs([7, 8, 9], 30, 8, CAPACITY, WINDOW)
    assert inputs["input_ids"].tolist() == [[7, 8, 9, 9, 9, 9, 9, 9]]
    assert inputs["positions"].tolist() == [30, 31, 32, 32, 32, 32, 32, 32]
    for column, query in enumerate(inputs["positions"]):
        for key in range(CAPACITY):
            behind = query - key
            assert inputs["past"][0, key, 0, column] == (0 if behind >= 0 else MASKED)
            assert inputs["near"][0, key, 0, column] == (0 if 0 <= behind < WINDOW else MASKED)
    assert not inputs["write"][0, 3:].any()
    assert {name: value.dtype for name, value in inputs.items()} == {
        "input_ids": np.int32, "positions": np.int32, "write": np.float16, "past": np.float16, "near": np.float16,
    }  # fmt: skip


def signature(size: int, *, capacity: int = 64, **changes: Any) -> Signature:
    mask = [1, capacity, 1, size]
    sizes = {"input_ids": [1, size], "positions": [size], "write": [1, size, 1, capacity], "past": mask, "near": mask}
    return dataclasses.replace(Signature(sizes, ["logits"], ["keys", "values"]), **changes)


@pytest.mark.parametrize(
    ("functions", "metadata", "told"),
    [
        ({"decode_1": signature(1), "prefill_8": signature(4)}, {}, "'prefill_8' does not take 8 tokens"),
        ({"decode_1": signature(1), "main": signature(8)}, {}, "a function 'main', which is not one of ours"),
        ({"prefill_8": signature(8)}, {}, "lacks decode_1"),
        ({"decode_1": signature(1)}, {"edgecall.sliding_window": "many"}, "lacks decode_1"),
        ({"decode_1": signature(1), "prefill_8": signature(8, capacity=65)}, {}, "one cache for all"),
        ({"decode_1": signature(1), "prefill_8": signature(8, states=["keys"])}, {}, "one cache for all"),
        ({"decode_1": signature(1, outputs=["scores"])}, {}, "gives scores, not input_ids"),
        ({"decode_1": signature(1), "choose_1": signature(1)}, {}, "not .* past, near, allowed and id, logit"),
        ({"main": signature(1)}, {}, "not input_ids, positions, rows and logits"),
    ],
)  # fmt: skip
def test_other_interfaces_are_refused(functions: Any, metadata: dict[str, str], told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        interface_of(Path("model.mlpackage"), functions, {"edgecall.sliding_window": "24"} | metadata, 768)


@pytest.mark.parametrize("foreign", ["shared", "refused", "ignored"])
def test_any_splits_and_rewinds_whoever_holds_the_state(
    neural: Neural, foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers in 32 bits, within float16; and to the last bit the same however the state is handed on."""
    from runtimes import coreml, coreml_reference

    fake = fake_mlmodel(neural.package, foreign)
    on_a_mac(monkeypatch, fake)
    model = coreml.open_model(neural.artifact, device="ane")
    tokens = random_tokens(neural.source, 5 * WINDOW, 1)
    want = reference(neural.source, tokens)
    rows = walk(model.session(), tokens, np.random.default_rng(1), longest=50)
    error = max(float(np.abs(row - want[position]).max()) for position, row in rows.items())
    assert len(rows) > 2 * WINDOW and error < 0.15
    handed_on = sum(state.reads for state in fake.states) > 2
    assert handed_on == (foreign != "shared")
    one_state = coreml_reference.open_model(neural.artifact, threads=1).session()
    again = walk(one_state, tokens, np.random.default_rng(1), longest=50)
    assert all((rows[position] == row).all() for position, row in again.items())


def test_the_functions_are_loaded_for_the_units(neural: Neural, monkeypatch: pytest.MonkeyPatch) -> None:
    import coremltools as ct

    from runtimes import coreml

    fake = fake_mlmodel(neural.package)
    on_a_mac(monkeypatch, fake)
    model = coreml.open_model(neural.artifact, device="ane")
    assert {units for _, units, _ in fake.opened} == {ct.ComputeUnit.CPU_AND_NE}
    names = sorted(neural.package.program.functions)
    assert sorted(name or "decode_1" for _, _, name in fake.opened) == names and len(names) == 7
    assert (model.device, model.dtype, model.context_length) == ("cpu+ane", "ane", 512)
    session = model.session()
    model.close()
    with pytest.raises(SessionError, match="closed"):
        session.append([5])


def test_padding_changes_nothing(neural: Neural) -> None:
    """Unrounded, a pass in one function gives the logits of any other way of feeding the same tokens."""
    from runtimes import coreml_reference

    model = coreml_reference.open_model(neural.artifact, threads=1, precision="float32")
    tokens = random_tokens(neural.source, 40, 2)
    whole = model.session().append(tokens, rows="all")
    for sizes in ([40], [3, 37], [9, 1, 30], [33, 7]):
        session, position = model.session(), 0
        for size in sizes:
            last = session.append(tokens[position : position + size])
            position += size
            np.testing.assert_allclose(last, whole[position - 1], atol=1e-4)


def test_the_package_chooses_as_its_logits_say(neural: Neural) -> None:
    from runtimes import coreml_reference

    model = coreml_reference.open_model(neural.artifact, threads=1)
    tokens = random_tokens(neural.source, 20, 3)
    first, second = model.session(), model.session()
    rng, position = np.random.default_rng(0), 0
    for size in (1, 7, 1, 11):
        allowed = np.sort(rng.choice(neural.source.vocab_size, size=5, replace=False))
        part = tokens[position : position + size]
        found, logit = first.choose(part, allowed)
        logits = second.append(part)
        position += size
        assert first.position == second.position == position
        assert found == allowed[logits[allowed].argmax()]
        assert logit == pytest.approx(float(logits[found]), abs=0.02)
    for wrong in ([], [3, 2], [neural.source.vocab_size]):
        with pytest.raises(SessionError, match="give ids below"):
            first.choose([5], np.array(wrong, np.int64))
    assert first.position == 20


def test_the_bare_loop_calls_the_same_functions(neural: Neural, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtimes import coreml, coreml_reference

    tokens = random_tokens(neural.source, 60, 4)
    passes = consecutive(40, [tokens[40:50], tokens[50:51], tokens[51:60]])
    seen: list[tuple[str, np.ndarray]] = []
    fake = fake_mlmodel(neural.package)

    class Spy(fake):  # type: ignore[misc, valid-type]
        def predict(self, data: Any, state: Any) -> Any:
            out = super().predict(data, state)
            seen.append((self.function, out["logits"]))
            return out

    on_a_mac(monkeypatch, Spy)
    loop = coreml.bare_loop(neural.artifact, prefix=tokens[:40], passes=passes)
    seen.clear()
    loop()
    loop()
    assert [name for name, _ in seen] == ["prefill_32", "decode_1", "prefill_32"] * 2
    session = coreml_reference.open_model(neural.artifact, threads=1).session()
    session.append(tokens[:40])
    for (_, logits), step in zip(seen[3:], passes, strict=True):
        np.testing.assert_array_equal(logits[0], session.append(step.tokens))


class Told(PackageSession):
    """A session whose logits tell which token stands where; one function errs, in one row of its shape."""

    def __init__(self, broken: str = "", row: int = 0) -> None:
        super().__init__(SimpleNamespace(vocab_size=FIXED.vocab_size, context_length=CAPACITY), FIXED)  # type: ignore[arg-type]
        self.broken, self.row, self.cache = broken, row, np.zeros(CAPACITY)
        self.called: list[tuple[str, int]] = []

    def _check_open(self) -> None:
        pass

    def _predict(self, function: str, inputs: Any) -> dict[str, Any]:
        written = inputs["write"][0, :, 0]
        self.called.append((function, int(written.sum())))
        self.cache[inputs["positions"][: int(written.sum())]] = inputs["input_ids"][0, : int(written.sum())]
        told = [np.dot(self.cache[: at + 1], np.arange(1, at + 2)) for at in inputs["positions"]]
        logits = np.sin(np.outer(told, np.arange(1, FIXED.vocab_size + 1)))
        if function == self.broken:
            logits[self.row] += 1
        if function == "choose_1":
            return {"id": np.array([logits[0].argmax()]), "logit": np.array([logits[0].max()])}
        return {"logits": logits if function.startswith("verify") else logits[-1:]}


def test_functions_are_compared_full_and_padded() -> None:
    """Whichever row of whichever function errs; with fewer tokens the rows behind them cannot be told."""
    tokens = random_ids(160)
    whole = Told()
    assert whole.disagreement(tokens) == pytest.approx(0, abs=1e-6)
    filled = {(name, size) for sizes in (FIXED.last, FIXED.every) for size, name in sizes.items()}
    assert {*filled, ("prefill_128", 65), ("verify_32", 17), ("choose_1", 1)} <= set(whole.called)
    assert whole.called.count(("decode_1", 1)) < 40
    for name, row in [("verify_32", 31), ("verify_8", 7), ("prefill_128", 127), ("prefill_8", 7), ("choose_1", 0)]:
        assert Told(name, row).disagreement(tokens) == pytest.approx(1, abs=1e-6), name
    assert Told("verify_32", 31).disagreement(tokens[:12]) == pytest.approx(0, abs=1e-6)


def random_ids(count: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(5).integers(5, 700, count)]


def test_functions_share_the_memory_of_their_weights(neural: Neural) -> None:
    """Seven functions over a large network would not fit otherwise: the interpreter holds weights in 32 bits."""
    from runtimes import coreml_reference

    plans = coreml_reference.open_model(neural.artifact, threads=1).plans
    held = {
        name: {
            id(value)
            for step in plan.steps
            for value in getattr(step.call, "keywords", {}).values()
            if isinstance(value, np.ndarray) and value.size > 1000
        }
        for name, plan in plans.items()
    }
    assert len(held) == 7 and len(held["decode_1"]) > 15
    assert all(one == held["decode_1"] for one in held.values())
