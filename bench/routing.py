"""The router as the bench uses it: ordinary requests, requests along a guess, and the parts that parity needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.guess import GuessSession
from bench.records import PARTS
from router.cases import Case
from router.core import LANES, Router
from router.decode import MAX_NEW_TOKENS
from router.guess import Guessing
from router.result import RouteResult
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.toolset_load import load_json
from router.wire_format import WireError, wire_format
from runtimes import open_model
from runtimes.artifact import open_artifact
from runtimes.base import Batches, Logits, Model, Pass, Session
from runtimes.errors import SessionError, UserError


class Routed:
    """A model and its router; a second sequence, made when first needed, serves guesses and parity."""

    def __init__(self, model: Model, router: Router) -> None:
        self.model = model
        self.router = router
        self.tokenizer = router.tokenizer
        self.prefix_ids = router.prefix_ids
        self.limit = MAX_NEW_TOKENS
        """Tokens of a completion; one that has not ended by then counts as unfinished."""

    def limit_to(self, cases: Iterable[Case]) -> int:
        """Set the limit to twice the longest gold completion (a longer answer is wrong whatever follows).

        Raises `UserError` for a case that lacks a context value which the toolset shows the model.
        """
        cases = list(cases)
        for case in cases:
            try:
                self.request_ids(case)
            except WireError as error:
                raise UserError(f"case {case.id}: {error}") from None
        self.limit = completion_limit(self.tokenizer, self.router.toolset, cases)
        return self.limit

    def route(self, case: Case, *, grammar: bool = True) -> dict[str, Any]:
        """Route a case pass by pass; the answer as an event for the bench."""
        return self._event(self.router, case, grammar)

    def route_along(self, case: Case, guess: Sequence[int], *, grammar: bool) -> dict[str, Any]:
        """The same decisions, in one pass as far as the completion is the guess."""
        router, session = self._second
        session.guess([*self.request_ids(case), *guess])
        return self._event(router, case, grammar)

    def timed(self, case: Case) -> dict[str, Any]:
        """One request on the clock: from the request as a string to the parsed calls."""
        context = self._context(case)
        begun = time.perf_counter_ns()
        try:
            result = self.router.route(case.user, context, max_new_tokens=self.limit)
        except UserError:
            ms = (time.perf_counter_ns() - begun) / 1e6
            return {"ms": ms, "first_decision_ms": None, "calls": None, "parts": None}
        took = time.perf_counter_ns() - begun
        return {
            "ms": took / 1e6,
            "first_decision_ms": result.stats.first_decision_ms if result.stats.decided_tokens else None,
            "calls": _calls(result),
            "parts": {part: getattr(result.stats, part) for part in PARTS},
        }

    def throughput(self, cases: Sequence[Case], seconds: float, tick: Callable[[int], None]) -> dict[str, Any]:
        """Requests a second one by one, and the same requests side by side (`route_many`) where the runtime can.

        As many as take half of `seconds` one by one, and again behind `route_many`, so that a machine that grows slower
        or faster meanwhile favours neither. What the router refuses, as cases may hold on purpose, is left out.
        """
        asked, alone, spent = self._one_by_one(cases, seconds / 2, tick)
        lanes = self.lanes
        found = {"requests": len(asked), "lanes": lanes, "together_per_s": None, "same_calls": None}
        if lanes > 1 and asked:
            begun = time.perf_counter()
            many = self.together(asked)
            found["together_per_s"] = len(asked) / (time.perf_counter() - begun)
            again = self._one_by_one(asked, float("inf"), tick)[2]
            spent = (spent + again) / 2
            found["same_calls"] = sum(_calls(one) == calls for one, calls in zip(many, alone, strict=True)) / len(asked)
        return found | {"alone_per_s": len(asked) / spent if asked else None}

    @property
    def lanes(self) -> int:
        """Requests that are decoded at once; 1 where the runtime or the toolset has them one by one."""
        return LANES if isinstance(self.model, Batches) and not self.router.toolset.placed else 1

    def together(self, cases: Sequence[Case]) -> list[RouteResult]:
        """All cases by `Router.route_many`. Raises `UserError` where one is refused."""
        contexts = [self._context(case) for case in cases]
        return self.router.route_many([case.user for case in cases], contexts, max_new_tokens=self.limit)

    def _one_by_one(
        self, cases: Sequence[Case], seconds: float, tick: Callable[[int], None]
    ) -> tuple[list[Case], list[list[dict[str, Any]] | None], float]:
        """The first of `cases` that fit into `seconds`, at least one, without those that are refused; their calls, and
        the seconds that they took."""
        asked: list[Case] = []
        calls: list[list[dict[str, Any]] | None] = []
        spent = 0.0
        for case in cases:
            context, begun = self._context(case), time.perf_counter()
            try:
                result = self.router.route(case.user, context, max_new_tokens=self.limit)
            except SessionError:
                raise
            except UserError:
                continue
            spent += time.perf_counter() - begun
            asked.append(case)
            calls.append(_calls(result))
            tick(len(asked))
            if spent >= seconds:
                break
        return asked, calls, spent

    def passes_of(self, case: Case) -> tuple[list[int], list[Pass]]:
        """The forward passes that routing a case takes, and the tokens that are cached before them."""
        passes = self.router.route(case.user, self._context(case), max_new_tokens=self.limit).passes
        return [*self.prefix_ids, *self.tokenizer.context_ids(self.router.toolset, case.context)], passes

    def request_ids(self, case: Case) -> list[int]:
        """What stands behind the prefix for a case, up to where the model answers: the user's turn, as a rule."""
        return self.tokenizer.behind_prefix(self.router.toolset, case.user, case.context)

    def gold_ids(self, case: Case) -> list[int]:
        """The completion that the gold calls make, its stop included."""
        return completion_of(self.tokenizer, self.router.toolset, case.calls)

    def row_behind(self, tokens: Sequence[int]) -> Logits:
        """The row behind the prefix and `tokens`, a copy."""
        session = self.session
        try:
            return session.append(tokens).copy()
        finally:
            session.rewind(len(self.prefix_ids))

    @property
    def session(self) -> Session:
        """A sequence of the bench's own, holding the prefix."""
        return self._second[1]

    @cached_property
    def _second(self) -> tuple[Router, GuessSession]:
        guessing = _GuessModel(self.model)
        router = Router.from_model(guessing, self.tokenizer, self.router.toolset, guess=False)
        assert guessing.latest is not None
        return router, guessing.latest

    def _context(self, case: Case) -> dict[str, Any]:
        """The case's context; bound keys that it lacks are made up, for they do not count."""
        return dict.fromkeys(self.router.toolset.bound_keys, ".") | case.context

    def _event(self, router: Router, case: Case, grammar: bool) -> dict[str, Any]:
        """The answer to one case. What the router refuses (a full context, say) is that case's error, no more."""
        try:
            result = router.route(case.user, self._context(case), grammar=grammar, max_new_tokens=self.limit)
        except SessionError:
            raise
        except UserError as error:
            return {"calls": None, "token_ids": [], "text": "", "error": str(error), "stats": {}}
        return told(result)


