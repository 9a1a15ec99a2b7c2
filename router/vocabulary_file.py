"""Makes a `Vocabulary` of a ``tokenizer.json``, and keeps it in a file beside it.

The file is a line of JSON (what it was made of, the facts, the arrays' sizes) and the arrays one behind another. It
belongs to the ``tokenizer.json`` whose SHA-256 it names, and is as good as none for any other.
"""

from __future__ import annotations

import json
import mmap
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from router.vocabulary import SPACE, Arrays, Facts, Vocabulary, slot_of
from runtimes.artifact import sha256_file
from runtimes.errors import UserError

FILE: Final = "tokenizer.vocabulary"
"""Beside ``tokenizer.json``."""

_SCHEMA: Final = "edgecall.vocabulary/1"
_ALIGNED: Final = 64
_NAMES: Final = tuple(f.name for f in fields(Arrays))
_BYTES: Final = [f"<0x{n:02X}>" for n in range(256)]

_SPLIT: Final = {"type": "Split", "pattern": {"String": " "}}
"""Behind the normalizer there are no spaces left to split at."""

Numbers = npt.NDArray[np.uint32]
_Merges = tuple[memoryview, memoryview, memoryview, memoryview]


def load_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a ``tokenizer.json``: mapped from the file beside it, or made anew, in memory.

    Raises `UserError` where `path` cannot be read or is not Gemma's kind of tokenizer.
    """
    try:
        return _mapped(path.with_name(FILE), path) or from_spec(read_spec(path), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot read the tokenizer ({error})") from None


def keep_vocabulary(path: Path) -> Path:
    """Write the file beside a ``tokenizer.json``; its path. Raises as `load_vocabulary` does, and `OSError`."""
    arrays, facts = _made(read_spec(path), str(path))
    views = [getattr(arrays, name) for name in _NAMES]
    head = json.dumps({
        **_belongs(path), "sizes": [view.nbytes for view in views], "special": sorted(facts.special),
        "added": dict(facts.added), "foreign": sorted(facts.foreign), "joints": facts.joints,
    }).encode()  # fmt: skip
    target = path.with_name(FILE)
    with target.open("wb") as file:
        file.write(head + b" " * (-(len(head) + 1) % _ALIGNED) + b"\n")
        for view in views:
            file.write(view)
    return target


def from_spec(spec: Mapping[str, Any], source: str) -> Vocabulary:
    """The vocabulary of a ``tokenizer.json``'s content; `source` names it in errors. Raises `UserError`."""
    return Vocabulary(*_made(spec, source))


