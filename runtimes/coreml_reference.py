"""Core ML packages on any machine: `runtimes.mil` executes the program, operation by operation, as its reference says.

It proves the graph, the weights and the number formats of an artifact where Core ML itself is not. It is emulated: how
long it takes says nothing about a Mac, and how Core ML's GPU or Neural Engine round inside an operation is not known
here. Floats are rounded to the type that the package declares for each value, or kept in float32 where asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from runtimes.artifact import Artifact
from runtimes.base import Availability, BareLoop, DeviceStatus, Pass, check_threads
from runtimes.coreml import FORMAT
from runtimes.coreml_package import Inputs, Interface, PackageSession, Predict, Signature, bare_passes, interface_of
from runtimes.errors import ArtifactError, SessionError, UnavailableError, UserError
from runtimes.mil.blas import set_threads
from runtimes.mil.plan import Plan
from runtimes.mil.program import Program
from runtimes.mil.step import PRECISIONS, Precision

EMULATED = True
"""It stands in for another runtime: its times are not told."""

_READER = "libmilstoragepython"
_FIX = 'pip install "edgecall[export]"'


def availability() -> Availability:
    """Whether coremltools is installed, with its reader of weight files (Windows has none)."""
    from importlib.metadata import PackageNotFoundError, distribution, version

    try:
        found = distribution("coremltools")
    except PackageNotFoundError:
        return Availability(False, reason="coremltools is not installed", fix=_FIX)
    if not any(file.name.startswith(_READER) for file in found.files or ()):
        return Availability(False, reason=f"coremltools has no {_READER} here", fix="use Linux or macOS")
    told = f"coremltools {found.version}, numpy {version('numpy')}"
    return Availability(True, told, devices={"cpu": DeviceStatus(True, "reference interpreter")})


def open_model(
    artifact: Artifact, *, device: str = "auto", threads: int | None = None, precision: Precision = "declared"
) -> ReferenceModel:
    """Read a package and make it ready to be interpreted. `device`: auto or cpu.

    `precision`: "declared" rounds every value as the package declares it, "float32" none. Raises `UnavailableError`
    without coremltools, `ArtifactError` for a package that cannot be read or holds an operation that is not known.
    """
    if device not in ("auto", "cpu"):
        raise UserError(f"coreml-reference: device {device!r} is not one that it has; use auto or cpu")
    if precision not in PRECISIONS:
        raise UserError(f"coreml-reference: unknown precision {precision!r}; use {' or '.join(PRECISIONS)}")
    wanted = check_threads(threads)
    state = availability()
    if not state.available:
        raise UnavailableError(f"coreml-reference: {state.reason}; {state.fix}")
    return ReferenceModel(artifact, wanted, precision)


def bare_loop(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
    prefix: Sequence[int],
    passes: Sequence[Pass],
) -> BareLoop:
    """The same passes as bare runs of the interpreter, with their inputs made beforehand."""
    model = open_model(artifact, device=device, threads=threads)
    return bare_passes(_on_state(model), model.interface, prefix, passes)


class ReferenceModel:
    """A program made ready; sessions share it and have a state each."""

    emulated = True
    device = "cpu"

    def __init__(self, artifact: Artifact, threads: int, precision: Precision) -> None:
        from runtimes.mil import Held, load, make_plan
        from runtimes.mil.description import disagreements

        with _exported():
            program = load(artifact.weights)
        self.interface = program_interface(program, artifact.vocab_size)
        for line in disagreements(program):
            raise ArtifactError(f"{program.path}: its description is not the program's: {line}; export again")
        held = Held()
        with _exported():
            self._plans: dict[str, Plan] | None = {
                name: make_plan(program.functions[name], program.path, precision, held)
                for name in self.interface.functions
            }
        self.vocab_size: int = artifact.vocab_size
        self.context_length: int = min(artifact.context_length, self.interface.capacity)
        self.dtype: str = artifact.quant if precision == "declared" else f"{artifact.quant} in float32"
        self.threads: int = set_threads(threads)

    @property
    def plans(self) -> dict[str, Plan]:
        """What is executed, by function. Raises `SessionError` after `close`."""
        if self._plans is None:
            raise SessionError("coreml-reference: the model is closed; open it again")
        return self._plans

    def session(self) -> ReferenceSession:
        return ReferenceSession(self)

    def close(self) -> None:
        self._plans = None


class ReferenceSession(PackageSession):
    """One sequence: a state, and how many of its positions count."""

    def __init__(self, model: ReferenceModel) -> None:
        super().__init__(model, model.interface)
        self._reference = model
        self._run = _on_state(model)

    def _check_open(self) -> None:
        self._reference.plans  # noqa: B018 - raises when closed

    def _predict(self, function: str, inputs: Inputs) -> Mapping[str, Any]:
        return self._run(function, inputs)


def _on_state(model: ReferenceModel) -> Predict:
    """The model's functions over a state of its own, which all of them declare alike."""
    from runtimes.mil import execute, new_state

    state = new_state(next(iter(model.plans.values())))

    def predict(function: str, inputs: Inputs) -> Mapping[str, Any]:
        plan = model.plans[function]
        with _exported():
            return execute(plan, inputs, state)

    return predict


@contextmanager
def _exported() -> Iterator[None]:
    """Adds what to do about an artifact's package; `runtimes.mil` knows no remedy, since it takes anybody's."""
    try:
        yield
    except UserError as error:
        raise ArtifactError(f"{error}; export again") from error


def program_interface(program: Program, vocab_size: int) -> Interface:
    """The kind of package that a program is. Raises `ArtifactError` for one that is not ours."""
    signatures = {
        name: Signature(
            {one.name: [high for _, high in one.ranges] for one in function.features},
            function.outputs,
            [one.name for one in function.states],
        )
        for name, function in program.functions.items()
    }
    return interface_of(program.path, signatures, program.metadata, vocab_size)


__all__ = [
    "EMULATED",
    "FORMAT",
    "ReferenceModel",
    "ReferenceSession",
    "availability",
    "bare_loop",
    "open_model",
    "program_interface",
]
