"""Core ML: an ``.mlpackage`` with its KV cache as state, on a Mac's CPU, GPU or Neural Engine (macOS 15 and newer).

The package takes the new tokens, the positions in use and the rows whose logits are wanted (see docs/coreml.md). Where
a pass writes follows from the number of positions, so rewinding is giving fewer of them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

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
    row_offsets,
)
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError

FORMAT = "coreml"

_UNITS = {
    "cpu": ("CPU_ONLY", "cpu"),
    "gpu": ("CPU_AND_GPU", "cpu+gpu"),
    "metal": ("CPU_AND_GPU", "cpu+gpu"),
    "ane": ("CPU_AND_NE", "cpu+ane"),
    "all": ("ALL", "cpu+gpu+ane"),
}
"""Device name -> `coremltools.ComputeUnit`, and what the model then says that it uses."""

_AUTO = "gpu"
"""Not "all": the Neural Engine takes no flexible shapes, and has been seen to refuse stateful models outright."""

_NEEDS = "Core ML prediction needs macOS 15"
_FIX = "copy the artifact to a Mac with macOS 15 or newer and run it there"
_FIX_INSTALL = 'pip install "edgecall[coreml]"'
_INPUTS = ("input_ids", "positions", "rows")


def availability() -> Availability:
    """Whether Core ML can predict here: macOS 15 and coremltools."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found: str | None = f"coremltools {version('coremltools')}"
    except PackageNotFoundError:
        found = None
    if not _is_macos_15():
        absent = DeviceStatus(False, _NEEDS, _FIX)
        return Availability(False, found, _NEEDS, _FIX, dict.fromkeys(("cpu", "gpu", "metal", "ane"), absent))
    if found is None:
        return Availability(False, reason="coremltools is not installed", fix=_FIX_INSTALL)
    there = DeviceStatus(True)
    ane = there if platform.machine() == "arm64" else DeviceStatus(False, "no Neural Engine", "use Apple silicon")
    return Availability(True, found, devices={"cpu": there, "gpu": there, "metal": there, "ane": ane})


