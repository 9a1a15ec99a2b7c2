"""The types that matrices of an ONNX export can have, and what its quantizations give to their classes.

``int4b64`` is int4 in blocks of 64 weights instead of 32: fewer scales, coarser. At 8 bits blocks have 64: products
take a fifth less time than in blocks of 32, and the logits' error grows by an eighth; at 4 bits it grows by half, and
the time stays.
"""

from __future__ import annotations

from typing import Final

from export.base import Quant
from export.mixed import CLASSES, Scheme

USUAL: Final = {8: 64, 4: 32}
"""Bits of a weight -> length of a block where the type's name does not say it."""
DYNAMIC: Final = "dynamic8"
BLOCKS: Final = {
    f"int{bits}" if block == USUAL[bits] else f"int{bits}b{block}": (bits, block)
    for bits in USUAL
    for block in (16, 32, 64, 128, 256)
}
"""Weight-only types -> bits of a weight and length of a block (those that MatMulNBits knows)."""

QUANTS: Final[dict[str, Quant]] = {
    "fp32": Quant(32, "fp32", 2e-3),
    "int8": Quant(8, "int8", 2.0),
    "int4": Quant(4, "int4", 8.0),
}
SCHEME: Final = Scheme(
    "onnx",
    types={
        "fp32": QUANTS["fp32"],
        "fp16": Quant(16, "fp16", 0.1),
        **{name: Quant(8, name, QUANTS["int8"].logit_tolerance) for name, (bits, _) in BLOCKS.items() if bits == 8},
        DYNAMIC: Quant(8, DYNAMIC, 4.0),
        **{name: Quant(4, name, QUANTS["int4"].logit_tolerance) for name, (bits, _) in BLOCKS.items() if bits == 4},
    },
    presets={
        "fp32": dict.fromkeys(CLASSES, "fp32"),
        "int8": dict.fromkeys(CLASSES, "int8"),
        "int4": {"embedding": "int8", "attention": "int4", "mlp": "int4"},
    },
    in_layers=frozenset({DYNAMIC}),
)
