"""The runtimes: each opens an Artifact as a Model. Adding one is one file here and one line in `RUNTIMES`.

A runtime module offers, under these fixed names:

``FORMAT``                                              the artifact format that it opens ("gguf", …)
``availability() -> Availability``                      cheap; never raises, imports nothing heavy it need not
``open_model(artifact, *, device, threads) -> Model``   see `runtimes.base`
``bare_loop(artifact, *, device, threads, prefix, passes) -> BareLoop``
                                                        the same passes through the runtime's own API, for the floor
``EMULATED``                                            True where it stands in for another runtime (optional)
``compared_devices() -> Sequence[str]``                 devices here that a bench compares with each other (optional)
"""

from __future__ import annotations

import importlib
from types import ModuleType

from runtimes.artifact import Artifact, open_artifact
from runtimes.base import Availability, DeviceStatus, Model, Session
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError

RUNTIMES: dict[str, str] = {
    "torch": "runtimes.torch",
    "llama_cpp": "runtimes.llama_cpp",
    "onnxruntime": "runtimes.onnxruntime",
    "mlx": "runtimes.mlx",
    "coreml": "runtimes.coreml",
    "coreml-reference": "runtimes.coreml_reference",
}

FORMATS: dict[str, str] = {
    "safetensors": "torch",
    "gguf": "llama_cpp",
    "onnx": "onnxruntime",
    "mlx": "mlx",
    "coreml": "coreml",
}
"""Which runtime opens which artifact format."""

STAND_INS: dict[str, str] = {"coreml": "coreml-reference"}
"""Format -> the runtime that proves it where its own cannot run."""


def runtime(name: str) -> ModuleType:
    """The runtime module called `name`, imported now. Raises `UserError` for an unknown name."""
    if name not in RUNTIMES:
        import difflib

        near = difflib.get_close_matches(name, RUNTIMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown runtime {name!r}; there are {', '.join(RUNTIMES)}{hint}")
    return importlib.import_module(RUNTIMES[name])


def is_emulated(name: str) -> bool:
    """Whether the runtime called `name` stands in for another: what it computes counts, how fast does not."""
    return bool(getattr(runtime(name), "EMULATED", False))


def prover(fmt: str) -> str:
    """The runtime that proves artifacts of a format here: its own, or its stand-in where only that can run."""
    own, other = FORMATS[fmt], STAND_INS.get(fmt)
    if other is None or runtime(own).availability().available or not runtime(other).availability().available:
        return own
    return other


def open_model(
    artifact: Artifact,
    *,
    runtime_name: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
) -> Model:
    """Open `artifact` with the runtime of its format, or with `runtime_name`.

    `precision`: of a stand-in alone, which can leave out the format's rounding ("float32"); None for the declared one.
    """
    name = runtime_name or FORMATS[artifact.format]
    module = runtime(name)
    if module.FORMAT != artifact.format:
        raise UserError(f"{artifact.folder}: {name} opens {module.FORMAT} artifacts, this is {artifact.format}")
    if precision is not None and not is_emulated(name):
        raise UserError(f"{name}: computes as it does; --precision is for {', '.join(STAND_INS.values())}")
    extra = {} if precision is None else {"precision": precision}
    model: Model = module.open_model(artifact, device=device, threads=threads, **extra)
    return model


__all__ = [
    "FORMATS",
    "RUNTIMES",
    "STAND_INS",
    "Artifact",
    "ArtifactError",
    "Availability",
    "DeviceStatus",
    "Model",
    "Session",
    "SessionError",
    "UnavailableError",
    "UserError",
    "is_emulated",
    "open_artifact",
    "open_model",
    "prover",
    "runtime",
]
