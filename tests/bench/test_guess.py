"""Running ahead along a guess changes the number of passes and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.guess import GuessSession
from runtimes.base import Logits, Rows, check_append, check_rewind
from runtimes.errors import SessionError

VOCAB = 11


class HashSession:
    """Logits that depend on every token before them, so that a wrong position or history shows."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.passes = 0

    @property
    def position(self) -> int:
        return len(self.tokens)

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        check_append(tokens, position=self.position, vocab_size=VOCAB, context_length=64)
        self.passes += 1
        out = []
        for token in tokens:
            self.tokens.append(token)
            rng = np.random.default_rng([len(self.tokens), *self.tokens])
            out.append(rng.standard_normal(VOCAB).astype(np.float32))
        return out[-1] if rows == "last" else np.stack(out)

    def rewind(self, position: int) -> None:
        check_rewind(position, position=self.position)
        del self.tokens[position:]


def greedy(session: HashSession | GuessSession, prompt: list[int], count: int) -> list[int]:
    row = session.append(prompt)
    out: list[int] = []
    for _ in range(count):
        out.append(int(row.argmax()))
        row = session.append([out[-1]])
    return out


def test_a_right_guess_takes_one_pass() -> None:
    plain = HashSession()
    plain.append([1, 2, 3])
    wanted = greedy(plain, [4, 5], 6)
    inner = HashSession()
    inner.append([1, 2, 3])
    session = GuessSession(inner)
    session.guess([4, 5, *wanted])
    assert greedy(session, [4, 5], 6) == wanted
    assert session.passes == 1
    session.rewind(3)
    assert session.position == 3
    np.testing.assert_array_equal(session.append([9]), plain_row([1, 2, 3, 9]))
    assert inner.tokens == [1, 2, 3, 9], "nothing of the guess is left behind"


def plain_row(tokens: list[int]) -> Logits:
    return HashSession().append(tokens)


def test_the_same_guess_again_takes_no_pass() -> None:
    session = GuessSession(HashSession())
    session.guess([4, 5, 6, 7])
    first = session.append([4, 5]).copy()
    session.rewind(0)
    session.guess([4, 5, 6, 7])
    np.testing.assert_array_equal(session.append([4, 5]), first)
    session.rewind(0)
    assert session.append([4, 5, 6], rows="all").shape == (3, VOCAB)
    assert session.passes == 1
    session.rewind(0)
    session.guess([4, 5, 6, 8])
    np.testing.assert_array_equal(session.append([4, 5, 6, 8]), plain_row([4, 5, 6, 8]))
    assert session.passes == 2


@pytest.mark.parametrize("wrong_at", [0, 1, 3, 5])
def test_a_wrong_guess_costs_passes_not_correctness(wrong_at: int) -> None:
    plain = HashSession()
    wanted = greedy(plain, [4, 5], 6)
    guess = list(wanted)
    guess[wrong_at] = (guess[wrong_at] + 1) % VOCAB
    session = GuessSession(HashSession())
    session.guess([4, 5, *guess])
    assert greedy(session, [4, 5], 6) == wanted
    assert session.passes == 1 + 6 - wrong_at


def test_forced_runs_and_all_rows_come_from_the_guess() -> None:
    session = GuessSession(HashSession())
    session.guess([1, 2, 3, 4, 5])
    plain = HashSession()
    np.testing.assert_array_equal(session.append([1, 2], rows="all"), plain.append([1, 2], rows="all"))
    np.testing.assert_array_equal(session.append([3, 4]), plain.append([3, 4]))
    assert (session.position, session.passes) == (4, 1)


def test_errors_are_the_sessions_own() -> None:
    session = GuessSession(HashSession())
    session.guess([1, 2])
    with pytest.raises(SessionError, match="no tokens"):
        session.append([])
    with pytest.raises(SessionError, match="outside"):
        session.append([99])
    assert session.position == 0
    with pytest.raises(SessionError, match="rewind"):
        session.rewind(5)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4)),
        st.tuples(st.just("follow"), st.integers(1, 4)),
        st.tuples(st.just("rewind"), st.integers(0, 12)),
        st.tuples(st.just("guess"), st.lists(st.integers(0, VOCAB - 1), max_size=8)),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_whatever_is_done_it_behaves_as_the_session_alone(actions: list[tuple[str, object]]) -> None:
    plain, session = HashSession(), GuessSession(HashSession())
    guess: list[int] = []
    for kind, value in actions:
        if plain.position > 40:
            break
        if kind == "guess":
            guess = list(value)
            session.guess(guess)
        elif kind == "rewind":
            target = min(int(value), plain.position)
            plain.rewind(target)
            session.rewind(target)
        else:
            tokens, guess = (guess[: int(value)] or [1], guess[int(value) :]) if kind == "follow" else (value, guess)
            np.testing.assert_array_equal(session.append(tokens, rows="all"), plain.append(tokens, rows="all"))
        assert session.position == plain.position
