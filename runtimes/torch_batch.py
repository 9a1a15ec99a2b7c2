"""Several sequences in one pass of the PyTorch network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runtimes.base import Ids, Logits
from runtimes.lanes import CellBatch, Seen

if TYPE_CHECKING:
    import torch

    from runtimes.torch import TorchModel


class TorchBatch(CellBatch):
    """Lanes of one model: `model.net` computes."""

    def __init__(self, model: TorchModel, lanes: int, prefix: Sequence[int]) -> None:
        self._torch = model
        self._cells = _Cells(model)
        super().__init__(model, lanes, prefix, self._cells.window)

    def _check_model(self) -> None:
        self._torch.net  # noqa: B018 - raises when the model is closed

    def _forward(
        self, ids: list[int], places: Ids, cells: Ids, used: int, seen: tuple[Seen, Seen], wanted: list[int]
    ) -> Logits:
        import torch

        net = self._torch.net
        kinds = zip(("full_attention", "sliding_attention"), seen, strict=True)
        with torch.inference_mode():
            position_ids = torch.from_numpy(places).to(net.device)[None]
            out = net(
                input_ids=torch.tensor([ids], device=net.device),
                position_ids=position_ids,
                cache_position=position_ids[0],
                attention_mask={kind: torch.from_numpy(mask).to(net.device)[None, None] for kind, mask in kinds},
                past_key_values=self._cells.at(cells, used, len(self._owners)),
                use_cache=True,
                logits_to_keep=torch.tensor(wanted, device=net.device),
            )
            logits: Logits = out.logits[0].float().cpu().numpy()
        return logits


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
