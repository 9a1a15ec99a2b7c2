"""Pack one declaration block and many requests into one row, so that the declarations are paid for once.

Every request sees the block and itself, not the other requests: attention is masked by segment, and positions
restart behind the block. A row gives exactly what each request would give alone behind the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from train.pointing import TAUGHT

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
    ends: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(tools,): where in the block each declaration ends."""
    names: Ints = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    """(pieces, 2): where in the block the pieces of tools' names are, and whose."""
    choices: Ints = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    """(pieces, 2): where a piece of a tool's name comes next, and which tool of `ends` that is."""
    copies: Ints = field(default_factory=lambda: np.zeros((0, 3), dtype=np.int64))
    """(tokens, 3): where a piece of the request is copied, what the request says next (-1 before the piece), and what
    is said next (see `train.copying`)."""

    def __len__(self) -> int:
        return len(self.ids)


Choices = Sequence[tuple[int, int]]
"""Places in a completion behind which a piece of a tool's name comes, and which tool it is."""


def pack(
    prefix: Sequence[int],
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    limit: int,
    ends: Sequence[int] = (),
    names: Sequence[tuple[int, int]] = (),
    choices: Sequence[Choices] = (),
    copies: Sequence[Sequence[tuple[int, int, int]]] = (),
) -> Row:
    """Pack `(request ids, completion ids)` pairs behind `prefix`, as many as fit into `limit` tokens.

    The loss is on the completion alone: the position before each completion token predicts it. `ends` are the places in
    `prefix` where declarations end, `names` those of the pieces of names with the tool's number; `choices` and `copies`
    (places from the request's first token on, see `train.copying`) go with `requests`.
    """
    chosen: list[tuple[int, int]] = []
    copied: list[tuple[int, int, int]] = []
    ids = list(prefix)
    positions = list(range(len(prefix)))
    segments = [0] * len(prefix)
    loss = [False] * len(prefix)
    for number, (request, completion) in enumerate(requests, start=1):
        fed = [*request, *completion[:-1]]
        if len(ids) + len(fed) + 1 > limit:
            break
        if choices:
            chosen += [(len(ids) + len(request) + place, tool) for place, tool in choices[number - 1]]
        if copies:
            copied += [
                (len(ids) + place, -1 if ahead < 0 else len(ids) + ahead, len(ids) + said)
                for place, ahead, said in copies[number - 1]
            ]
        ids += [*request, *completion]
        count = len(request) + len(completion)
        positions += range(len(prefix), len(prefix) + count)
        segments += [number] * count
        loss += [False] * (len(request) - 1) + [True] * len(completion) + [False]
    return Row(
        np.array(ids),
        np.array(positions),
        np.array(segments),
        np.array(loss),
        np.array(ends, dtype=np.int64),
        np.array(names, dtype=np.int64).reshape(-1, 2),
        np.array(chosen, dtype=np.int64).reshape(-1, 2),
        np.array(copied, dtype=np.int64).reshape(-1, 3),
    )


ROOM = 128
"""Tokens of a block are padded to a multiple of this, those of a row to one of twice as much."""
REQUEST_ROOM = 64
"""The longest request of a row is padded to a multiple of this."""
COUNT_ROOM = 8
"""The number of requests of a row is padded to a multiple of this."""
TARGET_ROOM = 128
"""The number of positions that carry loss is padded to a multiple of this."""
IGNORED = -100
"""Target of a padded position (`torch.nn.functional.cross_entropy`'s `ignore_index`)."""


