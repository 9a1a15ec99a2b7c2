"""MLX: mlx-lm's Gemma 3 on Apple silicon's GPU (Metal), on CUDA, or on the CPU.

The layers are mlx-lm's; the pass over them, the KV cache and the masks are ours, for three reasons. mlx-lm's rotating
caches cannot rewind, its plain cache ignores the sliding window, and it rounds the embedding's scale to bfloat16 in
every dtype (25.25 for 25.298 at width 640). The cache here keeps every key, hands a local layer only those inside
its window, and forgets by setting one number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from runtimes.output import read_output_ids
from runtimes.shortlist import ShortlistSession

FORMAT = "mlx"

_FIX_METAL = "run on a Mac with Apple silicon; the macOS wheel of mlx has Metal built in"
_FIX_CUDA = 'on Linux with an NVIDIA GPU: pip install "mlx[cuda13]" (or "mlx[cuda12]" with a CUDA 12 driver)'
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
    """The same passes through mlx-lm's own forward, with input ids made beforehand; one evaluation a pass."""
    import mlx.core as mx

    model = open_model(artifact, device=device, threads=threads)
    caches = model.make_caches()
    net = model.net
    # mlx-lm takes a layer's kind of mask from the cache at the pattern's position, also where no such layer is.
    spare = [caches[0]] * max(0, net.args.sliding_window_pattern - len(caches))

    def step(tokens: Any, rows: Any, ids: Any = None) -> Any:
        return mlx_net.head(net, net.model(tokens, [*caches, *spare])[:, rows], ids).astype(mx.float32)

    with model.stream():
        if prefix:
            mx.eval(step(mx.array(list(prefix))[None], mx.array([len(prefix) - 1])))
        steps = [
            (
                start,
                mx.array(list(tokens))[None],
                mx.array(list(row_offsets(rows, len(tokens)))),
                None if ids is None else mx.array(ids),
            )
            for start, tokens, rows, ids in passes
        ]
        mx.eval([part for _, *parts in steps for part in parts if part is not None])

    def run() -> None:
        with model.stream():
            for start, tokens, rows, ids in steps:
                for layer_cache in caches:
                    layer_cache.offset = start
                np.asarray(step(tokens, rows, ids))  # asking for the numbers evaluates

    return run


class MlxModel:
    """Loaded weights; sessions share them."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        self._device = device
        folder = artifact.weights if artifact.weights.is_dir() else artifact.weights.parent
        self.output_ids = read_output_ids(artifact)
        with self.stream():
            self._net, self.dtype = mlx_net.load(folder)
            if self.output_ids is not None:
                mlx_net.keep_rows(self._net, self.output_ids)
        self._window = int(self._net.args.sliding_window)
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

    def close(self) -> None:
        import mlx.core as mx

        self._net = None
        mx.clear_cache()

    def stream(self) -> Any:
        """Context in which operations run on the model's device. MLX's streams belong to a thread, so the calling
        thread's own is entered each time, and a session may move between threads."""
        import mlx.core as mx

        return mx.stream(mx.cpu if self._device == "cpu" else mx.gpu)

    def make_caches(self) -> list[Any]:
        """One empty cache per layer, with mlx-lm's cache interface."""
        kind = mlx_net.cache_class()
        return [kind(self._window if layer.self_attn.is_sliding else None) for layer in self.net.layers]

    def forward(self, tokens: Sequence[int], caches: list[Any], rows: Rows, at: Ids | None = None) -> Logits:
        """One pass, evaluated once. Float32 logits of the asked rows, of the output matrix's rows `at` alone where
        they are given; the others never meet the LM head."""
        import mlx.core as mx

        net = self.net
        with self.stream():
            keep = None if rows == "all" else list(row_offsets(rows, len(tokens)))
            some = None if at is None else mx.array(at)
            out = mlx_net.head(net, mlx_net.hidden(net, mx.array(list(tokens))[None], caches, keep), some)
            logits: Logits = np.asarray(out[0].astype(mx.float32))
        return logits[-1] if rows == "last" else logits

    def _compile_kernels(self) -> None:
        """Two throw-away passes under a lock: on Linux mlx compiles fused kernels into a folder that all processes
        share, and loads what it finds there, finished or not."""
        with _kernel_lock():
            for count in (1, 2):
                self.forward([0] * count, self.make_caches(), "all")


class MlxSession(ShortlistSession):
    """One sequence: its cached keys and values."""

    def __init__(self, model: MlxModel) -> None:
        super().__init__(model)
        self._mlx = model
        self._caches = model.make_caches()

    def _check_open(self) -> None:
        self._mlx.net  # noqa: B018 - raises when closed

    def _forward(self, tokens: Sequence[int], rows: Rows) -> Logits:
        return self._mlx.forward(tokens, self._caches, rows)

    def _forward_shortlist(self, tokens: Sequence[int], rows: Rows, at: Ids) -> Logits:
        return self._mlx.forward(tokens, self._caches, rows, at)

    def _truncate(self, position: int) -> None:
        for layer_cache in self._caches:
            layer_cache.offset = position


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
