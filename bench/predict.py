"""The time below which a request cannot come on this machine, worked out before anything is measured.

A forward pass over n tokens behind p cached ones, with m rows of logits, must at least

- read every weight once: ``weights`` bytes (the output matrix is the embedding, of which looking n rows up is nothing);
- read the cached keys and values that its tokens see, p in a global layer and min(p, window - 1) in a local one, and
  write n: ``2 * kv_heads * head_dim * bytes`` each;
- multiply, a multiplication and an addition being two operations: ``2 * n`` times the weights of keys and values of all
  layers, ``2 * n`` times the other matrices of all layers but the last, ``2 * m`` times those of the last (rows that
  nobody asks for end there) and the output matrix;
- attend: ``4 * heads * head_dim`` for every token and token seen by it, in the last layer for the m rows alone.

Where the grammar leaves few ids, some runtimes (`SHORTLIST_RUNTIMES`) read and multiply their rows of the output matrix
alone (`runtimes.shortlist`). Such a pass over k ids reads ``k / rows`` of that matrix and multiplies as much less.

Reading and multiplying overlap at best, so a pass takes ``max(bytes / bandwidth, operations / compute)``, and a
request the sum over its passes. Both rates are measured (`bench.probe`): bandwidth with an array as large as what is
read, since what fits a cache is read from there (for passes over few ids: all weights but the output matrix); compute
with products of the shape's width, in int8 where the runtime multiplies so. What a runtime needs beyond, to start
operators, to convert and to copy, is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from bench.records import Variant
from bench.shapes import Shape
from export.checkpoint import tensor_bytes, weight_files
from runtimes.artifact import Artifact
from runtimes.base import Pass, row_offsets
from runtimes.shortlist import shortlist_limit

INT8_RUNTIMES: Final = ("llama_cpp", "onnxruntime")
"""Runtimes that multiply weights of 8 bits and fewer in int8; the others make floats of them first."""
SHORTLIST_RUNTIMES: Final = ("torch", "mlx")
"""Runtimes that compute the logits of few ids alone."""
_CACHES: Final = {
    ("llama_cpp", "f32"): 4, ("llama_cpp", None): 2, ("torch", "bf16"): 2, ("mlx", "bf16"): 2, ("coreml", None): 2,
}  # fmt: skip
"""Bytes of a cached number by runtime and quantization (None: any other); 4 where nothing is said."""


@dataclass(frozen=True)
class Size:
    """One pass: cached tokens before it, its tokens, its rows of logits."""

    start: int
    tokens: int
    rows: int = 1
    ids: int | None = None
    """Of how many ids the logits are asked for; None for all."""


@dataclass(frozen=True)
class Weights:
    """Bytes of weights, and of the output matrix among them where a pass may read some of its rows alone (else 0)."""

    total: int
    output: int = 0

    @property
    def reads(self) -> set[int]:
        """About how much passes read: all, and all but the output matrix."""
        return {self.total, self.total - self.output}


@dataclass(frozen=True)
class Rates:
    """What the machine does in a second for one variant: bytes read, operations in `kind`."""

    bytes_s: float
    ops_s: float
    kind: str
    few_bytes_s: float | None = None
    """Bytes read by passes over few ids, which may fit a cache where all weights do not; None: as `bytes_s`."""

    def reading(self, size: Size) -> float:
        """Bytes a second in one pass."""
        return self.bytes_s if size.ids is None or self.few_bytes_s is None else self.few_bytes_s


def sizes_of(passes: Iterable[Pass]) -> list[Size]:
    """The sizes of recorded passes."""
    return [
        Size(
            one.start, len(one.tokens), len(row_offsets(one.rows, len(one.tokens))),
            None if one.ids is None else len(one.ids),
        )
        for one in passes
    ]  # fmt: skip


def cached_bytes(shape: Shape, size: Size, number_bytes: int) -> int:
    """Bytes of keys and values that a pass reads and writes."""
    seen = sum(
        min(size.start, shape.window - 1) if shape.is_local(layer) else size.start for layer in range(shape.layers)
    )
    return 2 * shape.kv_heads * shape.head_dim * number_bytes * (seen + shape.layers * size.tokens)


def read_bytes(shape: Shape, size: Size, weights: Weights, number_bytes: int) -> int:
    """Bytes that a pass reads, and writes of keys and values."""
    unread = 0 if size.ids is None else weights.output - weights.output * size.ids // shape.vocab
    return weights.total - unread + cached_bytes(shape, size, number_bytes)


def operations(shape: Shape, size: Size) -> int:
    """Multiplications and additions of a pass."""
    before, last = shape.layers - 1, shape.layers - 1
    linear = size.tokens * (shape.layers * shape.kv_weights + before * shape.other_weights)
    outputs = shape.vocab if size.ids is None else size.ids
    linear += size.rows * (shape.other_weights + outputs * shape.hidden)
    pairs = sum(_pairs(shape, layer, size.start, size.tokens) for layer in range(before))
    pairs += _pairs(shape, last, size.start + size.tokens - size.rows, size.rows)
    return 2 * linear + 4 * shape.heads * shape.head_dim * pairs


def floor_s(shape: Shape, sizes: Sequence[Size], weights: Weights, number_bytes: int, rates: Rates) -> float:
    """Seconds of a request's passes."""
    return sum(
        max(
            read_bytes(shape, size, weights, number_bytes) / rates.reading(size),
            operations(shape, size) / rates.ops_s,
        )
        for size in sizes
    )


