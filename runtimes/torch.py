"""PyTorch, the reference: transformers' Gemma 3 on safetensors, on cpu, cuda or metal (MPS).

The module of transformers computes; the KV cache and the attention masks are ours. A cache that keeps every key can
be rewound to any position, also behind the sliding window (transformers' own windowed cache cannot), and masks made
from positions alone cost microseconds where transformers' mask builder costs more than a small model's pass. On CUDA
short passes are replayed as graphs (`runtimes.torch_static`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runtimes import torch_cache, torch_net
from runtimes.artifact import Artifact
from runtimes.base import (
    Availability,
    BareLoop,
    DeviceStatus,
    Ids,
    Logits,
    Pass,
    Rows,
    check_threads,
)
from runtimes.errors import SessionError, UnavailableError, UserError
from runtimes.output import read_output_ids
from runtimes.shortlist import ShortlistSession
from runtimes.snapshots import Array, ArraySession
from runtimes.torch_batch import TorchBatch
from runtimes.torch_cache import Cache, TokenCache
from runtimes.torch_static import StaticCache, cuda_graph

if TYPE_CHECKING:
    import torch

FORMAT = "safetensors"

_FIX = 'pip install "edgecall[torch]"'
_FIX_CUDA = "needs an NVIDIA driver and torch's CUDA build, on Linux the default: pip install --force-reinstall torch"
_FIX_METAL = "run on a Mac with Apple silicon and macOS 14 or newer; the macOS wheel of torch has MPS built in"


def availability() -> Availability:
    """Whether torch and transformers are installed, and which devices torch can use here."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("torch")
        version("transformers")
    except PackageNotFoundError as error:
        return Availability(False, reason=f"{error.name or 'torch'} is not installed", fix=_FIX)
    return Availability(True, f"torch {found}", devices={"cpu": DeviceStatus(True), **_accelerators()})


