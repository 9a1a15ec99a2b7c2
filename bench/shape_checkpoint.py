"""A checkpoint of a shape with random weights, made once and kept: what is measured before anybody trains.

Weights are drawn so that a network of any depth gives finite logits that differ by several units: matrices keep the
variance of their input, the embedding is small and the last norm large (the head is tied to it). They are stored in
fp32, because exporters read merged checkpoints and those are; in bf16 a merged copy would have to lie beside them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.shapes import Shape
from export.atomic import disk_errors, staged, write_json
from export.base import Checkpoint
from export.checkpoint import MODELS, TOKENIZER_FILES, find_made, flat_config, open_checkpoint
from export.pipeline import wire_name
from router.wire_format import wire_format
from runtimes.artifact import TOKENIZER
from runtimes.errors import UserError

RECORD: Final = "random.json"
"""Written last into such a folder: what it was made of."""
_VERSION: Final = 2
"""Raise it when other weights are drawn, or other files written."""
_CHUNK: Final = 1 << 22
"""Numbers that are drawn at once."""

Array = npt.NDArray[np.float32]
Files = dict[str, bytes]


def make(
    shape: Shape, tokenizer: Path | None, work: Path, *, progress: Callable[[str], None] | None = None
) -> Checkpoint:
    """The checkpoint in `work`, made there or found.

    `tokenizer`: a ``tokenizer.json`` (or ``.gz``), None for the seed router's; rows without an entry stay unused.
    Raises `UserError` for a tokenizer that has too many entries or lacks a token, and where the disk has no room.
    """
    files = _tokenizer_files(shape, tokenizer)
    digest = hashlib.sha256(json.dumps([_VERSION, shape.config(), shape.seed]).encode())
    for name, data in sorted(files.items()):
        digest.update(hashlib.sha256(data).digest() + name.encode())
    key = digest.hexdigest()
    target = work / f"{shape.name}-{key[:12]}"
    found = find_made(target, shape.name, RECORD)
    if found is not None:
        return found
    with disk_errors(target):
        work.mkdir(parents=True, exist_ok=True)
        need, free = 4 * shape.parameters, shutil.disk_usage(work).free
        if free < need:
            raise UserError(
                f"{target}: no room for a checkpoint of {need / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; free some "
                "space, or name another disk with --cache"
            )
        if progress:
            progress(f"drawing {shape.parameters / 1e6:,.1f}M weights into {target}")
        with staged(target) as staging:
            for name, data in files.items():
                (staging / name).write_bytes(data)
            wire = wire_format(wire_name(staging / TOKENIZER))
            if tokenizer is not None:
                write_json(staging / "tokenizer_config.json", _tokenizer_config(wire.bos, wire.eos, wire.pad, wire.unk))
            write_json(staging / "config.json", flat_config(shape.config(), staging))
            _write_weights(staging / "model.safetensors", shape)
            made = open_checkpoint(staging, name=shape.name)
            write_json(staging / RECORD, {"key": key, "sha256": made.sha256, "seed": shape.seed})
    return Checkpoint(target, made.name, made.sha256, made.config)


def outline(shape: Shape, tokenizer: Path | None, folder: Path) -> Checkpoint:
    """What of `make`'s checkpoint is known before weights are drawn: the tokenizer, in `folder`, and the config.

    Raises `UserError` as `make` does for a tokenizer.
    """
    (folder / TOKENIZER).write_bytes(_tokenizer_files(shape, tokenizer)[TOKENIZER])
    return Checkpoint(folder, shape.name, "", flat_config(shape.config(), folder))


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, as transformers calls them."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    for layer in range(shape.layers):
        parts = {
            "self_attn.q_proj": (queries, shape.hidden),
            "self_attn.k_proj": (keys, shape.hidden),
            "self_attn.v_proj": (keys, shape.hidden),
            "self_attn.o_proj": (shape.hidden, queries),
            "self_attn.q_norm": (shape.head_dim,),
            "self_attn.k_norm": (shape.head_dim,),
            "mlp.gate_proj": (shape.intermediate, shape.hidden),
            "mlp.up_proj": (shape.intermediate, shape.hidden),
            "mlp.down_proj": (shape.hidden, shape.intermediate),
            "input_layernorm": (shape.hidden,),
            "post_attention_layernorm": (shape.hidden,),
            "pre_feedforward_layernorm": (shape.hidden,),
            "post_feedforward_layernorm": (shape.hidden,),
        }
        out |= {f"model.layers.{layer}.{name}.weight": size for name, size in parts.items()}
    return out | {"model.norm.weight": (shape.hidden,)}


def _write_weights(path: Path, shape: Shape) -> None:
    """One safetensors file (https://github.com/huggingface/safetensors#format), drawn and written piece by piece."""
    sizes = tensors(shape)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, size in sizes.items():
        end = at + 4 * int(np.prod(size))
        header[name] = {"dtype": "F32", "shape": list(size), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, size in sizes.items():
            for values in _drawn(name, size, shape.seed):
                file.write(values.astype("<f4", copy=False).tobytes())


def _drawn(name: str, size: tuple[int, ...], seed: int) -> Iterator[Array]:
    """The numbers of one tensor, in pieces; each tensor has a stream of its own."""
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    count = int(np.prod(size))
    for begin in range(0, count, _CHUNK):
        noise = rng.standard_normal(min(_CHUNK, count - begin), dtype=np.float32)
        if name == "model.embed_tokens.weight":
            yield noise * np.float32(0.1)
        elif name == "model.norm.weight":
            yield np.float32(2.5) + np.float32(0.4) * noise
        elif len(size) == 1:
            yield np.float32(0.3) * noise
        else:
            yield noise / np.float32(size[1] ** 0.5)


def _tokenizer_files(shape: Shape, given: Path | None) -> Files:
    if given is None:
        base = MODELS / "seed" / "base"
        files = {name: (base / name).read_bytes() for name in TOKENIZER_FILES if (base / name).is_file()}
        entries = _entries(json.loads(files[TOKENIZER]), base / TOKENIZER)
        if max(entries.values()) >= shape.vocab:
            raise UserError(
                f"--vocab {shape.vocab}: the seed's tokenizer has {max(entries.values()) + 1} entries; give as many or "
                "more, or another --tokenizer"
            )
        return files
    try:
        data = given.read_bytes()
        data = gzip.decompress(data) if given.suffix == ".gz" else data
        spec = json.loads(data)
        entries = _entries(spec, given)
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, zlib.error) as error:
        raise UserError(f"--tokenizer {given}: not readable as a tokenizer.json ({error})") from None
    rows = shape.vocab
    beyond = [token for token in spec["added_tokens"] if int(token["id"]) >= rows]
    if beyond:  # Gemma's token for images, behind the last row of the text model's embedding
        spec["added_tokens"] = [token for token in spec["added_tokens"] if int(token["id"]) < rows]
        for token in beyond:
            entries.pop(token["content"], None)
        data = json.dumps(spec, ensure_ascii=False).encode()
    if max(entries.values(), default=0) >= rows:
        raise UserError(
            f"--vocab {rows}: {given} has {max(entries.values()) + 1} entries; give as many or more, or a smaller "
            "tokenizer"
        )
    return {TOKENIZER: data}


def _entries(spec: Any, path: Path) -> dict[str, int]:
    """Entry -> id, the added ones too."""
    vocab = (spec.get("model") or {}).get("vocab") if isinstance(spec, dict) else None
    if not isinstance(vocab, dict) or not isinstance(spec.setdefault("added_tokens", []), list):
        raise UserError(f"{path}: not a tokenizer.json with a vocabulary of pieces; give a Gemma tokenizer's")
    return vocab | {token["content"]: int(token["id"]) for token in spec["added_tokens"]}


def _tokenizer_config(bos: str, eos: str, pad: str, unk: str) -> dict[str, Any]:
    """What transformers and mlx-lm need beside a ``tokenizer.json``."""
    tokens = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk}
    # As Gemma's own: without the names, some tokenizers also give segments, which generate() refuses.
    names = {"model_input_names": ["input_ids", "attention_mask"]}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names, **tokens}