def read_spec(path: Path) -> dict[str, Any]:
    """The content of a ``tokenizer.json``. Raises `UserError` where it is no such thing."""
    try:
        spec = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the tokenizer ({error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a tokenizer.json ({error})") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise UserError(f"{path}: not a tokenizer.json (no model)")
    return spec


def _belongs(path: Path) -> dict[str, str]:
    return {"schema": _SCHEMA, "source": sha256_file(path), "byteorder": sys.byteorder}


def _mapped(kept: Path, path: Path) -> Vocabulary | None:
    """What was kept of `path`; None where nothing was, or of another file."""
    if not kept.is_file():
        return None
    with kept.open("rb") as file:
        try:
            head = json.loads(line := file.readline(1 << 24))
            sizes = head["sizes"]
            if {key: head[key] for key in _belongs(path)} != _belongs(path) or len(sizes) != len(_NAMES):
                return None
        except (ValueError, TypeError, KeyError):
            return None
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    views, at = [], len(line)
    for name, size in zip(_NAMES, sizes, strict=True):
        part = whole[at : at + size]
        views.append(part if name == "text" else part.cast("I"))
        at += size
    if at != len(whole):
        return None
    facts = Facts(frozenset(head["special"]), head["added"], frozenset(head["foreign"]), head["joints"])
    return Vocabulary(Arrays(*views), facts)


def _made(spec: Mapping[str, Any], source: str) -> tuple[Arrays, Facts]:
    vocab = _checked(spec, source)
    added = {str(token["content"]): token for token in spec.get("added_tokens") or []}
    ids = {content: int(token["id"]) for content, token in added.items()} | vocab
    size = max(ids.values()) + 1
    if len(set(ids.values())) != len(ids) or size > 4 * len(ids):
        raise UserError(f"{source}: not a tokenizer.json whose tokens each have an id of their own")
    pieces = [b""] * size
    for piece, token in ids.items():
        pieces[token] = piece.encode()
    facts = Facts(
        frozenset(ids[content] for content, token in added.items() if token.get("special")),
        {content: ids[content] for content, token in added.items() if not token.get("special")},
        frozenset(ids[content] for content in added if content not in vocab),
        "".join(sorted({a for piece in ids for a, b in zip(piece, piece[1:], strict=False) if b == SPACE != a})),
    )
    lengths = np.fromiter(map(len, pieces), np.uint32, size)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)
    return Arrays(_slots(pieces), _view(ends), *_merges(spec["model"]["merges"], vocab, size, source),
                  memoryview(b"".join(pieces))), facts  # fmt: skip


def _checked(spec: Mapping[str, Any], source: str) -> dict[str, int]:
    """The model's own vocabulary, where text is encoded as `Vocabulary` does it; else a `UserError` that names why."""
    found = next(_differences(spec), None)
    if found is not None:
        raise UserError(
            f"{source}: not a tokenizer.json of Gemma's kind (BPE with byte fallback, spaces as {SPACE!r}, nothing "
            f"else before it): {found}; routers need one"
        )
    vocab: dict[str, int] = spec["model"]["vocab"]
    return vocab


def _differences(spec: Mapping[str, Any]) -> Iterator[str]:
    model, normalizer = spec["model"], spec.get("normalizer") or {}
    before = spec.get("pre_tokenizer") or _SPLIT
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        yield f"its type is {model.get('type')!r}"
        return
    if not model.get("byte_fallback") or not all(piece in model["vocab"] for piece in _BYTES):
        yield "bytes are no tokens"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(key):
            yield f"{key} is {model[key]!r}"
    if (normalizer.get("pattern"), normalizer.get("content")) != ({"String": " "}, SPACE):
        yield f"the normalizer is {json.dumps(normalizer)}"
    if any(before.get(key) != _SPLIT[key] for key in _SPLIT):
        yield f"the pre-tokenizer is {json.dumps(before)}"
    for token in spec.get("added_tokens") or []:
        if any(token.get(key) for key in ("single_word", "lstrip", "rstrip", "normalized")):
            yield f"of {token.get('content')!r} more than the spelling counts"


def _slots(pieces: list[bytes]) -> memoryview:
    count = 1 << (2 * len(pieces) - 1).bit_length()
    slots = array("I", bytes(4 * count))
    for token, piece in enumerate(pieces):
        if piece:
            slot = slot_of(piece, count)
            while slots[slot]:
                slot = (slot + 1) & (count - 1)
            slots[slot] = token + 1
    return memoryview(slots)


def _merges(merges: list[Any], vocab: Mapping[str, int], size: int, source: str) -> _Merges:
    """`Arrays.starts`, `rights`, `ranks` and `made`."""
    table: Numbers = np.empty((3, len(merges)), np.uint32)
    try:
        for rank, merge in enumerate(merges):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            table[:, rank] = vocab[left], vocab[right], vocab[left + right]
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{source}: not a tokenizer.json: merge {rank}, {merge!r}, is not of its vocabulary") from None
    if np.isin(table, [vocab[piece] for piece in _BYTES]).any():
        raise UserError(f"{source}: not a tokenizer.json of Gemma's kind: it merges bytes")
    order = np.lexsort((np.arange(len(merges)), table[1], table[0]))
    left, right, made = table[:, order]
    same = (left[1:] == left[:-1]) & (right[1:] == right[:-1])
    last = np.append(~same, True)[: len(left)]  # of one pair listed twice the later counts
    left, right, made, ranks = left[last], right[last], made[last], order[last]
    starts = np.searchsorted(left, np.arange(size + 1))
    return _view(starts), _view(right), _view(ranks), _view(made)


def _view(numbers: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(numbers, dtype=np.uint32).data
