"""Merging: base and LoRA adapter become one fp32 checkpoint folder, cached by the content of what went in."""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.atomic import disk_errors, staged, write_json
from export.base import Checkpoint
from export.checkpoint import (
    TOKENIZER_FILES,
    Parts,
    find_made,
    flat_config,
    locate,
    open_checkpoint,
    read_json,
    weight_files,
)
from runtimes.artifact import sha256_file
from runtimes.errors import UnavailableError, UserError

Progress = Callable[[str], None]

RECORD = "merged.json"
"""Written last into a merged folder: what went in, and the sha256 of what came out."""

_VERSION = 1
"""Raise it when merging changes what it writes."""

_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "typical_p", "transformers_version", "cache_implementation"}


def merge_checkpoint(
    model: str | Path,
    work: Path,
    *,
    adapter: str | Path | None = None,
    toolset: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """The merged fp32 checkpoint of `model` (see `export.checkpoint.locate`), made in `work` or found there.

    Raises `UserError` for a base that is not Gemma 3 text, an adapter that does not fit, a full disk.
    """
    parts = locate(model, adapter=adapter, toolset=toolset)
    work = Path(work)
    with disk_errors(work):
        config = flat_config(read_json(parts.base / "config.json"), parts.base)
        if not (parts.base / "tokenizer.json").is_file():
            raise UserError(f"{parts.base}: tokenizer.json is missing; save the tokenizer beside the weights")
        key = inputs_sha256(parts)
        target = work / f"{re.sub(r'[^A-Za-z0-9._-]', '-', parts.name)}-{key[:12]}"
        found = find_made(target, parts.name, RECORD)
        if found is not None:
            return found
        if progress:
            progress(f"merging {parts.name} into {target}")
        with staged(target) as staging:
            _write(parts, config, staging)
            checkpoint = open_checkpoint(staging, name=parts.name)
            record = {"name": parts.name, "key": key, "sha256": checkpoint.sha256}
            write_json(staging / RECORD, record)
    return Checkpoint(target, parts.name, checkpoint.sha256, checkpoint.config)


def inputs_sha256(parts: Parts) -> str:
    """One hash over everything that merging reads: the same on every machine, unlike the sums that it writes."""
    inputs = [*weight_files(parts.base), parts.base / "config.json", parts.base / "generation_config.json"]
    inputs += [parts.base / name for name in TOKENIZER_FILES]
    if parts.adapter is not None:
        inputs += [parts.adapter / "adapter_config.json", *sorted(parts.adapter.glob("adapter_model*"))]
    lines = [f"merge {_VERSION}", *(f"{sha256_file(p)}  {p.name}" for p in inputs if p.is_file())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def recorded_inputs(folder: Path) -> str | None:
    """`inputs_sha256` of what a merged folder was made from; None where that is not recorded."""
    try:
        return str(read_json(folder / RECORD)["key"])
    except (UserError, KeyError):
        return None


def _write(parts: Parts, config: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    net = _load_base(parts.base, config)
    if parts.adapter is not None:
        net = _merge(net, parts.adapter)
    state = {k: v.detach().contiguous().float() for k, v in net.state_dict().items()}
    if config["tie_word_embeddings"]:
        head = state.pop("lm_head.weight")
        if not head.equal(state["model.embed_tokens.weight"]):
            raise UserError(
                f"{parts.adapter}: the adapter changes the embedding and the output layer, which share their weights, "
                "differently; train without modules_to_save"
            )
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    for name in TOKENIZER_FILES:
        if (parts.base / name).is_file():
            shutil.copyfile(parts.base / name, folder / name)
    if (parts.base / "generation_config.json").is_file():
        # A router is greedy; FunctionGemma's own generation config samples.
        generation = read_json(parts.base / "generation_config.json")
        greedy = {k: v for k, v in generation.items() if k not in _SAMPLING} | {"do_sample": False}
        write_json(folder / "generation_config.json", greedy)


def _load_base(base: Path, config: dict[str, Any]) -> Any:
    """The base in fp32. transformers fills missing weights with noise and warns; here that is an error."""
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig
        from transformers.utils import logging
    except ImportError as error:
        raise UnavailableError(f'merging needs {error.name}; pip install "edgecall[export]"') from None

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        net, info = Gemma3ForCausalLM.from_pretrained(
            base,
            config=Gemma3TextConfig(**config),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{base}: the weights cannot be loaded ({_first_line(error)})") from error
    except SafetensorError as error:
        raise UserError(f"{base}: the weights are damaged ({_first_line(error)}); fetch them again") from error
    finally:
        logging.set_verbosity(verbosity)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            names = ", ".join(sorted(str(key) for key in info[kind])[:3])
            raise UserError(f"{base}: the weights do not fit config.json ({kind.replace('_', ' ')}: {names})")
    return net.eval()


def _merge(net: Any, adapter: Path) -> Any:
    try:
        from peft import PeftModel
        from safetensors import SafetensorError
    except ImportError:
        raise UnavailableError('merging an adapter needs peft; pip install "edgecall[export]"') from None
    kind = read_json(adapter / "adapter_config.json").get("peft_type")
    if kind != "LORA":
        raise UserError(f"{adapter}: peft_type is {kind!r}; only LORA adapters can be merged")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            merged = PeftModel.from_pretrained(net, str(adapter), is_trainable=False).merge_and_unload(safe_merge=True)
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"{adapter}: the adapter does not fit its base ({_first_line(error)})") from error
        except SafetensorError as error:
            raise UserError(f"{adapter}: the adapter is damaged ({_first_line(error)})") from error
    for warning in caught:
        if "missing adapter keys" in str(warning.message):
            raise UserError(f"{adapter}: weights are missing ({_first_line(warning.message)})")
    return merged


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
