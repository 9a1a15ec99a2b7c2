"""What is left of weights once llama.cpp has written them in one of its block formats: functions of torch tensors.

Each takes fp32 weights of shape (rows, columns) and gives what a reader of the file gets, in the same shape and dtype.
Formats as in ggml-quants.c (``quantize_row_*_ref``, without an importance matrix). Rows do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

_EMPTY: Final = 1e-15
"""GROUP_MAX_EPS: a group below it is written as zeros."""


def q4_0(weight: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: fp16 scale d = (value of the largest magnitude) / -8, then whole steps from -8 to 7."""
    blocks = weight.reshape(-1, 32)
    scale = _largest(blocks) / -8
    steps = (blocks * _inverse(scale)).add_(8.5).trunc_().clamp_(0, 15).sub_(8)
    return steps.mul_(scale.half().float()).view_as(weight)


def q8_0(weight: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: fp16 scale d = (largest magnitude) / 127, then whole steps, halves rounded away from zero."""
    blocks = weight.reshape(-1, 32)
    # A tensor as divisor: by a plain number CUDA multiplies with the reciprocal, which may round differently.
    scale = blocks.abs().amax(1, keepdim=True) / torch.full_like(blocks[:1, :1], 127)
    exact = blocks * _inverse(scale)
    steps = exact.trunc()
    steps.add_(exact.sub_(steps).mul_(2).trunc_()).add_(0.0)  # a stored integer has no negative zero
    return steps.mul_(scale.half().float()).view_as(weight)


def q6_k(weight: torch.Tensor) -> torch.Tensor:
    """Blocks of 256: fp16 d, for every 16 values an 8-bit multiple of it, then whole steps from -32 to 31.

    A group's scale is the best of 19, by the squared error weighted with the squared values. Summed in ggml's order,
    so that its C code gives the same to the bit, unless compiled to fuse multiplications and additions.
    """
    groups = weight.reshape(-1, 16)
    scales = _best_scale(groups).reshape(-1, 16)
    largest = _largest(scales)
    inverse = torch.where(largest.abs() < _EMPTY, 0, -128 / largest)
    multiples = (scales * inverse).round_().clamp_(max=127)
    unit = torch.where(inverse == 0, 0, 1 / inverse).half().float()
    scale = (unit * multiples).reshape(-1, 1)
    steps = torch.where(scale == 0, 0, groups / scale).round_().clamp_(-32, 31)
    return steps.mul_(scale).view_as(weight)


def f16(weight: torch.Tensor) -> torch.Tensor:
    """Half precision, which llama.cpp falls back to where rows do not divide into blocks."""
    return weight.half().float()


FORMATS: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "q4_0": q4_0,
    "q8_0": q8_0,
    "q6_k": q6_k,
    "f16": f16,
}


def _largest(blocks: torch.Tensor) -> torch.Tensor:
    """(blocks, 1): the value of the largest magnitude with its sign, the first of several."""
    return blocks.gather(1, blocks.abs().argmax(1, keepdim=True))


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    """1 / scale; 0 where the scale is stored as 0, since nothing is left of such a block."""
    return torch.where(scale.half() == 0, 0, 1 / scale)


def _best_scale(groups: torch.Tensor) -> torch.Tensor:
    """(groups, 1): ggml's ``make_qx_quants`` for steps from -32 to 31 with weights x * x."""
    largest = _largest(groups)
    empty = largest.abs() < _EMPTY
    largest = torch.where(empty, 1, largest)
    weights = groups * groups

    def fit(shift: int) -> tuple[torch.Tensor, torch.Tensor]:
        width = 32 + torch.tensor(0.1, device=groups.device) * shift  # in fp32, as there
        steps = (groups * (-width / largest)).round_().clamp_(-32, 31)
        return _in_order(weights * groups * steps), _in_order(weights * steps * steps)

    along, squares = fit(0)
    scale = torch.where(squares > 0, along / squares, 0)
    best = scale * along
    for shift in (*range(-9, 0), *range(1, 10)):
        along, squares = fit(shift)
        better = (squares > 0) & (along * along > best * squares)
        scale = torch.where(better, along / squares, scale)
        best = torch.where(better, scale * along, best)
    return torch.where(empty, 0, scale)


def _in_order(terms: torch.Tensor) -> torch.Tensor:
    """(groups, 1): the sum of each row, from the left."""
    total = torch.zeros_like(terms[:, :1])
    for column in terms.split(1, dim=1):
        total = total + column
    return total
