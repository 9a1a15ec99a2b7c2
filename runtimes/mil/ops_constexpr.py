"""Compressed weights: operations on constants alone, so that the interpreter runs them once, when it loads.

Each exists in the form of iOS 16 (packed bytes, a shape) and in that of iOS 18 (whole tensors of narrow types).
"""

from __future__ import annotations

import numpy as np

from runtimes.mil.program import NUMPY, Array
from runtimes.mil.table import operation, view


@view
def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    """iOS18.compression.constexpr_cast: from float16 to float32."""
    if output_dtype != "fp32":
        raise ValueError(f"constexpr_cast knows fp32 only, not {output_dtype!r}")
    return source_val


@operation
def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """iOS16.constexpr_ops.constexpr_affine_dequantize: scale (data - zero_point); vectors lie along `axis`."""
    return dequantize(quantized_data, scale, zero_point, axis)


@operation
def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """iOS18.compression.constexpr_blockwise_shift_scale: scale (data - offset), one of each for a block of data."""
    whole = data.astype(np.float32)
    if offset is not None:
        whole = whole - _blown_up(offset.astype(np.float32), data.shape)
    return _blown_up(scale, data.shape) * whole


@operation
def constexpr_lut_to_dense(
    indices: Array, lut: Array, vector_axis: Array | None = None, shape: Array | None = None
) -> Array:
    """iOS18.compression.constexpr_lut_to_dense: a palette for each block of `indices`, of numbers or of vectors that
    lie along `vector_axis`; and iOS16.constexpr_ops.constexpr_lut_to_dense: one palette, packed indices, a `shape`."""
    if shape is not None:
        bits = int(lut.size - 1).bit_length()
        sizes = [int(n) for n in shape]
        return lut[unpack(indices, bits, int(np.prod(sizes)))].reshape(sizes)
    palettes, vector = lut.shape[-2:]
    tables = lut.reshape(-1, vector)
    which = np.arange(lut.size // (palettes * vector)).reshape(lut.shape[:-2])
    found = tables[_blown_up(which, indices.shape) * palettes + indices]  # (*indices, vector)
    if vector == 1:
        return found[..., 0]
    if vector_axis is None:
        raise ValueError("a palette of vectors without vector_axis")
    at = int(vector_axis) % indices.ndim
    sizes = [n * vector if axis == at else n for axis, n in enumerate(indices.shape)]
    return np.moveaxis(found, -1, at + 1).reshape(sizes)


@operation
def constexpr_sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """iOS18.compression.constexpr_sparse_to_dense: zero where the mask is 0, the data in order where it is 1; and
    iOS16.constexpr_ops.constexpr_sparse_to_dense: with a packed mask and a `shape`."""
    if shape is not None:
        sizes = [int(n) for n in shape]
        mask = unpack(mask, 1, int(np.prod(sizes))).reshape(sizes)
    out = np.zeros(mask.shape, nonzero_data.dtype)
    out[mask != 0] = nonzero_data
    return out


@operation
def constexpr_lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None
) -> tuple[Array, Array]:
    """iOS18.compression.constexpr_lut_to_sparse: the mask, grown along `vector_axis`, and the palette's numbers."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    values = constexpr_lut_to_dense(indices, lut, vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = np.repeat(mask, lut.shape[-1], axis=int(vector_axis))
    return mask, values[mask != 0]


@operation
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """iOS18.compression.constexpr_sparse_blockwise_shift_scale: the mask, and the numbers shifted and scaled."""
    dense = constexpr_sparse_to_dense(nonzero_data, data_mask)
    return data_mask, constexpr_blockwise_shift_scale(dense, scale, offset)[data_mask != 0]


@operation
def quantize(
    input: Array, scale: Array, output_dtype: str, zero_point: Array | None = None, axis: Array | None = None
) -> Array:
    """iOS17.quantization_ops.quantize: clip(round(input / scale) + zero_point)."""
    limits = np.iinfo(NUMPY[output_dtype])  # type: ignore[type-var]
    out = np.round(input / _lifted(scale, input, axis))
    if zero_point is not None:
        out = out + _lifted(zero_point, input, axis).astype(np.float32)
    return np.clip(out, limits.min, limits.max).astype(NUMPY[output_dtype])


@operation
def dequantize(input: Array, scale: Array, zero_point: Array | None = None, axis: Array | None = None) -> Array:
    """iOS17.quantization_ops.dequantize: scale (input - zero_point); vectors lie along `axis`."""
    out = input.astype(np.float32)
    if zero_point is not None:
        out = out - _lifted(zero_point, input, axis).astype(np.float32)
    return out * _lifted(scale, input, axis)


def unpack(packed: Array, bits: int, count: int, *, signed: bool = False) -> Array:
    """The first `count` integers of `bits` bits in `packed` bytes, lowest bits first: uint8, or int8 where signed."""
    flags = np.unpackbits(packed.view(np.uint8), bitorder="little")[: bits * count].reshape(count, bits)
    out = np.packbits(flags, axis=-1, bitorder="little").reshape(-1)
    if not signed:
        return out
    unused = 8 - bits
    return (out << unused).view(np.int8) >> unused  # the arithmetic shift repeats the sign


def _blown_up(blocks: Array, shape: tuple[int, ...]) -> Array:
    """One element a block -> one a place."""
    for axis, size in enumerate(shape):
        if blocks.shape[axis] not in (1, size):
            blocks = np.repeat(blocks, size // blocks.shape[axis], axis=axis)
    return np.broadcast_to(blocks, shape)


def _lifted(parameter: Array, data: Array, axis: Array | None) -> Array:
    """A scalar, or a vector along `axis` of the data."""
    if parameter.ndim == 0 or axis is None:
        return parameter
    at = int(axis) % data.ndim
    return parameter.reshape([-1 if i == at else 1 for i in range(data.ndim)])
