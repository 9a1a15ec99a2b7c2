"""MLX: mlx-lm's Gemma 3 on Apple silicon's GPU (Metal), on CUDA, or on the CPU.

The layers are mlx-lm's; the pass over them, the KV cache and the masks are ours, for three reasons. mlx-lm's rotating
caches cannot rewind, its plain cache ignores the sliding window, and it rounds the embedding's scale to bfloat16 in
every dtype (25.25 for 25.298 at width 640). The cache here has room for more tokens than it holds and is written in
place; it hands a local layer only the keys inside its window, and forgets by setting one number.

So the shapes of a pass depend on its width and the cache's room alone, and on a GPU, where building the graph anew
costs as much as a small model's pass, it is compiled once for each. Widths are rounded up there. On a CPU tokens that
nobody asked for cost what others do, and compiling takes a second of g++ to save a tenth, so neither is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from runtimes import mlx_net
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
    row_offsets,
)
from runtimes.errors import SessionError, UnavailableError, UserError
from runtimes.mlx_batch import MlxBatch
from runtimes.output import read_output_ids
from runtimes.shortlist import ShortlistSession
from runtimes.snapshots import Array, ArraySession

FORMAT = "mlx"

_FIX_METAL = "run on a Mac with Apple silicon; the macOS wheel of mlx has Metal built in"
_FIX_CUDA = 'on Linux with an NVIDIA GPU: pip install "mlx[cuda13]" (or "mlx[cuda12]" with a CUDA 12 driver)'
_LEAST: Final = 256
"""Tokens that a cache has room for at first."""
_WIDEST: Final = 64
"""Tokens of the longest pass that is compiled; a longer one pays for its graph anyway."""
_FUSED = "kernels are fused at first use with g++"
_UNFUSED = "g++ not found: kernels are not fused, which is slower but right; apt install g++"


def availability() -> Availability:
    """Whether mlx and mlx-lm are installed, and which devices this build of mlx can use."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}"
    except PackageNotFoundError as error:
        return Availability(False, reason=f"{error.name or 'mlx'} is not installed", fix=mlx_net.FIX)
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:  # on Linux the plain wheel comes without a backend
        line = str(error).splitlines()[0] if str(error) else "import failed"
        return Availability(False, found, f"mlx does not load ({line})", mlx_net.FIX)
    return Availability(True, found, devices=_devices())


