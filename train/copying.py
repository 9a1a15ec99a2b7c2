"""Where the values of calls stand in a request, token by token: what two taught heads look at (`train.pointing`).

A string of a call is mostly a piece of the request, as it stands or in snake case; numbers and the keys of free-form
objects often are. Behind each of its tokens one head is to look at what the request says next, be it still of the
piece or not (behind a space, for the word decides whether the piece goes on). The other is to look at what is said
next: the token of the request that begins the piece or goes on with it, and where the piece ends, at the end of the
request.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from router.tokenizer import RouterTokenizer
from router.vocabulary import SPACE

Copies = list[tuple[int, int, int]]
"""(place in request and completion together, what the request says next or -1 before a piece, what is said next)."""

_BARE: Final = re.compile(r"(?<=[:\[,])(?:-?[0-9][0-9.]*|true|false)(?=[,}\]])|(?<=[{,])[^:{},\[\]]+(?=:)")
"""Numbers and keys in the text of a completion, outside of strings."""


def copied_places(tokenizer: RouterTokenizer, text: str, request: Sequence[int], completion: Sequence[int]) -> Copies:
    """The places of one request: its `text` (the user's turn), and the ids of both."""
    text = text.strip()
    starts = _starts(tokenizer, text)
    ahead = len(request) - len(tokenizer.suffix_ids) - len(starts)
    space = tokenizer.vocabulary.find(SPACE)

    def place(character: int) -> int:
        number = bisect_right(starts, character) - 1 if character < len(text) else len(starts)
        return ahead + number + (request[ahead + number] == space)

    begins = [0, *accumulate(len(tokenizer.spelling(token)) for token in completion)]
    before = len(request) - 1
    copies: Copies = []
    said = 0
    for begin, value in _values(tokenizer, completion):
        source = _find(value, text, said) or _find(value, text, 0)
        end = begin + len(value.encode())
        first, behind = bisect_left(begins, begin), bisect_left(begins, end)
        if source is None or begins[first] != begin or begins[behind] != end:
            continue
        said = source.end()
        for n in range(first, behind):
            spelled = value.encode()[: begins[n] - begin].decode(errors="ignore")
            at = place(source.start() + len(spelled))
            copies.append((before + n, at if n > first else -1, at))
        copies.append((before + behind, place(source.end()), ahead + len(starts)))
    return copies


def _starts(tokenizer: RouterTokenizer, text: str) -> list[int]:
    """Of which character of `text` each of its tokens is, or begins with."""
    characters = [n for n, c in enumerate(text.replace(SPACE, " ")) for _ in c.encode()]
    lengths = (len(tokenizer.spelling(token)) for token in tokenizer.encode_text(text))
    return [characters[at] for at in accumulate(lengths, initial=0) if at < len(characters)]


def _values(tokenizer: RouterTokenizer, completion: Sequence[int]) -> Iterator[tuple[int, str]]:
    """What a completion says in strings, numbers and keys, and the bytes before each."""
    inside, at = False, 0
    for piece in tokenizer.pieces(completion):
        if piece.control:
            inside = inside != (piece.text == tokenizer.wire.escape)
        elif inside:
            yield at, piece.text
        else:
            yield from ((at + len(piece.text[: m.start()].encode()), m.group()) for m in _BARE.finditer(piece.text))
        at += len(piece.text.encode())


def _find(value: str, text: str, start: int) -> re.Match[str] | None:
    """`value` as whole words of `text`, as it stands or in snake case; characters stand one for one."""
    pattern = "".join(r"[\s_-]" if c == "_" else re.escape(c) for c in value)
    found = re.compile(rf"(?<!\w){pattern}(?!\w)", re.IGNORECASE).search(text, start) if value.strip() else None
    return found if found is None or len(found.group()) == len(value) else None