def told(result: RouteResult) -> dict[str, Any]:
    """An answer as an event for the bench."""
    stats = vars(result.stats)
    return {
        "calls": _calls(result),
        "token_ids": [int(token) for token in result.token_ids],
        "text": result.text,
        "error": result.error,
        "stats": {key: round(value, 4) if isinstance(value, float) else value for key, value in stats.items()},
    }


class _GuessModel:
    """A model whose sessions can run ahead along a guess."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.vocab_size, self.context_length = model.vocab_size, model.context_length
        self.device, self.dtype, self.threads = model.device, model.dtype, model.threads
        self.latest: GuessSession | None = None

    def session(self) -> GuessSession:
        self.latest = GuessSession(self._model.session())
        return self.latest

    def close(self) -> None:
        """The model is the caller's."""


def completion_limit(tokenizer: RouterTokenizer, toolset: Toolset, cases: Iterable[Case]) -> int:
    """Tokens that an answer to one of `cases` may take: twice the longest gold completion, and a few."""
    golds = (calls for case in cases for calls in (case.calls, *case.accept))
    longest = max((len(completion_of(tokenizer, toolset, gold)) for gold in golds), default=0)
    return min(MAX_NEW_TOKENS, 16 + 2 * longest)


def completion_of(tokenizer: RouterTokenizer, toolset: Toolset, calls: Iterable[Call]) -> list[int]:
    """The ids of some calls as a model writes them: without what the router fills in."""
    bound = {tool.name: tool.bound for tool in toolset}
    shown = [
        Call(call.name, {k: v for k, v in call.arguments.items() if k not in bound.get(call.name, {})})
        for call in calls
    ]
    return tokenizer.completion_ids(shown)


def tokens_of(tokenizer: RouterTokenizer, toolset: Toolset, case: Case) -> int:
    """The context that a case takes: its prompt, the gold calls, and one token to spare."""
    prompt = len(tokenizer.prefix_ids(toolset)) + len(tokenizer.behind_prefix(toolset, case.user, case.context))
    return prompt + len(completion_of(tokenizer, toolset, case.calls)) + 1


def open_routed(
    folder: str | Path, *, runtime: str, device: str, threads: int | None, guess: Guessing = True
) -> tuple[Routed, float]:
    """Open an artifact whose hashes the bench has checked; also the milliseconds that opening its model took.

    `guess` as for `Router`.
    """
    artifact = open_artifact(folder, check="sizes")
    begun = time.perf_counter()
    model = open_model(artifact, runtime_name=runtime, device=device, threads=threads)
    load_ms = (time.perf_counter() - begun) * 1e3
    tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
    return Routed(model, Router.from_model(model, tokenizer, load_json(artifact.toolset), guess=guess)), load_ms


def _calls(result: RouteResult) -> list[dict[str, Any]] | None:
    """None where there is an error: no calls is an answer, this is none."""
    return None if result.error is not None else [call.to_dict() for call in result.calls]
