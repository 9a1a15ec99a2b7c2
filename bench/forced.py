"""Decoding along the gold calls: what a request costs, of weights that nobody has trained.

A session of the bench's own stands between `router.decode` and the runtime's. Each row of logits is computed as ever;
then the gold token is lifted above all others in it, which is one number written into the row. The decoder cannot tell:
it takes the best token, asks the grammar, steps, appends what the grammar forces. So jump-forward, the number of passes
and their sizes are those of a real request that is answered with these calls.

A trained router's best token is most often one that the grammar allows, and then the decoder computes no mask. `masked`
(what `bench shape` does unless told otherwise) forces that too: a token that no completion has is lifted higher still,
so that the mask is computed wherever the grammar leaves a choice.

Guessing (`router.guess`) is off: a few calls that come again and again would be guessed better than in life.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from bench.routing import Routed
from router.cases import Case
from router.core import Router
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.toolset_load import load_json
from router.wire_format import wire_format
from runtimes import open_model
from runtimes.artifact import open_artifact
from runtimes.base import Ids, Logits, Model, Rows, Session, check_append, check_rewind, check_rows, row_offsets
from runtimes.errors import UserError
from runtimes.shortlist import Shortlists, check_ids

LIFTED: Final = np.float32(1e30)
"""The gold token's logit: above any other, and finite, as logits must be."""


class ForcedSession:
    """Wraps a session; `expect` says which token is to win at which position."""

    def __init__(self, inner: Session, barred: int | None = None) -> None:
        """`barred`: a token that the grammar never allows, lifted above the gold one; None for none."""
        self._inner = inner
        self._barred = barred
        self._start, self._gold = 0, list[int]()
        self.spent = 0.0
        """Seconds that the lifting took so far."""

    @property
    def position(self) -> int:
        return self._inner.position

    def expect(self, start: int, gold: Sequence[int]) -> None:
        """Let `gold` win at the positions from `start` on; other rows are left as they are."""
        self._start, self._gold = start, list(gold)

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        behind = self._inner.position + 1 - self._start
        logits = self._inner.append(tokens, rows=rows)
        begun = perf_counter()
        if not logits.flags.writeable:
            logits = logits.copy()
        if rows == "last":
            self._lift(logits, behind + len(tokens) - 1)
        else:
            for row, offset in zip(logits, row_offsets(rows, len(tokens)), strict=True):
                self._lift(row, behind + offset)
        self.spent += perf_counter() - begun
        return logits

    @property
    def shortlist_limit(self) -> int:
        return self._inner.shortlist_limit if isinstance(self._inner, Shortlists) else 0

    def append_shortlist(self, tokens: Sequence[int], ids: Ids, *, rows: Rows = "last") -> Logits:
        """The gold token wins here too where it is one of `ids`; nothing is barred, for all of them are allowed."""
        assert isinstance(self._inner, Shortlists)
        behind = self._inner.position + 1 - self._start
        logits = self._inner.append_shortlist(tokens, ids, rows=rows)
        begun = perf_counter()
        for row, offset in zip(np.atleast_2d(logits), row_offsets(rows, len(tokens)), strict=True):
            index = behind + offset
            if 0 <= index < len(self._gold):
                row[ids == self._gold[index]] = LIFTED
        self.spent += perf_counter() - begun
        return logits

    def rewind(self, position: int) -> None:
        self._inner.rewind(position)

    def _lift(self, row: Logits, index: int) -> None:
        if 0 <= index < len(self._gold):
            row[self._gold[index]] = LIFTED
            if self._barred is not None:
                row[self._barred] = 2 * LIFTED


class ForcedModel:
    """A model whose sessions are forced."""

    def __init__(self, model: Model, barred: int | None = None) -> None:
        self._model = model
        self._barred = barred
        self.vocab_size, self.context_length = model.vocab_size, model.context_length
        self.device, self.dtype, self.threads = model.device, model.dtype, model.threads
        self.emulated = bool(getattr(model, "emulated", False))
        self.sessions: list[ForcedSession] = []

    def session(self) -> ForcedSession:
        self.sessions.append(ForcedSession(self._model.session(), self._barred))
        return self.sessions[-1]

    def close(self) -> None:
        self._model.close()


