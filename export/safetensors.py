"""Safetensors: the artifact folder is itself a Hugging Face checkpoint, for transformers and everything that reads it.

The reference of all other formats: what `runtimes.torch` computes from the fp32 variant.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from export.base import Checkpoint, Quant, Written
from export.checkpoint import TOKENIZER_FILES, count_parameters, weight_files
from router.toolset import Toolset
from runtimes.base import Availability

if TYPE_CHECKING:
    import torch

FORMAT = "safetensors"
RUNTIME = "torch"
QUANTS = {
    "fp32": Quant(32, "fp32", 1e-3),
    "bf16": Quant(16, "bf16", 0.5),
}
DEFAULT_QUANTS = ("fp32",)

NO_OUTPUT_TRIM = ""  # the weights stay whole, for transformers; our runtime takes the rows that are kept

_WEIGHTS = "model.safetensors"


def availability() -> Availability:
    """Whether torch and safetensors are installed."""
    try:
        version("torch")
        return Availability(True, f"safetensors {version('safetensors')}")
    except PackageNotFoundError as error:
        return Availability(False, reason=f"{error.name} is not installed", fix='pip install "edgecall[export]"')


def write(source: Checkpoint, folder: Path, quant: str, toolset: Toolset) -> Written:
    """Write weights in `quant`, the config and the tokenizer's files into `folder`. `toolset` is not needed."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    dtype = _dtype(quant)
    state = {}
    for path in weight_files(source.folder):
        with safe_open(path, framework="pt") as f:
            state.update({name: f.get_tensor(name).to(dtype) for name in f.keys()})
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})
    config = {**source.config, "torch_dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)
    return Written(
        _WEIGHTS,
        versions={"torch": version("torch"), "safetensors": version("safetensors")},
        details={"parameters": count_parameters(folder), "tensors": len(state)},
    )


def _dtype(quant: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[quant]
