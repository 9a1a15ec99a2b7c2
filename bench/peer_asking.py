"""Asking a peer as the bench asks a router: a request as a string in, parsed calls out, on the clock where wanted.

The prompt is the router's own, written as text; what comes back is read by the router's parser. So all that differs
between a peer and the router lies between the two.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.peer import Completion, Peer
from router.cases import Case
from router.parse import parse_completion
from router.render import render_prefix, render_suffix, user_turn
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.wire_format import WireError, WireFormat
from runtimes.errors import UserError


class Prompts:
    """The prompts of some cases as text, and which of them do not fit a context."""

    def __init__(
        self, tokenizer: RouterTokenizer, toolset: Toolset, cases: Iterable[Case], *, context_length: int
    ) -> None:
        """Raises `UserError` for a case that lacks a context value which the toolset shows the model."""
        self.wire: WireFormat = tokenizer.wire
        self.toolset = toolset
        self.prefix = render_prefix(toolset, self.wire)
        self._suffix = render_suffix(self.wire)
        prefix_ids = tokenizer.prefix_ids(toolset)
        self.ids: dict[str, list[int]] = {}
        """Case -> the router's ids of its prompt."""
        self.too_long: dict[str, str] = {}
        """Case -> why its prompt does not fit."""
        for case in cases:
            try:
                ids = prefix_ids + tokenizer.request_ids(user_turn(toolset, case.user, case.context))
            except WireError as error:
                raise UserError(f"case {case.id}: {error}") from None
            self.ids[case.id] = ids
            if len(ids) + 1 > context_length:
                self.too_long[case.id] = (
                    f"the prompt and one token of the answer take {len(ids) + 1}, more than the context of "
                    f"{context_length}; shorten the request"
                )

    def text(self, case: Case) -> str:
        """The whole prompt. A control token that the user's words spell is not told apart: text cannot."""
        return f"{self.prefix}{user_turn(self.toolset, case.user, case.context).strip()}{self._suffix}"


class Asked:
    """An open peer and the prompts that it is asked."""

    def __init__(
        self, peer: Peer, prompts: Prompts, limit: int, golds: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """`limit`: tokens of a completion, for what is told of one without an end. `golds`: the tokens that are to be
        taken, by case; None to let the peer choose.
        """
        self.peer = peer
        self._prompts = prompts
        self._limit = limit
        self._golds = golds

    def differently_read(self, cases: Iterable[Case]) -> int:
        """Prompts of which the peer's tokenizer makes other ids than the router's."""
        prompts = self._prompts
        return sum(self.peer.prompt_ids(prompts.text(case)) != prompts.ids[case.id] for case in cases)

    def route(self, case: Case) -> dict[str, Any]:
        """The answer to a case as an event for the bench."""
        begun = time.perf_counter_ns()
        completion, calls, error = self._ask(case)
        took = time.perf_counter_ns() - begun
        stats: dict[str, Any] = {"forward_passes": completion.passes, "pass_sizes": [], "total_ms": took / 1e6}
        return {
            "calls": None if calls is None else [call.to_dict() for call in calls],
            "token_ids": [int(token) for token in completion.token_ids],
            "text": completion.text,
            "error": error,
            "stats": stats if completion.passes is not None else {},
        }

    def timed(self, case: Case) -> dict[str, Any]:
        """One request on the clock: from the request as a string to the parsed calls."""
        begun = time.perf_counter_ns()
        _, calls, _ = self._ask(case)
        took = time.perf_counter_ns() - begun
        found = None if calls is None else [call.to_dict() for call in calls]
        return {"ms": took / 1e6, "first_decision_ms": None, "calls": found}

    def _ask(self, case: Case) -> tuple[Completion, list[Call] | None, str | None]:
        """What was written, and its calls; None and the reason where there is no end or it cannot be read."""
        if problem := self._prompts.too_long.get(case.id):
            return Completion("", False), None, problem
        text = self._prompts.text(case)
        completion = self.peer.complete(text) if self._golds is None else self.peer.complete(text, self._golds[case.id])
        if not completion.ended:
            return completion, None, f"no end of the completion within {self._limit} tokens"
        try:
            return completion, parse_completion(completion.text, self._prompts.wire), None
        except UserError as error:
            return completion, None, f"the completion cannot be read: {error}"