class ForcedRouted(Routed):
    """A router that answers every case with its gold calls."""

    def __init__(self, model: Model, tokenizer: RouterTokenizer, toolset: Toolset, *, masked: bool = False) -> None:
        forced = ForcedModel(model, tokenizer.control_id("start_turn") if masked else None)
        super().__init__(forced, Router.from_model(forced, tokenizer, toolset, guess=False))
        self._forced = forced.sessions[0]
        self._known: dict[str, tuple[int, list[int]]] = {}

    def route(self, case: Case, *, grammar: bool = True) -> dict[str, Any]:
        """`Routed.route` with ``forcing_ms`` among the stats.

        Raises `UserError` where what was decoded is not the gold completion, token for token.
        """
        gold, before = self._expect(case), self._forced.spent
        event = super().route(case, grammar=grammar)
        if event["error"] is not None or event["token_ids"] != gold:
            raise UserError(
                f"case {case.id}: its calls cannot be forced on this tokenizer, "
                f"{event['error'] or event['text'][:100]!r} came out; they must be such as the toolset's grammar allows"
            )
        event["stats"]["forcing_ms"] = round((self._forced.spent - before) * 1e3, 4)
        return event

    def timed(self, case: Case) -> dict[str, Any]:
        self._expect(case)
        return super().timed(case)

    def passes_of(self, case: Case) -> tuple[list[int], list[Any]]:
        self._expect(case)
        return super().passes_of(case)

    def _expect(self, case: Case) -> list[int]:
        """Tell the session what comes, off the clock: positions and tokens are worked out once a case."""
        if case.id not in self._known:
            self._known[case.id] = len(self.prefix_ids) + len(self.request_ids(case)), self.gold_ids(case)
        start, gold = self._known[case.id]
        self._forced.expect(start, gold)
        return gold


def open_forced(
    folder: str | Path, *, runtime: str, device: str, threads: int | None, masked: bool
) -> tuple[ForcedRouted, float]:
    """`bench.routing.open_routed`, forced."""
    artifact = open_artifact(folder, check="sizes")
    begun = perf_counter()
    model = open_model(artifact, runtime_name=runtime, device=device, threads=threads)
    load_ms = (perf_counter() - begun) * 1e3
    tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
    return ForcedRouted(model, tokenizer, load_json(artifact.toolset), masked=masked), load_ms


class BlankModel:
    """A model without weights, of zeros: forced, it tells the passes that requests take, at no cost."""

    device, dtype, threads = "none", "none", 0

    def __init__(self, vocab_size: int, context_length: int, shortlist_limit: int = 0) -> None:
        self.vocab_size, self.context_length, self.shortlist_limit = vocab_size, context_length, shortlist_limit

    def session(self) -> BlankSession:
        return BlankSession(self)

    def close(self) -> None:
        """There is nothing to free."""


class BlankSession:
    """Counts tokens."""

    def __init__(self, model: BlankModel) -> None:
        self._model = model
        self.position = 0
        self.shortlist_limit = model.shortlist_limit

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        return self._zeros(tokens, rows, self._model.vocab_size)

    def append_shortlist(self, tokens: Sequence[int], ids: Ids, *, rows: Rows = "last") -> Logits:
        check_ids(ids, self._model.vocab_size)
        return self._zeros(tokens, rows, len(ids))

    def _zeros(self, tokens: Sequence[int], rows: Rows, width: int) -> Logits:
        model = self._model
        check_append(tokens, position=self.position, vocab_size=model.vocab_size, context_length=model.context_length)
        check_rows(rows, len(tokens))
        self.position += len(tokens)
        return np.zeros(width if rows == "last" else (len(row_offsets(rows, len(tokens))), width), np.float32)

    def rewind(self, position: int) -> None:
        check_rewind(position, position=self.position)
        self.position = position
