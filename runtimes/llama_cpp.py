"""llama.cpp through the low-level batch API of llama-cpp-python: opens GGUF artifacts.

What is decided here, and why:

- Local layers have a cache of their window and `UBATCH` tokens more (no ``swa_full``), so that a pass costs them no
  more behind a long prompt than behind a short one. Rewinds within those tokens find what they need; llama.cpp does
  those past them too and reports success, and the logits are silently wrong. So what the window cache still holds is
  asked first, and what is gone is computed anew. The same holds behind a state that was read, which has the window
  alone.
- Flash attention is off: it rounds its operands to half precision. The KV cache has 32 bits for a 32-bit file and
  16 otherwise.
- A session may hold the trained context, at most 8,192 tokens; ``EDGECALL_LLAMA_CONTEXT`` sets another length, up to
  the trained one. llama.cpp allocates and clears all cells of a context beforehand, so a session begins with as many
  as its first tokens ask for and some more, and takes its cache along into a larger context when those are full.
- A session is a context of its own over the shared weights, so sessions are independent.
- Logits are handed out where llama.cpp has them; only rows of a pass that had to be cut are copied.
- Tokenizer, sampling and end tokens of llama.cpp are not used.

Devices: ``cpu``, ``cuda``, ``metal``, ``vulkan``, ``rocm``, as the installed build has them; all layers go to the
first device of that kind. ``auto`` takes a GPU where the build finds one.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from runtimes.artifact import Artifact
from runtimes.base import (
    BareLoop,
    Logits,
    Pass,
    Rows,
    check_append,
    check_rewind,
    check_rows,
    check_threads,
    row_offsets,
)
from runtimes.errors import ArtifactError, SessionError, UserError
from runtimes.llama_context import (
    CONTEXT_VARIABLE,
    Handle,
    LlamaBatch,
    RowView,
    cells_for,
    context_parameters,
    make_context,
)
from runtimes.llama_native import Gpu, availability, choose, listen, log, native

FORMAT: Final = "gguf"
DEFAULT_CONTEXT: Final = 8192
"""Tokens that a session may hold where the trained context is longer and the variable is not set."""

_DTYPES: Final = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 14: "q4_k", 15: "q4_k_m",
                  16: "q5_k", 18: "q6_k", 25: "iq4_nl", 32: "bf16"}  # fmt: skip
"""enum llama_ftype (llama.h), those that exporters write; others go by llama.cpp's own name."""


def open_model(artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> LlamaModel:
    """Open a GGUF artifact (memory-mapped).

    Raises `UnavailableError` for a device that the build does not offer, `ArtifactError` for a file that llama.cpp
    cannot read.
    """
    return LlamaModel(artifact, choose(device), check_threads(threads))


def bare_loop(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
    prefix: Sequence[int],
    passes: Sequence[Pass],
) -> BareLoop:
    """A closure that decodes `passes` behind `prefix`, every batch built beforehand.

    After each pass it asks for the last row of logits, which waits for the computation, and copies nothing.
    """
    session = open_model(artifact, device=device, threads=threads).session()
    session.append(prefix)
    for start, tokens, rows, _ in passes:  # raises what is wrong with them
        session.rewind(start)
        session.append(tokens, rows=rows)
    batches: list[tuple[int, Any]] = []
    kept: list[Any] = []
    for start, tokens, rows, _ in passes:
        wanted = set(row_offsets(rows, len(tokens)))
        for begin in range(0, len(tokens), session.batch):
            part = tokens[begin : begin + session.batch]
            array = (ctypes.c_int32 * len(part))(*part)
            flags = (ctypes.c_int8 * len(part))(*(begin + i in wanted for i in range(len(part))))
            kept += [array, flags]
            batches.append((start + begin, native().llama_batch(n_tokens=len(part), token=array, logits=flags)))
    return partial(_replay, session, batches, kept)


def _replay(session: LlamaSession, batches: list[tuple[int, Any]], _kept: list[Any]) -> None:
    """`_kept` is what `batches` point to; it is passed along to stay alive."""
    lib, context, memory = native(), session.context, session.memory
    decode, logits = lib.llama_decode, lib.llama_get_logits_ith
    position = -1
    for start, batch in batches:
        if start != position:
            lib.llama_memory_seq_rm(memory, 0, start, -1)
        if decode(context, batch) != 0:
            raise SessionError(f"bare loop: llama.cpp could not decode ({log.reason()})")
        logits(context, -1)
        position = start + batch.n_tokens


class LlamaModel:
    """The weights of one GGUF file; sessions are contexts over them."""

    def __init__(self, artifact: Artifact, gpu: Gpu | None, threads: int) -> None:
        lib = native()
        path = artifact.weights
        params = lib.llama_model_default_params()
        # A list that ends at once means no device; NULL would mean all of them.
        devices = (ctypes.c_void_p * 2)(gpu.handle if gpu else None, None)
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
        params.n_gpu_layers = -1 if gpu else 0
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP
        listen()
        log.clear()
        handle = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not handle:
            raise ArtifactError(f"{path}: llama.cpp cannot load it ({log.reason()}); export again")
        self._weights: Handle | None = Handle(handle, lib.llama_model_free)
        self._sessions: weakref.WeakSet[LlamaSession | LlamaBatch] = weakref.WeakSet()
        self.device = gpu.kind if gpu else "cpu"
        self.threads = threads
        file_type = int(lib.llama_model_ftype(handle))
        mix = str(artifact.manifest.get("quant", ""))  # of which the file names one type
        self.dtype = mix if "+" in mix else _DTYPES.get(file_type) or str(lib.llama_ftype_name(file_type).decode())
        self.vocab_size = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(handle)))
        self.trained_context = int(lib.llama_model_n_ctx_train(handle))
        try:
            self.context_length = _context_length(self.trained_context)
            if self.vocab_size != artifact.vocab_size:
                raise ArtifactError(
                    f"{path}: {self.vocab_size} tokens, the manifest says {artifact.vocab_size}; export again"
                )
        except UserError:
            self.close()
            raise

    @property
    def weights(self) -> Handle:
        assert self._weights is not None
        return self._weights

    def session(self) -> LlamaSession:
        self._check_open("session")
        session = LlamaSession(self)
        self._sessions.add(session)
        return session

    def batch(self, lanes: int, prefix: Sequence[int]) -> LlamaBatch:
        self._check_open("batch")
        batch = LlamaBatch(self, lanes, prefix)
        self._sessions.add(batch)
        return batch

    def close(self) -> None:
        for session in list(self._sessions):
            session.close()
        self._weights = None

    def _check_open(self, what: str) -> None:
        if self._weights is None:
            raise SessionError(f"{what}: the model is closed")


