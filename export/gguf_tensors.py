"""The numbers of a Gemma 3 checkpoint as llama.cpp's Gemma 3 reads them: hyperparameters and tensors.

Follows src/models/gemma3.cpp and conversion/gemma.py of llama.cpp. One thing differs from its converter: where the
queries are not scaled by the head's width, the difference goes into the weights of the query norm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.base import Checkpoint
from runtimes.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFWriter

Array = np.ndarray[Any, np.dtype[Any]]

LAYERS_27B = 62
"""By this number of layers llama.cpp knows the 27B model, whose queries it scales by another rule."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the checkpoint and its place in the GGUF."""

    name: str
    original: str
    file: Path
    shape: tuple[int, ...]


def find_tensors(source: Checkpoint) -> list[Tensor]:
    """Every tensor under its GGUF name, the embedding first, then layer by layer. Raises `UserError`."""
    from gguf import MODEL_ARCH, get_tensor_name_map
    from safetensors import SafetensorError, safe_open

    names = get_tensor_name_map(MODEL_ARCH.GEMMA3, int(source.config["num_hidden_layers"]))
    found: list[Tensor] = []
    for file in sorted(source.folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as f:
                for original in f.keys():
                    if original == "lm_head.weight" and source.config.get("tie_word_embeddings", True):
                        continue
                    name = names.get_name(original, try_suffixes=(".weight",))
                    if name is None:
                        raise UserError(f"{file}: tensor {original!r} is not part of a Gemma 3 text model")
                    view = f.get_slice(original)
                    if view.get_dtype() not in ("F32", "F16"):
                        raise UserError(f"{file}: {original!r} is {view.get_dtype()}; merge the checkpoint in fp32")
                    found.append(Tensor(name, original, file, tuple(view.get_shape())))
        except SafetensorError as error:
            raise UserError(f"{file}: not a readable safetensors file ({error})") from None
    if not any(t.name == "token_embd.weight" for t in found):
        raise UserError(f"{source.folder}: no embedding in *.safetensors; give a merged Gemma 3 checkpoint")
    return sorted(found, key=_order)


def load_tensors(tensors: list[Tensor], config: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """The tensors in float32 as llama.cpp wants them, one at a time."""
    from safetensors import safe_open

    query_factor = np.float32((_expected_query_scalar(config) / _query_scalar(config)) ** 0.5)
    with ExitStack() as stack:
        files = {p: stack.enter_context(safe_open(p, framework="numpy")) for p in {t.file for t in tensors}}
        for t in tensors:
            data = files[t.file].get_tensor(t.original).astype(np.float32, copy=False)
            if t.name.endswith("norm.weight"):
                data = data + np.float32(1)  # Gemma multiplies by (1 + weight), llama.cpp by the weight
            if t.name.endswith("attn_q_norm.weight"):
                data = data * query_factor
            yield t.name, data


def add_parameters(writer: GGUFWriter, source: Checkpoint) -> None:
    """Write the hyperparameters. Raises `UserError` for what llama.cpp's Gemma 3 cannot compute."""
    config = source.config
    _check_supported(config, where=source.folder / "config.json")
    layers = int(config["num_hidden_layers"])
    writer.add_type("model")
    writer.add_name(source.name)
    writer.add_context_length(source.context_length)
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(layers)
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(int(config["num_attention_heads"]))
    writer.add_head_count_kv(int(config["num_key_value_heads"]))
    writer.add_key_length(int(config["head_dim"]))
    writer.add_value_length(int(config["head_dim"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float(config["rope_theta"]))
    if scaling := _rope_scaling(config):
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling["factor"]))
    local = _local_layers(config)
    if not any(local):
        return  # without a window llama.cpp has one kind of layer and one cache
    writer.add_rope_freq_base_swa(float(config.get("rope_local_base_freq", 10_000.0)))
    writer.add_sliding_window(int(config["sliding_window"]))
    if local != [(i + 1) % 6 != 0 for i in range(layers)]:  # what llama.cpp assumes when nothing is said
        writer.add_sliding_window_pattern(local)


def _order(tensor: Tensor) -> tuple[int, str]:
    block = re.match(r"blk\.(\d+)\.", tensor.name)
    return (int(block.group(1)) if block else -1, tensor.name)


def _query_scalar(config: dict[str, Any]) -> float:
    return float(config.get("query_pre_attn_scalar") or config["head_dim"])


def _expected_query_scalar(config: dict[str, Any]) -> float:
    if int(config["num_hidden_layers"]) == LAYERS_27B:
        return float(int(config["hidden_size"]) // int(config["num_attention_heads"]))
    return float(config["head_dim"])


def _local_layers(config: dict[str, Any]) -> list[bool]:
    if kinds := config.get("layer_types"):
        return [kind == "sliding_attention" for kind in kinds]
    pattern = int(config.get("sliding_window_pattern") or 6)
    return [(i + 1) % pattern != 0 for i in range(int(config["num_hidden_layers"]))]


def _rope_scaling(config: dict[str, Any]) -> dict[str, Any] | None:
    scaling = config.get("rope_scaling") or {}
    return None if scaling.get("rope_type", scaling.get("type", "default")) == "default" else scaling


def _check_supported(config: dict[str, Any], *, where: Path) -> None:
    """What opening the checkpoint lets through and llama.cpp has no switch for."""
    scaling = _rope_scaling(config)
    wrong = {
        "attention_bias": bool(config.get("attention_bias")),
        "hidden_activation": config.get("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh",
        "rope_scaling": scaling is not None and scaling.get("rope_type", scaling.get("type")) != "linear",
    }
    for key in (key for key, is_wrong in wrong.items() if is_wrong):
        raise UserError(f"{where}: {key}={config.get(key)!r} is not something that llama.cpp's Gemma 3 can compute")
