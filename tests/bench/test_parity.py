"""Teacher-forced comparison, on sessions whose logits are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench import parity
from bench.parity import Comparison, Forced, completion, random_tokens, record, rows_of
from runtimes.base import Logits, Rows

VOCAB = 400


class TableModel:
    """Row i of a sequence is a seeded random row for (position, token), plus an optional change."""

    def __init__(self, noise: float = 0.0, changes: dict[tuple[int, int, int], float] | None = None) -> None:
        self.noise, self.changes = noise, changes or {}
        self.opened = 0

    def session(self) -> TableSession:
        self.opened += 1
        return TableSession(self)


class TableSession:
    def __init__(self, model: TableModel) -> None:
        self.model, self.position = model, 0

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        out = []
        for token in tokens:
            row = np.random.default_rng([self.position, token]).standard_normal(VOCAB) * 3
            row += self.model.noise * np.random.default_rng([7, self.position, token]).standard_normal(VOCAB)
            for (position, after, target), value in self.model.changes.items():
                if (position, after) == (self.position, token):
                    row[target] += value
            out.append(row.astype(np.float32))
            self.position += 1
        return out[-1] if rows == "last" else np.stack(out)

    def rewind(self, position: int) -> None:
        self.position = position


PREFIX = [1, 2, 3, 4]
SEQUENCES = [
    completion("gold", "c1", [10, 11], [20, 21, 22]),
    completion("own", "c2", [12], [23, 24]),
    random_tokens(VOCAB, 300, 64, bos=2),
]


def session_of(model: TableModel) -> TableSession:
    session = model.session()
    session.append(PREFIX)
    return session


def runner(model: TableModel) -> object:
    session = session_of(model)
    return lambda sequence: rows_of(sequence, session, len(PREFIX), model)


def compare(path: Path, rows: object) -> dict[str, object]:
    comparison = Comparison(path)
    for case in ("", "c1", "c2", "a case that the reference does not know"):
        comparison.case(case, rows)
    return comparison.summary()


def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "reference.npz"
    ticks: list[int] = []
    assert record(SEQUENCES, runner(TableModel()), path, ticks.append) == 3 + 2 + 64
    assert ticks == [1, 2, 3]
    return path


def test_completion_rows_predict_each_token_of_the_answer() -> None:
    sequence = completion("gold", "c1", [10, 11], [20, 21, 22])
    assert sequence == Forced("gold", "c1", (10, 11, 20, 21), 3)
    model = TableModel()
    session = session_of(model)
    rows = rows_of(sequence, session, len(PREFIX), model)
    # The row behind the request's last token predicts the answer's first.
    expected = np.random.default_rng([5, 11]).standard_normal(VOCAB) * 3
    np.testing.assert_allclose(rows[0], expected.astype(np.float32))
    assert rows.shape == (3, VOCAB)
    assert session.position == len(PREFIX), "the prefix stays in the cache"
    assert completion("gold", "c1", [10], []) is None


def test_random_tokens_reach_past_the_window_and_are_fixed() -> None:
    sequence = random_tokens(VOCAB, 10_000, 512, bos=2)
    assert len(sequence.tokens) == 512 + 2 * parity.RANDOM_ROWS
    assert sequence.tokens[0] == 2
    assert sequence == random_tokens(VOCAB, 10_000, 512, bos=2)
    assert len(random_tokens(VOCAB, 100, 512, bos=2).tokens) == 100, "no longer than the context"


def test_a_window_that_no_layer_has_is_not_reached_past() -> None:
    flat = {"sliding_window": 8192, "layer_types": ["full_attention"] * 8}
    assert parity.window_of(flat) == parity.USUAL_WINDOW
    assert parity.window_of(flat | {"layer_types": ["sliding_attention", "full_attention"]}) == 8192


def test_the_same_model_agrees_with_itself(tmp_path: Path) -> None:
    found = compare(recorded(tmp_path), runner(TableModel()))
    assert found["max_abs_logit"] == 0
    assert found["mean_kl"] == pytest.approx(0, abs=1e-9)
    assert found["top1_agreement"] == 1
    assert found["rows"] == 5 and found["sequences"] == 2
    assert found["by_kind"]["random"]["rows"] == 64
    assert found["top1_differences"] == []


def test_kl_by_hand(tmp_path: Path) -> None:
    """Only one row differs, in one logit: KL(p || q) = log(1 + p_t (e^d - 1)) - p_t d."""
    model = TableModel()
    base = np.random.default_rng([5, 11]).standard_normal(VOCAB) * 3
    target, delta = int(base.argmax()), 0.5
    found = compare(recorded(tmp_path), runner(TableModel(changes={(5, 11, target): delta})))
    p = np.exp(base - np.log(np.exp(base).sum()))[target]
    kl = np.log1p(p * np.expm1(delta)) - p * delta
    assert found["mean_kl"] == pytest.approx(kl / 5, rel=1e-3)
    assert found["max_abs_logit"] == pytest.approx(delta, rel=1e-5)
    assert found["top1_agreement"] == 1
    assert model.opened == 0


def test_a_changed_best_token_is_listed_with_its_margin(tmp_path: Path) -> None:
    base = (np.random.default_rng([5, 11]).standard_normal(VOCAB) * 3).astype(np.float32)
    first, second = (int(i) for i in np.argsort(-base)[:2])
    gap = float(base[first] - base[second])
    found = compare(recorded(tmp_path), runner(TableModel(changes={(5, 11, second): gap + 1})))
    clear = found["top1_rows"]
    assert found["top1_agreement"] == pytest.approx((clear - 1) / clear)
    (difference,) = found["top1_differences"]
    assert difference["case"] == "c1" and difference["row"] == 0
    assert (difference["reference_token"], difference["token"]) == (first, second)
    assert difference["reference_margin"] == pytest.approx(gap, abs=1e-4)


def test_near_ties_do_not_count_for_the_agreement(tmp_path: Path) -> None:
    base = (np.random.default_rng([5, 11]).standard_normal(VOCAB) * 3).astype(np.float32)
    first, second = (int(i) for i in np.argsort(-base)[:2])
    gap = float(base[first] - base[second])
    tie = {(5, 11, second): gap - parity.TIE / 2}
    path = tmp_path / "reference.npz"
    record(SEQUENCES, runner(TableModel(changes=tie)), path, lambda done: None)
    found = compare(path, runner(TableModel(changes={(5, 11, second): gap + 1})))
    assert found["top1_rows"] == 4
    assert found["top1_agreement"] == 1 and found["top1_differences"] == []
    assert found["max_abs_logit"] > 0.9, "the difference counts all the same"


def test_random_rows_count_for_the_differences_only(tmp_path: Path) -> None:
    # A window of 64 makes 192 random tokens, of which the last 64 rows count.
    position = 150
    token = SEQUENCES[2].tokens[position]
    best = int((np.random.default_rng([position, token]).standard_normal(VOCAB) * 3).argmax())
    found = compare(recorded(tmp_path), runner(TableModel(changes={(position, token, best): -9.0})))
    assert found["max_abs_logit"] == pytest.approx(9, rel=1e-5)
    assert found["by_kind"]["gold"]["max_abs_logit"] == 0
    assert "top1_agreement" not in found["by_kind"]["random"]
    assert found["top1_agreement"] == 1
    assert found["mean_kl"] == pytest.approx(0, abs=1e-9)


def test_only_what_was_compared_counts(tmp_path: Path) -> None:
    comparison = Comparison(recorded(tmp_path))
    comparison.case("c2", runner(TableModel(0.1)))
    found = comparison.summary()
    assert found["sequences"] == 1 and found["of_sequences"] == 3
    assert list(found["by_kind"]) == ["own"] and found["rows"] == 2
    assert Comparison(recorded(tmp_path)).summary()["max_abs_logit"] is None


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = TableModel(changes={(5, 11, 0): float("nan")})
    with pytest.raises(ValueError, match="not finite .gold c1"):
        rows_of(SEQUENCES[0], session_of(model), len(PREFIX), model)