class LlamaSession:
    """One llama.cpp context holding one sequence; a larger one takes its place when it is full."""

    def __init__(self, model: LlamaModel) -> None:
        self._lib = lib = native()
        self._model = model
        self._vocab = model.vocab_size
        self.context_length = model.context_length
        params = context_parameters(model, model.context_length)
        self.batch, self._batch_all = int(params.n_batch), int(params.n_outputs_max)
        self._handle: Handle | None = None
        self.context: Any = None
        self.memory: Any = None
        self._rows: Any = None
        self._cells = 0
        self._closed = False
        self._position = 0
        self._window = int(lib.llama_model_n_swa(model.weights.pointer))
        self._held: list[int] = []
        """The tokens that are cached, to compute them anew."""
        self._tokens = np.empty(self.batch, np.int32)
        self._flags = np.zeros(self.batch, np.int8)
        # Without positions and sequence ids llama.cpp continues sequence 0; without flags it outputs the last row.
        tokens = self._tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        flags = self._flags.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._last_row = lib.llama_batch(token=tokens)
        self._flagged_rows = lib.llama_batch(token=tokens, logits=flags)

    @property
    def position(self) -> int:
        return self._position

    def append(self, tokens: Sequence[int], *, rows: Rows = "last") -> Logits:
        self._check_open("append")
        self._check_append(tokens)
        check_rows(rows, len(tokens))
        start = self._position
        self.reserve(start + len(tokens))
        try:
            if rows == "last":
                for part in _cut(tokens, self.batch):
                    self._decode(part, self._last_row)
                last: Logits = self._view(-1, 1)[0]
                return last
            return self._several(tokens, row_offsets(rows, len(tokens)))
        except BaseException:
            self._forget(start)
            raise

    def _several(self, tokens: Sequence[int], offsets: Sequence[int]) -> Logits:
        """Logits (offsets, vocab); one pass, or as many as the output buffer asks for."""
        parts = _cut(tokens, self._batch_all)
        out = np.empty((len(offsets) if len(parts) > 1 else 0, self._vocab), np.float32)
        filled = begun = 0
        for part in parts:
            wanted = [o - begun for o in offsets[filled:] if o < begun + len(part)]
            self._flags[: len(part)] = 0
            self._flags[wanted] = 1
            self._decode(part, self._flagged_rows)
            if len(parts) == 1:
                return self._view(wanted[0], len(wanted))
            if wanted:
                out[filled : filled + len(wanted)] = self._view(wanted[0], len(wanted))
            filled, begun = filled + len(wanted), begun + len(part)
        return out

    def rewind(self, position: int) -> None:
        self._check_open("rewind")
        check_rewind(position, position=self._position)
        if position < self._position:
            self._forget(position)

    def _forget(self, position: int) -> None:
        """Hold what stands before `position` alone: by forgetting the rest, or computed anew where that is not enough.

        The token at `position` sees the window before it; a wrapped cache, or one that was read, may lack some of that.
        """
        lowest = self._lib.llama_memory_seq_pos_min(self.memory, 0)
        whole = position == 0 or not self._window or lowest <= max(0, position - self._window + 1)
        kept, self._held = self._held[:position], self._held[: position if whole else 0]
        self._position = len(self._held)
        if not self._lib.llama_memory_seq_rm(self.memory, 0, self._position, -1):
            raise SessionError(f"rewind: llama.cpp could not forget the tokens from {position} on")
        for part in _cut(kept[self._position :], self.batch):
            self._decode(part, self._last_row)

    def snapshot(self) -> bytes:
        """The tokens and llama.cpp's own form of a sequence's state, behind the number of the tokens."""
        self._check_open("snapshot")
        self.reserve(max(1, self._position))
        tokens = np.array(self._held, dtype="<i4").tobytes()
        return self._position.to_bytes(8, "little") + tokens + self._state()

    def _state(self) -> bytes:
        """The sequence as llama.cpp writes it."""
        size = self._lib.llama_state_seq_get_size(self.context, 0)
        buffer = (ctypes.c_uint8 * size)()
        if self._lib.llama_state_seq_get_data(self.context, buffer, size, 0) != size:
            raise SessionError(f"snapshot: llama.cpp could not copy the cache ({log.reason()})")
        return bytes(buffer)

    def restore(self, data: bytes) -> None:
        self._check_open("restore")
        self.rewind(0)
        position = int.from_bytes(data[:8], "little")
        tokens, state = data[8 : 8 + 4 * position], data[8 + 4 * position :]
        log.clear()
        fits = 0 <= position <= self.context_length and len(tokens) == 4 * position
        if not fits or not self._put(state, position):
            raise SessionError(f"restore: not a snapshot of this model's cache ({log.reason()})")
        self._held = np.frombuffer(tokens, "<i4").tolist()
        self._position = position

    def _put(self, state: bytes, position: int) -> bool:
        """Read what `_state` wrote; whether it was that, of a sequence of so many tokens. If not, nothing is held."""
        self.reserve(max(1, position))
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        read = self._lib.llama_state_seq_set_data(self.context, buffer, len(state), 0) if state else 0
        held = self._lib.llama_memory_seq_pos_max(self.memory, 0) + 1
        if read == len(state) > 0 and held == position:
            return True
        self._lib.llama_memory_seq_rm(self.memory, 0, -1, -1)
        return False

    def reserve(self, tokens: int) -> None:
        """Have cells for a sequence of so many tokens: in this context, or in a larger one that holds the same."""
        if tokens <= self._cells:
            return
        before, held = self._handle, self._cells
        state = self._state() if self._position else b""
        cells = cells_for(self._model, tokens)
        self._set(make_context(self._model, context_parameters(self._model, cells)), cells)
        if before is not None and state and not self._put(state, self._position):
            self._set(before, held)
            raise SessionError(f"append: llama.cpp could not take the cache into a larger context ({log.reason()})")

    def _set(self, handle: Handle, cells: int) -> None:
        self._handle, self._cells = handle, cells
        self.context = handle.pointer
        self.memory = self._lib.llama_get_memory(handle.pointer)
        self._rows = RowView(handle, self._vocab)

    def close(self) -> None:
        """Free the context, unless somebody still has logits of it; the model stays open."""
        self._closed = True
        self._handle = self.context = self.memory = self._rows = None

    def _decode(self, tokens: Sequence[int], batch: Any) -> None:
        count = len(tokens)
        self._tokens[:count] = tokens
        batch.n_tokens = count
        log.clear()
        code = self._lib.llama_decode(self.context, batch)
        if code != 0:
            raise SessionError(f"append: llama.cpp could not decode {count} tokens (code {code}: {log.reason()})")
        self._held += tokens
        self._position += count

    def _view(self, row: int, count: int) -> Logits:
        """`count` rows of the pass from `row` on, which lie one behind another, where llama.cpp has them."""
        source = self._lib.llama_get_logits_ith(self.context, row)
        if not source:
            raise SessionError(f"append: llama.cpp has no logits ({log.reason()})")
        rows: Logits = self._rows.at(ctypes.addressof(source.contents), count)
        return rows

    def _check_append(self, tokens: Sequence[int]) -> None:
        length = self.context_length
        if self._position + len(tokens) > length < self._model.trained_context:
            raise SessionError(
                f"append: {self._position} cached + {len(tokens)} new tokens exceed the context of {length}; "
                f"set {CONTEXT_VARIABLE} (the model was trained with {self._model.trained_context})"
            )
        check_append(tokens, position=self._position, vocab_size=self._vocab, context_length=length)

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise SessionError(f"{what}: the session or its model is closed")


def _context_length(trained: int) -> int:
    asked = os.environ.get(CONTEXT_VARIABLE)
    if not asked:
        return min(trained, DEFAULT_CONTEXT)
    if not asked.isdecimal() or not 1 <= int(asked) <= trained:
        raise UserError(f"{CONTEXT_VARIABLE}={asked}: give a number of tokens from 1 to {trained}, the trained context")
    return int(asked)


def _cut(tokens: Sequence[int], size: int) -> list[Sequence[int]]:
    return [tokens[i : i + size] for i in range(0, len(tokens), size)]


__all__ = ["FORMAT", "LlamaModel", "LlamaSession", "availability", "bare_loop", "open_model"]
