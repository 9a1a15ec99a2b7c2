"""mlx-lm's generation behind a prompt cache, on the device that MLX takes by itself (a Mac's GPU).

The prefix is run into a prompt cache once, as ``mlx_lm.cache_prompt`` does; each request goes on from a deep copy of
it, as mlx-lm's server does, because the rotating caches of local layers cannot be trimmed past their window.
`stream_generate` is what ``mlx_lm.generate`` joins into one string; it also says why a completion ended.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from bench.peer import LIFTED, Completion, Opening, Peer
from runtimes.base import Availability


def availability(server: str | None) -> Availability:
    """Whether mlx and mlx-lm are here, and transformers, which mlx-lm's own loader needs."""
    from runtimes.mlx import availability as mlx_availability

    return mlx_availability().with_package("transformers", 'pip install "edgecall[mlx]"')


def open_peer(opening: Opening) -> Peer:
    """Load the MLX folder and fill the prompt cache."""
    return Streaming(opening)


def _along(tokens: Sequence[int]) -> Callable[[Any, Any], Any]:
    """A logits processor that lifts the token that is to be taken. It is asked once a token, and once more ahead."""
    left = iter(tokens)

    def lift(ids: Any, logits: Any) -> Any:
        token = next(left, None)
        if token is not None:
            logits[:, token] = LIFTED
        return logits

    return lift


class Streaming:
    """A model of mlx-lm, its tokenizer, and the cache of the prefix."""

    pids: list[int] = []
    threads = 1
    """MLX evaluates on one thread."""

    def __init__(self, opening: Opening) -> None:
        import mlx.core as mx
        from mlx_lm import load
        from mlx_lm.generate import generate_step
        from mlx_lm.models.cache import make_prompt_cache

        weights = opening.artifact.weights
        folder = weights if weights.is_dir() else weights.parent
        self._net, self._tokenizer = load(str(folder))
        for stop in opening.stops:
            self._tokenizer.add_eos_token(stop)
        self._limit = opening.limit
        self._prefix = self.prompt_ids(opening.prefix)
        self._cache: Any = make_prompt_cache(self._net)
        for _ in generate_step(mx.array(self._prefix), self._net, max_tokens=0, prompt_cache=self._cache):
            pass
        mx.eval([layer.state for layer in self._cache])
        self.device = ("metal" if mx.metal.is_available() else "cuda") if mx.default_device() == mx.gpu else "cpu"
        self.dtype = opening.artifact.quant
        self.versions = {name: version(name) for name in ("mlx", "mlx-lm")}

    def complete(self, prompt: str, along: Sequence[int] = ()) -> Completion:
        from mlx_lm import stream_generate

        given = self.prompt_ids(prompt)
        kept = len(self._prefix)
        more: dict[str, Any] = {}
        if given[:kept] == self._prefix:
            given, more = given[kept:], {"prompt_cache": copy.deepcopy(self._cache)}
        if along:
            more["logits_processors"] = [_along(along)]
        parts = list(stream_generate(self._net, self._tokenizer, given, max_tokens=self._limit, **more))
        last = parts[-1]
        text = "".join(part.text for part in parts)
        return Completion(text, last.finish_reason == "stop", passes=last.generation_tokens)

    def prompt_ids(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(prompt, add_special_tokens=False)
        return ids

    def close(self) -> None:
        """Nothing was started."""
