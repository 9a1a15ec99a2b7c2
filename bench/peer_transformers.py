"""transformers' `generate`, plain and behind a prefilled cache.

The cache is used as transformers' documentation of its KV cache tells ("Re-use cache to continue generation"): the
common prompt is run once into a `DynamicCache`, each request generates behind a deep copy of it and passes the whole
prompt. With the config given, the cache keeps of local layers what their window reaches, as `generate`'s own does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Final

from bench.peer import LIFTED, Completion, Opening, Peer
from runtimes.base import Availability
from runtimes.torch import device_named

_NAMES: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def availability(server: str | None) -> Availability:
    """Whether torch and transformers are installed."""
    from runtimes.torch import availability as torch_availability

    return torch_availability()


def open_peer(opening: Opening) -> Peer:
    """Load the checkpoint in the dtype that it is stored in. Raises `UnavailableError` for a device that is absent."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

    torch.set_num_threads(opening.threads)
    folder = opening.artifact.folder
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    net = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).eval()
    net = net.to(device_named(opening.device))
    past = None
    if opening.kind.kept:
        prompt = tokenizer(opening.prefix, return_tensors="pt", add_special_tokens=False).to(net.device)
        with torch.no_grad():
            cache = net(**prompt, past_key_values=DynamicCache(config=net.config)).past_key_values
        past = Past(prompt["input_ids"][0].tolist(), lambda: copy.deepcopy(cache))
    dtype = str(net.dtype).removeprefix("torch.")
    return Generating(
        net, tokenizer, opening, past,
        dtype=_NAMES.get(dtype, dtype), threads=torch.get_num_threads(), packages=("transformers", "torch"),
    )  # fmt: skip


class Past:
    """What the cache holds, and how a request gets its own."""

    def __init__(self, token_ids: list[int], copied: Callable[[], Any]) -> None:
        self.token_ids = token_ids
        self.copied = copied


def _along(tokens: Sequence[int], given: int) -> Callable[[Any, Any], Any]:
    """A logits processor that lifts the token that is to be taken; `generate` gives it a copy of the row."""

    def lift(ids: Any, scores: Any) -> Any:
        scores[:, tokens[ids.shape[1] - given]] = LIFTED
        return scores

    return lift


class Generating:
    """A model with transformers' `generate`; also optimum's, which inherits it."""

    pids: list[int] = []

    def __init__(
        self, net: Any, tokenizer: Any, opening: Opening, past: Past | None, *, dtype: str, threads: int,
        packages: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.dtype = dtype
        self.threads = threads
        self.versions = {name: version(name) for name in packages}
        self._net = net
        self._target = net.device
        self.device = "metal" if net.device.type == "mps" else str(net.device)
        self._tokenizer = tokenizer
        self._past = past
        self._limit = opening.limit
        self._stops: list[int] = [*tokenizer.convert_tokens_to_ids(list(opening.stops)), tokenizer.eos_token_id]

    def complete(self, prompt: str, along: Sequence[int] = ()) -> Completion:
        inputs = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(self._target)
        given = inputs["input_ids"][0].tolist()
        more: dict[str, Any] = {}
        # Another tokenizer than ours may join the request's first characters with the prefix's last.
        if self._past is not None and given[: len(self._past.token_ids)] == self._past.token_ids:
            more["past_key_values"] = self._past.copied()
        if along:
            more["logits_processor"] = [_along(along, len(given))]
        out = self._net.generate(
            **inputs, do_sample=False, max_new_tokens=self._limit, eos_token_id=self._stops,
            pad_token_id=self._tokenizer.pad_token_id, **more,
        )  # fmt: skip
        written = out[0, len(given) :].tolist()
        return Completion(self._tokenizer.decode(written), written[-1] in self._stops, written, len(written))

    def prompt_ids(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

    def close(self) -> None:
        """Nothing was started."""
