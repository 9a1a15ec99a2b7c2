"""ONNX Runtime: the graph of `export.onnx`, on the CPU, on CUDA, or as far as it goes on Core ML's provider ("metal").

ONNX Runtime quietly leaves to the CPU what a provider does not take, and all of it where a provider does not start;
here the first is said in `device` ("metal+cpu") and the second is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from runtimes.artifact import Artifact
from runtimes.base import (
    Availability,
    BareLoop,
    DeviceStatus,
    Logits,
    Pass,
    Rows,
    check_threads,
    row_offsets,
)
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError
from runtimes.onnxruntime_batch import OnnxBatch
from runtimes.onnxruntime_cells import Layout
from runtimes.onnxruntime_sequence import TokenSequence
from runtimes.output import read_output_ids
from runtimes.snapshots import Array, ArraySession

FORMAT = "onnx"

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "metal": "CoreMLExecutionProvider"}
_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_FIX = 'pip install "edgecall[onnx]"'
_FIX_CUDA = (
    "on Linux or Windows with an NVIDIA GPU: pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
)
_FIX_METAL = "run on a Mac; the macOS wheel of onnxruntime has the Core ML provider built in"
_PROVIDER_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "cpu": {},
    # TF32 rounds the factors of float32 products to 10 bits.
    "cuda": {"use_tf32": "0"},
    "metal": {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"},
}
_HEAVY: Final = {"MatMul", "MatMulNBits", "FusedMatMul", "Gemm", "Attention"}
_DEVICE_ERRORS: Final = {"RuntimeError", "ValueError", "RuntimeException", "EPFail"}


def availability() -> Availability:
    """Whether onnxruntime is installed, and which of its execution providers this machine has."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        if error.name == "onnxruntime":
            return Availability(False, reason="onnxruntime is not installed", fix=_FIX)
        return Availability(False, reason=f"onnxruntime does not load ({_line(error)})", fix=_FIX)
    providers = ort.get_available_providers()
    cuda = DeviceStatus(False, f"this build of onnxruntime has no {_PROVIDERS['cuda']}", _FIX_CUDA)
    if _PROVIDERS["cuda"] in providers:
        cuda = DeviceStatus(True, "built in") if _driver() else DeviceStatus(False, "no NVIDIA driver", _FIX_CUDA)
    metal = DeviceStatus(False, f"this build of onnxruntime has no {_PROVIDERS['metal']}", _FIX_METAL)
    if _PROVIDERS["metal"] in providers:
        metal = DeviceStatus(True, "Core ML provider; what it does not take stays on the CPU")
    devices = {"cpu": DeviceStatus(True), "cuda": cuda, "metal": metal}
    return Availability(True, f"{_package()} {ort.__version__}", devices=devices)


