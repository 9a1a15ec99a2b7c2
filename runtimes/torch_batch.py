"""Several sequences in one pass of the PyTorch network, over one buffer of cells.

Every cell belongs to a sequence, to all of them (what they begin with) or to none; a mask made from owners and
positions lets each token see its own. So the prefix is computed and kept once, sequences need not be of one length, and
a pass multiplies each weight once for all of their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from runtimes.base import DROPPED, Logits, Rows, check_append, check_rewind, check_rows, row_offsets
from runtimes.errors import SessionError

if TYPE_CHECKING:
    import torch

    from runtimes.torch import TorchModel

_FREE: Final = -1
_SHARED: Final = -2
_LEAST: Final = 256


class TorchBatch:
    """Lanes of one model. `model.net` computes; cells are counted here."""

    def __init__(self, model: TorchModel, lanes: int, prefix: Sequence[int]) -> None:
        if lanes < 1:
            raise SessionError(f"batch: {lanes} lanes; give 1 or more")
        self._model: TorchModel | None = model
        self._owners = np.full(_LEAST, _FREE, dtype=np.int64)
        self._places = np.zeros(_LEAST, dtype=np.int64)
        self._positions = [0] * lanes
        self._shared = [len(prefix)] * lanes
        """How many of the common cells each lane still holds."""
        self._cells = _Cells(model)
        if prefix:
            check_append(prefix, position=0, vocab_size=model.vocab_size, context_length=model.context_length)
            owners = np.full(len(prefix), _SHARED)
            self._run(list(prefix), owners, np.arange(len(prefix)), [len(prefix) - 1])
            self._positions = [len(prefix)] * lanes

    @property
    def lanes(self) -> int:
        return len(self._positions)

    def position(self, lane: int) -> int:
        return self._positions[lane]

    def append(self, passes: Sequence[tuple[int, Sequence[int], Rows]]) -> list[Logits]:
        model = self._open("append")
        if len({lane for lane, *_ in passes}) != len(passes):
            raise SessionError("append: a lane is given twice; a pass goes over each once")
        ids: list[int] = []
        owners: list[int] = []
        places: list[int] = []
        wanted: list[int] = []
        for lane, tokens, rows in passes:
            position, length = self._positions[lane], model.context_length
            check_append(tokens, position=position, vocab_size=model.vocab_size, context_length=length)
            check_rows(rows, len(tokens))
            wanted += [len(ids) + offset for offset in row_offsets(rows, len(tokens))]
            ids += tokens
            owners += [lane] * len(tokens)
            places += range(position, position + len(tokens))
        logits = self._run(ids, np.array(owners), np.array(places), wanted)
        out, begin = [], 0
        for lane, tokens, rows in passes:
            count = len(row_offsets(rows, len(tokens)))
            part = logits[begin : begin + count]
            out.append(part[0] if rows == "last" else part)
            begin += count
            self._positions[lane] += len(tokens)
        return out

    def rewind(self, lane: int, position: int) -> None:
        self._open("rewind")
        check_rewind(position, position=self._positions[lane])
        self._owners[(self._owners == lane) & (self._places >= position)] = _FREE
        self._shared[lane] = min(self._shared[lane], position)
        self._positions[lane] = position

    def close(self) -> None:
        """Free the cells; the model stays open."""
        self._model = None

    def _open(self, what: str) -> TorchModel:
        if self._model is None:
            raise SessionError(f"{what}: the batch is closed")
        self._model.net  # noqa: B018 - raises when the model is closed
        return self._model

    def _run(
        self, ids: list[int], owners: npt.NDArray[np.int64], places: npt.NDArray[np.int64], wanted: list[int]
    ) -> Logits:
        """One pass; logits (wanted, vocab). Where it raises, the cells are free again."""
        import torch

        assert self._model is not None
        model, net = self._model, self._model.net
        free = np.flatnonzero(self._owners == _FREE)
        if len(free) < len(ids):
            room = max(2 * len(self._owners), len(self._owners) + len(ids))
            self._owners = np.append(self._owners, np.full(room - len(self._owners), _FREE))
            self._places = np.append(self._places, np.zeros(room - len(self._places), dtype=np.int64))
            free = np.flatnonzero(self._owners == _FREE)
        cells = free[: len(ids)]
        self._owners[cells], self._places[cells] = owners, places
        used = int(np.flatnonzero(self._owners != _FREE)[-1]) + 1
        try:
            with torch.inference_mode():
                position_ids = torch.from_numpy(places).to(net.device)[None]
                out = net(
                    input_ids=torch.tensor([ids], device=net.device),
                    position_ids=position_ids,
                    cache_position=position_ids[0],
                    attention_mask=self._masks(owners, places, used, net.device),
                    past_key_values=self._cells.at(cells, used, len(self._owners)),
                    use_cache=True,
                    logits_to_keep=torch.tensor(wanted, device=net.device),
                )
                logits: Logits = out.logits[0].float().cpu().numpy()
        except BaseException:
            self._owners[cells] = _FREE
            raise
        if model.output_ids is None:
            return logits
        spread = np.full((len(wanted), model.vocab_size), DROPPED, dtype=np.float32)
        spread[:, model.output_ids] = logits
        return spread

    def _masks(
        self, owners: npt.NDArray[np.int64], places: npt.NDArray[np.int64], used: int, device: Any
    ) -> dict[str, torch.Tensor]:
        """Per kind of layer which cells each token may attend to, shape (1, 1, tokens, cells)."""
        import torch

        theirs, at = self._owners[None, :used], self._places[None, :used]
        # While the prefix is computed its tokens are everybody's; afterwards a lane sees what it still holds of it.
        held = np.array([places[-1] + 1 if o == _SHARED else self._shared[o] for o in owners])
        full = (theirs == owners[:, None]) | ((theirs == _SHARED) & (at < held[:, None]))
        full &= at <= places[:, None]
        local = full & (at > places[:, None] - self._cells.window)
        return {
            kind: torch.from_numpy(mask).to(device)[None, None]
            for kind, mask in (("full_attention", full), ("sliding_attention", local))
        }


class _Cells:
    """Keys and values by cell, per layer; what transformers' attention asks of a cache."""

    def __init__(self, model: TorchModel) -> None:
        config = model.net.config
        self.window = int(config.sliding_window)
        self._shape = (1, int(config.num_key_value_heads), 0, int(config.head_dim))
        self._device, self._dtype = model.net.device, model.net.dtype
        self._buffers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * int(config.num_hidden_layers)
        self._cells: torch.Tensor | None = None
        self._used = self._room = 0

    def at(self, cells: npt.NDArray[np.int64], used: int, room: int) -> _Cells:
        """Write the next pass's keys and values into `cells`, of `room` in all, and hand on the first `used`."""
        import torch

        self._cells, self._used, self._room = torch.from_numpy(cells).to(self._device), used, room
        return self

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        all_keys, all_values = self._grown(layer_idx)
        all_keys.index_copy_(2, self._cells, keys)
        all_values.index_copy_(2, self._cells, values)
        return all_keys[:, :, : self._used], all_values[:, :, : self._used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._used

    def _grown(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        old = self._buffers[layer]
        if old is not None and old[0].shape[2] >= self._room:
            return old
        shape = (*self._shape[:2], self._room, self._shape[3])
        new = tuple(torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(2))
        if old is not None:
            for target, source in zip(new, old, strict=True):
                target[:, :, : source.shape[2]] = source
        self._buffers[layer] = (new[0], new[1])
        return new[0], new[1]
