"""What tests of GGUF ask of llama.cpp's own vocabulary, which the runtime itself never uses."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from runtimes import llama_native


class LlamaVocab:
    """The vocabulary of a GGUF file as llama.cpp reads it."""

    def __init__(self, path: Path) -> None:
        self._lib = llama_native.native()
        params = self._lib.llama_model_default_params()
        params.vocab_only = True
        self._model = self._lib.llama_model_load_from_file(os.fsencode(path), params)
        assert self._model, llama_native.log.reason()
        self._vocab = self._lib.llama_model_get_vocab(self._model)

    def encode(self, text: str, *, control: bool = True, add_special: bool = True) -> list[int]:
        """Ids of `text`; `control` makes what spells a control token one."""
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 2))()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), ids, len(ids), add_special, control)
        assert count >= 0
        return list(ids[:count])

    def text(self, token: int) -> str:
        """What stock tools print for `token` (nothing for control tokens)."""
        buffer = ctypes.create_string_buffer(256)
        size = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size].decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Whether stock tools stop at `token`."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def special(self, name: str) -> int:
        return int(getattr(self._lib, f"llama_vocab_{name}")(self._vocab))

    def close(self) -> None:
        self._lib.llama_model_free(self._model)


def field(reader: Any, key: str) -> Any:
    """A metadata value of a `gguf.GGUFReader`."""
    return reader.fields[key].contents()
