"""Token ids of prompts and completions, from an artifact's ``tokenizer.json``.

Rendered text is cut at the control tokens and each part of text is encoded without any (`router.vocabulary`), so that
neither a request nor a tool's description can ever become one; completions are parsed by their ids for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from router.parse import Piece, parse_pieces
from router.render import placed, render_completion, render_prefix, render_suffix, user_turn
from router.toolset import Call, Toolset
from router.vocabulary import SPACE, Vocabulary
from router.vocabulary_file import load_vocabulary
from router.wire_format import FUNCTIONGEMMA, WireError, WireFormat
from runtimes.errors import UserError


class RouterTokenizer:
    """A tokenizer and the wire format that its control tokens spell.

    `vocabulary` encodes text only: nothing in it is a control token.
    """

    def __init__(self, vocabulary: Vocabulary, wire: WireFormat = FUNCTIONGEMMA, *, source: str = "tokenizer") -> None:
        self.vocabulary = vocabulary
        self.wire = wire
        self.source = source
        self._controls: dict[str, int] = {}
        for token in (*wire.control_tokens, wire.bos):
            found = vocabulary.find(token)
            if found is None:
                raise UserError(f"{source}: no token {token!r}; the {wire.name} wire format needs it")
            self._controls[token] = found
        special = {i: vocabulary.piece(i) or "" for i in vocabulary.facts.special}
        self._spelled: dict[int, bytes] = {}
        """What text tokens spell, as they are met."""
        self._spellings = special | {i: token for token, i in self._controls.items()}

    @classmethod
    def load(cls, path: str | Path, wire: WireFormat = FUNCTIONGEMMA) -> RouterTokenizer:
        """Read ``tokenizer.json``. Raises `UserError` where it is not there, not Gemma's kind, or lacks a token."""
        return cls(load_vocabulary(Path(path)), wire, source=str(path))

    @property
    def vocab_size(self) -> int:
        """Number of entries, control tokens included."""
        return self.vocabulary.size

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends a completion: after calls, without one, and the tokenizer's end of sequence if it has one."""
        stops = [self._controls[token] for token in self.wire.stops]
        eos = self.vocabulary.find(self.wire.eos)
        return tuple(stops if eos is None else [*stops, eos])

    @property
    def bos_id(self) -> int:
        return self._controls[self.wire.bos]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Every id that no text can encode to: the control tokens and the tokenizer's other special ones."""
        return frozenset(self._spellings)

    def control_id(self, name: str) -> int:
        """The id of a control token, by its spelling or by its name in `WireFormat` (``"start_call"``)."""
        spelling = name if name in self._controls else str(getattr(self.wire, name, name))
        if spelling not in self._controls:
            raise UserError(f"unknown control token {name!r}; there are {', '.join(self._controls)}")
        return self._controls[spelling]

    def encode(self, text: str) -> list[int]:
        """Ids of rendered text: what spells a control token (or bos) becomes one."""
        ids: list[int] = []
        for part in self.wire.splitter.split(text):
            if part in self._controls:
                ids.append(self._controls[part])
            elif part:
                ids += self.encode_text(part)
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of text in which nothing is a control token, whatever it spells."""
        if not text:
            return []
        try:
            ids = self.vocabulary.encode(text)
        except UnicodeEncodeError:
            raise WireError("the text contains half a surrogate pair; it is not Unicode") from None
        if not self.special_ids.isdisjoint(ids):
            found = next(self._spellings[i] for i in ids if i in self.special_ids)
            raise UserError(f"{self.source}: text becomes the control token {found!r}; its merges must not build one")
        return ids

    def prefix_ids(self, toolset: Toolset) -> list[int]:
        """How every prompt of a toolset begins: all up to the request, or up to an instruction that shows context."""
        if toolset.placed:  # the text that follows is one piece of text for the tokenizer
            return [self._controls[self.wire.bos], self._controls[self.wire.start_turn]]
        return self.encode(render_prefix(toolset, self.wire))

    def context_ids(self, toolset: Toolset, context: Mapping[str, Any]) -> list[int]:
        """What stands between `prefix_ids` and the user's words; nothing unless the instruction shows context."""
        if not toolset.placed:
            return []
        return self.encode(render_prefix(placed(toolset, context), self.wire))[len(self.prefix_ids(toolset)) :]

    def behind_prefix(self, toolset: Toolset, user: str, context: Mapping[str, Any]) -> list[int]:
        """Everything behind `prefix_ids` for one request with its context."""
        turn = self.request_ids(user_turn(toolset, user, context))
        return self.context_ids(toolset, context) + turn

    @cached_property
    def suffix_ids(self) -> tuple[int, ...]:
        """What follows the request."""
        return tuple(self.encode(render_suffix(self.wire)))

    def request_ids(self, user: str) -> list[int]:
        """The request (trimmed) and what follows it, up to where the model answers."""
        return [*self.encode_text(user.strip()), *self.suffix_ids]

    def prompt_ids(self, toolset: Toolset, user: str) -> list[int]:
        """The whole prompt of a toolset that shows no context, or of words that begin with it."""
        return self.encode(render_prefix(toolset, self.wire)) + self.request_ids(user)

    def completion_ids(self, calls: Iterable[Call]) -> list[int]:
        """The calls and their stop, as the model should write them."""
        text = render_completion(calls, self.wire)
        if SPACE in text:
            raise WireError(
                f"a call contains {SPACE!r}, which the tokenizer reads back as a space; it cannot be written"
            )
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, control tokens spelled out; broken UTF-8 shows as U+FFFD."""
        return "".join(piece.text for piece in self.pieces(ids, errors="replace"))

    def parse(self, ids: Sequence[int]) -> list[Call]:
        """The calls that a completion's ids make. Raises `WireError`, positions counted in `decode(ids)`."""
        return parse_pieces(self.pieces(ids), self.wire)

    def spelling(self, token: int) -> bytes:
        """The bytes that an id stands for, of a control token its spelling."""
        spelled = self._spellings.get(token)
        return spelled.encode() if spelled is not None else self._spelled.get(token) or self._bytes(token)

    def pieces(self, ids: Sequence[int], *, errors: str = "strict") -> list[Piece]:
        """Control tokens one by one, the text between them joined. Raises `WireError` for what is not UTF-8."""
        pieces: list[Piece] = []
        text = bytearray()
        length = 0

        def flush() -> None:
            nonlocal length
            if text:
                try:
                    words = text.decode(errors=errors)
                except UnicodeDecodeError as error:
                    at = length + len(text[: error.start].decode(errors="replace"))
                    raise WireError("the text is not UTF-8", at) from None
                pieces.append(Piece(words, False))
                length += len(words)
                text.clear()

        for token in ids:
            spelling = self._spellings.get(token)
            if spelling is not None:
                flush()
                pieces.append(Piece(spelling, True))
                length += len(spelling)
                continue
            text += self._spelled.get(token) or self._bytes(token)
        flush()
        return pieces

    def _bytes(self, token: int) -> bytes:
        spelled = self.vocabulary.spelling(token)
        if spelled is None:
            raise UserError(f"{self.source}: token id {token} is outside the vocabulary (0..{self.vocab_size - 1})")
        self._spelled[token] = spelled
        return spelled
