"""llama.cpp contexts: their parameters, and one that holds several sequences. See `runtimes.llama_cpp` for why."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from runtimes.base import Logits, Rows, check_append, check_rewind, check_rows, row_offsets
from runtimes.errors import RoomError, SessionError
from runtimes.llama_native import listen, log, native

if TYPE_CHECKING:
    from runtimes.llama_cpp import LlamaModel

CONTEXT_VARIABLE: Final = "EDGECALL_LLAMA_CONTEXT"
_BATCH: Final = 2048
"""Tokens of one native call; a longer append is cut."""
UBATCH: Final = 512
"""Tokens computed at once: bounds the compute buffers, and rewinds that local layers follow without computing."""
_ROWS_BYTES: Final = 64 << 20
"""Logits of one native call for more rows than the last: bounds llama.cpp's output buffer, which never shrinks."""
AHEAD: Final = 256
"""Cells that a context has beyond what is asked of it: most requests with their calls take fewer."""
_CELLS: Final = 256
"""llama.cpp allots cells in multiples of this many."""


class Handle:
    """Something of llama.cpp's, freed when nothing refers to it any more, before what it `needs`."""

    def __init__(self, pointer: Any, free: Callable[[Any], None], needs: Handle | None = None) -> None:
        self.pointer = pointer
        self.needs = needs
        self._free = weakref.finalize(self, free, pointer)


class RowView:
    """Logits where llama.cpp keeps them; arrays over them keep the context, and change with its next pass."""

    def __init__(self, owner: Handle, vocab: int) -> None:
        self._owner = owner
        self._vocab = vocab
        self._last: tuple[int, int] = (0, 0)
        self._view: Logits = np.empty((0, vocab), np.float32)

    def at(self, address: int, count: int) -> Logits:
        """The `count` rows from `address` on, (count, vocab)."""
        if (address, count) != self._last:
            self._view = np.asarray(_Memory(self._owner, address, (count, self._vocab)))
            self._last = address, count
        return self._view


class _Memory:
    """What numpy reads an array's place from; the array keeps it, and it keeps the owner."""

    def __init__(self, owner: Handle, address: int, shape: tuple[int, int]) -> None:
        self.owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "=f4", "shape": shape, "data": (address, False)}


def cells_for(model: LlamaModel, tokens: int) -> int:
    """Cells for so many tokens and `AHEAD` more, as far as the model's context goes."""
    return min(model.context_length, -(-(tokens + AHEAD) // _CELLS) * _CELLS)


def context_parameters(model: LlamaModel, cells: int, *, lanes: int = 1) -> Any:
    """What all contexts of a model have in common (see `runtimes.llama_cpp`), with room for so many tokens of all
    `lanes`. Several lanes have full-size window caches: what one of them overwrites another may need."""
    lib = native()
    params = lib.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = min(_BATCH, cells)
    params.n_ubatch = min(UBATCH, cells)
    params.n_outputs_max = max(1, min(params.n_batch, _ROWS_BYTES // (4 * model.vocab_size)))
    params.n_seq_max = lanes
    params.n_threads = params.n_threads_batch = model.threads
    params.swa_full = lanes > 1
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.type_k = params.type_v = lib.GGML_TYPE_F32 if model.dtype == "f32" else lib.GGML_TYPE_F16
    return params


def make_context(model: LlamaModel, params: Any) -> Handle:
    lib = native()
    listen()
    log.clear()
    weights = model.weights
    context = lib.llama_init_from_model(weights.pointer, params)
    if not context:
        raise SessionError(
            f"llama.cpp cannot make a context of {params.n_ctx} tokens ({log.reason()}); "
            f"set {CONTEXT_VARIABLE} to fewer"
        )
    return Handle(context, lib.llama_free, weights)


class LlamaBatch:
    """One llama.cpp context holding several sequences, which share the cells of what they begin with."""

    def __init__(self, model: LlamaModel, lanes: int, prefix: Sequence[int]) -> None:
        self._lib = lib = native()
        self._model = model
        self._vocab = model.vocab_size
        limit = int(lib.llama_max_parallel_sequences())
        if not 1 <= lanes <= limit:
            raise SessionError(f"batch: {lanes} lanes; llama.cpp takes 1 to {limit}")
        params = context_parameters(model, cells_for(model, len(prefix) + (lanes - 1) * AHEAD), lanes=max(2, lanes))
        params.kv_unified = True
        self._tokens_most, self._rows_most = int(params.n_batch), int(params.n_outputs_max)
        self._context: Handle | None = make_context(model, params)
        self.context: Any = self._context.pointer
        batch = lib.llama_batch_init(self._tokens_most, 0, 1)
        self._batch = Handle(batch, lib.llama_batch_free)
        self.memory: Any = lib.llama_get_memory(self.context)
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
            raise RoomError(
                f"append: {count} tokens with {outputs} rows in one pass, where {self._tokens_most} and "
                f"{self._rows_most} fit; use fewer lanes"
            )
        batch, at = self._batch.pointer, 0
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
            kind = RoomError if code == 1 else SessionError
            raise kind(
                f"append: llama.cpp could not decode {count} tokens of {len(passes)} lanes (code {code}: "
                f"{log.reason() if code != 1 else 'the lanes together fill the context'}); use fewer lanes"
            )
        logits = self._rows(wanted[0][0], outputs)
        out, begin = [], 0
        for (lane, tokens, rows), rows_wanted in zip(passes, wanted, strict=True):
            part = logits[begin : begin + len(rows_wanted)]
            out.append(part[0] if rows == "last" else part)
            begin += len(rows_wanted)
            self._positions[lane] += len(tokens)
        return out

    def _rows(self, first: int, count: int) -> Logits:
        """The rows of a pass, which lie one behind another in the order of its tokens."""
        assert self._context is not None
        source = self._lib.llama_get_logits_ith(self.context, first)
        return RowView(self._context, self._vocab).at(ctypes.addressof(source.contents), count)

    def rewind(self, lane: int, position: int) -> None:
        self._check_open("rewind")
        check_rewind(position, position=self._positions[lane])
        if position < self._positions[lane] and not self._lib.llama_memory_seq_rm(self.memory, lane, position, -1):
            raise SessionError(f"rewind: llama.cpp could not forget the tokens of lane {lane} from {position} on")
        self._positions[lane] = position

    def close(self) -> None:
        """Free the context, unless somebody still has logits of it; the model stays open."""
        self._context = self.context = self.memory = None

    def _check_open(self, what: str) -> None:
        if self._context is None:
            raise SessionError(f"{what}: the batch or its model is closed")
