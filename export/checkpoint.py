"""Checkpoints: where a model's parts lie, and opening a merged one.

A model is given as one of
- a model folder of ours: ``model.json`` ``{"name", "base", "adapters": {toolset: folder}}`` with `base` a folder in it
  or a hub name; without ``model.json`` the folders ``base/`` and ``adapter-<toolset>/``;
- the name of a model that is shipped (``seed``);
- a Hugging Face checkpoint folder (``config.json`` and safetensors);
- a PEFT adapter folder (``adapter_config.json``, which names its base);
- a hub name such as ``google/functiongemma-270m-it``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from export.base import Checkpoint
from runtimes.artifact import OUTPUT_IDS, sha256_file
from runtimes.errors import UserError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What travels with the weights. ``tokenizer.model`` may be missing: only llama.cpp's own converter insists on it."""

MODELS = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class Parts:
    """A model before merging: its name, the base checkpoint's folder and, if any, the adapter's."""

    name: str
    base: Path
    adapter: Path | None = None


def open_checkpoint(folder: str | Path, *, name: str | None = None) -> Checkpoint:
    """Open a merged checkpoint folder. Raises `UserError` where it is not one of Gemma 3 text."""
    folder = Path(folder)
    config = flat_config(read_json(folder / "config.json"), folder)
    weights = weight_files(folder)
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder}: tokenizer.json is missing; copy it from the base model")
    digest = hashlib.sha256()
    trimmed = [folder / OUTPUT_IDS] if (folder / OUTPUT_IDS).is_file() else []
    for path in (*weights, folder / "config.json", folder / "tokenizer.json", *trimmed):
        digest.update(f"{sha256_file(path)}  {path.name}\n".encode())
    return Checkpoint(folder, name or folder.name, digest.hexdigest(), config)


def find_made(target: Path, name: str, record: str) -> Checkpoint | None:
    """The checkpoint at `target` if it is whole: its hash, computed again, is the one in the file called `record`."""
    try:
        known = read_json(target / record)
        found = open_checkpoint(target, name=name)
    except (UserError, OSError):
        return None
    return found if found.sha256 == known.get("sha256") else None


def locate(model: str | Path, *, adapter: str | Path | None = None, toolset: str | None = None) -> Parts:
    """Find the base and the adapter that `model` means.

    `adapter` is a PEFT folder, or ``"none"`` for the base alone. Without it, a model folder of ours gives the adapter
    for `toolset`, or its only one. Raises `UserError` where nothing, or no single thing, is meant.
    """
    folder = _folder_of(model)
    if not folder.exists() and _is_hub_name(str(model)):
        parts = Parts(str(model).rpartition("/")[2], _from_hub(str(model)))
    elif not folder.is_dir():
        raise UserError(f"{model}: no such model folder (nor a hub name such as google/functiongemma-270m-it)")
    elif (folder / "adapter_config.json").is_file():
        parts = Parts(folder.resolve().name, _base_of(folder), folder)
    elif (folder / "config.json").is_file():
        parts = Parts(folder.resolve().name, folder)
    else:
        parts = _own_layout(folder, toolset if adapter is None else "")
    if adapter is None:
        return parts
    if str(adapter) == "none":
        return replace(parts, name=f"{parts.name}-base" if parts.adapter else parts.name, adapter=None)
    path = Path(adapter).expanduser()
    if not (path / "adapter_config.json").is_file():
        raise UserError(f"{path}: no PEFT adapter (adapter_config.json is missing); give an adapter folder or 'none'")
    return Parts(f"{parts.name}-{path.resolve().name}", parts.base, path)