@dataclass(frozen=True)
class Layout:
    """How one packed row attends: a block of `prefix` tokens, padding included, then `requests` of `longest` tokens.

    Stands in for an attention mask (see `attend`). Blocks, requests and rows are padded to round sizes, because
    libraries of matrix kernels prepare one for every new shape, which on a CPU took as long as the training itself.
    """

    prefix: int
    requests: int
    longest: int
    flat: torch.Tensor
    """(tokens behind the block,): where each lies in the padded (requests * longest) order."""
    block: torch.Tensor
    """(prefix, prefix): what is added to the block's attention scores; -inf where one may not look."""
    behind: torch.Tensor
    """(tokens behind the block, prefix + longest): the same for requests, over the block and the own request."""
    ends: torch.Tensor
    """(tools,): where declarations end."""
    named: torch.Tensor
    """(pieces,): where the pieces of the declared names are."""
    owner: torch.Tensor
    """(pieces,): which tool of `ends` has that name."""
    asked: torch.Tensor
    """(pieces,): where a piece of a tool's name comes next."""
    right: torch.Tensor
    """(pieces,): which tool of `ends` it is."""
    reading: torch.Tensor
    """(tokens,): where a piece of the request is being copied."""
    ahead: torch.Tensor
    """(tokens,): what the request says next."""
    copying: torch.Tensor
    """(tokens,): where a piece of the request begins, goes on or ends."""
    source: torch.Tensor
    """(tokens,): what is said next: its first token, the one that goes on with it, or the end of the request."""


@dataclass
class Batch:
    """Packed rows as tensors: ids and positions of shape (rows, tokens), and how each row attends."""

    ids: torch.Tensor
    positions: torch.Tensor
    full: list[Layout]
    sliding: list[Layout]
    where: torch.Tensor
    """Flat indices (into rows * tokens) of the positions that carry loss, padded with 0."""
    targets: torch.Tensor
    """What those positions predict, padded with `IGNORED`."""
    scored: int
    """How many targets are not padding."""


def collate(rows: Sequence[Row], *, window: int, device: str = "cpu") -> Batch:
    """Pad `rows`, of any lengths, to one of T tokens: ids and positions of shape (rows, T) on `device`.

    `window` is the sliding window in tokens. Targets are gathered over the whole batch, padded to a multiple of
    `TARGET_ROOM`; how rows attend stays apart, a `Layout` each.
    """
    import torch

    blocks = [int((row.segments == 0).sum()) for row in rows]
    starts = [_up(block, ROOM) for block in blocks]
    width = _up(max(len(r) - block + start for r, block, start in zip(rows, blocks, starts, strict=True)), 2 * ROOM)

    def padded(name: str) -> torch.Tensor:
        out = np.zeros((len(rows), width), dtype=np.int64)
        for line, row, block, start in zip(out, rows, blocks, starts, strict=True):
            values = getattr(row, name)
            line[:block] = values[:block]
            line[start : start + len(row) - block] = values[block:]
        return torch.from_numpy(out)

    ids, positions, loss = padded("ids"), padded("positions"), padded("loss")
    where = loss.reshape(-1).nonzero().squeeze(1)
    targets = torch.roll(ids, -1, dims=1).reshape(-1)[where]
    room = _up(len(where), TARGET_ROOM) - len(where)
    full, sliding = ([_layout(row, width, w, device) for row in rows] for w in (None, window))
    return Batch(
        ids.to(device),
        positions.to(device),
        full,
        sliding,
        torch.nn.functional.pad(where, (0, room)).to(device),
        torch.nn.functional.pad(targets, (0, room), value=IGNORED).to(device),
        len(where),
    )


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _layout(row: Row, width: int, window: int | None, device: str) -> Layout:
    import torch

    block = int((row.segments == 0).sum())
    start = _up(block, ROOM)
    counts = [int(n) for n in np.bincount(row.segments)[1:]]
    longest = _up(max(counts, default=1), REQUEST_ROOM)
    padding = width - start - sum(counts)
    while padding > 0:  # as requests of usual length, or one long one would widen the whole padded square
        counts.append(min(padding, longest))
        padding -= counts[-1]
    own = np.concatenate([np.arange(count) for count in counts]) if counts else np.zeros(0, dtype=np.int64)
    which = np.repeat(np.arange(len(counts)), counts)
    reach = np.inf if window is None else window

    def bias(query: npt.NDArray[Any], key: npt.NDArray[Any], seen: npt.NDArray[np.bool_] | bool) -> torch.Tensor:
        """0 where a query at a position may look at a key at another one, else -inf."""
        distance = query[:, None] - key[None, :]
        allowed = (distance >= 0) & (distance < reach) & seen
        return torch.from_numpy(np.where(allowed, 0.0, -np.inf).astype(np.float32)).to(device)

    place, slot = np.arange(start), np.arange(longest)
    within = row.copies[row.copies[:, 1] >= 0]
    return Layout(
        start,
        _up(len(counts), COUNT_ROOM),
        longest,
        torch.from_numpy(which * longest + own).to(device),
        bias(place, place, True),
        torch.cat([bias(own + block, place, (place < block)[None, :]), bias(own, slot, True)], dim=1),
        *(
            torch.from_numpy(found).to(device)
            for found in (
                row.ends,
                *row.names.T.copy(),
                row.choices[:, 0] + start - block,
                row.choices[:, 1].copy(),
                *(within[:, :2].T + start - block),
                *(row.copies[:, ::2].T + start - block),
            )
        ),
    )


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
    if teach := getattr(module, TAUGHT, None):
        module.taught = [teach(query[i, 0] * scale, key[i, 0], layout) for i, layout in enumerate(attention_mask)]
    rows = [_attend_row(query[i] * scale, key[i], value[i], layout) for i, layout in enumerate(attention_mask)]
    return torch.stack(rows).transpose(1, 2).contiguous(), None