def open_model(artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> CoreMLModel:
    """Compile and load a Core ML artifact. `device`: auto (as gpu), cpu, gpu or metal, ane, all.

    These are the units that Core ML may use; operation by operation it decides for itself, and it has no setting for
    threads. Raises `UnavailableError` off macOS 15, `ArtifactError` for a package that does not load.
    """
    name = _device(device)
    state = availability()
    if not state.available:
        raise UnavailableError(f"coreml: {state.reason}; {state.fix}")
    check_threads(threads)
    if name in state.devices and not state.devices[name].available:
        missing = state.devices[name]
        raise UnavailableError(f"coreml: device {device!r} is not available here ({missing.detail}); {missing.fix}")
    return CoreMLModel(artifact, name)


def bare_loop(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
    prefix: Sequence[int],
    passes: Sequence[Pass],
) -> BareLoop:
    """The same passes as bare `MLModel.predict` calls, with their inputs made beforehand."""
    ml = open_model(artifact, device=device, threads=threads).ml
    state = ml.make_state()
    return bare_passes(lambda inputs: ml.predict(inputs, state), prefix, passes)


def bare_passes(predict: Callable[[dict[str, Any]], object], prefix: Sequence[int], passes: Sequence[Pass]) -> BareLoop:
    """`predict` over the inputs of `passes`, made beforehand; the state that it knows holds `prefix` by then."""
    if prefix:
        predict(package_inputs(prefix, 0, "last"))
    steps = [package_inputs(tokens, start, rows) for start, tokens, rows, _ in passes]

    def run() -> None:
        for inputs in steps:
            predict(inputs)

    return run


def package_logits(out: Mapping[str, Any], vocab_size: int, rows: Rows) -> Logits:
    """The package's output as `Session.append` returns it."""
    logits: Logits = np.asarray(out["logits"], dtype=np.float32).reshape(-1, vocab_size)
    return logits[-1] if rows == "last" else logits


def package_inputs(tokens: Sequence[int], start: int, rows: Rows) -> dict[str, Any]:
    """What the package takes for one pass over `tokens` behind `start` cached ones (docs/coreml.md)."""
    count = len(tokens)
    return {
        "input_ids": np.array([list(tokens)], dtype=np.int32),
        "positions": np.arange(start + count, dtype=np.int32)[None],
        "rows": np.array(row_offsets(rows, count), dtype=np.int32),
    }


def check_interface(
    artifact: Artifact, sizes: Mapping[str, Sequence[int]], outputs: Sequence[str], states: Sequence[str]
) -> int:
    """Positions that a package's cache holds, from the largest size of each axis of its inputs.

    Raises `ArtifactError` for an interface that is not ours.
    """
    if set(sizes) != set(_INPUTS) or list(outputs) != ["logits"] or not states or len(sizes["positions"]) != 2:
        raise ArtifactError(
            f"{artifact.weights}: takes {', '.join(sorted(sizes))} and gives {', '.join(outputs)}, "
            f"not {', '.join(_INPUTS)} and logits with a state; export again"
        )
    return sizes["positions"][1]


class CoreMLModel:
    """A compiled package; sessions share it and have a state each."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        units, self.device = _UNITS[device]
        self._ml: Any = _load(artifact, units)
        self.vocab_size: int = artifact.vocab_size
        self.context_length: int = min(artifact.context_length, _capacity(artifact, self._ml))
        self.dtype: str = artifact.quant

    @property
    def ml(self) -> Any:
        """The `coremltools.models.MLModel`. Raises `SessionError` after `close`."""
        if self._ml is None:
            raise SessionError("coreml: the model is closed; open it again")
        return self._ml

    @property
    def threads(self) -> int:
        """1: the thread that calls Core ML. What Core ML runs behind it can be neither set nor asked."""
        return 1

    def session(self) -> CoreMLSession:
        return CoreMLSession(self)

    def close(self) -> None:
        self._ml = None


class CoreMLSession(CountingSession):
    """One sequence: a state, and how many of its positions count."""

    def __init__(self, model: CoreMLModel) -> None:
        super().__init__(model)
        self._coreml = model
        self._state: Any = model.ml.make_state()

    def _check_open(self) -> None:
        self._coreml.ml  # noqa: B018 - raises when closed

    def _forward(self, tokens: Sequence[int], rows: Rows) -> Logits:
        out = self._coreml.ml.predict(package_inputs(tokens, self._position, rows), self._state)
        return package_logits(out, self._coreml.vocab_size, rows)


def _device(name: str) -> str:
    if name == "auto":
        return _AUTO
    if name == "cuda":
        raise UnavailableError("coreml: device 'cuda' is not one that Core ML has; use cpu, gpu, ane or all")
    if name not in _UNITS:
        raise UserError(f"coreml: unknown device {name!r}; use auto, {', '.join(_UNITS)}")
    return name


def _is_macos_15() -> bool:
    major = platform.mac_ver()[0].partition(".")[0]
    return platform.system() == "Darwin" and major.isdigit() and int(major) >= 15


def _load(artifact: Artifact, units: str) -> Any:
    """The package as an `MLModel`, compiled for `units`. Asks for a state, since a model that Core ML refused is
    returned all the same and complains at its first use."""
    import coremltools as ct

    ml: Any = None
    try:
        ml = ct.models.MLModel(str(artifact.weights), compute_units=getattr(ct.ComputeUnit, units))
        ml.make_state()
    except Exception as error:  # coremltools raises bare Exception
        reason = str(getattr(ml, "_framework_error", None) or error).strip() or type(error).__name__
        raise ArtifactError(
            f"{artifact.weights}: Core ML cannot load the package ({reason.splitlines()[0]}); "
            "export again, or try another device"
        ) from error
    return ml


def _capacity(artifact: Artifact, ml: Any) -> int:
    """Positions that the package's cache holds, by its own description. `ArtifactError` for another interface."""
    description = ml.get_spec().description
    sizes = {
        one.name: [int(axis.upperBound) for axis in one.type.multiArrayType.shapeRange.sizeRanges]
        for one in description.input
    }
    return check_interface(
        artifact, sizes, [one.name for one in description.output], [one.name for one in description.state]
    )


__all__ = [
    "FORMAT",
    "CoreMLModel",
    "CoreMLSession",
    "availability",
    "bare_loop",
    "bare_passes",
    "check_interface",
    "open_model",
    "package_inputs",
    "package_logits",
]
