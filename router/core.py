"""The Router: a model, a tokenizer and a toolset; requests in, tool calls out, on whatever runtime opens the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Literal

from router.binding import Bound, bound_values, fill
from router.causes import causes
from router.decode import MAX_NEW_TOKENS, Decoded, DecodeError, Job, TieError, decode, decode_free, decode_many
from router.grammar import Grammar
from router.guess import Guesser, Guessing
from router.known import listed_strings, proved
from router.parse import parse_pieces
from router.prefixes import PrefixFiles, PrefixMemory
from router.render import user_turn
from router.result import RouteResult, RouteStats
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.validate import schema_errors
from router.wire_format import wire_format
from runtimes.artifact import Artifact, open_artifact
from runtimes.base import Batch, Batches, Model, Session
from runtimes.errors import RoomError, UserError

LANES: Final = 8
"""Requests that `Router.route_many` decodes at once."""
CONTEXTS: Final = 8
"""Values of a context that an instruction shows whose caches a process keeps in files: those that it meets first. They
may be of a day, and serve others; of a clock they would be written for every request, and never read again."""
WARM_UP: Final = "find the notes of last week and open them"
WARM_UP_TOKENS: Final = 48
TIE: Final = 0.2
TIES: Final = {"bf16": 0.5, "f16": 0.1, "fp16": 0.1, "f32": 0.02, "fp32": 0.02}
"""How near the two best logits are where passes over one token, over several and over several sequences may choose
otherwise, by what a model computes in; its results carry about that much rounding. All that is not listed is quantized,
whose activations mostly are too: what rounds to another of 256 steps moves a logit by a tenth."""


class Router:
    """Routes requests to the tools of one toolset. Use as a context manager, or `close` it.

    The toolset's prefix is in the KV cache after opening and after every request, whatever happened to it; what an
    instruction shows of the context stays there until it changes. Calls from
    several threads take turns: there is one sequence, behind one lock.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: RouterTokenizer,
        toolset: Toolset,
        *,
        own: bool = False,
        guess: Guessing = True,
        prefixes: PrefixFiles | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        """Compile the grammar (unless it is given) and put the prefix into the cache.

        `own`: closing the router closes the model too. `guess`: let passes check guesses where that is faster
        (`router.guess`), or ``"always"``; the answers are the same. `prefixes`: where the prefix's cache is looked for
        and kept.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.toolset = toolset
        self.artifact: Artifact | None = None
        if not isinstance(guess, bool) and guess != "always":
            raise UserError(f"guess={guess!r}: give True, False or 'always'")
        self._own = own
        self._lock = RLock()
        self._closed = False
        self.prefix_ids = tokenizer.prefix_ids(toolset)
        smallest = len(tokenizer.prompt_ids(toolset, "x")) + 1
        if tokenizer.vocab_size > model.vocab_size:
            raise UserError(
                f"{tokenizer.source}: {tokenizer.vocab_size} entries, but the model has {model.vocab_size}; "
                "the tokenizer belongs to another model"
            )
        if smallest > model.context_length:
            raise UserError(
                f"toolset {toolset.name}: its declarations take {smallest} tokens and leave no room for a "
                f"request in the context of {model.context_length}; use fewer tools or shorter descriptions"
            )
        self.grammar = grammar or Grammar.compile(toolset, tokenizer)
        strings = listed_strings(toolset)
        self._guesser = Guesser(tokenizer, strings=strings, always=guess == "always") if guess else None
        self.tie = TIES.get(model.dtype, TIE)
        """How near the two best logits are where passes of other sizes may choose otherwise."""
        self._session: Session = model.session()
        self._files = prefixes
        self._written = 0
        self._memory = PrefixMemory()
        self.prefix_restored = False
        """Whether the prefix was read from a file rather than computed."""
        self._begin()
        self._batch: Batch | None = None
        self._shown: list[int] = []
        """What an instruction shows of the latest request's context; it is in the cache too."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        runtime: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        toolset: Toolset | None = None,
        check: Literal["hashes", "sizes"] = "hashes",
        guess: Guessing = True,
        save_prefix: bool = True,
    ) -> Router:
        """Open an artifact, with its own toolset or another one. Raises `UserError` for whatever is in the way.

        `save_prefix`: keep the cache of the toolset's prefix beside the artifact, where it can be written, so that the
        next process need not compute it; of an instruction that shows context, that of a few of its values. `guess` is
        the constructor's. `check="sizes"` spares the hashing of the weights where they were verified before.
        """
        from router.toolset_load import load_json
        from runtimes import FORMATS, open_model

        artifact = open_artifact(folder, check=check)
        tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
        toolset = toolset or load_json(artifact.toolset)
        # Before the model, so that what reading a large vocabulary takes for a moment does not come on top of it.
        compiled = Grammar.compile(toolset, tokenizer)
        model = open_model(artifact, runtime_name=runtime, device=device, threads=threads)
        try:
            files = PrefixFiles(artifact, model, runtime or FORMATS[artifact.format]) if save_prefix else None
            router = cls(model, tokenizer, toolset, own=True, guess=guess, prefixes=files, grammar=compiled)
        except BaseException:
            model.close()
            raise
        router.artifact = artifact
        if router._guesser is not None:
            router._guesser.examples = proved(artifact, compiled)
        return router

    @classmethod
    def from_model(
        cls, model: Model, tokenizer: RouterTokenizer, toolset: Toolset, *, guess: Guessing = True
    ) -> Router:
        """A router over a model that the caller opened and will close. `guess` as for the constructor."""
        return cls(model, tokenizer, toolset, guess=guess)

    def route(
        self,
        user: str,
        context: Mapping[str, Any] | None = None,
        *,
        grammar: bool = True,
        max_new_tokens: int = MAX_NEW_TOKENS,
        record: bool = False,
    ) -> RouteResult:
        """The calls that `user` asks for. `context` brings the values that the toolset binds or shows.

        Raises `UserError`, before any forward pass, for an empty request, one that does not fit the context, or a bound
        or shown key that is missing. A completion that is no call, or has no end, is the result's `error`.
        """
        begun = perf_counter()
        bound, request, _ = self._prepared(user, context or {})
        shown = self.tokenizer.context_ids(self.toolset, context or {})
        self._fits(shown, request)
        tokenized = perf_counter() - begun
        with self._lock:
            self._open()
            self._keep(shown)
            decoded, matching = self._decode(user, context or {}, request, grammar, max_new_tokens, record)
        result = self._result(decoded, bound, len(shown), len(request), grammar, tokenized, matching)
        return replace(result, stats=replace(result.stats, total_ms=(perf_counter() - begun) * 1e3))

    def route_many(
        self,
        users: Sequence[str],
        contexts: Sequence[Mapping[str, Any]] | None = None,
        *,
        grammar: bool = True,
        max_new_tokens: int = MAX_NEW_TOKENS,
        lanes: int = LANES,
    ) -> list[RouteResult]:
        """`route` for many requests, in their order; `lanes` at once where the runtime computes sequences together.

        Equal to routing one by one, as is done with those that the lanes' rounding may decide otherwise. A request that
        `route` would refuse is refused before any is computed. Lanes that have no room together become fewer, down to
        one by one. Times are those of the passes that a request had a part
        in. The sequences, which hold the toolset's prefix, are kept for the next call until the router is closed.
        Raises `UserError` as `route` does, naming the request.
        """
        if isinstance(users, str):
            raise UserError("route_many: one text; give a list of requests, or use route")
        contexts = contexts or [{}] * len(users)
        if len(contexts) != len(users):
            raise UserError(f"route_many: {len(contexts)} contexts for {len(users)} requests; give one for each")
        if lanes < 1:
            raise UserError(f"route_many: {lanes} lanes; give 1 or more")
        model = self.model
        if lanes == 1 or len(users) < 2 or self.toolset.placed or not isinstance(model, Batches):
            return [
                self.route(user, context, grammar=grammar, max_new_tokens=max_new_tokens)
                for user, context in zip(users, contexts, strict=True)
            ]
        prepared = []
        for number, (user, context) in enumerate(zip(users, contexts, strict=True), start=1):
            try:
                prepared.append(self._prepared(user, context))
            except UserError as error:
                raise UserError(f"request {number} of {len(users)}: {error}") from None
        with self._lock:
            self._open()
            batch = self._lanes(model, min(lanes, max(LANES, len(users))))
            jobs = (
                Job(request, self.grammar.matcher(user, context) if grammar else None)
                for user, context, (_, request, _) in zip(users, contexts, prepared, strict=True)
            )
            results: list[RouteResult | None] = [None] * len(users)
            try:
                for number, decoded in decode_many(
                    batch, jobs, self.tokenizer.stop_ids, context_length=model.context_length,
                    max_new_tokens=max_new_tokens, tie=self.tie,
                ):  # fmt: skip
                    # Too long for the lanes' cells, not for the context; or rounding decides.
                    if isinstance(decoded, RoomError | TieError):
                        results[number] = self.route(
                            users[number], contexts[number], grammar=grammar, max_new_tokens=max_new_tokens
                        )
                        continue
                    if isinstance(decoded, UserError):
                        raise UserError(f"request {number + 1} of {len(users)}: {decoded}")
                    bound, request, tokenized = prepared[number]
                    results[number] = self._result(decoded, bound, 0, len(request), grammar, tokenized, 0.0)
            except BaseException:
                self._free_lanes()  # some are in the middle of a request
                raise
        return [result for result in results if result is not None]

    def warm_up(self, requests: int = 1) -> None:
        """Decode a made-up request, so that the first real one does not pay for what a runtime sets up lazily."""
        request = self.tokenizer.request_ids(WARM_UP)
        with self._lock:
            self._open()
            for _ in range(requests):
                self._keep(self._shown)
                self._decode(WARM_UP, {}, request, True, WARM_UP_TOKENS, False)

    def close(self) -> None:
        """Free the model (if the router opened it). Closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._free_lanes()
                if self._own:
                    self.model.close()

    def __enter__(self) -> Router:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        if self._closed:
            raise UserError("the router is closed; open it again")

    def _lanes(self, model: Batches, count: int) -> Batch:
        """So many sequences that hold the prefix: those of the call before, where they are as many."""
        if self._batch is None or self._batch.lanes != count:
            self._free_lanes()
            self._batch = model.batch(count, self.prefix_ids)
        return self._batch

    def _free_lanes(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.close()

    def _keep(self, shown: list[int]) -> None:
        """Have the prefix and what an instruction shows behind it in the cache; mostly it is there."""
        session, prefix = self._session, len(self.prefix_ids)
        # A runtime that could not rewind lost the prefix with it; start over rather than answer from a wrong cache.
        sound = session.position == prefix + len(self._shown)
        if sound and shown == self._shown:
            return
        if sound and self._shown:
            self._memory.keep([*self.prefix_ids, *self._shown], session)
        self._shown = []
        tokens, files = [*self.prefix_ids, *shown], self._files
        if shown and (self._memory.restore(tokens, session) or (files is not None and files.restore(tokens, session))):
            self._shown = shown
            return
        if sound and session.position >= prefix:
            session.rewind(prefix)
        else:
            self._begin()
        if shown:
            session.append(shown)
            self._shown = shown
            if files is not None and self._written < CONTEXTS:
                self._written += 1
                files.keep(tokens, session)

    def _begin(self) -> None:
        """Have the prefix alone in the cache: from a file, or computed and kept in one (not where it is the few tokens
        before an instruction that shows context)."""
        session, files = self._session, None if self.toolset.placed else self._files
        session.rewind(0)
        self.prefix_restored = files is not None and files.restore(self.prefix_ids, session)
        if not self.prefix_restored:
            session.append(self.prefix_ids)
            if files is not None:
                files.keep(self.prefix_ids, session)

    def _decode(
        self, user: str, context: Mapping[str, Any], request: list[int], grammar: bool, limit: int, record: bool
    ) -> tuple[Decoded, float]:
        """Decode and leave in the cache what was there before. Also the seconds that the matcher took."""
        session = self._session
        kept = session.position
        room = self.model.context_length
        begun = perf_counter()
        try:
            if not grammar:
                stops = self.tokenizer.stop_ids
                return decode_free(
                    session, request, stops, context_length=room, max_new_tokens=limit, record=record
                ), 0.0  # fmt: skip
            matcher = self.grammar.matcher(user, context)
            matching = perf_counter() - begun
            guesser = self._guesser
            guide = None if guesser is None else guesser.begin(user, request)
            prices = None if guesser is None else guesser.prices
            return decode(
                session, request, matcher, context_length=room, max_new_tokens=limit, record=record, guide=guide,
                tie=self.tie, prices=prices,
            ), matching  # fmt: skip
        finally:
            if session.position > kept:
                session.rewind(kept)

    def _prepared(self, user: str, context: Mapping[str, Any]) -> tuple[Bound, list[int], float]:
        """The bound values, the ids of the user's turn, and the seconds that it took. Raises `UserError`."""
        begun = perf_counter()
        if not isinstance(user, str):
            raise UserError(f"the request is {type(user).__name__}; give text")
        if not isinstance(context, Mapping):
            raise UserError(f"the context is {type(context).__name__}; give a dictionary")
        bound = bound_values(self.toolset, context)
        if not user.strip():
            raise UserError("the request is empty; say what you want done")
        request = self.tokenizer.request_ids(user_turn(self.toolset, user, context))
        self._fits([], request)
        return bound, request, perf_counter() - begun

    def _result(
        self,
        decoded: Decoded,
        bound: Bound,
        shown: int,
        request: int,
        grammar: bool,
        tokenized: float,
        matching: float,
    ) -> RouteResult:
        """What was decoded, as calls; `shown` and `request` count the tokens of the instruction's context and the turn,
        `tokenized` and `matching` the seconds before decoding."""
        calls, text, error = self._read(decoded, grammar)
        if error is None:
            calls = [fill(call, bound) for call in calls]
        why = causes(self.tokenizer, self.toolset, decoded.token_ids, decoded.pass_starts) if grammar else {}
        stats = RouteStats(
            prompt_tokens=len(self.prefix_ids) + shown + request,
            request_tokens=request,
            forced_tokens=decoded.forced_tokens,
            decided_tokens=decoded.decided_tokens,
            forward_passes=decoded.forward_passes,
            pass_sizes=decoded.pass_sizes,
            pass_causes=why,
            guessed_tokens=decoded.guessed_tokens,
            guessed_right=decoded.guessed_right,
            first_decision_ms=(tokenized + matching) * 1e3 + decoded.first_decision_ms,
            total_ms=(tokenized + matching) * 1e3 + decoded.total_ms,
            tokenize_ms=tokenized * 1e3,
            grammar_ms=matching * 1e3 + decoded.grammar_ms,
            model_ms=decoded.model_ms,
        )
        return RouteResult(calls, error, decoded.token_ids, text, stats, decoded.decisions, decoded.passes)

    def _read(self, decoded: Decoded, grammar: bool) -> tuple[list[Call], str, str | None]:
        ids = decoded.token_ids
        try:
            pieces = self.tokenizer.pieces(ids)
        except UserError as error:  # not UTF-8, or an id past the vocabulary
            text = self.tokenizer.decode([i for i in ids if i < self.tokenizer.vocab_size])
            return [], text, decoded.error or f"the completion cannot be read: {error}"
        text = "".join(piece.text for piece in pieces)
        if decoded.error is not None:
            return [], text, decoded.error
        try:
            calls = parse_pieces(pieces, self.tokenizer.wire)
        except UserError as error:
            return [], text, f"the completion cannot be read: {error}"
        if grammar and self.grammar.loose:
            wrong = [problem for call in calls for problem in schema_errors(call, self.toolset)]
            if wrong:
                return [], text, f"the call does not hold to its schema: {wrong[0]}"
        return calls, text, None

    def _fits(self, shown: list[int], request: list[int]) -> None:
        prefix, room = len(self.prefix_ids) + len(shown), self.model.context_length
        if prefix + len(request) + 1 > room:
            raise DecodeError(
                f"the request takes {len(request)} tokens; with the toolset's {prefix} and at least one for the answer "
                f"that is more than the context of {room}; shorten the request"
            )
