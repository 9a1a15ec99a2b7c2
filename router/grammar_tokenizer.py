"""llguidance's view of a tokenizer: what its tokens spell, and how text is spelled in them.

Made from the vocabulary itself. Given ``tokenizer.json`` instead, llguidance reads it with the `tokenizers` library and
keeps that, which for 262,144 tokens takes hundreds of megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload
from weakref import WeakKeyDictionary

from router.tokenizer import RouterTokenizer
from router.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_made: WeakKeyDictionary[RouterTokenizer, Any] = WeakKeyDictionary()


def native_tokenizer(tokenizer: RouterTokenizer) -> LLTokenizer:
    """Made once and kept as long as the tokenizer."""
    from llguidance import LLTokenizer, TokenizerWrapper

    if tokenizer not in _made:
        # A slice is a set of tokens that a free string takes as a whole; this one leaves out what opens a control
        # token. Others, by length, help no string with a maxLength, and at 262,144 tokens each takes 16 MB.
        plain = f"[^\\x00\\u{{2581}}{tokenizer.wire.escape[0]}]"
        _made[tokenizer] = LLTokenizer(TokenizerWrapper(_Told(tokenizer)), slices=[f"{plain}+"])
    found: LLTokenizer = _made[tokenizer]
    return found


class _Told:
    """What `llguidance.TokenizerWrapper` asks of a tokenizer. It must not hold the `RouterTokenizer` itself."""

    def __init__(self, tokenizer: RouterTokenizer) -> None:
        self.vocabulary = tokenizer.vocabulary
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = tokenizer.stop_ids[-1]
        self.special_token_ids = sorted(tokenizer.special_ids)
        self.tokens = _Spellings(tokenizer.vocabulary)

    def __call__(self, text: bytes) -> list[int]:
        return self.vocabulary.encode(text.decode())


class _Spellings(Sequence[bytes]):
    """What each token spells, looked up as it is asked for; a list of them would be megabytes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        return self._vocabulary.size

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._vocabulary.spelling(at) or b""

    def __iter__(self) -> Iterator[bytes]:
        return (self._vocabulary.spelling(i) or b"" for i in range(len(self)))
