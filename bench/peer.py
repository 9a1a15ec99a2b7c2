"""The peers of `bench peers`: other people's ways to the same calls, each used as its own documentation tells.

A peer is a line in `PEERS` and a module, imported only where it is used, which offers under these fixed names:

``availability(server) -> Availability``   cheap; `server` is the llama-server that was given, if any
``open_peer(opening) -> Peer``             in a process of its own
``prepare(source, folder, progress)``      only where it needs an export of its own: written into `folder`, once

`Peer.complete` is the one place where a peer's own loop is called, also where it is to take given tokens: each after
its row of logits was computed and its own search for the best token made, by the means that its interface offers.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol

from runtimes.artifact import Artifact
from runtimes.errors import UserError

LIFTED: Final = 1e30
"""The logit that a peer's row gets for a token which is to be taken."""


@dataclass(frozen=True)
class Kind:
    """What is known of a peer without importing it."""

    module: str
    call: str
    """What is called, for people."""
    format: str
    """Of the artifact that it opens,"""
    quant: str
    """and which one of that format where none was chosen."""
    made: str = ""
    """The format that it makes of the artifact for itself; then it opens `quant` alone, whatever was chosen."""
    grammar: bool = False
    """Decodes under our GBNF."""
    kept: bool = False
    """Keeps the prompt's unchanging part between requests."""
    unusual: str = ""
    """Why it is not asked where nobody names peers; empty for one that is."""
    forced: bool = True
    """Can be made to take given tokens."""
    alone: bool = False
    """Opens `quant` alone, whatever was chosen."""
    options: tuple[str, ...] = ()
    """What its program is started with beside what every such peer is."""
    devices: tuple[str, ...] = ("cpu",)
    """Kinds of device that it can be put on; empty for one that takes what it finds."""

    def runs_on(self, device: str) -> bool:
        """Whether it can be put on a device: `auto`, or a kind with or without a number."""
        return not self.devices or device == "auto" or device.partition(":")[0] in self.devices


_GPUS: Final = ("cpu", "cuda", "metal")

PEERS: Final[dict[str, Kind]] = {
    "transformers": Kind(
        "bench.peer_transformers", "transformers generate", "safetensors", "fp32", devices=_GPUS
    ),
    "transformers-bf16": Kind(
        "bench.peer_transformers", "transformers generate in bfloat16", "safetensors", "bf16", alone=True,
        devices=_GPUS, unusual="a checkpoint in 16 bits of its own is asked where it is wanted",
    ),
    "transformers-cache": Kind(
        "bench.peer_transformers", "transformers generate behind a copy of a prefilled DynamicCache", "safetensors",
        "fp32", kept=True, devices=_GPUS,
    ),
    "optimum": Kind(
        "bench.peer_optimum", "optimum ORTModelForCausalLM.generate on its own export", "safetensors", "fp32",
        made="onnx",
    ),
    "llama-cpp-python": Kind(
        "bench.peer_llama", "llama_cpp.Llama.create_completion", "gguf", "q8_0", kept=True, devices=_GPUS
    ),
    "llama-cpp-python-naive": Kind(
        "bench.peer_llama", "llama_cpp.Llama.create_completion after Llama.reset", "gguf", "q8_0", devices=_GPUS,
        unusual="it computes the whole prompt for every request, which its cache spares",
    ),
    "llama-cpp-python-gbnf": Kind(
        "bench.peer_llama", "llama_cpp.Llama.create_completion with our GBNF", "gguf", "q8_0", grammar=True, kept=True,
        devices=_GPUS,
    ),
    "llama-server": Kind(
        "bench.peer_server", "llama-server POST /completion with cache_prompt and our GBNF", "gguf", "q8_0",
        grammar=True, kept=True, forced=False,
    ),
    "llama-server-fa-off": Kind(
        "bench.peer_server", "llama-server -fa off, POST /completion with cache_prompt and our GBNF", "gguf", "q8_0",
        grammar=True, kept=True, forced=False, options=("-fa", "off"),
    ),
    "llama-server-plain": Kind(
        "bench.peer_server", "llama-server -fa off, POST /completion with cache_prompt", "gguf", "q8_0",
        kept=True, forced=False, options=("-fa", "off"),
    ),
    "mlx-lm": Kind(
        "bench.peer_mlx", "mlx_lm.generate behind a copy of a prefilled prompt cache", "mlx", "8bit", kept=True,
        devices=(),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Opening:
    """What a peer is opened with."""

    kind: Kind
    artifact: Artifact
    prefix: str
    """The text that all prompts begin with."""
    stops: tuple[str, ...]
    """What ends a completion, as it is spelled."""
    grammar: str
    """GBNF; empty for a peer that decodes without."""
    threads: int
    limit: int
    """Tokens of a completion."""
    context_length: int
    log: Path
    """Where a program that the peer starts writes."""
    patience_s: float = 120.0
    prepared: Path | None = None
    """What `prepare` wrote."""
    server: str | None = None
    """The llama-server."""
    device: str = "cpu"


@dataclass(frozen=True)
class Completion:
    """What a peer wrote behind a prompt; its text may hold the stop or not. `ended`: with a stop, not at the limit."""

    text: str
    ended: bool
    token_ids: Sequence[int] = ()
    """Where the peer tells them,"""
    passes: int | None = None
    """and the forward passes that it took, the prompt's included."""


class Peer(Protocol):
    """An open peer. `device`, `dtype` and `threads` are what it really uses."""

    device: str
    dtype: str
    threads: int
    versions: dict[str, str]

    def complete(self, prompt: str, along: Sequence[int] = ()) -> Completion:
        """The greedy completion, or the one whose tokens are given, a stop their last, taken one by one.

        Raises `UserError` where the peer is no longer able to.
        """
        ...

    def prompt_ids(self, prompt: str) -> list[int]:
        """What its own tokenizer makes of a prompt."""
        ...

    @property
    def pids(self) -> list[int]:
        """Processes that it has started and that do its work."""
        ...

    def close(self) -> None:
        """End what it has started."""
        ...


def kind_of(name: str) -> Kind:
    """What is known of a peer. Raises `UserError` for an unknown name."""
    if name not in PEERS:
        near = difflib.get_close_matches(name, PEERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"--peers: unknown peer {name!r}; there are {', '.join(PEERS)}{hint}")
    return PEERS[name]


def module_of(kind: Kind) -> ModuleType:
    """The peer's module, imported now."""
    return importlib.import_module(kind.module)
