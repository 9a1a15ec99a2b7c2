"""Narrower weights for ONNX Runtime, by class of matrices (`export.mixed`).

``int8`` and ``int4`` are weight-only: linear layers become `MatMulNBits`, the embedding `GatherBlockQuantized`.
``dynamic8`` is dynamic quantization: one scale for each output channel, one for all activations of a pass, which are
rounded to 8 bits too (`DynamicQuantizeMatMul`). ``fp16`` is stored in 16 bits and computed in 32, after a cast that
ONNX Runtime makes once, when it loads.

Weights of the weight-only types are cut into blocks along the input dimension; a block is stored as unsigned integers,
one float32 scale and a zero point: ``w = scale * (q - zero)``. At 8 bits the zero point is 128 and not stored. The
layouts are those of ONNX Runtime's contrib operators
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). The embedding and the output layer share
one matrix here as they do in the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from export.mixed import Mix, place_of
from export.onnx_graph import EMBEDDING, Graph, transpose_linears
from export.onnx_types import BLOCKS, DYNAMIC, USUAL
from runtimes.errors import UserError

DOMAIN: Final = "com.microsoft"
ACCURACY_INT8: Final = 4
"""`accuracy_level`: multiply in int8, with activations quantized block by block. Without it ten times slower."""

Float = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
_SHRINK: Final = np.linspace(0.75, 1.05, 9, dtype=np.float32)
"""Scales tried at 4 bits, relative to the one that spans the block: a clipped extreme often costs less than coarser
steps. Against plain rounding this takes 10% off the weights' error for about five seconds per 100M weights."""


@dataclass(frozen=True)
class Blocks:
    """A quantized (out, in) matrix: `packed` (out, blocks, block * bits / 8), `scale` (out, blocks) and, at 4 bits,
    `zero` (out, ceil(blocks / 2)), two to the byte and low half first, as the integers are."""

    packed: Bytes
    scale: Float
    zero: Bytes | None
    bits: int


