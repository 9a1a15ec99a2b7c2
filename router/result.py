"""What routing a request gives: calls or why there are none, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from router.causes import Cause
from router.decode import Decision
from router.toolset import Call
from runtimes.base import Pass


@dataclass(frozen=True)
class RouteStats:
    """What one request took. Tokens and passes are those of the request; the toolset's prefix was cached before."""

    prompt_tokens: int
    """Of the whole prompt, the cached prefix included."""
    request_tokens: int
    """Of the prompt, those that were not cached."""
    forced_tokens: int
    decided_tokens: int
    forward_passes: int
    pass_sizes: list[int]
    pass_causes: dict[Cause, int]
    """Of the forward passes, how many each cause had (`router.causes`); empty without a grammar, where all but the
    request's are made for one token each."""
    guessed_tokens: int
    """Tokens that rode along as guesses (`router.guess`),"""
    guessed_right: int
    """and those of them that stayed."""
    first_decision_ms: float
    """From the request as a string to the first token that the model chose."""
    total_ms: float
    """From the request as a string to the parsed calls."""
    tokenize_ms: float
    grammar_ms: float
    model_ms: float


@dataclass(frozen=True)
class RouteResult:
    """The calls that a request needs (none where no tool serves), bound parameters filled in; or why there are none."""

    calls: list[Call]
    error: str | None
    """Why the completion cannot be read as calls or was not finished; never set for a request without a call."""
    token_ids: list[int]
    """The completion, its stop included."""
    text: str
    stats: RouteStats
    decisions: list[Decision] | None = field(default=None, compare=False)
    """Every choice of the model, where `record` asked for it."""
    passes: list[Pass] = field(default_factory=list, compare=False, repr=False)
    """The forward passes behind the toolset's prefix, in order."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "calls": [call.to_dict() for call in self.calls],
            "error": self.error,
            "text": self.text,
            "token_ids": list(self.token_ids),
            "stats": dict(vars(self.stats)),
        }
