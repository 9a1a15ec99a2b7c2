"""llama.cpp contexts: their parameters, and one that holds several sequences. See `runtimes.llama_cpp` for why."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from runtimes.base import Logits, Rows, check_append, check_rewind, check_rows, row_offsets
from runtimes.errors import SessionError
from runtimes.llama_native import listen, log, native

if TYPE_CHECKING:
    from runtimes.llama_cpp import LlamaModel

CONTEXT_VARIABLE: Final = "EDGECALL_LLAMA_CONTEXT"
_BATCH: Final = 2048
"""Tokens of one native call; a longer append is cut."""
_UBATCH: Final = 512
"""Tokens computed at once: bounds the compute buffers."""
_ROWS_BYTES: Final = 64 << 20
"""Logits of one native call for more rows than the last: bounds llama.cpp's output buffer, which never shrinks."""


def context_parameters(model: LlamaModel) -> Any:
    """What all contexts of a model have in common (see the module's docstring)."""
    lib = native()
    params = lib.llama_context_default_params()
    params.n_ctx = model.context_length
    params.n_batch = min(_BATCH, model.context_length)
    params.n_ubatch = min(_UBATCH, model.context_length)
    params.n_outputs_max = max(1, min(params.n_batch, _ROWS_BYTES // (4 * model.vocab_size)))
    params.n_seq_max = 1
    params.n_threads = params.n_threads_batch = model.threads
    params.swa_full = True
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.type_k = params.type_v = lib.GGML_TYPE_F32 if model.dtype == "f32" else lib.GGML_TYPE_F16
    return params


def make_context(model: LlamaModel, params: Any) -> Any:
    listen()
    log.clear()
    context = native().llama_init_from_model(model.handle, params)
    if not context:
        raise SessionError(
            f"llama.cpp cannot make a context of {model.context_length} tokens ({log.reason()}); "
            f"set {CONTEXT_VARIABLE} to fewer"
        )
    return context


class LlamaBatch:
    """One llama.cpp context holding several sequences, which share the cells of what they begin with."""

    def __init__(self, model: LlamaModel, lanes: int, prefix: Sequence[int]) -> None:
        self._lib = lib = native()
        self._model = model
        self._vocab = model.vocab_size
        limit = int(lib.llama_max_parallel_sequences())
        if not 1 <= lanes <= limit:
            raise SessionError(f"batch: {lanes} lanes; llama.cpp takes 1 to {limit}")
        params = context_parameters(model)
        params.n_seq_max = lanes
        params.kv_unified = True
        self._tokens_most, self._rows_most = int(params.n_batch), int(params.n_outputs_max)
        self.context = context = make_context(model, params)
        self._batch = lib.llama_batch_init(self._tokens_most, 0, 1)
        self._free = weakref.finalize(self, _free_batch, lib, context, self._batch)
        self.memory = lib.llama_get_memory(context)
        self._positions = [0] * lanes
        if prefix:
            for begin in range(0, len(prefix), self._tokens_most):
                part = prefix[begin : begin + self._tokens_most]
                self.append([(0, part, "last")])
            for lane in range(1, lanes):
                lib.llama_memory_seq_cp(self.memory, 0, lane, 0, -1)
            self._positions = [len(prefix)] * lanes

    @property
    def lanes(self) -> int:
        return len(self._positions)

    def position(self, lane: int) -> int:
        return self._positions[lane]

    def append(self, passes: Sequence[tuple[int, Sequence[int], Rows]]) -> list[Logits]:
        self._check_open("append")
        wanted = [row_offsets(rows, len(tokens)) for _, tokens, rows in passes]
        for lane, tokens, rows in passes:
            length = self._model.context_length
            check_append(tokens, position=self._positions[lane], vocab_size=self._vocab, context_length=length)
            check_rows(rows, len(tokens))
        count, outputs = sum(len(tokens) for _, tokens, _ in passes), sum(map(len, wanted))
        if len({lane for lane, *_ in passes}) != len(passes):
            raise SessionError("append: a lane is given twice; a pass goes over each once")
        if count > self._tokens_most or outputs > self._rows_most:
            raise SessionError(
                f"append: {count} tokens with {outputs} rows in one pass, where {self._tokens_most} and "
                f"{self._rows_most} fit; use fewer lanes"
            )
        batch, at = self._batch, 0
        for (lane, tokens, _), rows_wanted in zip(passes, wanted, strict=True):
            asked = set(rows_wanted)
            for offset, token in enumerate(tokens):
                batch.token[at], batch.pos[at] = token, self._positions[lane] + offset
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, lane
                batch.logits[at] = offset in asked
                at += 1
        batch.n_tokens = count
        log.clear()
        code = self._lib.llama_decode(self.context, batch)
        if code != 0:
            for lane, *_ in passes:
                self._lib.llama_memory_seq_rm(self.memory, lane, self._positions[lane], -1)
            raise SessionError(
                f"append: llama.cpp could not decode {count} tokens of {len(passes)} lanes (code {code}: "
                f"{log.reason() if code != 1 else 'the lanes together fill the context'}); use fewer lanes"
            )
        out, begin = [], 0
        for (lane, tokens, rows), rows_wanted in zip(passes, wanted, strict=True):
            logits = np.empty((len(rows_wanted), self._vocab), np.float32)
            for number, offset in enumerate(rows_wanted):
                source = self._lib.llama_get_logits_ith(self.context, begin + offset)
                ctypes.memmove(logits[number].ctypes.data, source, 4 * self._vocab)
            out.append(logits[0] if rows == "last" else logits)
            begin += len(tokens)
            self._positions[lane] += len(tokens)
        return out

    def rewind(self, lane: int, position: int) -> None:
        self._check_open("rewind")
        check_rewind(position, position=self._positions[lane])
        if position < self._positions[lane] and not self._lib.llama_memory_seq_rm(self.memory, lane, position, -1):
            raise SessionError(f"rewind: llama.cpp could not forget the tokens of lane {lane} from {position} on")
        self._positions[lane] = position

    def close(self) -> None:
        """Free the context; the model stays open."""
        self._free()

    def _check_open(self, what: str) -> None:
        if not self._free.alive:
            raise SessionError(f"{what}: the batch or its model is closed")


def _free_batch(lib: Any, context: Any, batch: Any) -> None:
    lib.llama_batch_free(batch)
    lib.llama_free(context)
