"""Which precision forward passes have: bf16 where the processor multiplies in it, fp32 elsewhere."""

from __future__ import annotations

from typing import Final

PRECISIONS: Final = ("auto", "bf16", "fp32")
_INSTRUCTIONS: Final = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Capabilities of x86-64 and ARM64 (`torch.cpu.get_capabilities`) with which matrices are multiplied in bf16."""


def detect(device: str) -> str:
    """``bf16`` or ``fp32`` for cpu, cuda or mps.

    On a CPU without such instructions bf16 is emulated, slower than fp32. Of a Mac's GPU torch does not say whether it
    has them (the first generation does not), so there it is fp32.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if kind == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in _INSTRUCTIONS)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
