"""One sequence in buffers of fixed size, whose short passes are CUDA graphs.

On a GPU a small model's pass takes as long as starting its few hundred kernels takes. A CUDA graph starts them all at
once, with the shapes and addresses that it was captured with. So tokens, position, keys and values lie in memory that
stays; what differs between passes are the numbers in it. The number of tokens is rounded up to a power of two: what is
computed for the tokens that fill up lies behind the others, which do not see it, and is overwritten by the next pass.

Capturing follows PyTorch's notes on CUDA semantics ("CUDA Graphs"): some passes on a side stream, then one recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from runtimes import torch_net

if TYPE_CHECKING:
    import torch

    from runtimes.torch import TorchModel

WIDEST: Final = 64
"""Tokens of the longest pass that is captured; in a longer one computing takes longer than starting the kernels."""
_LEAST: Final = 1024
"""Tokens that there is room for at first."""
_WARM_UP: Final = 3
"""Passes before capturing, in which libraries choose their kernels and allocate; as PyTorch's notes have it."""

Capture = Callable[["Callable[[], torch.Tensor]"], "tuple[Callable[[], None], torch.Tensor]"]
"""Makes a function that computes tensor from tensors into one that does it again, and the memory of its result."""


def cuda_graph(device: torch.device) -> Capture:
    """Captures on `device`. What is captured raises RuntimeError where it cannot be."""

    def capture(compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        import torch

        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    compute()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = compute()
        return graph.replay, out

    return capture


class StaticCache:
    """A `torch_cache.Cache` whose memory stays where it is, until it is too small; offers `update` as that does.

    Every layer is handed all cells; masks tell which count.
    """

    def __init__(self, model: TorchModel, capture: Capture | None) -> None:
        """Without `capture`, every pass starts its kernels one by one."""
        import torch

        config = model.net.config
        self._model = model
        self._capture = capture
        self._window = int(config.sliding_window)
        self._layers = int(config.num_hidden_layers)
        self._shape = (1, int(config.num_key_value_heads), 0, int(config.head_dim))
        self._start = torch.zeros((), dtype=torch.long, device=model.net.device)
        self._positions = self._start[None]
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._graphs: dict[int, tuple[torch.Tensor, Callable[[], None], torch.Tensor]] = {}
        """By number of tokens: where they are put, what computes, where the states are then."""
        self.cells = 0

    def prepare(self, tokens: Sequence[int], start: int) -> tuple[torch.Tensor, int]:
        """What `run` takes for a pass over `tokens`: their ids, rounded up, and how many count. Makes room for them."""
        import torch

        width = len(tokens)
        if self._capture is not None and width <= WIDEST:
            width = 1 << (width - 1).bit_length()
        self._grow(start + width)
        padded = [*tokens, *([0] * (width - len(tokens)))]
        return torch.tensor([padded], device=self._start.device), len(tokens)

    def run(self, prepared: tuple[torch.Tensor, int], start: int, keep: slice | torch.Tensor) -> torch.Tensor:
        """One pass behind `start` cached tokens: normalized states (kept, width), valid until the next."""
        ids, count = prepared
        self._start.fill_(start)
        return self._states(ids)[:count][keep]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values into their cells; return all there are."""
        all_keys, all_values = self._buffers[layer_idx]
        all_keys.index_copy_(2, self._positions, keys)
        all_values.index_copy_(2, self._positions, values)
        return all_keys, all_values

    def room(self, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values per layer, with cells for so many tokens or more."""
        self._grow(max(1, tokens))
        return self._buffers

    def _states(self, ids: torch.Tensor) -> torch.Tensor:
        width = ids.shape[1]
        if self._capture is None or width > WIDEST:
            return self._compute(ids)
        if width not in self._graphs:
            own = ids.clone()
            try:
                self._graphs[width] = (own, *self._capture(lambda: self._compute(own)))
            except RuntimeError as error:
                self._capture = None
                self._graphs.clear()
                told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                warnings.warn(
                    f"torch: passes are not CUDA graphs here, which is slower but right ({told})", stacklevel=2
                )
                return self._compute(ids)
        own, replay, states = self._graphs[width]
        own.copy_(ids)
        replay()
        return states

    def _compute(self, ids: torch.Tensor) -> torch.Tensor:
        """The pass over `ids` behind the token at `_start`, of tensors alone; states (tokens, width)."""
        import torch

        device = ids.device
        self._positions = positions = self._start + torch.arange(ids.shape[1], device=device)
        query, key = positions[:, None], torch.arange(self.cells, device=device)
        full = key <= query
        inputs = {
            "input_ids": ids,
            "position_ids": positions[None],
            "cache_position": positions,
            "attention_mask": {
                "full_attention": full[None, None],
                "sliding_attention": (full & (key > query - self._window))[None, None],
            },
        }
        return torch_net.hidden(self._model.net, self, inputs, slice(None))

    def _grow(self, end: int) -> None:
        """Have room for `end` tokens; what was captured computes in the old memory and goes."""
        import torch

        if end <= self.cells:
            return
        cells = max(_LEAST, 2 * self.cells, 1 << (end - 1).bit_length())
        device, dtype = self._start.device, self._model.net.dtype
        shape = (*self._shape[:2], cells, self._shape[3])
        new = [tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)) for _ in range(self._layers)]
        for pair, old in zip(new, self._buffers, strict=False):
            for target, source in zip(pair, old, strict=True):
                target[:, :, : self.cells] = source
        self._graphs.clear()
        self._buffers, self.cells = [(keys, values) for keys, values in new], cells