def _attend_row(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(heads, tokens, dim) out of one row; the query heads of a key-value head are rows of one matrix."""
    import torch

    heads, tokens, width = q.shape
    groups = k.shape[0]
    start, count, longest = layout.prefix, layout.requests, layout.longest
    behind = tokens - start
    kb, vb = k[:, :start], v[:, :start]

    def with_block(x: torch.Tensor, other: torch.Tensor, columns: int) -> torch.Tensor:
        """(heads, n, m) times, for every key-value head, (m, columns)."""
        lines = x.reshape(groups, heads // groups * x.shape[1], x.shape[2])
        return torch.bmm(lines, other).view(heads, x.shape[1], columns)

    scores = with_block(q[:, :start], kb.transpose(1, 2), start)
    block = with_block((scores + layout.block.to(scores.dtype)).softmax(-1), vb, width)
    if not behind:
        return block

    def spread(x: torch.Tensor) -> torch.Tensor:
        """(n, tokens behind the block, m) -> (n, requests * longest, m), zeros where nothing is."""
        return x.new_zeros(x.shape[0], count * longest, x.shape[-1]).index_copy(1, layout.flat, x)

    def with_own(x: torch.Tensor, other: torch.Tensor, columns: int) -> torch.Tensor:
        """Per request: (heads, tokens behind the block, m) times, for every key-value head, (m, columns)."""
        x = spread(x).view(groups, -1, count, longest, x.shape[-1]).transpose(1, 2)
        out = torch.bmm(x.reshape(groups * count, -1, x.shape[-1]), other)
        out = out.view(groups, count, -1, longest, columns).transpose(1, 2)
        return out.reshape(heads, count * longest, columns).index_select(1, layout.flat)

    kr, vr = (spread(x[:, start:]).view(groups * count, longest, width) for x in (k, v))
    scores = torch.cat(
        [with_block(q[:, start:], kb.transpose(1, 2), start), with_own(q[:, start:], kr.transpose(1, 2), longest)], -1
    )
    weights = (scores + layout.behind.to(scores.dtype)).softmax(-1)
    of_block, of_own = weights.split([start, longest], dim=-1)
    return torch.cat([block, with_block(of_block, vb, width) + with_own(of_own, vr, width)], dim=1)


ATTENTION = "edgecall_packed"


def use_packed_attention(model: Any) -> None:
    """Make a transformers model run on `Batch`es: its layers take a `Layout` list where a mask would be."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
    model.config._attn_implementation = ATTENTION