def open_model(artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> OnnxModel:
    """Load an ONNX artifact. `device`: auto (cuda where it works, else cpu), cpu, cuda (or cuda:N), metal.

    Raises `UnavailableError` for a device that is not there or takes no part of the graph, `ArtifactError` for a
    file that ONNX Runtime does not load.
    """
    state = availability()
    if not state.available:
        raise UnavailableError(f"onnxruntime: {state.reason}; {state.fix}")
    kind, _, index = device.partition(":")
    if kind not in ("auto", *_PROVIDERS) or (index and (kind != "cuda" or not index.isdigit())):
        raise UserError(f"onnxruntime: unknown device {device!r}; use auto, cpu, cuda, cuda:N or metal")
    count = check_threads(threads)
    if kind == "auto":
        if state.devices["cuda"].available:
            try:
                return OnnxModel(artifact, "cuda", 0, count)
            except UnavailableError:
                pass  # a build for CUDA whose libraries do not load here
        kind = "cpu"
    elif not state.devices[kind].available:
        status = state.devices[kind]
        raise UnavailableError(f"onnxruntime: device {device!r} is not available: {status.detail}; {status.fix}")
    return OnnxModel(artifact, kind, int(index or 0), count)


def bare_loop(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
    prefix: Sequence[int],
    passes: Sequence[Pass],
) -> BareLoop:
    """The same passes with all inputs bound beforehand: `InferenceSession.run_with_iobinding` and nothing else."""
    run = open_model(artifact, device=device, threads=threads).sequence()
    if prefix:
        run(prefix, [len(prefix) - 1], 0)
    return run.prepared([(tokens, row_offsets(rows, len(tokens)), start) for start, tokens, rows, _ in passes])


class OnnxModel:
    """Loaded weights; sessions share them."""

    def __init__(self, artifact: Artifact, kind: str, index: int, threads: int) -> None:
        self.output_ids = read_output_ids(artifact)
        session, self.layout = _load(artifact, kind, index, threads)
        self._session: Any = session
        self.place = ("cuda", index) if kind == "cuda" else ("cpu", 0)
        self.vocab_size: int = artifact.vocab_size
        self.context_length: int = artifact.context_length
        self.device: str = _device_name(session, kind, index)
        self.dtype: str = artifact.quant
        self.threads: int = int(session.get_session_options().intra_op_num_threads)

    @property
    def native(self) -> Any:
        """The `onnxruntime.InferenceSession`. Raises `SessionError` after `close`."""
        if self._session is None:
            raise SessionError("onnxruntime: the model is closed; open it again")
        return self._session

    def sequence(self) -> TokenSequence:
        """A new, empty cache, as the function that runs passes on it."""
        return TokenSequence(self.native, self.layout, self.place)

    def session(self) -> OnnxSession:
        return OnnxSession(self)

    def batch(self, lanes: int, prefix: Sequence[int]) -> OnnxBatch:
        return OnnxBatch(self, lanes, prefix)

    def close(self) -> None:
        self._session = None


class OnnxSession(ArraySession):
    """One sequence, and how many of its cached tokens count."""

    def __init__(self, model: OnnxModel) -> None:
        super().__init__(model)
        self._onnx = model
        self._run = model.sequence()

    def _arrays(self, tokens: int) -> Sequence[Array]:
        return self._run.arrays(tokens)

    def _load(self, arrays: Sequence[Array]) -> None:
        self._run.load(arrays)

    def _check_open(self) -> None:
        self._onnx.native  # noqa: B018 - raises when closed

    def _forward(self, tokens: Sequence[int], rows: Rows) -> Logits:
        logits = self._run(tokens, row_offsets(rows, len(tokens)), self._position)
        return logits[0] if rows == "last" else logits


def _load(artifact: Artifact, kind: str, index: int, threads: int) -> tuple[Any, Layout]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it has to say comes back as exceptions
    provider: Any = (_PROVIDERS[kind], _PROVIDER_OPTIONS[kind])
    if kind == "cuda":
        provider = (provider[0], {**provider[1], "device_id": str(index)})
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA's and cuDNN's libraries where they came as wheels
    if kind != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = artifact.weights / "model.onnx" if artifact.weights.is_dir() else artifact.weights
    providers = [provider] if kind == "cpu" else [provider, _PROVIDERS["cpu"]]
    fix = _FIX_CUDA if kind == "cuda" else _FIX_METAL
    try:
        session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
        shapes = {o.name: o.shape for o in session.get_outputs()}
    except Exception as error:  # its exceptions share no base but this
        if kind != "cpu" and type(error).__name__ in _DEVICE_ERRORS:
            raise UnavailableError(f"onnxruntime: {_PROVIDERS[kind]} does not start ({_line(error)}); {fix}") from error
        raise ArtifactError(
            f"{path}: onnxruntime {ort.__version__} cannot load it ({_line(error)}); export again, or update "
            "onnxruntime if the artifact is newer"
        ) from error
    if _PROVIDERS[kind] not in session.get_providers():
        raise UnavailableError(f"onnxruntime: {_PROVIDERS[kind]} is built in but does not start here; {fix}")
    if "logits" not in shapes or shapes["logits"][-1] != artifact.output_rows:
        found = shapes.get("logits", "no logits")
        raise ArtifactError(f"{path}: gives {found}, the manifest says a vocabulary of {artifact.output_rows}")
    try:
        return session, Layout.of(session)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}; export again") from None


def _device_name(session: Any, kind: str, index: int) -> str:
    """The device that the matrix products really run on; with "+cpu" where ONNX Runtime left some of them there."""
    if kind == "cpu":
        return "cpu"
    name = f"{kind}:{index}" if index else kind
    heavy: dict[str, int] = {}
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before onnxruntime 1.24
        return name
    for part in session.get_provider_graph_assignment_info():
        count = sum(node.op_type in _HEAVY for node in part.get_nodes())
        heavy[part.ep_name] = heavy.get(part.ep_name, 0) + count
    if not heavy.get(_PROVIDERS[kind]):
        raise UnavailableError(f"onnxruntime: {_PROVIDERS[kind]} takes no part of this graph; use --device cpu")
    return f"{name}+cpu" if heavy.get(_PROVIDERS["cpu"]) else name


def _driver() -> bool:
    import ctypes.util

    return bool(ctypes.util.find_library("cuda") or ctypes.util.find_library("nvcuda"))


def _package() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for name in reversed(_PACKAGES):
        try:
            version(name)
            return name
        except PackageNotFoundError:
            continue
    return "onnxruntime"


def _line(error: BaseException) -> str:
    """What an exception says, on one line and without the code and path that onnxruntime puts in front."""
    text = str(error).strip().split(" failed:", 1)[-1].strip()
    return text.splitlines()[0] if text else type(error).__name__


__all__ = ["FORMAT", "OnnxModel", "OnnxSession", "availability", "bare_loop", "open_model"]
