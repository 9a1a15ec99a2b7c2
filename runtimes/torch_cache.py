"""The KV cache and the masks of one sequence, as transformers' attention asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from runtimes import torch_net
from runtimes.snapshots import Array, check_arrays

if TYPE_CHECKING:
    import torch

    from runtimes.torch import TorchModel


class TokenCache(Protocol):
    """Keys and values of one sequence, and the passes over them."""

    def prepare(self, tokens: Sequence[int], start: int) -> Any:
        """What `run` takes for a pass over `tokens` behind `start` cached ones."""
        ...

    def run(self, prepared: Any, start: int, keep: slice | torch.Tensor) -> torch.Tensor:
        """The pass: the normalized hidden states of the tokens to `keep`, (kept, width), valid until the next."""
        ...

    def room(self, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values per layer, (1, key heads, cells, width) each, with cells for so many tokens or more."""
        ...


def arrays(buffers: Sequence[tuple[torch.Tensor, torch.Tensor]], tokens: int) -> list[Array]:
    """The first `tokens` of a cache's buffers; numpy has no bfloat16, so that comes as 16-bit integers."""
    import torch

    parts = (part[:, :, :tokens].cpu().contiguous() for pair in buffers for part in pair)
    return [(part.view(torch.int16) if part.dtype == torch.bfloat16 else part).numpy() for part in parts]


def load(cache: TokenCache, kept: Sequence[Array]) -> None:
    """Have what `arrays` gave in a cache. Raises `ValueError` for another model's."""
    import torch

    with torch.inference_mode():
        own = cache.room(1)
        shapes = [(part.shape[1], part.shape[3]) for pair in own for part in pair]
        tokens = check_arrays(kept, shapes, arrays(own[:1], 0)[0].dtype)
        for part, array in zip((p for pair in cache.room(tokens) for p in pair), kept, strict=True):
            part[:, :, :tokens] = torch.from_numpy(array).view(part.dtype)


class Cache:
    """Keys and values of every position, per layer, in buffers that grow by doubling.

    Offers what transformers' attention asks of a cache: `update`. For a local layer only the keys that the window
    of the first new token reaches are handed on, so that its cost does not grow with the context.
    """

    def __init__(self, model: TorchModel) -> None:
        config = model.net.config
        self.start = 0
        self._torch = model
        self._device, self._dtype = model.net.device, model.net.dtype
        self._limit = model.context_length
        self._window = int(config.sliding_window)
        self._local = [kind == "sliding_attention" for kind in config.layer_types]
        self._shape = (1, int(config.num_key_value_heads), 0, int(config.head_dim))
        self._buffers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self._local)

    def prepare(self, tokens: Sequence[int], start: int) -> dict[str, Any]:
        """Input ids, positions and masks (True: may attend) of a pass over `tokens` from `start` on."""
        import torch

        self.start, end = start, start + len(tokens)
        positions = torch.arange(start, end, device=self._device)
        masks: dict[str, torch.Tensor | None] = {"full_attention": None, "sliding_attention": None}
        if len(tokens) > 1:  # a single token may attend to every key that it is given
            query = positions[:, None]
            key = torch.arange(0, end, device=self._device)
            masks["full_attention"] = (key <= query)[None, None]
            key = key[self._first() :]
            masks["sliding_attention"] = ((key <= query) & (key > query - self._window))[None, None]
        return {
            "input_ids": torch.tensor([list(tokens)], device=self._device),
            "position_ids": positions[None],
            "cache_position": positions,
            "attention_mask": masks,
        }

    def run(self, prepared: dict[str, Any], start: int, keep: slice | torch.Tensor) -> torch.Tensor:
        self.start = start
        return torch_net.hidden(self._torch.net, self, prepared, keep)

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values behind `start`; return those that the layer may attend to."""
        end = self.start + keys.shape[2]
        all_keys, all_values = self._room(layer_idx, end)
        all_keys[:, :, self.start : end] = keys
        all_values[:, :, self.start : end] = values
        first = self._first() if self._local[layer_idx] else 0
        return all_keys[:, :, first:end], all_values[:, :, first:end]

    def room(self, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [self._room(layer, max(1, tokens)) for layer in range(len(self._local))]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.start

    def _first(self) -> int:
        return max(0, self.start - self._window + 1)

    def _room(self, layer: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        old = self._buffers[layer]
        if old is not None and old[0].shape[2] >= end:
            return old
        size = min(self._limit, max(end, 256, 2 * (old[0].shape[2] if old is not None else 0)))
        shape = (*self._shape[:2], size, self._shape[3])
        new = (
            torch.zeros(shape, dtype=self._dtype, device=self._device),
            torch.zeros(shape, dtype=self._dtype, device=self._device),
        )
        if old is not None:
            for target, source in zip(new, old, strict=True):
                target[:, :, : self.start] = source[:, :, : self.start]
        self._buffers[layer] = new
        return new
