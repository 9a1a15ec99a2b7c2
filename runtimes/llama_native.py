"""llama-cpp-python's native library: loading it, keeping its log, and the devices that its build offers."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from runtimes.base import Availability, DeviceStatus
from runtimes.errors import ArtifactError, UnavailableError

INSTALL: Final = 'pip install "edgecall[llama]" (builds llama.cpp: needs a C++ compiler and some minutes)'
_RECIPE: Final = 'CMAKE_ARGS="-D{}=on" pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python'
RECIPES: Final[dict[str, str]] = {
    "cuda": _RECIPE.format("GGML_CUDA"),
    "metal": _RECIPE.format("GGML_METAL"),
    "vulkan": _RECIPE.format("GGML_VULKAN"),
    "rocm": _RECIPE.format("GGML_HIP"),
}
"""How to build llama-cpp-python for each kind of GPU."""

_KINDS: Final = {"CUDA": "cuda", "MTL": "metal", "Metal": "metal", "Vulkan": "vulkan", "ROCm": "rocm"}
"""ggml's backend names -> ours."""
_GPU_TYPES: Final = (1, 2)
"""enum ggml_backend_dev_type (ggml-backend.h): a GPU, and one that shares the host's memory."""
_ERROR, _CONTINUED = 4, 5
"""enum ggml_log_level (ggml.h)."""
_POINTER: Final = ctypes.c_void_p


@dataclass(frozen=True)
class Gpu:
    """One GPU that the build sees."""

    kind: str
    description: str
    handle: int


def availability() -> Availability:
    """Whether llama-cpp-python can be loaded here, and which devices its build offers. Never raises."""
    import importlib.metadata

    missing = {k: DeviceStatus(False, "llama-cpp-python is missing", f) for k, f in {"cpu": INSTALL, **RECIPES}.items()}
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return Availability(False, None, "llama-cpp-python is not installed", INSTALL, missing)
    try:
        found = gpus()
    except UnavailableError as error:
        return Availability(False, version, str(error), INSTALL, missing)
    devices = {"cpu": DeviceStatus(True)}
    for kind, recipe in RECIPES.items():
        names = ", ".join(g.description for g in found if g.kind == kind)
        absent = DeviceStatus(False, f"this build of llama-cpp-python finds no {kind} device", recipe)
        devices[kind] = DeviceStatus(True, names) if names else absent
    return Availability(True, version, devices=devices)


def gpus() -> list[Gpu]:
    """The GPUs that the installed build sees, best first. Raises `UnavailableError` without the package."""
    native()
    lib = _ggml()
    found = []
    for index in range(lib.ggml_backend_dev_count()):
        handle = lib.ggml_backend_dev_get(index)
        if lib.ggml_backend_dev_type(handle) in _GPU_TYPES:
            family = lib.ggml_backend_reg_name(lib.ggml_backend_dev_backend_reg(handle)).decode()
            description = lib.ggml_backend_dev_description(handle).decode()
            found.append(Gpu(_KINDS.get(family, family.lower()), description, int(handle)))
    return found


def choose(device: str) -> Gpu | None:
    """The GPU that `device` means; None is the CPU. Raises `UnavailableError` for one that is not there."""
    if device == "cpu":
        return None
    if device not in ("auto", *RECIPES):
        raise UnavailableError(f"llama_cpp: unknown device {device!r}; there are auto, cpu, {', '.join(RECIPES)}")
    for gpu in gpus():
        if device in ("auto", gpu.kind):
            return gpu
    if device == "auto":
        return None
    raise UnavailableError(
        f"llama_cpp: this build of llama-cpp-python finds no {device} device; rebuild it: {RECIPES[device]}"
    )


