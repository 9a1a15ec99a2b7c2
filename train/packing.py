"""Pack one declaration block and many requests into one row, so that the declarations are paid for once.

Every request sees the block and itself, not the other requests: attention is masked by segment, and positions
restart behind the block. A row gives exactly what each request would give alone behind the block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """Arrays of shape (tokens,): ids; positions; segment (0 = the block); loss (predict the *next* id here)."""

    ids: Ints
    positions: Ints
    segments: Ints
    loss: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


def pack(prefix: Sequence[int], requests: Sequence[tuple[Sequence[int], Sequence[int]]], *, limit: int) -> Row:
    """Pack `(request ids, completion ids)` pairs behind `prefix`, as many as fit into `limit` tokens.

    The loss is on the completion alone: the position before each completion token predicts it.
    """
    ids = list(prefix)
    positions = list(range(len(prefix)))
    segments = [0] * len(prefix)
    loss = [False] * len(prefix)
    for number, (request, completion) in enumerate(requests, start=1):
        fed = [*request, *completion[:-1]]
        if len(ids) + len(fed) + 1 > limit:
            break
        ids += [*request, *completion]
        count = len(request) + len(completion)
        positions += range(len(prefix), len(prefix) + count)
        segments += [number] * count
        loss += [False] * (len(request) - 1) + [True] * len(completion) + [False]
    return Row(np.array(ids), np.array(positions), np.array(segments), np.array(loss))


@dataclass(frozen=True)
class Layout:
    """How one packed row attends: `prefix` tokens of the block, then requests of `lengths` tokens each.

    Stands in for an attention mask (see `attend`); `window` is None in layers that see everything.
    """

    prefix: int
    requests: int
    longest: int
    flat: torch.Tensor
    """(tokens behind the block,): where each lies in the padded (requests * longest) order."""
    window: int | None


@dataclass
class Batch:
    """Packed rows as tensors: ids and positions of shape (rows, tokens), and how each row attends."""

    ids: torch.Tensor
    positions: torch.Tensor
    full: list[Layout]
    sliding: list[Layout]
    where: torch.Tensor
    """Flat indices (into rows * tokens) of the positions that carry loss."""
    targets: torch.Tensor


def collate(rows: Sequence[Row], *, window: int, device: str = "cpu") -> Batch:
    """Pad rows to one length; `window` is the sliding window in tokens."""
    import torch

    width = max(len(r) for r in rows)

    def padded(name: str, fill: int) -> torch.Tensor:
        out = np.full((len(rows), width), fill, dtype=np.int64)
        for i, row in enumerate(rows):
            out[i, : len(row)] = getattr(row, name)
        return torch.from_numpy(out).to(device)

    ids, positions, loss = padded("ids", 0), padded("positions", 0), padded("loss", 0)
    full = [_layout(row, width, None, device) for row in rows]
    sliding = [dataclasses.replace(a, window=window) for a in full]
    where = loss.reshape(-1).nonzero().squeeze(1)
    targets = torch.roll(ids, -1, dims=1).reshape(-1)[where]
    return Batch(ids, positions, full, sliding, where, targets)


def _layout(row: Row, width: int, window: int | None, device: str) -> Layout:
    import torch

    prefix = int((row.segments == 0).sum())
    counts = [int(n) for n in np.bincount(row.segments)[1:]]
    longest = max(counts, default=1)
    padding = width - len(row)
    while padding > 0:  # as requests of usual length, or one long one would widen the whole padded square
        counts.append(min(padding, longest))
        padding -= counts[-1]
    places = [np.arange(count) + i * longest for i, count in enumerate(counts)]
    flat = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
    return Layout(prefix, len(counts), longest, torch.from_numpy(flat).to(device), window)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: list[Layout],
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over packed rows, registered in transformers under the name `ATTENTION`.

    `query` is (rows, heads, tokens, dim), `key` and `value` (rows, key-value heads, tokens, dim); returns
    (rows, tokens, heads, dim). Only what may be attended is computed: the block with itself, every request with the
    block and with itself, which at usual lengths is under half of the full square.
    """
    import torch

    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    rows = [_attend_row(query[i] * scale, key[i], value[i], layout) for i, layout in enumerate(attention_mask)]
    return torch.stack(rows).transpose(1, 2).contiguous(), None


def _attend_row(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> torch.Tensor:
    import torch

    heads, tokens, width = q.shape
    p, count, longest = layout.prefix, layout.requests, layout.longest
    place = torch.arange(p, device=q.device)
    hidden = place[None, :] > place[:, None]
    if layout.window is not None and p > layout.window:
        hidden = hidden | (place[:, None] - place[None, :] >= layout.window)
    scores = (q[:, :p] @ k[:, :p].transpose(1, 2)).float().masked_fill(hidden, -torch.inf)
    block = scores.softmax(-1).to(v.dtype) @ v[:, :p]
    if tokens == p:
        return block

    def spread(x: torch.Tensor) -> torch.Tensor:
        """(heads, tokens behind the block, dim) -> (heads, requests, longest, dim), zeros where nothing is."""
        room = x.new_zeros(heads, count * longest, width)
        return room.index_copy(1, layout.flat, x).view(heads, count, longest, width)

    qr, kr, vr = spread(q[:, p:]), spread(k[:, p:]), spread(v[:, p:])
    own = torch.arange(longest, device=q.device)
    later = own[None, :] > own[:, None]
    behind = (qr.reshape(heads, -1, width) @ k[:, :p].transpose(1, 2)).float().view(heads, count, longest, p)
    if layout.window is not None and p + longest > layout.window:
        behind = behind.masked_fill((own[:, None] + p) - place[None, :] >= layout.window, -torch.inf)
    among = (qr @ kr.transpose(-1, -2)).float().masked_fill(later, -torch.inf)
    if layout.window is not None and longest > layout.window:
        among = among.masked_fill(own[:, None] - own[None, :] >= layout.window, -torch.inf)
    weights = torch.cat([behind, among], dim=-1).softmax(-1).to(v.dtype)
    of_block, of_own = weights.split([p, longest], dim=-1)
    out = (of_block.reshape(heads, count * longest, p) @ v[:, :p]).view(heads, count, longest, width) + of_own @ vr
    return torch.cat([block, torch.index_select(out.reshape(heads, -1, width), 1, layout.flat)], dim=1)


ATTENTION = "edgecall_packed"


def use_packed_attention(model: Any) -> None:
    """Make a transformers model run on `Batch`es: its layers take a `Layout` list where a mask would be."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
    model.config._attn_implementation = ATTENTION
