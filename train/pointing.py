"""Attention heads that are taught where to look, so that a small model learns early to choose a tool and to copy.

What a request asks for and what a declaration offers meet in one place: where a tool's name comes next, attention has
to go to the declaration that fits. Left to itself, a model of a few million parameters finds that out after many
million tokens, if at all (it first learns which names are frequent). So the first head of one layer learns to look from
there at the end of the right declaration, which has all of it behind, and the first head of an earlier layer to look
from the end of a declaration at the name it began with.

Copying has two such places (`train.copying`): what the request says next behind what was copied, and what is said next
in the call, the end of the request standing for an end. Without being taught, half of what adapters get wrong are the
beginnings and ends of copied strings. Liu et al. 2016 ("Neural Machine Translation with Supervised
Attention") teach alignments so. Nothing of it is left in the model but its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtimes.errors import UserError
from train.init import CHOOSING_LAYER, COPYING_LAYER, NAMING_LAYER, READING_LAYER

if TYPE_CHECKING:
    import torch

    from train.packing import Layout, Row

TAUGHT = "taught_by"
"""Attribute of an attention module: the function that scores its first head; its results are left in `taught`."""


def naming(query: torch.Tensor, key: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, float, int]:
    """From the ends of declarations at the pieces of their names: summed loss, hits and count.

    `query` (scaled) and `key` are one head's, of shape (tokens, dim). The loss is minus the logarithm of what falls on
    the own name out of what falls on all names before.
    """
    import torch

    if not len(layout.ends):
        return query.new_zeros(()).float(), 0.0, 0
    scores = (query[layout.ends] @ key[layout.named].T).float()
    scores = scores.masked_fill(layout.named[None, :] > layout.ends[:, None], -torch.inf)
    own = layout.owner[None, :] == torch.arange(len(layout.ends), device=scores.device)[:, None]
    mass = scores.log_softmax(-1).masked_fill(~own, -torch.inf).logsumexp(-1)
    return -mass.sum(), float((mass.exp() > 0.5).sum()), len(mass)


def choosing(query: torch.Tensor, key: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, float, int]:
    """From where a piece of a name comes next at the end of the right declaration: summed loss, hits and count."""
    import torch

    if not len(layout.asked):
        return query.new_zeros(()).float(), 0.0, 0
    scores = (query[layout.asked] @ key[layout.ends].T).float()
    loss = torch.nn.functional.cross_entropy(scores, layout.right, reduction="sum")
    return loss, float((scores.argmax(-1) == layout.right).sum()), len(layout.right)


def reading(query: torch.Tensor, key: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, float, int]:
    """From within a piece that is copied at what the request says next: summed loss, hits and count."""
    return _looking(query, key, layout, layout.reading, layout.ahead)


def copying(query: torch.Tensor, key: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, float, int]:
    """From where a piece begins, goes on or ends at what is said next: summed loss, hits and count."""
    return _looking(query, key, layout, layout.copying, layout.source)


def _looking(
    query: torch.Tensor, key: torch.Tensor, layout: Layout, places: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, float, int]:
    """The loss is minus the logarithm of what falls on a target out of what falls on the own request so far."""
    import torch

    if not len(places):
        return query.new_zeros(()).float(), 0.0, 0
    start = layout.prefix
    scores = (query[places] @ key[start:].T).float()
    segment = layout.flat // layout.longest
    behind = torch.arange(start, start + len(segment), device=scores.device)
    hidden = (segment[None, :] != segment[places - start][:, None]) | (behind[None, :] > places[:, None])
    scores = scores.masked_fill(hidden, -torch.inf)
    loss = torch.nn.functional.cross_entropy(scores, targets - start, reduction="sum")
    return loss, float((scores.argmax(-1) == targets - start).sum()), len(targets)


Lesson = Callable[["torch.Tensor", "torch.Tensor", "Layout"], tuple["torch.Tensor", float, int]]
CHOICE: dict[int, Lesson] = {NAMING_LAYER: naming, CHOOSING_LAYER: choosing}
"""Layer -> what its first head is taught, so that the model learns to choose a tool."""
COPY: dict[int, Lesson] = {READING_LAYER: reading, COPYING_LAYER: copying}
"""The same, so that it learns to copy."""
ASKED: dict[Lesson, Callable[[Row], int]] = {
    naming: lambda row: len(row.ends),
    choosing: lambda row: len(row.choices),
    reading: lambda row: int((row.copies[:, 1] >= 0).sum()),
    copying: lambda row: len(row.copies),
}
"""In how many places of a row a lesson asks."""


def teach(model: Any, *, pointing: float, copying: float) -> list[tuple[Any, float]]:
    """Have the attention of the layers of `CHOICE` and `COPY` scored, those whose weight is not 0.

    Returns these modules, each with the weight of its loss. Raises `UserError` where the model has too few layers.
    """
    weighed = ((CHOICE, pointing), (COPY, copying))
    lessons = {layer: (score, weight) for found, weight in weighed if weight for layer, score in found.items()}
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = core.model.layers
    if lessons and len(layers) <= max(lessons):
        raise UserError(f"pointing and copying need at least {max(lessons) + 1} layers; the model has {len(layers)}")
    taught = []
    for layer, (score, weight) in sorted(lessons.items()):
        setattr(layers[layer].self_attn, TAUGHT, score)
        taught.append((layers[layer].self_attn, weight))
    return taught


def forget(taught: list[tuple[Any, float]]) -> None:
    """Undo `teach`."""
    for module, _ in taught:
        delattr(module, TAUGHT)
        if hasattr(module, "taught"):
            del module.taught


def asked(module: Any, rows: Sequence[Row]) -> int:
    """In how many places of `rows` the head of a taught module is asked where it looks."""
    count = ASKED[getattr(module, TAUGHT)]
    return sum(count(row) for row in rows)


def taught_loss(module: Any, among: float | None = None) -> tuple[torch.Tensor, float]:
    """Summed loss of the last forward pass over `among`, and the hits over `among`; zeros where nothing was asked.

    `among` is the number of places that are asked, by default in that pass (so that it is the mean); where a step is
    made of several passes, in all of them.
    """
    count = max(1, sum(n for _, _, n in module.taught) if among is None else among)
    return sum(loss for loss, _, _ in module.taught) / count, sum(hits for _, hits, _ in module.taught) / count
