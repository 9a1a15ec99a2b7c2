"""GGUF for llama.cpp, LM Studio and Ollama: Gemma 3 weights, vocabulary and chat template in one file.

Beside the weights lie ``toolset.gbnf``, the toolset's calls as a llama.cpp grammar, and ``Modelfile`` for Ollama.

``<bos>`` is part of the rendered prompt, so the file says that a tokenizer adds none (``add_bos_token`` false);
stock tools then take our prompts as they are. Both stops are marked as ends: ``<end_of_turn>`` as end of turn,
``<start_function_response>`` as end of message.

Stock tools turn whatever spells a control token in a prompt into that token, a user's words too: whoever feeds them
requests from strangers sends token ids instead of text.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.metadata
import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from export.atomic import disk_errors
from export.base import Checkpoint, Quant, Written
from export.gguf_modelfile import modelfile
from export.gguf_tensors import Array, add_parameters, find_tensors, load_tensors
from export.gguf_vocab import Vocabulary, read_vocabulary
from router.gbnf import gbnf
from router.toolset import Toolset
from runtimes import llama_native
from runtimes.base import Availability, check_threads
from runtimes.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFWriter

FORMAT: Final = "gguf"
RUNTIME: Final = "llama_cpp"
QUANTS: Final = {
    "f32": Quant(precision=32, dtype="f32", logit_tolerance=0.03),
    "f16": Quant(precision=16, dtype="f16", logit_tolerance=0.1),
    "q8_0": Quant(precision=8, dtype="q8_0", logit_tolerance=1.5),
    "q4_k_m": Quant(precision=4, dtype="q4_k_m", logit_tolerance=6.0),
    "q4_0": Quant(precision=4, dtype="q4_0", logit_tolerance=8.0),
}
DEFAULT_QUANTS: Final = ("f32", "q8_0")
NO_OUTPUT_TRIM: Final = "llama.cpp wants as many output rows as the vocabulary has entries"

WEIGHTS: Final = "model.gguf"
GRAMMAR: Final = "toolset.gbnf"
MODELFILE: Final = "Modelfile"

_FTYPES: Final = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15}
"""enum llama_ftype (llama.h)."""
_INTENDED: Final = {
    "f32": {"F32"},
    "f16": {"F16"},
    "q4_0": {"Q4_0", "Q6_K"},
    "q8_0": {"Q8_0"},
    "q4_k_m": {"Q4_K", "Q6_K"},
}
"""Types that a quantization means to give to matrices; any other is llama.cpp's way out for an odd width."""


def availability() -> Availability:
    """Whether the `gguf` package and llama-cpp-python, which quantizes, are here."""
    try:
        version = importlib.metadata.version("gguf")
    except importlib.metadata.PackageNotFoundError:
        return Availability(False, None, "the gguf package is not installed", 'pip install "edgecall[export]"')
    native = llama_native.availability()
    return Availability(native.available, version, native.reason, native.fix)


def write(source: Checkpoint, folder: Path, quant: str, toolset: Toolset) -> Written:
    """Write weights and companions into `folder`.

    Raises `UserError` for an unknown `quant`, a checkpoint that llama.cpp's Gemma 3 cannot compute, a full disk.
    """
    if quant not in QUANTS:
        raise UserError(f"gguf: unknown quantization {quant!r}; there are {', '.join(QUANTS)}")
    target, partial, plain = (folder / name for name in (WEIGHTS, f".{WEIGHTS}.part", f".{WEIGHTS}.f32"))
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if quant in ("f32", "f16"):
                vocabulary, types = _write_plain(source, partial, quant)
            else:
                vocabulary, _ = _write_plain(source, plain, "f32")
                _quantize(plain, partial, quant)
                types = _tensor_types(partial)
            os.replace(partial, target)
            _write_text(folder / GRAMMAR, gbnf(toolset, vocabulary.wire))
            _write_text(folder / MODELFILE, modelfile(WEIGHTS, toolset, vocabulary.wire, context=source.context_length))
    finally:
        partial.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)
    fallbacks = [k for name, k in types.items() if not name.endswith("norm.weight") and k not in _INTENDED[quant]]
    return Written(
        weights=WEIGHTS,
        versions={p: importlib.metadata.version(p) for p in ("gguf", "llama-cpp-python")},
        details={
            "tensor_types": dict(sorted(Counter(types.values()).items())),
            "fallback_types": dict(sorted(Counter(fallbacks).items())),
            "scores_from": vocabulary.source,
            "companions": [GRAMMAR, MODELFILE],
        },
    )


