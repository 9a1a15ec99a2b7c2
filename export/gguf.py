"""GGUF for llama.cpp, LM Studio and Ollama: Gemma 3 weights, vocabulary and chat template in one file.

Classes of matrices may have types of their own (`export.mixed`): llama.cpp's quantizer is told each tensor's.

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
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from export.atomic import disk_errors
from export.base import Checkpoint, Quant, Written
from export.gguf_modelfile import modelfile
from export.gguf_tensors import Array, add_parameters, find_tensors, load_tensors
from export.gguf_vocab import Vocabulary, read_vocabulary
from export.mixed import CLASSES, Mix, Scheme, by_class, parse, place_of
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
SCHEME: Final = Scheme(
    FORMAT,
    types={
        "f32": QUANTS["f32"],
        "f16": QUANTS["f16"],
        "bf16": Quant(precision=16, dtype="bf16", logit_tolerance=0.5),
        "q8_0": QUANTS["q8_0"],
        "q6_k": Quant(precision=4, dtype="q6_k", logit_tolerance=3.0),
        "q5_1": Quant(precision=4, dtype="q5_1", logit_tolerance=4.0),
        "q5_k": Quant(precision=4, dtype="q5_k", logit_tolerance=4.0),
        "q5_0": Quant(precision=4, dtype="q5_0", logit_tolerance=4.0),
        "q4_1": Quant(precision=4, dtype="q4_1", logit_tolerance=8.0),
        "q4_k_m": QUANTS["q4_k_m"],
        "q4_k": Quant(precision=4, dtype="q4_k", logit_tolerance=6.0),
        "iq4_nl": Quant(precision=4, dtype="iq4_nl", logit_tolerance=8.0),
        "q4_0": QUANTS["q4_0"],
    },
    presets={
        "f32": dict.fromkeys(CLASSES, "f32"),
        "f16": dict.fromkeys(CLASSES, "f16"),
        "q8_0": dict.fromkeys(CLASSES, "q8_0"),
        "q4_k_m": {"embedding": "q6_k", "attention": "q4_k_m", "mlp": "q4_k_m"},
        "q4_0": {"embedding": "q6_k", "attention": "q4_0", "mlp": "q4_0"},
    },
    in_layers=frozenset({"q4_k_m"}),
)
"""``q4_k_m`` in layers is llama.cpp's own choice of q4_k or q6_k for each; the presets are its choice for all."""
NO_OUTPUT_TRIM: Final = "llama.cpp wants as many output rows as the vocabulary has entries"

WEIGHTS: Final = "model.gguf"
GRAMMAR: Final = "toolset.gbnf"
MODELFILE: Final = "Modelfile"

_FTYPES: Final = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k": 14, "q4_k_m": 15, "q5_k": 16,
    "q6_k": 18, "iq4_nl": 25, "bf16": 32,
}  # fmt: skip
"""enum llama_ftype (llama.h): what most matrices are; q4_k and q5_k go as the S of theirs."""
_FLOATS: Final = frozenset({"f32", "f16", "bf16"})
_GGML_TYPES: Final = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q4_k": 12, "q5_k": 13, "q6_k": 14,
    "iq4_nl": 20, "bf16": 30,
}  # fmt: skip
"""enum ggml_type (ggml.h)."""
_CHOSEN: Final = {"q4_k_m": {"Q4_K", "Q6_K"}}
"""What llama.cpp chooses from where it is left to it. A type that was not meant is its way out for an odd width."""


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
    mix = parse(SCHEME, quant)
    mix.check_layers(int(source.config["num_hidden_layers"]), f"gguf: {quant}")
    target, partial, plain = (folder / name for name in (WEIGHTS, f".{WEIGHTS}.part", f".{WEIGHTS}.f32"))
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if quant in ("f32", "f16"):
                vocabulary, types = _write_plain(source, partial, quant)
            else:
                vocabulary, tensors = _write_plain(source, plain, "f32")
                own = quant in QUANTS or mix.all_types() == {"bf16"}
                kind = quant if own else _file_type(mix)
                _quantize(plain, partial, kind, {} if own else _chosen_types(mix, tensors))
                types = _tensor_types(partial)
            os.replace(partial, target)
            _write_text(folder / GRAMMAR, gbnf(toolset, vocabulary.wire))
            _write_text(folder / MODELFILE, modelfile(WEIGHTS, toolset, vocabulary.wire, context=source.context_length))
    finally:
        partial.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)
    matrices = {name: kind for name, kind in types.items() if not name.endswith("norm.weight")}
    meant = {name: mix.all_types() if quant in QUANTS else {mix.of(*place_of(name))} for name in matrices}
    fallbacks = [kind for name, kind in matrices.items() if kind not in _stored_as(meant[name])]
    return Written(
        weights=WEIGHTS,
        versions={p: importlib.metadata.version(p) for p in ("gguf", "llama-cpp-python")},
        details={
            "tensor_types": dict(sorted(Counter(types.values()).items())),
            "fallback_types": dict(sorted(Counter(fallbacks).items())),
            "classes": by_class({name: kind.lower() for name, kind in matrices.items()}),
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


def _chosen_types(mix: Mix, tensors: Iterable[str]) -> dict[str, str]:
    """Matrix -> its type, for those whose type is not left to llama.cpp."""
    matrices = [name for name in tensors if not name.endswith("norm.weight")]
    chosen = {name: mix.of(*place_of(name)) for name in matrices}
    return {name: kind for name, kind in chosen.items() if kind not in _CHOSEN}


def _file_type(mix: Mix) -> str:
    """What the file calls itself: after mlp, or the next class that is quantized, since llama.cpp takes the types of
    tensors only in a file of a quantized kind.
    """
    named = ["q4_k_m"] if "q4_k_m" in mix.all_types() else [*reversed(mix.types), *sorted(mix.all_types())]
    return next((name for name in named if name not in _FLOATS), "q8_0")


def _stored_as(kinds: Iterable[str]) -> set[str]:
    """What matrices for which `kinds` were meant may be stored in."""
    return set().union(*(_CHOSEN.get(kind, {kind.upper()}) for kind in kinds))


def _quantize(plain: Path, target: Path, quant: str, chosen: Mapping[str, str]) -> None:
    """llama.cpp's own quantizer; it reads and writes tensor by tensor. `chosen` types come before its own."""
    native = llama_native.native()
    params = native.llama_model_quantize_default_params()
    params.ftype = _FTYPES[quant]
    params.nthread = check_threads(None)
    overrides = (native.llama_model_tensor_override * (len(chosen) + 1))()  # the last one, empty, ends them
    for slot, (name, kind) in zip(overrides, chosen.items(), strict=False):
        slot.pattern, slot.type = f"^{re.escape(name)}$".encode(), _GGML_TYPES[kind]
    if chosen:
        params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
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
