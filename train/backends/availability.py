"""Which training backends can be used here, and how to get the others; judged by what is installed, imports nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from runtimes.base import Availability, DeviceStatus
from runtimes.errors import UnavailableError, UserError

if TYPE_CHECKING:
    from train.lora import LoraConfig


@dataclass(frozen=True)
class Needs:
    """What a backend needs: `modules` (the first one's version is told), and where it runs."""

    modules: tuple[str, ...]
    fix: str
    runtime: str
    """The runtime that knows its devices."""
    devices: tuple[str, ...]
    """Values of ``--device`` that it takes, its default first."""
    four_bit: bool = False
    quantize: bool = False
    """Whether it can train under the rounding of an export."""
    precision: str | None = None
    """The only one in which it computes; None: bf16 or fp32."""
    note: str = ""
    """What is told about it whether it is there or not."""


_TRAIN = 'pip install "edgecall[train]"'

NEEDS: dict[str, Needs] = {
    "packed": Needs(("peft", "transformers", "torch"), _TRAIN, "torch", ("cpu", "cuda", "mps"), quantize=True),
    "trl": Needs(
        ("trl", "peft", "datasets", "accelerate", "transformers", "torch"),
        _TRAIN,
        "torch",
        ("cpu", "cuda", "mps"),
        four_bit=True,
    ),
    "unsloth": Needs(
        ("unsloth", "trl"),
        'pip install "edgecall[unsloth]" (Linux with an NVIDIA GPU)',
        "torch",
        ("cuda",),
        four_bit=True,
        precision="bf16",
        note="written against unsloth 2026.10's interface, not run on a GPU by the authors",
    ),
    "mlx": Needs(("mlx_lm", "mlx"), 'pip install "edgecall[mlx]"', "mlx", (), precision="fp32"),
}

_DEVICE_STATUS = {"mps": "metal"}
"""What the runtimes call a device of ``--device``, where it differs."""


def availabilities(runtimes: Mapping[str, Availability]) -> dict[str, Availability]:
    """Every backend, given the availability of the runtimes (for their devices)."""
    return {name: _availability(name, runtimes) for name in NEEDS}


def availability(name: str) -> Availability:
    """One backend."""
    from runtimes import runtime

    return _availability(name, {NEEDS[name].runtime: runtime(NEEDS[name].runtime).availability()})


def default_device(name: str) -> str:
    """The device that a backend trains on unless told otherwise."""
    found = NEEDS.get(name)
    return found.devices[0] if found and found.devices else "cpu"


def check_device(device: str) -> None:
    """Raise for a device that torch does not have here; for training without a backend's choice, as the base's."""
    from runtimes import runtime

    devices = NEEDS["packed"].devices
    if device not in devices:
        raise UserError(f"--device {device}: there are {', '.join(devices)}")
    found = runtime("torch").availability()
    if not found.available:
        raise UnavailableError(f"{found.reason}; {found.fix}")
    status = found.devices.get(_DEVICE_STATUS.get(device, device))
    if device != "cpu" and (status is None or not status.available):
        raise UnavailableError(f"--device {device}: not here{f' ({status.detail})' if status else ''}; use cpu")


def check(config: LoraConfig) -> None:
    """Raise `UnavailableError` where `config.backend` or its device is not there, `UserError` for what it cannot do."""
    name, needs, device = config.backend, NEEDS[config.backend], config.loop.device
    if needs.devices and device not in needs.devices:
        raise UserError(f"backend {name}: trains on {', '.join(needs.devices)}, not on {device}; set --device")
    if config.loop.embedding_rate != 1:
        raise UserError("loop: embedding_rate: for bases alone; leave it out of an adapter's configuration")
    for setting, usual in (("average", 0), ("pointing", 0), ("copying", 0), ("accumulate", 1)):
        if getattr(config.loop, setting) != usual and name != "packed":
            raise UserError(f"loop: {setting}: only backend packed can, not {name}; leave it out")
    if config.loop.precision not in ("auto", needs.precision or config.loop.precision):
        raise UserError(f"loop: precision: backend {name} computes in {needs.precision}; leave it out")
    if config.load_in_4bit and not (needs.four_bit and device == "cuda"):
        able = " and ".join(n for n, other in NEEDS.items() if other.four_bit)
        raise UserError(f"load_in_4bit: only {able} can, on cuda; not {name} on {device}")
    if config.quantize != "none" and not needs.quantize:
        able = " and ".join(n for n, other in NEEDS.items() if other.quantize)
        raise UserError(f"quantize: {config.quantize} is for backend {able}, not {name}; set quantize: none")
    found = availability(name)
    if not found.available:
        raise UnavailableError(f"backend {name}: {found.reason}; {found.fix}")
    status = found.devices.get(_DEVICE_STATUS.get(device, device))
    if needs.devices and device != "cpu" and (status is None or not status.available):
        raise UnavailableError(f"backend {name}: no {device} here{f' ({status.detail})' if status else ''}; use cpu")
    if config.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        raise UnavailableError("load_in_4bit: bitsandbytes is not installed; pip install bitsandbytes")


def installed(modules: Sequence[str], fix: str, devices: dict[str, DeviceStatus] | None = None) -> Availability:
    """Availability by presence alone: importing a training stack to ask its version would take seconds."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return Availability(False, reason=f"{module} is not installed", fix=fix)
    try:
        named = f"{modules[0].replace('_', '-')} {version(modules[0])}"
    except PackageNotFoundError:
        named = None
    return Availability(True, named, devices=devices or {})


def _availability(name: str, runtimes: Mapping[str, Availability]) -> Availability:
    needs = NEEDS[name]
    devices = dict(runtimes.get(needs.runtime, Availability(False)).devices)
    if needs.devices:
        known = [_DEVICE_STATUS.get(device, device) for device in needs.devices]
        devices = {device: status for device, status in devices.items() if device in known}
    found = installed(needs.modules, needs.fix, devices)
    if name == "unsloth" and found.available and not _usable(found, "cuda"):
        found = replace(
            found, available=False, reason="needs a CUDA device, and torch finds none", fix="use packed or trl here"
        )
    if name == "mlx" and found.available and sys.platform != "darwin" and not _usable(found, "cuda"):
        slow = DeviceStatus(True, "correct but slow: about 100 tokens a second; for real runs use a Mac")
        found = replace(found, devices={**found.devices, "cpu": slow})
    return _noted(found, needs.note) if needs.note else found


def _noted(found: Availability, note: str) -> Availability:
    """`found` with `note` where the report shows it: in the reason, or at the devices that can be used."""
    if not found.available:
        return replace(found, reason=f"{found.reason} ({note})")
    devices = {
        device: replace(status, detail=f"{status.detail}; {note}" if status.detail else note)
        for device, status in found.devices.items()
    }
    return replace(found, devices=devices)


def _usable(found: Availability, device: str) -> bool:
    return device in found.devices and found.devices[device].available
