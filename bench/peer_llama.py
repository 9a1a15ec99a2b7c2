"""llama-cpp-python's `Llama.create_completion`, plain and under our GBNF.

By itself it keeps the tokens of its last call and computes what differs; after `reset` it computes all. `swa_full`
holds that right for local layers past their window, at no cost before it. The end-of-generation tokens of the GGUF end
a completion and are left out of its text; the stops are named all the same, as its documentation tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from bench.peer import LIFTED, Completion, Opening, Peer
from runtimes.base import Availability
from runtimes.llama_native import choose


def availability(server: str | None) -> Availability:
    """Whether llama-cpp-python is installed."""
    from runtimes.llama_native import availability as native_availability

    return native_availability()


def open_peer(opening: Opening) -> Peer:
    """Load the GGUF file, and read the grammar if there is one. Raises `UnavailableError` for a device that the build
    does not offer."""
    return Completing(opening)


class Completing:
    """One `Llama`, all of its layers on the device."""

    pids: list[int] = []

    def __init__(self, opening: Opening) -> None:
        from llama_cpp import Llama, LlamaGrammar

        gpu = choose(opening.device)
        self.device = gpu.kind if gpu else "cpu"
        self._llama = Llama(
            model_path=str(opening.artifact.weights),
            n_ctx=opening.context_length,
            n_threads=opening.threads,
            n_threads_batch=opening.threads,
            n_gpu_layers=-1 if gpu else 0,
            logits_all=False,
            swa_full=True,
            verbose=False,
        )
        self._more: dict[str, Any] = {}
        if opening.grammar:
            self._more["grammar"] = LlamaGrammar.from_string(opening.grammar, verbose=False)
        self._naive = not opening.kind.kept
        self._sample = self._llama.sample
        self._stops = list(opening.stops)
        self._limit = opening.limit
        self.dtype = opening.artifact.quant
        self.threads = opening.threads
        self.versions = {"llama-cpp-python": version("llama-cpp-python")}

    def complete(self, prompt: str, along: Sequence[int] = ()) -> Completion:
        if self._naive:
            self._llama.reset()
        answer: Any = self._llama.create_completion(
            prompt, max_tokens=self._limit, temperature=0.0, stop=self._stops, **self._more, **self._along(along)
        )
        choice = answer["choices"][0]
        ended = choice["finish_reason"] == "stop"
        # The stop took a pass of its own and is not counted among the tokens.
        return Completion(choice["text"], ended, passes=answer["usage"]["completion_tokens"] + ended)

    def _along(self, tokens: Sequence[int]) -> dict[str, Any]:
        """Let `tokens` be taken. Without a grammar `sample` is made to sample as ever and then give the next of them;
        under one that must have seen it, so a logits processor lifts it, which copies the row.
        """
        self._llama.sample = self._sample
        if not tokens:
            return {}
        left = iter(tokens)
        if "grammar" in self._more:

            def lift(ids: Any, logits: Any) -> Any:
                logits[next(left)] = LIFTED
                return logits

            from llama_cpp import LogitsProcessorList

            return {"logits_processor": LogitsProcessorList([lift])}

        def sample(**options: Any) -> int:
            self._sample(**options)
            return next(left)

        self._llama.sample = sample
        return {}

    def prompt_ids(self, prompt: str) -> list[int]:
        ids: list[int] = self._llama.tokenize(prompt.encode(), add_bos=False, special=True)
        return ids

    def close(self) -> None:
        self._llama.close()
