"""llama.cpp through the low-level batch API of llama-cpp-python: opens GGUF artifacts.

What is decided here, and why:

- The sliding-window cache is full size (``swa_full``). With the small one a rewind past a wrapped window reports
  success and the logits are silently wrong.
- Flash attention is off: it rounds its operands to half precision. The KV cache has 32 bits for a 32-bit file and
  16 otherwise.
- The context is the trained one, at most 8,192 tokens, because llama.cpp allocates and clears all of it for every
  session. ``EDGECALL_LLAMA_CONTEXT`` sets another length, up to the trained one.
- A session is a context of its own over the shared weights, so sessions are independent.
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
from runtimes.llama_context import CONTEXT_VARIABLE, LlamaBatch, context_parameters, make_context
from runtimes.llama_native import Gpu, availability, choose, listen, log, native

FORMAT: Final = "gguf"
DEFAULT_CONTEXT: Final = 8192
"""Tokens of context where the trained context is longer and the variable is not set."""

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
        self.handle = handle
        self._free = weakref.finalize(self, lib.llama_model_free, handle)
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

    def session(self) -> LlamaSession:
        if not self._free.alive:
            raise SessionError("session: the model is closed")
        session = LlamaSession(self)
        self._sessions.add(session)
        return session

    def batch(self, lanes: int, prefix: Sequence[int]) -> LlamaBatch:
        if not self._free.alive:
            raise SessionError("batch: the model is closed")
        batch = LlamaBatch(self, lanes, prefix)
        self._sessions.add(batch)
        return batch

    def close(self) -> None:
        for session in list(self._sessions):
            session.close()
        self._free()


class LlamaSession:
    """One llama.cpp context holding one sequence."""

    def __init__(self, model: LlamaModel) -> None:
        self._lib = lib = native()
        self._model = model
        self._vocab = model.vocab_size
        params = context_parameters(model)
        self.batch, self._batch_all = params.n_batch, params.n_outputs_max
        self.context = context = make_context(model, params)
        self._free = weakref.finalize(self, lib.llama_free, context)
        self.memory = lib.llama_get_memory(context)
        self._position = 0
        self._row = np.empty(self._vocab, np.float32)
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
        try:
            if rows == "last":
                for part in _cut(tokens, self.batch):
                    self._decode(part, self._last_row)
                self._copy(-1, self._row)
                return self._row
            return self._several(tokens, row_offsets(rows, len(tokens)))
        except BaseException:
            self._lib.llama_memory_seq_rm(self.memory, 0, start, -1)
            self._position = start
            raise

    def _several(self, tokens: Sequence[int], offsets: Sequence[int]) -> Logits:
        """Logits (offsets, vocab); one pass, or as many as the output buffer asks for."""
        out = np.empty((len(offsets), self._vocab), np.float32)
        filled = begun = 0
        for part in _cut(tokens, self._batch_all):
            wanted = [o - begun for o in offsets[filled:] if o < begun + len(part)]
            self._flags[: len(part)] = 0
            self._flags[wanted] = 1
            self._decode(part, self._flagged_rows)
            if wanted:  # the rows lie one behind another
                self._copy(wanted[0], out[filled : filled + len(wanted)])
            filled, begun = filled + len(wanted), begun + len(part)
        return out

    def rewind(self, position: int) -> None:
        self._check_open("rewind")
        check_rewind(position, position=self._position)
        if position < self._position and not self._lib.llama_memory_seq_rm(self.memory, 0, position, -1):
            raise SessionError(f"rewind: llama.cpp could not forget the tokens from {position} on")
        self._position = position

    def snapshot(self) -> bytes:
        """llama.cpp's own form of a sequence's state, behind the number of its tokens."""
        self._check_open("snapshot")
        size = self._lib.llama_state_seq_get_size(self.context, 0)
        buffer = (ctypes.c_uint8 * size)()
        if self._lib.llama_state_seq_get_data(self.context, buffer, size, 0) != size:
            raise SessionError(f"snapshot: llama.cpp could not copy the cache ({log.reason()})")
        return self._position.to_bytes(8, "little") + bytes(buffer)

    def restore(self, data: bytes) -> None:
        self._check_open("restore")
        self.rewind(0)
        position, state = int.from_bytes(data[:8], "little"), data[8:]
        log.clear()
        fits = 0 <= position <= self._model.context_length and len(state) > 0
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        read = self._lib.llama_state_seq_set_data(self.context, buffer, len(state), 0) if fits else 0
        held = self._lib.llama_memory_seq_pos_max(self.memory, 0) + 1
        if not fits or read != len(state) or held != position:
            self._lib.llama_memory_seq_rm(self.memory, 0, -1, -1)
            raise SessionError(f"restore: not a snapshot of this model's cache ({log.reason()})")
        self._position = position

    def close(self) -> None:
        """Free the context; the model stays open."""
        self._free()

    def _decode(self, tokens: Sequence[int], batch: Any) -> None:
        count = len(tokens)
        self._tokens[:count] = tokens
        batch.n_tokens = count
        log.clear()
        code = self._lib.llama_decode(self.context, batch)
        if code != 0:
            raise SessionError(f"append: llama.cpp could not decode {count} tokens (code {code}: {log.reason()})")
        self._position += count

    def _copy(self, row: int, out: Logits) -> None:
        """Fill `out` from `row` on. A copy, because llama.cpp's buffer is gone once the model is closed."""
        source = self._lib.llama_get_logits_ith(self.context, row)
        if not source:
            raise SessionError(f"append: llama.cpp has no logits ({log.reason()})")
        ctypes.memmove(out.ctypes.data, source, out.nbytes)

    def _check_append(self, tokens: Sequence[int]) -> None:
        length = self._model.context_length
        if self._position + len(tokens) > length < self._model.trained_context:
            raise SessionError(
                f"append: {self._position} cached + {len(tokens)} new tokens exceed the context of {length}; "
                f"set {CONTEXT_VARIABLE} (the model was trained with {self._model.trained_context})"
            )
        check_append(tokens, position=self._position, vocab_size=self._vocab, context_length=length)

    def _check_open(self, what: str) -> None:
        if not self._free.alive:
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