def predicted(
    shape: Shape, passes: dict[str, list[Size]], variant: Variant, weights: Weights, rates: Rates
) -> dict[str, Any]:
    """The report's entry: the floor of every case in milliseconds, their median, and what it was made of.

    `bound` says what the median case waits for most: memory, or compute.
    """
    number_bytes = cache_bytes(variant)
    cases = {case: 1e3 * floor_s(shape, sizes, weights, number_bytes, rates) for case, sizes in passes.items()}
    every = [size for sizes in passes.values() for size in sizes]
    reading = sum(read_bytes(shape, size, weights, number_bytes) / rates.reading(size) for size in every)
    multiplying = sum(operations(shape, size) for size in every) / rates.ops_s
    return {
        "p50": median(cases.values()),
        "cases": {case: round(ms, 6) for case, ms in cases.items()},
        "weights_mb": weights.total / 1e6,
        "few_ids": sum(size.ids is not None for size in every) / len(every),
        "cache_number_bytes": number_bytes,
        "bandwidth_gb_s": rates.bytes_s / 1e9,
        "compute_gop_s": rates.ops_s / 1e9,
        "compute": rates.kind,
        "bound": "memory" if reading >= multiplying else "compute",
    }


def cache_bytes(variant: Variant) -> int:
    """Bytes of a number in the KV cache of a variant."""
    return _CACHES.get((variant.runtime, variant.quant)) or _CACHES.get((variant.runtime, None), 4)


def weights_of(artifact: Artifact, variant: Variant) -> Weights:
    """What an artifact's passes read: of a GGUF file all but its vocabulary."""
    if artifact.format == "gguf":
        from runtimes.llama_native import weight_bytes

        return Weights(weight_bytes(artifact.weights))
    return Weights(artifact.size_bytes, _output_bytes(artifact) if variant.runtime in SHORTLIST_RUNTIMES else 0)


def few_limit(artifact: Artifact, weights: Weights) -> int:
    """Up to how many ids the runtime asks for alone."""
    return shortlist_limit(artifact.output_rows, weights.output)


def rates_for(
    variant: Variant, bytes_s: float, ops_s: dict[str, float | None], few_bytes_s: float | None = None
) -> Rates:
    """The rates that bound a variant: int8 where it multiplies so, that was measured, and it is the faster."""
    fp32, int8 = ops_s["fp32"] or 0.0, ops_s["int8"] or 0.0
    if variant.runtime in INT8_RUNTIMES and variant.precision <= 8 and int8 > fp32:
        return Rates(bytes_s, int8, "int8", few_bytes_s)
    return Rates(bytes_s, fp32, "fp32", few_bytes_s)


def _output_bytes(artifact: Artifact) -> int:
    """Of the output matrix in safetensors files, scales and all: a tensor of its own, or else the embedding."""
    folder = artifact.weights if artifact.weights.is_dir() else artifact.weights.parent
    found = {name: size for path in weight_files(folder) for name, size in tensor_bytes(path).items()}
    for prefix in ("lm_head.", "model.embed_tokens."):
        size = sum(size for name, size in found.items() if name.startswith(prefix))
        if size:
            return size
    return 0


def _pairs(shape: Shape, layer: int, start: int, tokens: int) -> int:
    """Pairs of a token and one that it sees, itself included."""
    reach = shape.window if shape.is_local(layer) else start + tokens
    return sum(min(reach, start + i + 1) for i in range(tokens))
