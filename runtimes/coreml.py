"""Core ML: an ``.mlpackage`` with its KV cache as state, on a Mac's CPU, GPU or Neural Engine (macOS 15 and newer).

Both kinds of package are opened (`runtimes.coreml_package`, docs/coreml.md). Where a pass writes follows from what it
is given, so rewinding is saying that fewer positions count.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from runtimes.artifact import Artifact
from runtimes.base import Availability, BareLoop, DeviceStatus, Pass, check_threads
from runtimes.coreml_package import Inputs, Interface, PackageSession, Signature, bare_passes, interface_of
from runtimes.coreml_state import JointState, SeparateStates, share_states
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

_COMPARED = ("cpu", "gpu", "ane", "all")
"""The devices without the second name of one."""

_AUTO = "gpu"
"""Not "all": the Neural Engine takes no flexible shapes, and has been seen to refuse stateful models outright."""

_NEEDS = "Core ML prediction needs macOS 15"
_FIX = "copy the artifact to a Mac with macOS 15 or newer and run it there"
_FIX_INSTALL = 'pip install "edgecall[coreml]"'


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


def compared_devices() -> tuple[str, ...]:
    """The compute units that Core ML may be told to use here: the CPU alone, it and the GPU, it and the Neural Engine,
    and all."""
    state = availability()
    if not state.available:
        return ()
    return tuple(name for name in _COMPARED if name not in state.devices or state.devices[name].available)


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
    model = open_model(artifact, device=device, threads=threads)
    return bare_passes(model.new_state().predict, model.interface, prefix, passes)


class CoreMLModel:
    """A compiled package, all functions that a session calls; sessions share it and have a state each."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        units, self.device = _UNITS[device]
        self.interface, loaded = _load(artifact, units)
        self._functions: dict[str, Any] | None = loaded
        self._joint: bool = share_states(loaded, self.interface)
        self.vocab_size: int = artifact.vocab_size
        self.context_length: int = min(artifact.context_length, self.interface.capacity)
        self.dtype: str = artifact.quant

    @property
    def functions(self) -> dict[str, Any]:
        """A `coremltools.models.MLModel` for each function, by name. Raises `SessionError` after `close`."""
        if self._functions is None:
            raise SessionError("coreml: the model is closed; open it again")
        return self._functions

    @property
    def threads(self) -> int:
        """1: the thread that calls Core ML. What Core ML runs behind it can be neither set nor asked."""
        return 1

    def session(self) -> CoreMLSession:
        return CoreMLSession(self)

    def new_state(self) -> JointState | SeparateStates:
        """An empty cache, and the functions over it."""
        return JointState(self.functions) if self._joint else SeparateStates(self.functions, self.interface)

    def close(self) -> None:
        self._functions = None


class CoreMLSession(PackageSession):
    """One sequence: a state, and how many of its positions count."""

    def __init__(self, model: CoreMLModel) -> None:
        super().__init__(model, model.interface)
        self._coreml = model
        self._state = model.new_state()

    def _check_open(self) -> None:
        self._coreml.functions  # noqa: B018 - raises when closed

    def _predict(self, function: str, inputs: Inputs) -> Mapping[str, Any]:
        return self._state.predict(function, inputs)


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


def _load(artifact: Artifact, units: str) -> tuple[Interface, dict[str, Any]]:
    """The package's interface, and its functions as an `MLModel` each, compiled for `units`."""
    first = _load_function(artifact, units)
    described = first.get_spec().description
    if described.functions:
        signatures = {one.name: _signature(one) for one in described.functions}
    else:
        signatures = {"main": _signature(described)}
    interface = interface_of(artifact.weights, signatures, described.metadata.userDefined, artifact.vocab_size)
    default = described.defaultFunctionName or "main"
    functions = {
        name: first if name == default else _load_function(artifact, units, function_name=name)
        for name in interface.functions
    }
    return interface, functions


def _load_function(artifact: Artifact, units: str, **chosen: str) -> Any:
    """One function, or the default one. Asks for a state, since a model that Core ML refused is returned all the same
    and complains at its first use."""
    import coremltools as ct

    ml: Any = None
    try:
        ml = ct.models.MLModel(str(artifact.weights), compute_units=getattr(ct.ComputeUnit, units), **chosen)
        ml.make_state()
    except Exception as error:  # coremltools raises bare Exception
        reason = str(getattr(ml, "_framework_error", None) or error).strip() or type(error).__name__
        raise ArtifactError(
            f"{artifact.weights}: Core ML cannot load the package ({reason.splitlines()[0]}); "
            "export again, or try another device"
        ) from error
    return ml


def _signature(described: Any) -> Signature:
    """From a ``ModelDescription`` or ``FunctionDescription`` of ``Model.proto``."""

    def sizes(array: Any) -> list[int]:
        ranges = [int(axis.upperBound) for axis in array.shapeRange.sizeRanges]
        return ranges or [int(size) for size in array.shape]

    return Signature(
        {one.name: sizes(one.type.multiArrayType) for one in described.input},
        [one.name for one in described.output],
        [one.name for one in described.state],
    )


__all__ = [
    "FORMAT",
    "CoreMLModel",
    "CoreMLSession",
    "availability",
    "bare_loop",
    "compared_devices",
    "open_model",
]
