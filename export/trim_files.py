"""A tokenizer's files with fewer tokens, and the configs that name tokens by id.

Ids are handed out anew in the old order. Formats: ``tokenizer.json`` as the `tokenizers` library reads it,
``tokenizer_config.json`` and its like as transformers does, ``tokenizer.model`` a SentencePiece ``ModelProto``
(sentencepiece_model.proto).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtimes.errors import UserError

_LISTS_OF_IDS = ("suppress_tokens", "begin_suppress_tokens")


def trimmed_tokenizer(spec: Mapping[str, Any], ids: Sequence[int], path: Path) -> dict[str, Any]:
    """``tokenizer.json`` with the tokens `ids` (ascending) alone, and the merges among them in their order.

    Raises `UserError` for a post-processor that names tokens in a way not known here.
    """
    new = {old: i for i, old in enumerate(ids)}
    model = spec["model"]
    vocab = {piece: new[i] for piece, i in sorted(model["vocab"].items(), key=lambda item: item[1]) if i in new}
    merges = [merge for merge in model["merges"] if _kept(merge, vocab)]
    added = [{**token, "id": new[token["id"]]} for token in spec.get("added_tokens") or () if token["id"] in new]
    out = {**spec, "added_tokens": added, "model": {**model, "vocab": vocab, "merges": merges}}
    out["post_processor"] = _post_processor(spec.get("post_processor"), new, path)
    if padding := spec.get("padding"):
        out["padding"] = {**padding, "pad_id": new[padding["pad_id"]]}
    return out


def trimmed_sentencepiece(model: bytes, ids: Sequence[int], path: Path) -> bytes:
    """``tokenizer.model`` with the pieces `ids` alone, their scores and types as they were. Raises `UserError`."""
    from sentencepiece import SentencePieceProcessor
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        SentencePieceProcessor(model_proto=model)
    except (OSError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path}: not a SentencePiece model ({line}); without it tokenizer.json decides") from None
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(model)
    # Tokens behind its last piece are tokenizer.json's alone, and stay behind the last one.
    pieces = [proto.pieces[i] for i in ids if i < len(proto.pieces)]
    new = {old: i for i, old in enumerate(ids)}
    kept = type(proto)()
    kept.CopyFrom(proto)
    del kept.pieces[:]
    kept.pieces.extend(pieces)
    kept.DiscardUnknownFields()  # among them its self-test, whose texts may be tokenized otherwise now
    trainer, spelled = kept.trainer_spec, {piece.piece for piece in pieces}
    trainer.vocab_size = len(pieces)
    for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
        setattr(trainer, name, new.get(getattr(trainer, name), -1))
    for symbols in (trainer.control_symbols, trainer.user_defined_symbols):
        symbols[:] = [symbol for symbol in symbols if symbol in spelled]
    out: bytes = kept.SerializeToString()
    return out


def named_ids(config: Mapping[str, Any]) -> set[int]:
    """The tokens that a config or generation config names, as in ``eos_token_id: [1, 106]``."""
    return {
        i
        for key, value in config.items()
        if key.endswith("_token_id")
        for i in (value if isinstance(value, list) else [value])
        if isinstance(i, int) and i >= 0
    }


def remapped(config: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """A config or generation config with the new ids; `named_ids` are among `ids`, or beyond the embedding."""
    new = {old: i for i, old in enumerate(ids)}

    def turned(value: Any) -> Any:
        if isinstance(value, list):
            return [new[i] for i in value if i in new]
        return new.get(value)

    return {k: turned(v) if k.endswith("_token_id") or k in _LISTS_OF_IDS else v for k, v in config.items()}


def trimmed_settings(settings: Mapping[str, Any], dropped: set[str], ids: Sequence[int]) -> dict[str, Any]:
    """``tokenizer_config.json`` or ``special_tokens_map.json`` without the `dropped` spellings, with the new ids.

    transformers adds to the vocabulary what these name and ``tokenizer.json`` does not have.
    """
    new = {str(old): str(i) for i, old in enumerate(ids)}
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "added_tokens_decoder":
            out[key] = {new[i]: token for i, token in value.items() if i in new}
        elif key == "additional_special_tokens":
            out[key] = [token for token in value if _spelling(token) not in dropped]
        elif isinstance(value, Mapping) and "content" not in value:
            out[key] = {k: token for k, token in value.items() if _spelling(token) not in dropped}
        elif not (key.endswith("_token") and _spelling(value) in dropped):
            out[key] = value
    return out


def _kept(merge: str | Sequence[str], vocab: Mapping[str, int]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in vocab and right in vocab and left + right in vocab


def _post_processor(spec: Any, new: Mapping[int, int], path: Path) -> Any:
    if spec is None:
        return None
    if spec.get("type") == "Sequence":
        return {**spec, "processors": [_post_processor(one, new, path) for one in spec["processors"]]}
    if spec.get("type") != "TemplateProcessing":
        raise UserError(f"{path}: post_processor {spec.get('type')!r}; only TemplateProcessing can be trimmed")
    tokens = {k: {**t, "ids": [new[i] for i in t["ids"]]} for k, t in spec["special_tokens"].items()}
    return {**spec, "special_tokens": tokens}


def _spelling(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token if isinstance(token, str) else None
