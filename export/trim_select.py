"""Which tokens a trimmed vocabulary keeps, so that text of kept tokens is tokenized as before.

BPE starts from single characters (bytes for a character that is no token) and applies the merge of lowest rank,
leftmost first, until none applies. A merge is never undone, so the pieces that a token is made of while a text is
tokenized lie within it; and as the merges within it come in the same order as they would without the text around,
they are those of the token alone: its *parts*. Hence the rule: keep with every token its parts, and every merge whose
halves and result are kept, in their order. Then a text whose tokens are all kept is tokenized as before: each merge
that was the first one to apply is kept, and what is gone can only have come later. A kept piece's other splits, with a
half that is not kept, need no keeping: that half never stands there.

SentencePiece and llama.cpp merge by score what a pair of neighbours spells, which is the same order; the same holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from router.tokenizer import RouterTokenizer
from runtimes.errors import UserError

ENGLISH_TOKENS: Final = 32_768
"""How many tokens ``english`` keeps where nothing is said and the texts need no more."""
MULTIPLE: Final = 64
"""Rows of the output matrix are a multiple of it where nothing is said: kernels cut matrices into tiles of 8 to 64
rows, and a started tile costs as much as a full one. Further tokens fill it up, not padding."""

SPACE: Final = "▁"
ALWAYS: Final = frozenset(map(chr, range(0x21, 0x7F))) | {SPACE, "\n", "\t"}
"""Kept wherever they are tokens: grammars write in them, and without a space's piece none would read back as one."""
TYPOGRAPHIC: Final = frozenset("‘’‚“”„–—…•·€£©®°×½")
"""What English text has besides ASCII."""

_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")
_NEVER: Final = 1 << 60


@dataclass(frozen=True)
class Pieces:
    """A tokenizer's pieces and merges."""

    ids: dict[str, int]
    """Piece -> id, within the embedding's rows; added tokens too."""
    ranks: dict[tuple[str, str], int]
    whole: frozenset[int]
    """Tokens that are found by their spelling, not merged: added ones, bytes."""

    @cached_property
    def by_rank(self) -> list[str]:
        """What merges build, by the first merge that builds it: the order in which frequent pieces come first."""
        return list(dict.fromkeys(left + right for left, right in self.ranks))

    @cached_property
    def spelling(self) -> dict[int, str]:
        return {i: piece for piece, i in self.ids.items()}

    def parts(self, piece: str) -> set[int] | None:
        """The tokens that `piece` is made of, step by step, itself included; None where no text becomes it."""
        symbols = list(piece)
        if any(symbol not in self.ids for symbol in symbols):
            return None
        found = {self.ids[symbol] for symbol in symbols}
        while len(symbols) > 1:
            pairs = zip(symbols, symbols[1:], strict=False)
            rank, at = min((self.ranks.get(pair, _NEVER), i) for i, pair in enumerate(pairs))
            if rank == _NEVER or symbols[at] + symbols[at + 1] not in self.ids:
                return None
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            found.add(self.ids[symbols[at]])
        return found

    def closed(self, tokens: Iterable[int]) -> set[int]:
        """`tokens` and the parts of each."""
        out: set[int] = set()
        for token in set(tokens):
            out.add(token)
            if token not in self.whole:
                out |= self.parts(self.spelling[token]) or set()
        return out


@dataclass(frozen=True)
class Selection:
    """The kept tokens' ids in the original, ascending, and how many of them were needed."""

    ids: tuple[int, ...]
    needed: int


def read_pieces(spec: Mapping[str, Any], path: Path, rows: int) -> Pieces:
    """The pieces of a ``tokenizer.json`` for an embedding of `rows` rows. Raises `UserError` for another kind."""
    model = spec.get("model") or {}
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise UserError(f"{path}: not a Gemma tokenizer (BPE with byte fallback); its vocabulary cannot be trimmed")
    for key in ("ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UserError(f"{path}: {key} is {model[key]!r}; such a vocabulary cannot be trimmed")
    ids = {str(piece): int(i) for piece, i in model["vocab"].items() if int(i) < rows}
    added = {str(t["content"]): int(t["id"]) for t in spec.get("added_tokens") or () if int(t["id"]) < rows}
    missing = next((b for b in (f"<0x{n:02X}>" for n in range(256)) if b not in ids), None)
    if missing is not None:
        raise UserError(f"{path}: no token {missing!r}; without all bytes what is dropped cannot be spelled")
    pairs = (tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"])
    whole = {i for piece, i in ids.items() if _BYTE.fullmatch(piece)} | set(added.values())
    ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
    return Pieces(ids | added, ranks, frozenset(whole))


def basics(pieces: Pieces, tokenizer: RouterTokenizer, named: Set[int]) -> set[int]:
    """What every vocabulary needs: control tokens, `named` ids, bytes, the characters of `ALWAYS`."""
    spellings = (*tokenizer.wire.reserved, *ALWAYS)
    found = {pieces.ids[spelling] for spelling in spellings if spelling in pieces.ids}
    found |= pieces.spelling.keys() & named
    return found | {i for piece, i in pieces.ids.items() if _BYTE.fullmatch(piece)}


def select(pieces: Pieces, wanted: Iterable[int], *, english: bool, tokens: int | None, what: str) -> Selection:
    """`wanted` and their parts, filled up to the size with the next pieces in order of rank.

    Pieces that fill are written in characters that are kept already, to which `english` adds `TYPOGRAPHIC`. The size is
    `tokens`; without it what is needed, or for `english` at least `ENGLISH_TOKENS`, rounded up to `MULTIPLE`. It may
    come out smaller where the vocabulary has no more. Raises `UserError` where `what` needs more than `tokens`.
    """
    kept = pieces.closed(wanted)
    if english:
        kept |= {pieces.ids[c] for c in TYPOGRAPHIC if c in pieces.ids}
    needed = len(kept)
    size = tokens or max(ENGLISH_TOKENS if english else 0, -(-needed // MULTIPLE) * MULTIPLE)
    if needed > size:
        verb = "need" if " and " in what else "needs"
        raise UserError(f"--trim-tokens {size:,}: {what} {verb} {needed:,}; give that many or more, or less text")
    alphabet = {piece for piece in map(pieces.spelling.__getitem__, kept) if len(piece) == 1}
    for piece in pieces.by_rank:
        if len(kept) == size:
            break
        if piece in pieces.ids and pieces.ids[piece] not in kept and alphabet.issuperset(piece):
            parts = pieces.parts(piece)
            if parts and len(kept | parts) <= size:
                kept |= parts
    return Selection(tuple(sorted(kept)), needed)
