"""`edgecall doctor`: every runtime, exporter, device, training backend and data builder, and how to get the rest."""

from __future__ import annotations

import importlib
import json
import platform
from dataclasses import asdict, dataclass, field

from edgecall.version import __version__
from runtimes.base import Availability
from runtimes.console import Parser, make_console


@dataclass(frozen=True)
class Diagnosis:
    """What this machine offers: name -> availability, by kind."""

    runtimes: dict[str, Availability]
    exporters: dict[str, Availability]
    training: dict[str, Availability]
    data: dict[str, Availability] = field(default_factory=dict)


_LABELS = {"runtimes": "", "exporters": "export to ", "training": "train with ", "data": "build data with "}


def main(argv: list[str]) -> int:
    """Print the diagnosis; the exit code is 0 whatever is missing, 1 for a model that float16 cannot hold."""
    from edgecall import doctor_fp16

    parser = Parser(
        "edgecall doctor",
        "Every runtime, exporter, device and training backend: available or not, and\n"
        "if not, why and how to get it.\n\n"
        "With --fp16: how large a model's intermediates get beside float16's 65,504, and what\n"
        "an exact rescaling of its weights makes of them (docs/coreml-internals.md).",
        [
            "edgecall doctor",
            "edgecall doctor --json",
            "edgecall doctor --fp16 seed",
            "edgecall doctor --fp16 google/functiongemma-270m-it --toolset tools.yaml --cases requests.jsonl",
        ],
        usage="edgecall doctor [--json] [--fp16 MODEL [options]]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    doctor_fp16.add_options(parser)
    arguments = parser.parse_args(argv)
    if arguments.fp16:
        return doctor_fp16.fp16(arguments)
    doctor_fp16.check_unused(arguments)
    diagnosis = diagnose()
    if arguments.json:
        print(json.dumps({**_machine(), **asdict(diagnosis)}, indent=2))
    else:
        _print(diagnosis)
    return 0


def diagnose() -> Diagnosis:
    """Ask every registered module; one that cannot even be imported is reported, not raised."""
    from runtimes import RUNTIMES
    from train.backends.availability import availabilities, installed

    runtimes = {name: _ask(module) for name, module in RUNTIMES.items()}
    data = {"ray": installed(("ray",), 'pip install "edgecall[ray]"')}
    return Diagnosis(runtimes, _exporters(), availabilities(runtimes), data)


def _exporters() -> dict[str, Availability]:
    from export.pipeline import EXPORTERS

    return {name: _ask(module) for name, module in EXPORTERS.items()}


def _ask(module: str) -> Availability:
    try:
        found = importlib.import_module(module).availability()
    except Exception as error:  # a broken install must not hide the rest of the report
        return Availability(False, reason=f"{module} cannot be imported: {type(error).__name__}: {error}")
    if not isinstance(found, Availability):
        raise TypeError(f"{module}.availability() returned {type(found).__name__}")
    return found


def _machine() -> dict[str, str]:
    return {"edgecall": __version__, "python": platform.python_version(), "platform": platform.platform()}


def _print(diagnosis: Diagnosis) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    facts = _machine()
    console.print(f"edgecall {facts['edgecall']}, Python {facts['python']}, {facts['platform']}", markup=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("", "available", "version", "devices"):
        table.add_column(title, overflow="fold")
    for number, (kind, group) in enumerate(_groups(diagnosis)):
        if number:
            table.add_section()
        table.add_row(Text(kind, style="bold"))
        for name, found in group.items():
            mark = Text("yes", style="green") if found.available else Text("no", style="yellow")
            table.add_row(f"  {name}", mark, Text(found.version or ""), Text(_devices(found)))
    console.print(table)
    for what, detail in _notes(diagnosis):
        console.print(Text(f"  {what}: {detail}"), soft_wrap=True)
    missing = _missing(diagnosis)
    if missing:
        console.print(Text("Not available here, and how to get it", style="bold"))
    for what, why, fix in missing:
        console.print(Text(f"  {what}: {why}" if why else f"  {what}"), soft_wrap=True)
        if fix:
            # Never wrapped: these lines are meant to be copied.
            console.print(Text(f"      {fix}", style="cyan"), soft_wrap=True)


def _groups(diagnosis: Diagnosis) -> list[tuple[str, dict[str, Availability]]]:
    return [
        ("runtimes", diagnosis.runtimes),
        ("exporters", diagnosis.exporters),
        ("training", diagnosis.training),
        ("data", diagnosis.data),
    ]


def _devices(found: Availability) -> str:
    there = [name for name, status in found.devices.items() if status.available]
    return ", ".join([*there, *(f"no {name}" for name in found.devices if name not in there)])


def _notes(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """What a device that is there says about itself: its name, or that it is slow."""
    return [
        (f"{_LABELS[kind]}{name} on {device}", status.detail)
        for kind, group in _groups(diagnosis)
        for name, found in group.items()
        for device, status in found.devices.items()
        if found.available and status.available and status.detail and kind != "exporters"
    ]


def _missing(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """(what, why, how to get it) for everything that is not there; no line twice."""
    lines: dict[tuple[str, str, str], None] = {}
    for kind, group in _groups(diagnosis):
        label = _LABELS[kind]
        for name, found in group.items():
            if not found.available:
                lines[(f"{label}{name}", found.reason, found.fix)] = None
            if kind == "runtimes":
                for device, status in found.devices.items():
                    if not status.available and status.fix != found.fix:
                        lines[(f"{name} on {device}", status.detail, status.fix)] = None
    return list(lines)