def adapters_of(model: str | Path) -> dict[str, Path]:
    """Toolset -> adapter folder of a model folder of ours, shipped ones by name; nothing for other models."""
    folder = _folder_of(model)
    if not folder.is_dir() or any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
        return {}
    return {name: folder / adapter for name, adapter in _described(folder)[1].items()}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, by name. Raises `UserError` where there are none."""
    found = sorted(folder.glob("model*.safetensors"))
    if not found:
        raise UserError(f"{folder}: no model*.safetensors; convert the checkpoint to safetensors first")
    return found


def count_parameters(folder: Path) -> int:
    """Number of weights in a checkpoint, from the headers of its safetensors files (a tied head counts once)."""
    return sum(count_weights(path) for path in weight_files(folder))


def count_weights(path: Path) -> int:
    """Number of weights in a safetensors file, from its header."""
    return sum(prod(entry["shape"]) for entry in _tensors(path).values())


def tensor_bytes(path: Path) -> dict[str, int]:
    """Tensor name -> bytes of a safetensors file, from its header."""
    places = {name: entry["data_offsets"] for name, entry in _tensors(path).items()}
    return {name: int(end) - int(begin) for name, (begin, end) in places.items()}


def _tensors(path: Path) -> dict[str, Any]:
    """The header of a safetensors file (https://github.com/huggingface/safetensors#format) without its metadata."""
    with path.open("rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def flat_config(config: dict[str, Any], where: Path) -> dict[str, Any]:
    """`config.json` as transformers 4 writes it for Gemma 3 text, every value spelled out.

    transformers 5 nests the rope parameters by kind of layer. Raises `UserError` for another architecture, and for
    variants that the exporters do not speak (soft-capping, bidirectional attention, quantized weights).
    """
    kind = config.get("model_type")
    if kind != "gemma3_text":
        hint = " (the text part of a multimodal Gemma 3 must be saved on its own)" if kind == "gemma3" else ""
        raise UserError(f"{where}: model_type is {kind!r}, edgecall exports 'gemma3_text'{hint}; choose a Gemma 3 base")
    config = {k: v for k, v in config.items() if not k.startswith("_") and k != "transformers_version"}
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if config.get(key):
            raise UserError(f"{where}: {key}={config[key]!r} in config.json is not supported; choose a Gemma 3 base")
    if config.get("quantization_config"):
        raise UserError(f"{where}: the checkpoint is quantized; give the unquantized one")
    ropes = config.pop("rope_parameters", None) or {}
    ropes = ropes if "full_attention" in ropes else {"full_attention": ropes}
    everywhere, local = ropes.get("full_attention") or {}, ropes.get("sliding_attention") or {}
    if everywhere:
        scaling = {k: v for k, v in everywhere.items() if k != "rope_theta"}
        config["rope_theta"] = everywhere.get("rope_theta", config.get("rope_theta", 1_000_000.0))
        config["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    if "rope_theta" in local:
        config["rope_local_base_freq"] = local["rope_theta"]
    return _complete(config, where)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `UserError`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; this is no complete checkpoint") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {type(data).__name__}, expected an object")
    return data


_DEFAULTS: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10_000.0,
    "rope_scaling": None,
    "rope_theta": 1_000_000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": False,
    "use_cache": True,
}
"""What transformers' `Gemma3TextConfig` assumes where a config is silent."""

_NEEDED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip


def _complete(config: dict[str, Any], where: Path) -> dict[str, Any]:
    for key in _NEEDED:
        if not isinstance(config.get(key), int):
            raise UserError(f"{where}: config.json lacks {key!r}; this is no complete Gemma 3 checkpoint")
    layers, local = config["num_hidden_layers"], "sliding_attention"
    if not config.get("layer_types"):
        pattern = config.get("sliding_window_pattern") or 6
        config["layer_types"] = [local if (i + 1) % pattern else "full_attention" for i in range(layers)]
    kinds = config["layer_types"]
    if len(kinds) != layers or set(kinds) - {local, "full_attention"}:
        raise UserError(f"{where}: config.json's layer_types do not fit {layers} layers of Gemma 3")
    config.pop("sliding_window_pattern", None)
    for pattern in range(1, layers + 2):
        if kinds == [local if (i + 1) % pattern else "full_attention" for i in range(layers)]:
            config["sliding_window_pattern"] = pattern
            break
    config.pop("dtype", None)
    config["torch_dtype"] = "float32"
    return dict(sorted({**_DEFAULTS, **config}.items()))


def _own_layout(folder: Path, toolset: str | None) -> Parts:
    """The parts of a model folder of ours. `toolset` None means its only adapter, a name without adapter the base."""
    described, adapters = _described(folder)
    name, base = str(described.get("name", folder.resolve().name)), str(described.get("base", "base"))
    if (folder / base / "config.json").is_file():
        base_folder = folder / base
    elif _is_hub_name(base) and "base" in described:
        base_folder = _from_hub(base)
    else:
        raise UserError(
            f"{folder}: neither config.json, adapter_config.json nor {base}/config.json is here; give a model folder"
        )
    chosen = adapters.get(toolset) if toolset is not None else next(iter(adapters.values()), None)
    if toolset is None and len(adapters) > 1:
        raise UserError(f"{folder}: has adapters for {', '.join(adapters)}; say which toolset is meant")
    if chosen is None:
        return Parts(f"{name}-base" if adapters else name, base_folder)
    if not (folder / chosen / "adapter_config.json").is_file():
        raise UserError(f"{folder / chosen}: no PEFT adapter here (adapter_config.json is missing)")
    return Parts(name, base_folder, folder / chosen)


def _described(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What ``model.json`` says, if there is one, and the adapters by toolset: as it says, or as they lie there."""
    found = {p.name.removeprefix("adapter-"): p.name for p in sorted(folder.glob("adapter-*")) if p.is_dir()}
    described = read_json(folder / "model.json") if (folder / "model.json").is_file() else {}
    adapters = described.get("adapters", found)
    if not isinstance(adapters, dict) or not all(isinstance(v, str) for v in adapters.values()):
        raise UserError(f"{folder / 'model.json'}: 'adapters' must map toolset names to folders")
    return described, adapters


def _folder_of(model: str | Path) -> Path:
    """The folder that a model's name means: itself, or that of a shipped model."""
    folder = Path(model).expanduser()
    if not folder.is_dir() and (MODELS / str(model)).is_dir() and re.fullmatch(r"[\w.-]+", str(model)):
        folder = MODELS / str(model)
    return folder


def name_of_base(base: Path, adapter: Path) -> str:
    """What an adapter in the folder `adapter` calls its base: a shipped one by its place among them, a snapshot of
    the hub by its path (which has the hub's name in it), another by the way there from the adapter."""
    base = base.resolve()
    if base.is_relative_to(MODELS):
        return base.relative_to(MODELS).as_posix()
    if base.parent.name == "snapshots":
        return str(base)
    try:
        return Path(os.path.relpath(base, adapter.resolve())).as_posix()
    except ValueError:  # another drive
        return str(base)


def find_base(adapter: Path, named: str) -> Path | None:
    """The base that the adapter in the folder `adapter` calls `named`: as `name_of_base` has it, beside the adapter, or
    as a path; None where it is not on this machine."""
    beside = adapter.resolve().parent
    for folder in (adapter / named, beside / named, Path(named), MODELS / named, beside / "base"):
        if named and (folder / "config.json").is_file():
            return folder
    return None


def _base_of(adapter: Path) -> Path:
    """The base that a PEFT adapter names: here, or on the hub."""
    named = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise UserError(f"{adapter}: adapter_config.json names no base model; give the base with `--adapter {adapter}`")
    found = find_base(adapter, named)
    if found is not None:
        return found
    if _is_hub_name(named):
        return _from_hub(named)
    raise UserError(f"{adapter}: its base {named!r} is not here; give the base with `--adapter {adapter}`")


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def _from_hub(name: str) -> Path:
    """The local snapshot of a hub model, downloaded if need be (transformers' own cache)."""
    import requests
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except GatedRepoError:
        raise UserError(f"{name}: gated on the hub; accept its licence there and log in (`hf auth login`)") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{name}: neither a folder here nor a model on the hub that you may read") from None
    except (OSError, ValueError, requests.RequestException) as error:
        reason = "no connection" if not isinstance(error, PermissionError) else str(error)
        raise UserError(
            f"{name}: not a folder here, not in the local hub cache, and the hub cannot be reached ({reason}); "
            "give a local model folder"
        ) from None
