"""ONNX for ONNX Runtime: optimum's export, with the graph rewritten (`export.onnx_graph`) and, below 32 bits, the
weights quantized (`export.onnx_quant`). One file, unless it passes the 2 GB that a protobuf can hold.

``int8`` is 8 bits throughout, the embedding included. ``int4`` is 4 bits in the layers and 8 in the matrix that
embedding and output layer share, whose errors reach every logit.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.base import Checkpoint, Written
from export.mixed import by_class, parse
from export.onnx_types import BLOCKS, SCHEME
from export.onnx_types import QUANTS as QUANTS
from runtimes.base import Availability
from runtimes.errors import UserError

if TYPE_CHECKING:
    import onnx

    from router.toolset import Toolset

FORMAT = "onnx"
RUNTIME = "onnxruntime"
DEFAULT_QUANTS = ("fp32", "int8")
NO_OUTPUT_TRIM = ""  # the rows that are kept are stored beside the embedding

WEIGHTS = "model.onnx"
LARGEST_FILE = 2_000_000_000
"""Bytes that are still written into one file; protobuf's own limit is 2 GiB."""

_NEEDED = ("onnx", "optimum-onnx", "transformers", "torch")
_FIX = 'pip install "edgecall[export]"'
_TRACED_OPSET = 20


def availability() -> Availability:
    """Whether optimum's exporter and what it needs are installed."""
    try:
        found = {name: version(name) for name in _NEEDED}
    except PackageNotFoundError as error:
        return Availability(False, reason=f"{error.name} is not installed", fix=_FIX)
    text = f"optimum-onnx {found['optimum-onnx']}, onnx {found['onnx']}"
    if int(found["transformers"].partition(".")[0]) > 4:
        reason = f"optimum-onnx does not work with transformers {found['transformers']}"
        return Availability(False, text, reason, 'pip install "transformers>=4.57,<5"')
    return Availability(True, text)


def write(source: Checkpoint, folder: Path, quant: str, toolset: Toolset) -> Written:
    """Write ``model.onnx`` into `folder`, or above 2 GB ``onnx/model.onnx`` with its data beside it.

    `toolset` leaves no trace in this format. Raises `UserError` for an unknown `quant` and for a graph that other
    versions of the libraries trace.
    """
    mix = parse(SCHEME, quant)
    mix.check_layers(int(source.config["num_hidden_layers"]), f"onnx: {quant}")
    from export.onnx_graph import EMBEDDING, OPSET, Graph, GraphError, finish, rewrite
    from export.onnx_quant import DOMAIN, quantize

    graph = Graph(_trace(source, folder))
    try:
        rewrite(graph, source.config, kept=source.output_ids)
        types = quantize(graph, mix)
        narrow = mix.all_types() - {"fp32", "fp16"}
        model = finish(graph, source.config, domains=[DOMAIN] if narrow else [])
    except GraphError as error:
        raise UserError(f"onnx: {error}; install the versions of constraints.txt and export again") from error
    stored = dict.fromkeys((t.name for t in model.graph.initializer if t.name.endswith(".weight")), "fp32")
    details: dict[str, Any] = {
        "opset": OPSET,
        "operators": dict(Counter(n.op_type for n in model.graph.node)),
        "tensors": dict(Counter({**stored, **types}.values())),
        "embedding": types[EMBEDDING],
        "classes": by_class(types),
        "activations": "fp32",
    }
    if narrow:
        details["blocks"] = {kind: BLOCKS[kind][1] for kind in sorted(narrow) if kind in BLOCKS}
        details["activations"] = "fp32; int8 inside the products with quantized weights"
    return Written(_save(model, folder), {name: version(name) for name in _NEEDED}, details)


def _trace(source: Checkpoint, folder: Path) -> onnx.ModelProto:
    """optimum's export of the checkpoint, with the weights as they are called there (no constant folding)."""
    import onnx

    with tempfile.TemporaryDirectory(dir=folder, prefix=".trace-") as scratch, _quiet():
        import torch
        from optimum.exporters.onnx.convert import export_pytorch
        from optimum.exporters.onnx.model_configs import Gemma3TextOnnxConfig
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig

        net = Gemma3ForCausalLM.from_pretrained(
            source.folder,
            config=Gemma3TextConfig(**source.config),
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
        ).eval()
        # Not `main_export`: it goes on to run the model in ONNX Runtime, to fix shapes that are declared anew here.
        config = Gemma3TextOnnxConfig(net.config, task="text-generation", use_past=True, use_past_in_inputs=True)
        path = Path(scratch) / WEIGHTS
        export_pytorch(net, config, _TRACED_OPSET, path, do_constant_folding=False)
        del net
        gc.collect()  # the tracer leaves the network in reference cycles
        return onnx.load(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracer's warnings and the libraries' advice."""
    from transformers.utils import logging as transformers_logging

    verbosity, disabled = transformers_logging.get_verbosity(), logging.root.manager.disable
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(verbosity)


def _save(model: onnx.ModelProto, folder: Path) -> str:
    """Write the model; returns the weights' path in `folder`, a folder where the data lies beside the graph."""
    import onnx

    if sum(len(t.raw_data) for t in model.graph.initializer) <= LARGEST_FILE:
        onnx.save_model(model, folder / WEIGHTS)
        return WEIGHTS
    inner = folder / FORMAT
    inner.mkdir()
    onnx.save_model(model, inner / WEIGHTS, save_as_external_data=True, location=f"{WEIGHTS}.data", size_threshold=1024)
    return FORMAT
