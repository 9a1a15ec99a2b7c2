"""The vocabulary of a Gemma tokenizer as GGUF carries it: pieces with scores and types, and the special ids.

llama.cpp tokenizes with SentencePiece's algorithm (merge the neighbours whose piece has the highest score); the
scores come from ``tokenizer.model`` where it lies beside ``tokenizer.json``, and from the order of the merges where
it does not. Which token is what kind is read from ``tokenizer.json`` alone, since that is what every runtime uses.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from router.wire import WIRES, WireFormat
from runtimes.errors import UserError

# enum llama_token_type of llama.h; the same numbers as SentencePiece's.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")
_UNMERGED: Final = -1000.0
"""Score of pieces that no merge builds, as llama.cpp's own converter gives to added tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """Pieces, scores and types by token id, as long as the embedding has rows."""

    pieces: list[bytes]
    scores: list[float]
    types: list[int]
    wire: WireFormat
    ids: dict[str, int]
    """Spelling -> id of the added tokens (control tokens, bos, eos, pad, unk) that fit the embedding."""
    source: str
    """Where the scores come from: a file's name."""


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """Read `folder`'s tokenizer for an embedding of `rows` rows.

    Added tokens beyond the last row are left out (Gemma's image token), rows without a token are named ``[PADn]``.
    Raises `UserError` for a tokenizer that is not Gemma's kind or lacks a token of the wire format.
    """
    path = folder / "tokenizer.json"
    spec = _read_json(path)
    model = spec.get("model", {})
    if model.get("type") != "BPE" or not model.get("byte_fallback") or not _spaces_as_underscores(spec):
        raise UserError(f"{path}: not a Gemma tokenizer (BPE with byte fallback, spaces as '▁'); GGUF export needs one")
    added = {int(t["id"]): t for t in spec.get("added_tokens", []) if int(t["id"]) < rows}
    ids = {str(t["content"]): i for i, t in added.items()}
    wire = _wire(path, ids)

    pieces = [f"[PAD{i}]".encode() for i in range(rows)]
    types = [UNUSED] * rows
    for piece, i in model["vocab"].items():
        if i >= rows:
            raise UserError(f"{path}: token {piece!r} has id {i}, the embedding has {rows} rows; use its own tokenizer")
        pieces[i] = piece.encode()
        types[i] = BYTE if _BYTE.fullmatch(piece) else NORMAL
    for i, token in added.items():
        types[i] = _added_type(token, wire)
        # llama.cpp looks for these in the raw text, where a space is a space.
        pieces[i] = str(token["content"]).replace("▁", " ").encode()
    scores, source = _scores(folder, pieces, types, model)
    if len(set(pieces)) != rows:
        raise UserError(f"{path}: two tokens are spelled alike; llama.cpp refuses such a vocabulary")
    return Vocabulary(pieces, scores, types, wire, ids, source)


def _added_type(token: dict[str, Any], wire: WireFormat) -> int:
    content = str(token["content"])
    if content == wire.unk:
        return UNKNOWN
    # llama.cpp leaves control tokens out of the text it returns, and calls must come back whole.
    if not token.get("special") or content in (wire.start_call, wire.end_call, wire.escape):
        return USER_DEFINED
    return CONTROL


def _wire(path: Path, ids: dict[str, int]) -> WireFormat:
    for wire in WIRES.values():
        if all(token in ids for token in (*wire.control_tokens, wire.bos, wire.eos)):
            return wire
    wire = next(iter(WIRES.values()))
    missing = [t for t in (*wire.control_tokens, wire.bos, wire.eos) if t not in ids]
    raise UserError(f"{path}: no token {missing[0]!r} within the embedding; the {wire.name} wire format needs it")


def _spaces_as_underscores(spec: dict[str, Any]) -> bool:
    return bool((spec.get("normalizer") or {}).get("content") == "▁")


def _scores(folder: Path, pieces: list[bytes], types: list[int], model: dict[str, Any]) -> tuple[list[float], str]:
    """A score for every normal piece; the others are found by their spelling, not by merging."""
    path = folder / "tokenizer.model"
    if path.is_file():
        return _sentencepiece_scores(path, pieces, types), path.name
    scores = [_UNMERGED] * len(pieces)
    vocab: dict[str, int] = model["vocab"]
    for i in (i for i, kind in enumerate(types) if kind == NORMAL):
        scores[i] -= len(model["merges"])  # behind every piece that merges build
    # The earliest merge that builds a piece ranks it; later ones only offer other halves.
    for rank, merge in reversed(list(enumerate(model["merges"]))):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if types[i := vocab[left + right]] == NORMAL:
            scores[i] = float(-rank)
    return scores, "tokenizer.json"


def _sentencepiece_scores(path: Path, pieces: list[bytes], types: list[int]) -> list[float]:
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: not a SentencePiece model ({str(error).splitlines()[0]}); train again") from None
    scores = [_UNMERGED] * len(pieces)
    for i in range(min(len(pieces), processor.get_piece_size())):
        if types[i] == NORMAL:
            piece = processor.id_to_piece(i)
            if piece.encode() != pieces[i]:
                raise UserError(
                    f"{path}: token {i} is {piece!r}, in tokenizer.json {pieces[i].decode()!r}; they must agree "
                    "(without tokenizer.model, tokenizer.json alone decides)"
                )
            scores[i] = processor.get_score(i)
    return scores


def _read_json(path: Path) -> dict[str, Any]:
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read the tokenizer ({error})") from None
    if not isinstance(spec, dict):
        raise UserError(f"{path}: not a tokenizer.json")
    return spec