class Log:
    """What llama.cpp says: errors are kept so that ours can name the reason, the rest is dropped."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=64)
        self._lock = threading.Lock()
        self._level = 0

    def __call__(self, level: int, text: bytes, _data: Any) -> None:
        if level != _CONTINUED:
            self._level = level
        if self._level == _ERROR and (line := " ".join(text.decode("utf-8", "replace").split())):
            with self._lock:
                self._lines.append(line)

    def clear(self) -> None:
        with self._lock:
            self._lines.clear()

    def reason(self) -> str:
        """The first error since `clear`, on one line."""
        with self._lock:
            return next(iter(self._lines), "no reason given")


log = Log()


@cache
def native() -> Any:
    """llama-cpp-python's low-level module, silenced. `Any`: its annotations do not survive strict checking.

    Raises `UnavailableError` where it is missing or its library cannot be loaded.
    """
    try:
        module = _part("llama_cpp")
    except ImportError as error:
        raise UnavailableError(f"llama-cpp-python is not installed ({error}); {INSTALL}") from None
    except (OSError, RuntimeError) as error:  # its loader's own errors
        raise UnavailableError(f"llama-cpp-python cannot load its library ({error}); {INSTALL}") from None
    module.llama_log_set(_callback(module), ctypes.c_void_p(0))  # before it has anything to say
    module.llama_backend_init()
    return module


def listen() -> None:
    """Have llama.cpp's messages come here, also where something else took them over since, as the package does when it
    is imported whole."""
    module = native()
    module.llama_log_set(_callback(module), ctypes.c_void_p(0))


def _part(name: str) -> Any:
    """A module of llama-cpp-python without running the package's `__init__`, which imports its high-level interface,
    chat formats and Jinja: a tenth of what a process needs to its first answer. Who imports the package gets it whole.
    """
    import importlib
    import importlib.util
    import sys

    whole = sys.modules.get("llama_cpp")
    if whole is None:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("no module named llama_cpp")
        package = ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module(f"llama_cpp.{name}")
    finally:
        if whole is None:
            del sys.modules["llama_cpp"]


@cache
def _callback(module: Any) -> Any:
    """The log as a C function. Cached for ever, because native code keeps the pointer."""
    return module.llama_log_callback(log)


@cache
def _ggml() -> Any:
    """ggml's device functions (ggml-backend.h), which llama-cpp-python does not bind."""
    return _bind(
        _part("_ggml").libggml,
        {
            "ggml_backend_dev_count": ([], ctypes.c_size_t),
            "ggml_backend_dev_get": ([ctypes.c_size_t], _POINTER),
            "ggml_backend_dev_type": ([_POINTER], ctypes.c_int),
            "ggml_backend_dev_description": ([_POINTER], ctypes.c_char_p),
            "ggml_backend_dev_backend_reg": ([_POINTER], _POINTER),
            "ggml_backend_reg_name": ([_POINTER], ctypes.c_char_p),
        },
    )


def tensor_types(path: Path) -> dict[str, int]:
    """Tensor name -> enum ggml_type, from the head of a GGUF file (gguf.h). Raises `ArtifactError` if unreadable."""
    with _gguf_head(path) as (lib, context):
        count = lib.gguf_get_n_tensors(context)
        return {
            lib.gguf_get_tensor_name(context, i).decode(): int(lib.gguf_get_tensor_type(context, i))
            for i in range(count)
        }


def weight_bytes(path: Path) -> int:
    """Bytes of a GGUF file's tensors: all behind its head, which holds the vocabulary. Errors as `tensor_types`."""
    with _gguf_head(path) as (lib, context):
        return path.stat().st_size - int(lib.gguf_get_data_offset(context))


@contextmanager
def _gguf_head(path: Path) -> Iterator[tuple[Any, Any]]:
    """The library and the context of a file whose head was read. Raises `ArtifactError` if it is unreadable."""
    lib = _gguf()
    log.clear()
    context = lib.gguf_init_from_file(os.fsencode(path), _GgufParams(True, None))
    if not context:
        raise ArtifactError(f"{path}: not a readable GGUF file ({log.reason()}); export again")
    try:
        yield lib, context
    finally:
        lib.gguf_free(context)


class _GgufParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


@cache
def _gguf() -> Any:
    """gguf's reading functions (gguf.h), which llama-cpp-python does not bind either."""
    native()
    lib = _part("_ctypes_extensions").load_shared_library("ggml-base", _part("_ggml").libggml_base_path)
    return _bind(
        lib,
        {
            "gguf_init_from_file": ([ctypes.c_char_p, _GgufParams], _POINTER),
            "gguf_free": ([_POINTER], None),
            "gguf_get_data_offset": ([_POINTER], ctypes.c_size_t),
            "gguf_get_n_tensors": ([_POINTER], ctypes.c_int64),
            "gguf_get_tensor_name": ([_POINTER, ctypes.c_int64], ctypes.c_char_p),
            "gguf_get_tensor_type": ([_POINTER, ctypes.c_int64], ctypes.c_int),
        },
    )


def _bind(lib: Any, signatures: dict[str, tuple[list[Any], Any]]) -> Any:
    for name, (arguments, result) in signatures.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, result
    return lib
