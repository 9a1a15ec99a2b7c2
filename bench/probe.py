"""What this machine's cores can do, measured in a process that does nothing else: read memory, and multiply.

Commands: ``bandwidth`` (bytes a second) and ``compute`` (operations a second, in fp32 and in int8). Each is the best of
several rounds, since whatever disturbs only slows down. See `bench.predict` for what is made of them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.channel import Emit, serve

ROUNDS: Final = 5
ROUND_S: Final = 0.12
"""Seconds of a round at least."""
ROWS: Final = (64, 256)
"""Tokens of the matrix products that are tried: enough that reading the weights no longer counts."""
STREAMED: Final = 512 << 20
"""Bytes that are read where more than the caches hold is wanted; four times the last cache if that is more."""

Float = npt.NDArray[np.float32]
_READS: Final[dict[str, Callable[[Float], Any]]] = {
    "dot product": lambda part: np.dot(part, part),
    "maximum": lambda part: np.maximum.reduce(part),
}


def bandwidth(emit: Emit, *, sizes: list[int], threads: int) -> dict[str, Any]:
    """Bytes a second of reading an array of each of `sizes` bytes again and again with so many threads.

    What fits the caches is read from them from the second time on, as a model's weights are. The process must have
    one BLAS thread; the threads are made here. Returns ``{"bytes_s": [...], "how": ...}``.
    """
    out, ways = [], []
    data = np.full(max(sizes) // 4, 1.0, np.float32)
    for size in sizes:
        parts = np.array_split(data[: max(size // 4, threads)], threads)
        rates = {}
        for name, read in _READS.items():
            rates[name] = max(_read_rate(read, parts) for _ in range(ROUNDS))
            emit({"read": size})
        way = max(rates, key=rates.__getitem__)
        out.append(rates[way])
        ways.append(way)
    return {"bytes_s": out, "how": f"numpy {' and '.join(dict.fromkeys(ways))} over float32, {threads} threads"}


def compute(emit: Emit, *, width: int, inner: int, threads: int) -> dict[str, Any]:
    """Operations a second (a multiplication and an addition are two) of products with a (width, inner) matrix.

    ``fp32`` by numpy's BLAS; ``int8`` by ONNX Runtime's `MatMulNBits`, None where onnx or onnxruntime is missing. The
    process must have as many BLAS threads.
    """
    found = {"fp32": _best(_fp32(width, inner)), "int8": None}
    emit({"multiplied": "fp32"})
    how = {"fp32": f"numpy float32 product with a {width}x{inner} matrix, {threads} threads", "int8": None}
    try:
        found["int8"] = _best(_int8(width, inner, threads))
        how["int8"] = f"onnxruntime MatMulNBits, 8 bits, accuracy level 4, {width}x{inner}, {threads} threads"
    except ImportError as error:
        how["int8"] = f"not measured: {error.name} is not installed"
    return {"ops_s": found, "how": how}


def last_cache_bytes() -> int:
    """Size of the largest cache that Linux tells of; 0 where nobody does."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = path.read_text().strip()
            sizes.append(int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return max(sizes)


def streamed_bytes() -> int:
    """Bytes of an array that lies well past the caches, an eighth of the memory at most."""
    wanted = max(STREAMED, 4 * last_cache_bytes())
    try:
        return min(wanted, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
    except (ValueError, OSError, AttributeError):
        return STREAMED


def _read_rate(read: Callable[[Float], Any], parts: Sequence[Float]) -> float:
    """Bytes a second while every thread reads its part over and over."""
    size = sum(part.nbytes for part in parts)
    begun = perf_counter()
    read(parts[0])  # once, to know how often fits a round; it also brings the part into the caches
    times = max(1, int(ROUND_S / max(perf_counter() - begun, 1e-9)))
    start = threading.Barrier(len(parts) + 1)

    def work(part: Float) -> None:
        start.wait()
        for _ in range(times):
            read(part)

    workers = [threading.Thread(target=work, args=(part,)) for part in parts[1:]]
    for worker in workers:
        worker.start()
    if not workers:
        begun = perf_counter()
        for _ in range(times):
            read(parts[0])
        return size * times / (perf_counter() - begun)
    first = threading.Thread(target=work, args=(parts[0],))
    first.start()
    start.wait()
    begun = perf_counter()
    for worker in (first, *workers):
        worker.join()
    return size * times / (perf_counter() - begun)


def _best(products: Sequence[tuple[float, Callable[[], Any]]]) -> float:
    """The highest rate of some products, each given with its operations."""
    best = 0.0
    for operations, run in products:
        run()
        for _ in range(ROUNDS):
            begun, times = perf_counter(), 0
            while perf_counter() - begun < ROUND_S:
                run()
                times += 1
            best = max(best, operations * times / (perf_counter() - begun))
    return best


def _fp32(width: int, inner: int) -> list[tuple[float, Callable[[], Any]]]:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((width, inner), dtype=np.float32)
    out = []
    for rows in ROWS:
        x = rng.standard_normal((rows, width), dtype=np.float32)
        out.append(
            (2.0 * rows * width * inner, partial(np.matmul, x, weights, out=np.empty((rows, inner), np.float32)))
        )
    return out


def _int8(width: int, inner: int, threads: int) -> list[tuple[float, Callable[[], Any]]]:
    """One `MatMulNBits` node as `export.onnx_quant` writes it."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    from export.onnx_quant import ACCURACY_INT8, DOMAIN, quantize_blocks
    from export.onnx_types import USUAL

    rng = np.random.default_rng(0)
    blocks = quantize_blocks(rng.standard_normal((inner, width), dtype=np.float32), 8)
    constants = [numpy_helper.from_array(blocks.packed, "b"), numpy_helper.from_array(blocks.scale, "s")]
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], domain=DOMAIN, K=width, N=inner, bits=8, block_size=USUAL[8],
        accuracy_level=ACCURACY_INT8,
    )  # fmt: skip
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", inner])
    graph = helper.make_graph([node], "product", [given], [made], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    with tempfile.TemporaryDirectory() as folder:
        onnx.save_model(model, f"{folder}/product.onnx")
        session = ort.InferenceSession(f"{folder}/product.onnx", options, providers=["CPUExecutionProvider"])
    xs = [rng.standard_normal((rows, width), dtype=np.float32) for rows in ROWS]
    return [(2.0 * len(x) * width * inner, partial(session.run, None, {"x": x})) for x in xs]


if __name__ == "__main__":
    sys.exit(serve({"bandwidth": bandwidth, "compute": compute}))
