"""What decoding gives: a completion, what it took, and why it is unfinished if it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from runtimes.base import Pass
from runtimes.errors import UserError

MAX_NEW_TOKENS: Final = 512
"""Tokens of a completion, forced ones included: several long calls. What is not finished by then runs in circles."""


class DecodeError(UserError):
    """A model that cannot be decoded: its context is full, or its logits are no numbers."""


class TieError(DecodeError):
    """The two best logits of a lane's decision lie so near each other that rounding decides, which is that of the pass
    they come from: decode the request by itself."""


@dataclass(frozen=True)
class Decision:
    """One token that the model chose."""

    position: int
    """Of the chosen token in the whole sequence, from 0."""
    allowed: int
    """Among how many tokens."""
    chosen: int
    margin: float
    """Logit of the chosen token minus that of the next best allowed one; infinite where there is none."""


@dataclass(frozen=True)
class Decoded:
    """A completion as token ids, what it took, and why it is unfinished if it is."""

    token_ids: list[int]
    forced_tokens: int
    decided_tokens: int
    passes: list[Pass]
    """Every forward pass, in order."""
    first_decision_ms: float
    """From the start of decoding to the first token that the model chose; 0 where it chose none."""
    total_ms: float
    model_ms: float
    """Within `Session.append`."""
    grammar_ms: float
    """Within the grammar: forced tokens, masks, steps."""
    error: str | None = None
    decisions: list[Decision] | None = None
    """Every choice, where it was asked for."""
    guessed_tokens: int = 0
    """Tokens appended as guesses,"""
    guessed_right: int = 0
    """and those of them that stayed."""
    pass_starts: list[int] = field(default_factory=list)
    """For each pass the index in `token_ids` of the first token that it decided."""

    @property
    def forward_passes(self) -> int:
        return len(self.passes)

    @property
    def pass_sizes(self) -> list[int]:
        """Tokens appended in each forward pass."""
        return [len(one.tokens) for one in self.passes]