def _write_plain(source: Checkpoint, path: Path, dtype: str) -> tuple[Vocabulary, dict[str, str]]:
    """Write an unquantized GGUF, one tensor in memory at a time; returns each tensor's type too."""
    from gguf import GGUFWriter

    tensors = find_tensors(source)
    rows = next(t.shape[0] for t in tensors if t.name == "token_embd.weight")
    vocabulary = read_vocabulary(source.folder, rows)
    half = {t.name for t in tensors if dtype == "f16" and len(t.shape) > 1}
    writer = GGUFWriter(path, "gemma3")
    try:
        add_parameters(writer, source)
        writer.add_file_type(_FTYPES[dtype])
        writer.add_quantization_version(2)  # GGML_QNT_VERSION, ggml.h
        _add_vocabulary(writer, vocabulary, source.folder)
        for t in tensors:
            kind = np.dtype(np.float16 if t.name in half else np.float32)
            writer.add_tensor_info(t.name, t.shape, kind, int(np.prod(t.shape)) * kind.itemsize)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, data in load_tensors(tensors, source.config):
            _write_tensor(writer, _half(name, data) if name in half else data, path)
        writer.flush()
    finally:
        writer.close()
    return vocabulary, {t.name: "F16" if t.name in half else "F32" for t in tensors}


def _write_tensor(writer: GGUFWriter, data: Array, path: Path) -> None:
    try:
        writer.write_tensor_data(data)
    except OSError as error:
        if error.errno is None:  # numpy's own: "N requested and M written"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _half(name: str, data: Array) -> Array:
    with np.errstate(over="ignore"):
        half: Array = data.astype(np.float16)
    if not np.isfinite(half).all():
        raise UserError(f"{name}: values beyond what 16 bits can hold; export f32 or q8_0")
    return half


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary, folder: Path) -> None:
    wire, ids = vocabulary.wire, vocabulary.ids
    writer.add_tokenizer_model("llama")  # SentencePiece
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.pieces)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_bos_token_id(ids[wire.bos])
    writer.add_eos_token_id(ids[wire.eos])
    writer.add_eot_token_id(ids[wire.end_turn])
    writer.add_eom_token_id(ids[wire.start_response])
    if wire.pad in ids:
        writer.add_pad_token_id(ids[wire.pad])
    if wire.unk in ids:
        writer.add_unk_token_id(ids[wire.unk])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if template := _chat_template(folder):
        writer.add_chat_template(template)


def _chat_template(folder: Path) -> str:
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    if (path := folder / "tokenizer_config.json").is_file():
        template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        return template if isinstance(template, str) else ""
    return ""


def _quantize(plain: Path, target: Path, quant: str) -> None:
    """llama.cpp's own quantizer; it reads and writes tensor by tensor."""
    native = llama_native.native()
    params = native.llama_model_quantize_default_params()
    params.ftype = _FTYPES[quant]
    params.nthread = check_threads(None)
    llama_native.log.clear()
    if native.llama_model_quantize(os.fsencode(plain), os.fsencode(target), ctypes.byref(params)) != 0:
        reason = llama_native.log.reason()
        if "iostream" in reason:  # C++ streams do not say why they failed; it is writing that does
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        raise UserError(f"{target.parent}: llama.cpp could not quantize to {quant} ({reason}); choose another")


def _tensor_types(path: Path) -> dict[str, str]:
    """Tensor name -> type as written, e.g. ``Q8_0``."""
    from gguf import GGMLQuantizationType

    return {name: GGMLQuantizationType(kind).name for name, kind in llama_native.tensor_types(path).items()}


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
