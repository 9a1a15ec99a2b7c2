"""What answers cost, and a cap on it that holds.

Before a question is sent, the most that it can cost is set aside: a token has at least one byte, and an answer ends at
its limit. Afterwards the tokens that the endpoint counted take its place. An answer that was lost on its way may have
been charged, so all that was set aside counts as spent.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from runtimes.errors import UserError
from train.data.vary.clients import Endpoint, Question, Reply, is_own

TABLE: Final = Path(__file__).with_name("prices.yaml")
_OVERHEAD: Final = 64
"""Tokens that an endpoint may put around two messages."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    date: str = ""
    """When the table's price was published; empty for one that was given."""

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class BudgetError(Exception):
    """The next question might cost more than is left."""


def price_of(endpoint: Endpoint, given_in: float | None, given_out: float | None) -> Price | None:
    """The price that was given, or the table's where the provider itself is asked; None where none is known."""
    if (given_in is None) != (given_out is None):
        raise UserError("--price-in and --price-out go together: US dollars per million tokens read and written")
    if given_in is not None and given_out is not None:
        if min(given_in, given_out) < 0:
            raise UserError("a price is not below 0")
        return Price(given_in, given_out)
    row = _table().get(endpoint.provider, {}).get(endpoint.model) if is_own(endpoint) else None
    return Price(float(row["input"]), float(row["output"]), str(row["date"])) if row else None


class Purse:
    """What was spent, and what may be. `cap` is in US dollars, None for no cap; threads may share it."""

    def __init__(self, price: Price | None, cap: float | None = None) -> None:
        if cap is not None and price is None:
            raise UserError(
                "a budget needs prices: give --price-in and --price-out (US dollars per million tokens; 0 for a server "
                "of your own)"
            )
        self.price = price
        self.cap = cap
        self.spent = 0.0
        self.lost = 0.0
        """Of `spent`: the most that answers which did not arrive may have cost."""
        self.input_tokens = 0
        self.output_tokens = 0
        self.exhausted = False
        self._aside = 0.0
        self._held = 0
        """Questions that something is set aside for."""
        self._changed = threading.Condition()

    def reserve(self, question: Question) -> float:
        """Set aside the most that a question can cost, and return it; waits while others hold what it needs.

        Raises `BudgetError` where it does not fit into what is left, and for every question after that.
        """
        most = self.most(question)
        with self._changed:
            while not self.exhausted and self.cap is not None and self.spent + self._aside + most > self.cap:
                if self._held:
                    self._changed.wait()
                else:
                    self.exhausted = True
                    self._changed.notify_all()
            if self.exhausted:
                raise BudgetError
            self._aside += most
            self._held += 1
        return most

    def settle(self, most: float, reply: Reply | None, *, lost: bool = False) -> None:
        """Pay for an answer with what was set aside for it; `reply` is None where none came."""
        with self._changed:
            self._held -= 1
            self._aside = self._aside - most if self._held else 0.0
            if reply is not None:
                self.input_tokens += reply.input_tokens or 0
                self.output_tokens += reply.output_tokens or 0
                counted = reply.input_tokens is not None and reply.output_tokens is not None
                self.spent += self._cost(reply.input_tokens or 0, reply.output_tokens or 0) if counted else most
            elif lost:
                self.spent += most
                self.lost += most
            self._changed.notify_all()

    def most(self, question: Question) -> float:
        """The most that a question can cost."""
        return self._cost(len((question.system + question.user).encode()) + _OVERHEAD, question.max_tokens)

    def _cost(self, input_tokens: int, output_tokens: int) -> float:
        return self.price.of(input_tokens, output_tokens) if self.price else 0.0


@cache
def _table() -> dict[str, Any]:
    import yaml

    data: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return data