def quantize_blocks(weight: Float, bits: int, *, block: int | None = None, rows_at_once: int = 4096) -> Blocks:
    """Quantize `weight` (out, in) in blocks of `block` (usually `USUAL`) along its rows, the last one padded."""
    rows, width = weight.shape
    block = block or USUAL[bits]
    count = -(-width // block)
    packed = np.empty((rows, count, block * bits // 8), np.uint8)
    scale = np.empty((rows, count), np.float32)
    zero = np.empty((rows, (count + 1) // 2), np.uint8) if bits == 4 else None
    for start in range(0, rows, rows_at_once):
        part = slice(start, min(start + rows_at_once, rows))
        blocks = np.zeros((part.stop - start, count * block), np.float32)
        blocks[:, :width] = weight[part]
        blocks = blocks.reshape(-1, count, block)
        if zero is None:
            packed[part], scale[part] = _symmetric(blocks)
        else:
            packed[part], scale[part], zero[part] = _asymmetric(blocks)
    return Blocks(packed, scale, zero, bits)


def dequantize_blocks(blocks: Blocks, width: int) -> Float:
    """What `blocks` stand for: (out, width) float32."""
    if blocks.zero is None:
        values = (blocks.packed.astype(np.float32) - 128) * blocks.scale[..., None]
    else:
        zero = _unpack(blocks.zero)[:, : blocks.scale.shape[1], None]
        values = (_unpack(blocks.packed) - zero) * blocks.scale[..., None]
    return values.reshape(len(blocks.packed), -1)[:, :width]


def quantize(graph: Graph, mix: Mix) -> dict[str, str]:
    """Store matrices as `mix` says, those of ``fp32`` as they are. Returns matrix -> type, for all of them."""
    types: dict[str, str] = {}
    for output, weight in graph.linears().items():
        stored = types[weight] = mix.of(*place_of(weight))
        if stored == DYNAMIC:
            _dynamic(graph, weight, output)
        elif stored in BLOCKS:
            shape = graph.value(weight).shape
            blocks = quantize_blocks(graph.value(weight), BLOCKS[stored][0], block=BLOCKS[stored][1])
            _matmul(graph, graph.node(output).input[0], _store(graph, weight, blocks), output, shape, stored)
    transpose_linears(graph)  # those that are left
    stored = mix.of("embedding")
    types |= dict.fromkeys((EMBEDDING, graph.node("logits", "Gemm").input[1]), stored)
    if stored in BLOCKS:
        _quantize_embedding(graph, stored)
    for weight in (name for name, kind in types.items() if kind == "fp16"):
        _halve(graph, weight)
    return types


def _quantize_embedding(graph: Graph, stored: str) -> None:
    """Quantize the embedding and the output layer, one matrix where they share it."""
    bits, block = BLOCKS[stored]
    lookup = next(n for n in graph.producer.values() if n.op_type == "Gather" and n.input[0] == EMBEDDING)
    head = graph.node("logits", "Gemm")
    made = {}
    for weight in dict.fromkeys((EMBEDDING, head.input[1])):
        shape = graph.value(weight).shape
        made[weight] = _store(graph, weight, quantize_blocks(graph.value(weight), bits, block=block)), shape
    (packed, *scales), (rows, width) = made[EMBEDDING]
    flat = graph.constant("shape.table", np.array([rows, -1], np.int64))
    table = graph.add("Reshape", [packed, flat], f"{packed}.table")
    options = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": bits}
    found = f"{lookup.output[0]}.padded" if width % block else lookup.output[0]
    graph.add("GatherBlockQuantized", [table, lookup.input[1], *scales], found, domain=DOMAIN, **options)
    if width % block:
        ends = [graph.constant(f"width.{k}", np.array([v], np.int64)) for k, v in (("start", 0), ("end", width))]
        graph.add("Slice", [found, *ends, graph.constant("axis.2", np.array([2], np.int64))], lookup.output[0])
    names, shape = made[head.input[1]]
    _matmul(graph, head.input[0], names, "logits", shape, stored)


def _store(graph: Graph, name: str, blocks: Blocks) -> list[str]:
    del graph.weights[name]
    names = [graph.constant(f"{name}.int{blocks.bits}", blocks.packed), graph.constant(f"{name}.scale", blocks.scale)]
    return names if blocks.zero is None else [*names, graph.constant(f"{name}.zero", blocks.zero)]


def _matmul(graph: Graph, x: str, names: list[str], output: str, shape: tuple[int, ...], stored: str) -> None:
    bits, block = BLOCKS[stored]
    options: dict[str, Any] = {"N": shape[0], "K": shape[1], "bits": bits, "block_size": block}
    graph.add("MatMulNBits", [x, *names], output, domain=DOMAIN, accuracy_level=ACCURACY_INT8, **options)


def _dynamic(graph: Graph, weight: str, output: str) -> None:
    """Unsigned weights with a zero point, because signed ones overflow 16 bits on x86 without VNNI instructions."""
    columns = graph.weights.pop(weight).T  # (in, out)
    low = np.minimum(columns.min(axis=0), np.float32(0))
    scale: Float = (np.maximum(columns.max(axis=0), np.float32(0)) - low) / np.float32(255)
    zero = np.rint(_divide(-low, scale)).clip(0, 255)
    packed = (np.rint(_divide(columns, scale)) + zero).clip(0, 255).astype(np.uint8)
    names = [
        graph.constant(f"{weight}.{DYNAMIC}", np.ascontiguousarray(packed)),
        graph.constant(f"{weight}.scale", scale),
        graph.constant(f"{weight}.zero", zero.astype(np.uint8)),
    ]
    graph.add("DynamicQuantizeMatMul", [graph.node(output).input[0], *names], output, domain=DOMAIN)


def _halve(graph: Graph, weight: str) -> None:
    with np.errstate(over="ignore"):
        half = graph.weights.pop(weight).astype(np.float16)
    if not np.isfinite(half).all():
        raise UserError(f"{weight}: values beyond what 16 bits can hold; use fp32 or int8")
    graph.add("Cast", [graph.constant(f"{weight}.fp16", half)], weight, to=TensorProto.FLOAT)


def _symmetric(blocks: Float) -> tuple[Bytes, Float]:
    """8 bits: the value of largest magnitude becomes -128, whichever its sign."""
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1)
    scale: Float = extreme / np.float32(-128)
    q = np.clip(np.rint(_divide(blocks, scale)), -128, 127) + 128
    return q.astype(np.uint8), scale[..., 0]


def _asymmetric(blocks: Float) -> tuple[Bytes, Float, Bytes]:
    """4 bits: the scale that leaves the least squared error, for the zero point that spans the block."""
    low: Float = np.minimum(blocks.min(axis=-1, keepdims=True), np.float32(0))
    high: Float = np.maximum(blocks.max(axis=-1, keepdims=True), np.float32(0))
    span = (high - low) / np.float32(15)
    zero = np.rint(_divide(-low, span)).clip(0, 15)
    best: Float = span.copy()
    gain = np.zeros_like(span)
    for shrink in _SHRINK:
        q = np.clip(np.rint(_divide(blocks, span * shrink)), -zero, 15 - zero)
        along = (q * blocks).sum(axis=-1, keepdims=True)
        # For given integers, least squares give the scale, and how much of the block's energy it explains.
        fitted = _divide(along, (q * q).sum(axis=-1, keepdims=True))
        np.copyto(best, fitted, where=fitted * along > gain)
        np.maximum(gain, fitted * along, out=gain)
    q = np.clip(np.rint(_divide(blocks, best)) + zero, 0, 15)
    return _pack(q), best[..., 0], _pack(zero[..., 0])


def _divide(a: Float, b: Float) -> Float:
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


def _pack(values: Float) -> Bytes:
    q = values.astype(np.uint8)
    if q.shape[-1] % 2:
        q = np.concatenate([q, np.zeros((*q.shape[:-1], 1), np.uint8)], axis=-1)
    packed: Bytes = np.bitwise_or(q[..., 0::2], q[..., 1::2] << np.uint8(4), dtype=np.uint8)
    return packed


def _unpack(packed: Bytes) -> Float:
    return np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1).astype(np.float32)
