"""`edgecall inspect`: what is in a Core ML package, whoever made it, and does it stay finite when it is run?"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.console import Parser
from runtimes.errors import UnavailableError, UserError

if TYPE_CHECKING:
    import numpy as np

    from runtimes.mil import Program
    from runtimes.mil.inspection import Description, Lost

_SEED = 0


def parser() -> Parser:
    """The command's argument parser."""
    made = Parser(
        "edgecall inspect",
        "The functions of a Core ML package, whoever made it: inputs, outputs, states, and its\n"
        "operations, with those that the reference interpreter does not know.\n"
        "With --run the interpreter makes one prediction and says which operation first gives an\n"
        "infinite number or NaN; the exit code is then 1. No Mac is needed.",
        [
            "edgecall inspect model.mlpackage",
            "edgecall inspect model.mlpackage --run random",
            "edgecall inspect model.mlpackage --function decode_1 --run inputs.npz --precision float32",
        ],
        usage="edgecall inspect PACKAGE [options]",
    )
    made.add_argument("package", metavar="PACKAGE", help="an .mlpackage of an ML program, or a folder with one")
    made.add_argument("--function", metavar="NAME", help="this function alone (default: all; --run: the default one)")
    made.add_argument(
        "--run",
        metavar="INPUTS",
        nargs="?",
        const="zeros",
        help="run it once on 'zeros' (default), 'random' (floats from a normal distribution, integers zero) or the "
        "arrays of an .npz file, with a fresh state",
    )
    made.add_argument(
        "--precision",
        choices=("declared", "float32"),
        default="declared",
        help="with --run: round every value to the type that the package declares for it, or none (default: declared)",
    )
    made.add_argument("--out", metavar="FILE", help="with --run: write the outputs to this .npz file")
    made.add_argument("--json", action="store_true", help="print JSON, for programs")
    return made


def main(argv: list[str]) -> int:
    """Describe the package, and run it where asked; 1 where a number is not finite."""
    arguments = parser().parse_args(argv)
    if arguments.out and arguments.run is None:
        raise UserError("--out belongs to --run; give that too, or leave it out")
    from runtimes.coreml_reference import availability
    from runtimes.mil import load
    from runtimes.mil.inspection import describe

    state = availability()
    if not state.available:
        raise UnavailableError(f"inspect: {state.reason}; {state.fix}")
    package = _package(Path(arguments.package))
    program = load(package)
    if arguments.function is not None and arguments.function not in program.functions:
        raise UserError(f"--function {arguments.function}: the package has {', '.join(program.functions)}")
    names = [arguments.function] if arguments.function else list(program.functions)
    told = [describe(program.functions[name]) for name in names]
    ran = None if arguments.run is None else _run(program, arguments)
    if arguments.json:
        result = {"package": str(package), "default": program.default, "functions": [asdict(one) for one in told]}
        print(json.dumps({**result, **({} if ran is None else {"run": _plain(*ran)})}, indent=2))
    else:
        named = (f"{name} (default)" if name == program.default else name for name in program.functions)
        print(f"{package}: {', '.join(named)}")
        for one in told:
            _print(one)
        if ran is not None:
            _print_run(*ran)
    return 1 if ran is not None and ran[2] else 0


def _package(path: Path) -> Path:
    """The package itself, or the one in a folder, such as an artifact. Raises `UserError` for a folder of several."""
    inside = sorted(path.glob("*.mlpackage")) if path.suffix != ".mlpackage" else []
    if len(inside) > 1:
        raise UserError(f"{path}: holds {', '.join(one.name for one in inside)}; name one of them")
    return inside[0] if inside else path


def _run(program: Program, arguments: Namespace) -> tuple[str, dict[str, np.ndarray], dict[str, Lost]]:
    """The function's name, its outputs, and what was lost."""
    from runtimes.mil.inspection import read_inputs, run_once, sample_inputs

    name = arguments.function or program.default
    if arguments.run in ("zeros", "random"):
        inputs = sample_inputs(program.functions[name], _SEED if arguments.run == "random" else None)
    else:
        inputs = read_inputs(arguments.run)
    outputs, lost = run_once(program, name, inputs, arguments.precision)
    if arguments.out:
        _save(Path(arguments.out), outputs)
    return name, outputs, lost


def _save(path: Path, outputs: dict[str, np.ndarray]) -> None:
    import numpy as np

    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp.npz")
    try:
        np.savez(staging, **outputs)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def _print(one: Description) -> None:
    print(f"\n{one.name}")
    for title, values in (("inputs", one.inputs), ("states", one.states), ("outputs", one.outputs)):
        for number, value in enumerate(values):
            print(f"  {'' if number else title:<12}{value}")
    for number, (kind, count) in enumerate(one.operations.items()):
        mark = "  unknown to the interpreter" if kind in one.unknown else ""
        print(f"  {'' if number else 'operations':<12}{count:>5}  {kind}{mark}")


def _print_run(name: str, outputs: dict[str, np.ndarray], lost: dict[str, Lost]) -> None:
    print(f"\n{name}, one prediction")
    for key, value in outputs.items():
        span = f" from {value.min():.6g} to {value.max():.6g}" if value.size else ""
        print(f"  {'output':<12}{key} {list(value.shape)}{span}")
    for one in lost.values():
        told = ", ".join(f"{key} up to {largest:.6g}" for key, largest in one.inputs.items()) or "constants alone"
        of = f"{one.count:,} of {one.elements:,}"
        print(f"  {'first ' + one.kind:<12}  {one.operation} {one.output!r} ({one.dtype}), {of} elements; reads {told}")
    if not lost:
        print("  every number is finite")


def _plain(name: str, outputs: dict[str, np.ndarray], lost: dict[str, Lost]) -> dict[str, Any]:
    shapes = {key: list(value.shape) for key, value in outputs.items()}
    return {"function": name, "outputs": shapes, "lost": [asdict(one) for one in lost.values()]}
