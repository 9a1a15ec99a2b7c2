"""Products of matrices, convolution, attention and normalization. Sums are float32, rounded once at the end."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from runtimes.mil.ops_activation import softmax
from runtimes.mil.program import Array
from runtimes.mil.table import operation


@operation
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """iOS17.linear.linear: x weight^T + bias; weight is (out, in)."""
    out = x @ weight.T
    return out if bias is None else out + bias


@operation
def matmul(x: Array, y: Array, transpose_x: Array | bool = False, transpose_y: Array | bool = False) -> Array:
    """iOS17.linear.matmul: over the last two axes, the others broadcast; a vector is a row left and a column right."""
    # A vector cannot be transposed.
    left = x.swapaxes(-1, -2) if transpose_x and x.ndim > 1 else x
    right = y.swapaxes(-1, -2) if transpose_y and y.ndim > 1 else y
    return left @ right


@operation
def einsum(values: list[Array], equation: str) -> Array:
    """iOS15.linear.einsum: axes of size 1 are broadcast, but not those that are summed over."""
    left, out = equation.replace(" ", "").split("->")
    terms = left.split(",")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, size in zip(term, value.shape, strict=True):
            known = sizes.setdefault(letter, size)
            if known != size and letter not in out:
                raise ValueError(f"einsum sums over {letter!r}, whose sizes are {known} and {size}")
            sizes[letter] = max(size, known)
    wide = [
        np.broadcast_to(value, [sizes[letter] for letter in term]) for term, value in zip(terms, values, strict=True)
    ]
    return np.einsum(equation, *wide, optimize=True)


@operation
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """iOS17.conv.conv: x (N, Cin, *d), weight (Cout, Cin / groups, *K); correlation, as everywhere in deep learning."""
    rank, kernel = x.ndim - 2, weight.shape[2:]
    steps = [1] * rank if strides is None else [int(n) for n in strides]
    gaps = [1] * rank if dilations is None else [int(n) for n in dilations]
    spans = [(size - 1) * gap + 1 for size, gap in zip(kernel, gaps, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *_padding(pad_type, pad, x.shape[2:], spans, steps)])
    sizes = [(d - span) // step + 1 for d, span, step in zip(padded.shape[2:], spans, steps, strict=True)]
    parts = int(groups)
    batch, outputs = x.shape[0], weight.shape[0]
    out = np.zeros((batch, parts, outputs // parts, math.prod(sizes)), np.float32)
    # One product of matrices for each place of the kernel.
    for place in product(*(range(size) for size in kernel)):
        cut = tuple(
            slice(at * gap, at * gap + step * (size - 1) + 1, step)
            for at, gap, step, size in zip(place, gaps, steps, sizes, strict=True)
        )
        every: tuple[Any, ...] = (slice(None), slice(None))
        seen = padded[(*every, *cut)].reshape(batch, parts, x.shape[1] // parts, -1)
        out += weight[(*every, *place)].reshape(parts, outputs // parts, -1) @ seen
    out = out.reshape(batch, outputs, *sizes)
    return out if bias is None else out + bias.reshape(-1, *[1] * rank)


@operation
def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """iOS18.transformers.scaled_dot_product_attention: softmax(Q K^T / sqrt(E) + mask) V; a mask of bools keeps."""
    scores = (query @ key.swapaxes(-1, -2)) * np.float32(1 / math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == np.bool_ else scores + attn_mask
    return softmax(scores) @ value


@operation
def layer_norm(
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """iOS17.normalization.layer_norm: `axes` (or all) to mean 0 and variance 1, times gamma plus beta."""
    over = tuple(range(x.ndim)) if axes is None else tuple(int(n) % x.ndim for n in axes)
    centred = x - np.mean(x, axis=over, keepdims=True)
    out = centred / np.sqrt(np.mean(np.square(centred), axis=over, keepdims=True) + np.float32(epsilon))
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    out = out if gamma is None else out * gamma.reshape(shape)
    return out if beta is None else out + beta.reshape(shape)


@operation
def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """iOS17.normalization.batch_norm: with a mean and variance given for each channel (axis 1)."""
    out = (x - _channel(mean, x)) / np.sqrt(_channel(variance, x) + np.float32(epsilon))
    out = out if gamma is None else out * _channel(gamma, x)
    return out if beta is None else out + _channel(beta, x)


@operation
def instance_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: Array | float = 1e-5
) -> Array:
    """iOS17.normalization.instance_norm: each channel of each instance over its own places."""
    over = tuple(range(2, x.ndim))
    mean, variance = np.mean(x, axis=over, keepdims=True), np.var(x, axis=over, keepdims=True)
    out = (x - mean) / np.sqrt(variance + np.float32(epsilon))
    out = out if gamma is None else out * _channel(gamma, x)
    return out if beta is None else out + _channel(beta, x)


@operation
def l2_norm(x: Array, epsilon: Array | float = 1e-6) -> Array:
    """iOS17.normalization.l2_norm: x / sqrt(sum of squares + epsilon), over the last three axes."""
    total = np.sum(np.square(x), axis=(-3, -2, -1), keepdims=True)
    return x / np.sqrt(total + np.float32(epsilon))


def _padding(
    kind: str, pad: Array | None, sizes: tuple[int, ...], spans: list[int], steps: list[int]
) -> list[tuple[int, int]]:
    """Before and after each axis (``iOS15.conv``, `pad_type`)."""
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        if pad is None:
            raise ValueError("pad_type is custom and there is no pad")
        return [(int(pad[2 * i]), int(pad[2 * i + 1])) for i in range(len(sizes))]
    if kind not in ("same", "same_lower"):
        raise ValueError(f"conv has no pad_type {kind!r}")
    out = []
    for size, span, step in zip(sizes, spans, steps, strict=True):
        total = max(0, (math.ceil(size / step) - 1) * step + span - size)
        less, more = total // 2, total - total // 2
        out.append((less, more) if kind == "same" else (more, less))
    return out


def _channel(parameter: Array, x: Array) -> Array:
    """(C,) -> (1, C, 1, …) of x's rank."""
    return parameter.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])
