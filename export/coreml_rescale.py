"""An exact rescaling of a network's weights, so that what it computes stays inside float16.

An RMS norm does not see the size of what it reads: norm(x / s) with epsilon / s² is norm(x). So whatever ends in a norm
can be made smaller by scaling the weights before it, and Gemma 3 has a norm behind every branch, before and after the
sum. What ends elsewhere can be scaled back: a norm's own weight against the matrices that read it, the logits at the
end, in float32. The factors are powers of two and the norms' weights hold Gemma's "1 +" already
(`export.coreml_model.Norm`), so in float32 every intermediate changes its exponent and nothing else.

- the residual stream: by the embedding's factor and the weights of the norms behind attention and MLP, with the epsilon
  of the norms that read the stream;
- query and key: by their matrix, with the epsilon of the norm behind it;
- value and attention output: by their matrix, with the epsilon of the norm behind attention;
- MLP up (and with it gate times up) and MLP output: by their matrix, with the epsilon of the norm behind the MLP;
- attention and MLP input: by the weight of the norm before, and the matrices that read it are scaled up;
- the embedding: by its matrix, and the factor behind it is scaled up, the logits too where the head is the same matrix;
- the logits: by the weight of the last norm, and they are scaled back in float32.

Not to be mended: attention scores and what they are made of (a softmax sees sizes), and the MLP's gate (so does GELU).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import nn

from export.coreml_model import Gemma3Stateful, Scale
from export.coreml_record import HEADROOM, LARGEST, STREAM, Record, record

AIM: Final = 2 * HEADROOM
"""What a rescaling leaves above the largest magnitude seen, at least: twice what `safe` asks for."""


@dataclass(frozen=True)
class Knob:
    """Something that can be made smaller by 2^-n without a change to what the network says.

    The names are of modules of the network, or of those of one layer.
    """

    name: str
    mends: tuple[str, ...]
    """Roles (`export.coreml_record.ROLES`) that it is turned for,"""
    lowers: tuple[str, ...]
    """and all that become smaller."""
    smaller: tuple[str, ...]
    """Modules whose weight, or factor, is multiplied by 2^-n,"""
    larger: tuple[str, ...] = ()
    """by 2^n,"""
    epsilon: tuple[str, ...] = ()
    """and norms whose epsilon is multiplied by 4^-n."""
    per_layer: bool = True


@dataclass(frozen=True)
class Change:
    """A knob that is turned: what `lowers` names becomes 2^-`shift` as large."""

    knob: str
    layer: int | None
    """From 0; None for one that is turned in the whole network."""
    shift: int

    def __str__(self) -> str:
        where = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.knob}{where} / {2**self.shift:,}"


@dataclass(frozen=True)
class Mended:
    """A network before and after, and what was changed: nothing where nothing needed it."""

    before: Record
    changes: tuple[Change, ...]
    after: Record

    @property
    def verdict(self) -> str:
        """``fits`` as it was, ``mendable`` where it fits now, else ``near`` the end of float16 or ``overflows``."""
        found = self.after.largest.verdict
        return "mendable" if self.changes and found == "fits" else found

    @property
    def safe(self) -> bool:
        """Whether everything fits in float16 now, with headroom."""
        return self.verdict in ("fits", "mendable")

    @property
    def facts(self) -> dict[str, Any]:
        """For a manifest: largest magnitudes by role, the largest of all, and what was rescaled."""
        largest = self.after.largest
        return {
            "max_abs": self.after.max_abs,
            "largest": largest.name,
            "headroom": round(1 / largest.share, 2),
            "rescaling": [asdict(change) for change in self.changes],
            **({"max_abs_before": self.before.max_abs} if self.changes else {}),
        }


_LAYER: Final = (
    Knob("attention input", ("before_attention",), ("before_attention",), ("before_attention",), ("q", "k", "v")),
    Knob("query", ("q",), ("q",), ("q",), epsilon=("q_norm",)),
    Knob("key", ("k",), ("k",), ("k",), epsilon=("k_norm",)),
    Knob("value", ("v", "mix"), ("v", "mix", "o"), ("v",), epsilon=("after_attention",)),
    Knob("attention output", ("o",), ("o",), ("o",), epsilon=("after_attention",)),
    Knob("MLP input", ("before_mlp",), ("before_mlp",), ("before_mlp",), ("gate", "up")),
    Knob("MLP up", ("up", "gated"), ("up", "gated", "down"), ("up",), epsilon=("after_mlp",)),
    Knob("MLP output", ("down",), ("down",), ("down",), epsilon=("after_mlp",)),
)


def knobs(*, tied: bool) -> tuple[Knob, ...]:
    """All knobs, those first whose turning makes others unneeded. `tied`: the head is the embedding."""
    head = ("head",) if tied else ()
    back = ("unscale",) if tied else ()
    reads = ("before_attention", "before_mlp", "norm")
    return (
        Knob("embedding", ("embed",), ("embed", *head), ("embed",), ("scale", *back), per_layer=False),
        Knob(
            "residual stream", STREAM, STREAM, ("scale", "after_attention", "after_mlp"), epsilon=reads, per_layer=False
        ),
        *_LAYER,
        Knob("logits", ("norm", "head"), ("norm", "head"), ("norm",), ("unscale",), per_layer=False),
    )


def mend(net: Gemma3Stateful, sequences: Sequence[Sequence[int]]) -> Mended:
    """Record what `sequences` need; if that is too much for float16, rescale `net` and record it again."""
    before = record(net, sequences)
    changes = plan(before, tied=net.tied)
    if not changes:
        return Mended(before, (), before)
    rescale(net, changes)
    return Mended(before, changes, record(net, sequences))


def plan(seen: Record, *, tied: bool) -> tuple[Change, ...]:
    """What must be turned, and how far, so that everything that can be mended has `AIM` left above it.

    Only for what has less than `HEADROOM` left: a network that fits stays as it is.
    """
    left: dict[tuple[str, int | None], float] = {}
    for one in seen.intermediates:
        left[one.role, one.layer] = max(left.get((one.role, one.layer), 0.0), one.max_abs)
    layers = sorted({layer for _, layer in left if layer is not None})
    changes = []
    for knob in knobs(tied=tied):
        for layer in layers if knob.per_layer else [None]:
            keys = [key for key in left if layer is None or key[1] == layer]
            shift = _shift(max(left[key] for key in keys if key[0] in knob.mends))
            if shift:
                changes.append(Change(knob.name, layer, shift))
                left |= {key: left[key] * 2.0**-shift for key in keys if key[0] in knob.lowers}
    return tuple(changes)


def rescale(net: Gemma3Stateful, changes: Sequence[Change]) -> None:
    """Turn the knobs in `net`'s weights. A tied head stays tied."""
    by_name = {knob.name: knob for knob in knobs(tied=net.tied)}
    with torch.no_grad():
        for change in changes:
            knob, factor = by_name[change.knob], 2.0**-change.shift
            for names, by in ((knob.smaller, factor), (knob.larger, 1 / factor)):
                for module in _modules(net, names, change.layer):
                    if isinstance(module, Scale):
                        module.factor *= by
                    else:
                        module.weight.mul_(by)
            for norm in _modules(net, knob.epsilon, change.layer):
                norm.eps *= factor**2


def _shift(max_abs: float) -> int:
    """The smallest n for which 2^-n of it has `AIM` left; 0 where `HEADROOM` is left already, or nothing helps."""
    if not math.isfinite(max_abs) or max_abs * HEADROOM <= LARGEST:
        return 0
    return math.ceil(math.log2(max_abs * AIM / LARGEST))


def _modules(net: Gemma3Stateful, names: Sequence[str], layer: int | None) -> Iterator[Any]:
    """The network's modules of some names, or those of a layer, or of all: one for each key head where there are."""
    layers = list(net.layers) if layer is None else [net.layers[layer]]
    for name in names:
        for owner in [net] if hasattr(net, name) else layers:
            found = getattr(owner, name)
            yield from found if isinstance(found, nn.ModuleList) else [found]