def open_model(artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> TorchModel:
    """Load a safetensors artifact. `device`: auto, cpu, cuda (or cuda:N), metal.

    `threads` is process-wide in torch: the model opened last decides. Raises `UnavailableError` for a device that
    is not there, `ArtifactError` for weights that do not fit the config.
    """
    state = availability()
    if not state.available:
        raise UnavailableError(f"torch: {state.reason}; {state.fix}")
    import torch

    target = device_named(device)
    torch.set_num_threads(check_threads(threads))
    return TorchModel(torch_net.load(artifact, target), artifact, device, target)


def bare_loop(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
    prefix: Sequence[int],
    passes: Sequence[Pass],
) -> BareLoop:
    """The same passes with everything but the forward passes done beforehand: input ids, positions and masks."""
    import torch

    model = open_model(artifact, device=device, threads=threads)
    net, cache, target = model.net, model.cache(), model.net.device
    with torch.inference_mode():
        if prefix:
            cache.run(cache.prepare(prefix, 0), 0, slice(-1, None))
        steps = []
        for start, tokens, rows, ids in passes:
            some = None if ids is None else torch.from_numpy(ids).to(target)
            steps.append((start, cache.prepare(tokens, start), torch_net.keep(rows, target), some))

    def run() -> None:
        with torch.inference_mode():
            for start, inputs, keep, some in steps:
                torch_net.head(net, cache.run(inputs, start, keep), some).float().cpu()

    return run


class TorchModel:
    """Loaded weights; sessions share them."""

    def __init__(self, net: Any, artifact: Artifact, asked: str, device: torch.device) -> None:
        self._net = net
        self.output_ids = read_output_ids(artifact)
        if self.output_ids is not None:
            torch_net.keep_rows(net, self.output_ids)
        self.vocab_size: int = artifact.vocab_size
        self.context_length: int = artifact.context_length
        self.device: str = "metal" if device.type == "mps" else str(device)
        self.dtype: str = {"float32": "fp32", "bfloat16": "bf16"}[str(net.dtype).removeprefix("torch.")]

    @property
    def net(self) -> Any:
        """The `Gemma3ForCausalLM`. Raises `SessionError` after `close`."""
        if self._net is None:
            raise SessionError("torch: the model is closed; open it again")
        return self._net

    @property
    def threads(self) -> int:
        import torch

        return int(torch.get_num_threads())

    def session(self) -> TorchSession:
        return TorchSession(self)

    def cache(self) -> TokenCache:
        """A new, empty KV cache for one sequence: on an NVIDIA GPU one whose short passes are CUDA graphs."""
        device = self.net.device
        return StaticCache(self, cuda_graph(device)) if device.type == "cuda" else Cache(self)

    def batch(self, lanes: int, prefix: Sequence[int]) -> TorchBatch:
        self.net  # noqa: B018 - raises when closed
        return TorchBatch(self, lanes, prefix)

    def close(self) -> None:
        self._net = None


class TorchSession(ShortlistSession, ArraySession):
    """One sequence: its cached keys and values, and how many of them count."""

    def __init__(self, model: TorchModel) -> None:
        super().__init__(model, model.net.lm_head.weight.nbytes)
        self._torch = model
        self._cache = model.cache()

    def _check_open(self) -> None:
        self._torch.net  # noqa: B018 - raises when closed

    def _arrays(self, tokens: int) -> Sequence[Array]:
        return torch_cache.arrays(self._cache.room(tokens), tokens)

    def _load(self, arrays: Sequence[Array]) -> None:
        torch_cache.load(self._cache, arrays)

    def _forward(self, tokens: Sequence[int], rows: Rows) -> Logits:
        return self._forward_shortlist(tokens, rows, None)

    def _forward_shortlist(self, tokens: Sequence[int], rows: Rows, at: Ids | None) -> Logits:
        import torch

        cache, net, start = self._cache, self._torch.net, self._position
        with torch.inference_mode():
            states = cache.run(cache.prepare(tokens, start), start, torch_net.keep(rows, net.device))
            some = None if at is None else torch.from_numpy(at).to(net.device)
            logits: Logits = torch_net.head(net, states, some).float().cpu().numpy()
        return logits[-1] if rows == "last" else logits


def _accelerators() -> dict[str, DeviceStatus]:
    """cuda and metal. torch is imported only where an NVIDIA driver is, to ask whether this build can use it."""
    import ctypes.util
    import platform

    cuda = DeviceStatus(False, "no NVIDIA driver found", _FIX_CUDA)
    if ctypes.util.find_library("cuda") or ctypes.util.find_library("nvcuda"):
        import torch

        if torch.cuda.is_available():
            cuda = DeviceStatus(True, torch.cuda.get_device_name(0))
        else:
            cuda = DeviceStatus(False, f"torch {torch.__version__} sees no CUDA device", _FIX_CUDA)
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        metal = DeviceStatus(True, "MPS")
    else:
        metal = DeviceStatus(False, f"MPS needs Apple silicon; this is {platform.system()}", _FIX_METAL)
    return {"cuda": cuda, "metal": metal}


def device_named(name: str) -> torch.device:
    import torch

    cuda, metal = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if metal else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "metal":
        if not metal:
            raise UnavailableError(f"torch: device 'metal' is not available here; {_FIX_METAL}")
        return torch.device("mps")
    kind, _, index = name.partition(":")
    if kind == "cuda" and (index.isdigit() or not index):
        if not cuda:
            raise UnavailableError(f"torch: device {name!r} is not available here; {_FIX_CUDA}")
        if index and int(index) >= torch.cuda.device_count():
            raise UnavailableError(f"torch: device {name!r} is not there; this machine has {torch.cuda.device_count()}")
        return torch.device(name)
    raise UserError(f"torch: unknown device {name!r}; use auto, cpu, cuda, cuda:N or metal")


__all__ = ["FORMAT", "TorchModel", "TorchSession", "availability", "bare_loop", "open_model"]
