"""PyTorch, the reference: transformers' Gemma 3 on safetensors, on cpu, cuda or metal (MPS).

The module of transformers computes; the KV cache and the attention masks are ours. A cache that keeps every key can
be rewound to any position, also behind the sliding window (transformers' own windowed cache cannot), and masks made
from positions alone cost microseconds where transformers' mask builder costs more than a small model's pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runtimes import torch_net
from runtimes.artifact import Artifact
from runtimes.base import (
    Availability,
    BareLoop,
    CountingSession,
    DeviceStatus,
    Logits,
    Pass,
    Rows,
    check_threads,
)
from runtimes.errors import SessionError, UnavailableError, UserError
from runtimes.output import read_output_ids
from runtimes.torch_batch import TorchBatch

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

    target = _device(device)
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
    net, cache, target = model.net, _Cache(model), model.net.device
    with torch.inference_mode():
        cache.start = 0
        net(**cache.inputs(prefix), past_key_values=cache, use_cache=True, logits_to_keep=1)
        steps = []
        for start, tokens, rows in passes:
            cache.start = start
            steps.append((start, cache.inputs(tokens), _keep(rows, target)))

    def run() -> None:
        with torch.inference_mode():
            for start, inputs, keep in steps:
                cache.start = start
                net(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep).logits[0].float().cpu()

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

    def batch(self, lanes: int, prefix: Sequence[int]) -> TorchBatch:
        self.net  # noqa: B018 - raises when closed
        return TorchBatch(self, lanes, prefix)

    def close(self) -> None:
        self._net = None


class TorchSession(CountingSession):
    """One sequence: its cached keys and values, and how many of them count."""

    def __init__(self, model: TorchModel) -> None:
        super().__init__(model)
        self._torch = model
        self._cache = _Cache(model)

    def _check_open(self) -> None:
        self._torch.net  # noqa: B018 - raises when closed

    def _forward(self, tokens: Sequence[int], rows: Rows) -> Logits:
        import torch

        cache, net = self._cache, self._torch.net
        cache.start = self._position
        keep = _keep(rows, net.device)
        with torch.inference_mode():
            out = net(**cache.inputs(tokens), past_key_values=cache, use_cache=True, logits_to_keep=keep)
            logits: Logits = out.logits[0].float().cpu().numpy()
        return logits[-1] if rows == "last" else logits


def _keep(rows: Rows, device: torch.device) -> int | torch.Tensor:
    """What transformers calls `logits_to_keep`."""
    import torch

    if isinstance(rows, str):
        return {"last": 1, "all": 0}[rows]
    return torch.tensor(rows, device=device)


class _Cache:
    """Keys and values of every position, per layer, in buffers that grow by doubling; the writer sets `start`.

    Offers what transformers' attention asks of a cache: `update`. For a local layer only the keys that the window
    of the first new token reaches are handed on, so that its cost does not grow with the context.
    """

    def __init__(self, model: TorchModel) -> None:
        config = model.net.config
        self.start = 0
        self._device, self._dtype = model.net.device, model.net.dtype
        self._limit = model.context_length
        self._window = int(config.sliding_window)
        self._local = [kind == "sliding_attention" for kind in config.layer_types]
        self._shape = (1, int(config.num_key_value_heads), 0, int(config.head_dim))
        self._buffers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self._local)

    def inputs(self, tokens: Sequence[int]) -> dict[str, Any]:
        """Input ids, positions and masks (True: may attend) of a pass over `tokens` from `start` on."""
        import torch

        start, end = self.start, self.start + len(tokens)
        positions = torch.arange(start, end, device=self._device)
        masks: dict[str, torch.Tensor | None] = {"full_attention": None, "sliding_attention": None}
        if len(tokens) > 1:  # a single token may attend to every key that it is given
            query = positions[:, None]
            key = torch.arange(0, end, device=self._device)
            masks["full_attention"] = (key <= query)[None, None]
            key = key[self._first() :]
            masks["sliding_attention"] = ((key <= query) & (key > query - self._window))[None, None]
        return {
            "input_ids": torch.tensor([list(tokens)], device=self._device),
            "position_ids": positions[None],
            "cache_position": positions,
            "attention_mask": masks,
        }

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values behind `start`; return those that the layer may attend to."""
        end = self.start + keys.shape[2]
        all_keys, all_values = self._room(layer_idx, end)
        all_keys[:, :, self.start : end] = keys
        all_values[:, :, self.start : end] = values
        first = self._first() if self._local[layer_idx] else 0
        return all_keys[:, :, first:end], all_values[:, :, first:end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.start

    def _first(self) -> int:
        return max(0, self.start - self._window + 1)

    def _room(self, layer: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        old = self._buffers[layer]
        if old is not None and old[0].shape[2] >= end:
            return old
        size = min(self._limit, max(end, 256, 2 * (old[0].shape[2] if old is not None else 0)))
        shape = (*self._shape[:2], size, self._shape[3])
        new = (
            torch.zeros(shape, dtype=self._dtype, device=self._device),
            torch.zeros(shape, dtype=self._dtype, device=self._device),
        )
        if old is not None:
            for target, source in zip(new, old, strict=True):
                target[:, :, : self.start] = source[:, :, : self.start]
        self._buffers[layer] = new
        return new


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


def _device(name: str) -> torch.device:
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