def open_model(artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> MlxModel:
    """Load an MLX artifact. `device`: auto, cpu, metal, cuda.

    `threads` is checked but cannot be set: MLX evaluates a stream on one thread, and its Linux wheel brings a BLAS
    without threads; `MlxModel.threads` says 1. Raises `UnavailableError` for a device that is not there,
    `ArtifactError` for weights that do not fit the config.
    """
    state = availability()
    if not state.available:
        raise UnavailableError(f"mlx: {state.reason}; {state.fix}")
    check_threads(threads)
    name = _device(device, state.devices)
    return MlxModel(artifact, name)


def bare_loop(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
    prefix: Sequence[int],
    passes: Sequence[Pass],
) -> BareLoop:
    """The same passes with their inputs made beforehand; one evaluation a pass."""
    import mlx.core as mx

    model = open_model(artifact, device=device, threads=threads)
    cache = Cache(model)
    if prefix:
        model.forward(list(prefix), cache, 0, "last")
    for start, tokens, _, _ in passes:
        model.make_room(cache, start + len(tokens))
    with model.stream():
        steps = [model.inputs(*one) for one in passes]
        mx.eval([part for one in steps for part in one if part is not None])

    def run() -> None:
        with model.stream():
            for inputs in steps:
                np.asarray(model.step(cache, *inputs))  # asking for the numbers evaluates

    return run


class Cache:
    """Keys and values of one sequence, per layer, with room for more; how many of them count, the session knows."""

    def __init__(self, model: MlxModel) -> None:
        self.cells = _LEAST
        with model.stream():
            self.buffers = mlx_net.buffers(model.net, self.cells)


class MlxModel:
    """Loaded weights; sessions share them."""

    def __init__(self, artifact: Artifact, device: str, *, compiled: bool | None = None) -> None:
        """`compiled`: whether short passes are compiled; None where it pays."""
        self._device = device
        folder = artifact.weights if artifact.weights.is_dir() else artifact.weights.parent
        self.output_ids = read_output_ids(artifact)
        with self.stream():
            self._net, self.dtype = mlx_net.load(folder)
            if self.output_ids is not None:
                mlx_net.keep_rows(self._net, self.output_ids)
        self._layers: Any = partial(mlx_net.layers, self._net)
        self._compiled = _compile(self._layers) if (device != "cpu" if compiled is None else compiled) else None
        self.vocab_size: int = artifact.vocab_size
        self.context_length: int = artifact.context_length
        if device == "cpu":
            self._compile_kernels()

    @property
    def net(self) -> Any:
        """mlx-lm's `gemma3_text.Model`. Raises `SessionError` after `close`."""
        if self._net is None:
            raise SessionError("mlx: the model is closed; open it again")
        return self._net

    @property
    def device(self) -> str:
        return self._device

    @property
    def threads(self) -> int:
        """1: the thread that evaluates. On macOS Accelerate may use more inside a matrix product, unasked."""
        return 1

    def session(self) -> MlxSession:
        return MlxSession(self)

    def batch(self, lanes: int, prefix: Sequence[int]) -> MlxBatch:
        self.net  # noqa: B018 - raises when closed
        return MlxBatch(self, Cache(self), lanes, prefix)

    def close(self) -> None:
        import mlx.core as mx

        self._net = self._layers = self._compiled = None
        mx.clear_cache()

    def stream(self) -> Any:
        """Context in which operations run on the model's device. MLX's streams belong to a thread, so the calling
        thread's own is entered each time, and a session may move between threads."""
        import mlx.core as mx

        return mx.stream(mx.cpu if self._device == "cpu" else mx.gpu)

    def forward(self, tokens: Sequence[int], cache: Cache, start: int, rows: Rows, at: Ids | None = None) -> Logits:
        """One pass behind `start` cached tokens, evaluated once. Float32 logits of the asked rows, of the output
        matrix's rows `at` alone where they are given; the others never meet the LM head."""
        self.make_room(cache, start + len(tokens))
        with self.stream():
            logits: Logits = np.asarray(self.step(cache, *self.inputs(start, tokens, rows, at)))
        return logits[-1] if rows == "last" else logits

    def make_room(self, cache: Cache, end: int) -> None:
        """Let `cache` hold `end` tokens, and what a pass is rounded up by."""
        need = end + (_WIDEST if self._compiled is not None else 0)
        if need > cache.cells:
            cells = max(2 * cache.cells, -(-need // _LEAST) * _LEAST)
            with self.stream():
                cache.buffers = mlx_net.buffers(self.net, cells, cache.buffers)
            cache.cells = cells

    def inputs(self, start: int, tokens: Sequence[int], rows: Rows, ids: Ids | None) -> tuple[Any, Any, Any, Any]:
        """What `step` takes, as arrays."""
        import mlx.core as mx

        width = len(tokens)
        if self._compiled is not None and width <= _WIDEST:
            width = 1 << (width - 1).bit_length()
        # What is computed for the tokens that round up lies behind the others, which do not see it, and is overwritten.
        padded = [*tokens, *([0] * (width - len(tokens)))]
        keep = mx.array(list(row_offsets(rows, len(tokens))))
        return mx.array(start), mx.array(padded)[None], keep, None if ids is None else mx.array(ids)

    def step(self, cache: Cache, start: Any, tokens: Any, keep: Any, ids: Any) -> Any:
        """One pass, not yet evaluated: float32 logits (kept, ids). The cache's buffers are then the new ones, and the
        old ones nobody's, so that they are written in place."""
        import mlx.core as mx

        net = self.net
        layers = self._layers if self._compiled is None or tokens.shape[1] > _WIDEST else self._compiled
        states, keys, values = layers(tokens, start, *cache.buffers)
        logits = mlx_net.head(net, net.model.norm(states[:, keep]), ids)
        cache.buffers = keys, values
        return logits[0].astype(mx.float32)

    def _compile_kernels(self) -> None:
        """Two throw-away passes under a lock: on Linux mlx compiles fused kernels into a folder that all processes
        share, and loads what it finds there, finished or not."""
        with _kernel_lock():
            for count in (1, 2):
                self.forward([0] * count, Cache(self), 0, "all")


class MlxSession(ShortlistSession, ArraySession):
    """One sequence: its cached keys and values."""

    def __init__(self, model: MlxModel) -> None:
        super().__init__(model, mlx_net.output_bytes(model.net))
        self._mlx = model
        self._cache = Cache(model)

    def _check_open(self) -> None:
        self._mlx.net  # noqa: B018 - raises when closed

    def _arrays(self, tokens: int) -> Sequence[Array]:
        with self._mlx.stream():
            return mlx_net.arrays(self._cache.buffers, tokens)

    def _load(self, arrays: Sequence[Array]) -> None:
        cache = self._cache
        with self._mlx.stream():
            tokens = mlx_net.tokens_of(cache.buffers, arrays)
            self._mlx.make_room(cache, tokens)
            cache.buffers = mlx_net.loaded(cache.buffers, arrays, tokens)

    def _forward(self, tokens: Sequence[int], rows: Rows) -> Logits:
        return self._mlx.forward(tokens, self._cache, self._position, rows)

    def _forward_shortlist(self, tokens: Sequence[int], rows: Rows, at: Ids) -> Logits:
        return self._mlx.forward(tokens, self._cache, self._position, rows, at)


def _compile(function: Any) -> Any:
    import mlx.core as mx

    return mx.compile(function)


def _devices() -> dict[str, DeviceStatus]:
    import platform
    import shutil

    import mlx.core as mx

    linux = platform.system() == "Linux"
    cpu = DeviceStatus(True, (_FUSED if shutil.which("g++") else _UNFUSED) if linux else "")
    metal = DeviceStatus(False, "no Metal device", _FIX_METAL)
    cuda = DeviceStatus(False, "this build of mlx has no CUDA device", _FIX_CUDA)
    if mx.metal.is_available():
        metal = DeviceStatus(True, _gpu_name())
    elif mx.cuda.is_available():
        cuda = DeviceStatus(True, _gpu_name())
    return {"cpu": cpu, "metal": metal, "cuda": cuda}


def _gpu_name() -> str:
    import mlx.core as mx

    info = getattr(mx, "device_info", None)  # older releases ask the backend's own module
    return str(info(mx.gpu).get("device_name", "")) if info is not None else ""


def _device(name: str, devices: dict[str, DeviceStatus]) -> str:
    if name == "auto":
        return next((gpu for gpu in ("metal", "cuda") if devices[gpu].available), "cpu")
    if name not in devices:
        raise UserError(f"mlx: unknown device {name!r}; use auto, {', '.join(devices)}")
    state = devices[name]
    if not state.available:
        raise UnavailableError(f"mlx: device {name!r} is not available here ({state.detail}); {state.fix}")
    return name


@contextmanager
def _kernel_lock() -> Iterator[None]:
    """Held by one process at a time; waits. No lock where locking is not to be had."""
    import tempfile

    try:
        import fcntl

        path = Path(tempfile.gettempdir()) / "edgecall-mlx-kernels.lock"
        handle = path.open("a")
    except (ImportError, OSError):
        yield
        return
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


__all__ = ["FORMAT", "MlxModel", "MlxSession", "availability", "bare_loop", "open_model"]
