"""How large a network's intermediates get, and what float16 makes of them: known before a float16 package is believed.

`record` runs requests in float32 and keeps the largest magnitude of what every module of `export.coreml_model` puts
out, by the module's name, its layer and its role. Inside a module nothing is larger that matters: the squares of a
norm leave float16 at 256, which is why every package computes norms in float32.

`rounding` repeats the requests with the rounding of a float16 package: weights, and the inputs and outputs of every
module that computes in float16. Sums inside a matrix product are not rounded; Core ML may do worse there.
"""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from export.coreml_model import MASKED, Gate, Gemma3Stateful, Linear, Mix, Norm, Residual, Rope, Scale, Scores, Store
from runtimes.errors import UserError

if TYPE_CHECKING:
    from export.base import Checkpoint
    from router.cases import Case
    from router.toolset import Toolset
    from runtimes.mil import Watch

LARGEST: Final = 65504.0
"""The largest float16."""

HEADROOM: Final = 2.0
"""What float16 must have left above the largest magnitude seen, to be called safe: other requests reach further."""

HALF: Final = (nn.Embedding, Linear, Rope, Store, Scores, Mix, Gate)
"""Modules that a float16 package computes in float16."""

PLAIN: Final = (*HALF, Scale, Residual)
"""Those that a plain float16 conversion does: the residual stream too."""

THROUGHOUT: Final = (*PLAIN, Norm)
"""All: the package for the Neural Engine, whose norms are written so that float16 holds them."""

ROLES: Final[Mapping[str, str]] = {
    "embed": "embedding",
    "scale": "stream at first",
    "before_attention": "attention input",
    "q": "query",
    "q_norm": "query normalized",
    "q_scale": "query scaled",
    "k": "key",
    "k_norm": "key normalized",
    "rope": "both rotated",
    "v": "value",
    "scores": "attention scores",
    "mix": "values mixed",
    "o": "attention output",
    "after_attention": "attention branch",
    "add_attention": "stream + attention",
    "before_mlp": "MLP input",
    "gate": "MLP gate",
    "up": "MLP up",
    "gated": "gate times up",
    "down": "MLP output",
    "after_mlp": "MLP branch",
    "add_mlp": "stream + MLP",
    "norm": "last norm",
    "head": "logits",
}
"""What a module is called in its network or layer -> what it puts out, in the order of computation.

The cache is left out, since it holds the keys rotated and the values, and so are the logits scaled back in float32.
"""

STREAM: Final = ("scale", "after_attention", "add_attention", "after_mlp", "add_mlp")
"""Roles of the residual stream and of what is added to it. Norms and sums alone read them: float32 in every package."""

_ROWS = 64
"""Rows of a pass, the last ones, that get logits: those of a whole prompt over a large vocabulary fill the memory."""
_RANDOM = 1024
"""Random tokens for a checkpoint without a window."""


@dataclass(frozen=True)
class Intermediate:
    """What one module puts out, and how large it gets."""

    name: str
    """The module's, as in ``layers.3.gated``; with several key heads each has its own: ``layers.3.k.0``."""
    role: str
    """A key of `ROLES`."""
    layer: int | None
    """From 0; None outside the layers."""
    max_abs: float
    """The largest magnitude; infinite where one was not a number."""

    @property
    def share(self) -> float:
        """Of the largest float16."""
        return self.max_abs / LARGEST

    @property
    def verdict(self) -> str:
        """``fits`` with headroom, ``near`` without, or ``overflows``."""
        return verdict(self.max_abs)


@dataclass(frozen=True)
class Record:
    """What was seen: every intermediate once, in the order of computation."""

    intermediates: tuple[Intermediate, ...]
    tokens: int
    """Of all the sequences that were run."""

    @property
    def worst(self) -> tuple[Intermediate, ...]:
        """Of each role the largest."""
        found: dict[str, Intermediate] = {}
        for one in self.intermediates:
            if one.role not in found or one.max_abs > found[one.role].max_abs:
                found[one.role] = one
        return tuple(found[role] for role in ROLES if role in found)

    @property
    def largest(self) -> Intermediate:
        """The largest of all."""
        return max(self.intermediates, key=lambda one: one.max_abs)

    @property
    def max_abs(self) -> dict[str, float]:
        """Role -> largest magnitude, four digits."""
        return {one.role: short(one.max_abs) for one in self.worst}


def verdict(max_abs: float) -> str:
    """``fits`` in float16 with `HEADROOM` left, is ``near`` its end, or ``overflows``."""
    if max_abs > LARGEST:
        return "overflows"
    return "fits" if max_abs * HEADROOM <= LARGEST else "near"


def short(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def record(net: Gemma3Stateful, sequences: Sequence[Sequence[int]]) -> Record:
    """Run `sequences` in float32, the cache too, and keep the largest magnitude of every intermediate.

    The cache is left empty, in float16.
    """
    largest: dict[str, float] = {}
    with _wide_cache(net), ExitStack() as hooks:
        for name, module in net.named_modules():
            if _role(name) is not None:
                hooks.callback(module.register_forward_hook(_watcher(largest, name)).remove)
        for _ in passes(net, sequences):
            pass
    found = [Intermediate(name, _role(name) or "", _layer(name), value) for name, value in largest.items()]
    return Record(tuple(found), sum(map(len, sequences)))


def rounding(
    net: Gemma3Stateful, sequences: Sequence[Sequence[int]], narrow: tuple[type[nn.Module], ...] = HALF
) -> dict[str, Any]:
    """What float16 does to the logits of `sequences`, in simulation: ``finite``, ``max_abs_logit``, ``rms_logit`` and
    ``top1_agreement`` with float32. The figures are None where a logit is infinite or not a number."""
    most, squares, count, same, rows = 0.0, 0.0, 0, 0, 0
    with _wide_cache(net):
        for want, got in zip(passes(net, sequences), simulate(net, sequences, narrow), strict=True):
            if not bool(torch.isfinite(got).all()):
                return {"finite": False, "max_abs_logit": None, "rms_logit": None, "top1_agreement": None}
            error = got - want
            most = max(most, float(error.abs().max()))
            squares, count = squares + float(error.square().sum(dtype=torch.float64)), count + error.numel()
            same, rows = same + int((got.argmax(-1) == want.argmax(-1)).sum()), rows + len(want)
    return {
        "finite": True,
        "max_abs_logit": short(most),
        "rms_logit": short(math.sqrt(squares / count)),
        "top1_agreement": round(same / rows, 4),
    }


def simulate(
    net: Gemma3Stateful, sequences: Sequence[Sequence[int]], narrow: tuple[type[nn.Module], ...] = HALF
) -> Iterator[torch.Tensor]:
    """As `passes`, with the rounding of a float16 package whose modules of the types `narrow` compute in float16."""
    rounded = copy.deepcopy(net)
    rounded.cache_in(torch.float16)
    with torch.no_grad():
        for module in rounded.modules():
            if isinstance(module, narrow):
                for weight in module.parameters(recurse=False):
                    weight.copy_(_round(weight))
                module.register_forward_pre_hook(lambda _, inputs: _round(inputs))
                module.register_forward_hook(lambda _, inputs, output: _round(output))
    yield from passes(rounded, sequences)


def passes(net: Gemma3Stateful, sequences: Iterable[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Logits of each sequence's last rows, at most 64, (rows, vocab). What a sequence begins with as the one before it
    did stays in the cache and is not run again."""
    cached: list[int] = []
    for sequence in sequences:
        tokens = list(sequence)
        start = min(len(os.path.commonprefix([cached, tokens])), len(tokens) - 1)
        yield run(net, tokens[start:], start, last=_ROWS)
        cached = tokens


def run(net: Gemma3Stateful, tokens: Sequence[int], start: int = 0, last: int | None = None) -> torch.Tensor:
    """Logits of one pass over `tokens` behind `start` cached ones: of all rows, or of the `last`."""
    size = len(tokens)
    with torch.inference_mode():
        logits: torch.Tensor = net(
            torch.tensor([list(tokens)], dtype=torch.int32),
            torch.arange(start + size, dtype=torch.int32)[None],
            torch.arange(0 if last is None else max(0, size - last), size, dtype=torch.int32),
        )
    return logits


def rendered(source: Checkpoint, toolset: Toolset, cases: Iterable[Case]) -> list[list[int]]:
    """Each case as the network sees it: the prompt and the gold calls. Raises `UserError` without a known wire format,
    or for a case that cannot be written."""
    from router.tokenizer import RouterTokenizer
    from router.wire import WIRES

    path = source.folder / "tokenizer.json"
    for last, wire in enumerate(WIRES.values(), start=1 - len(WIRES)):
        try:
            tokenizer = RouterTokenizer.load(path, wire)
            break
        except UserError:
            if last == 0:
                raise
    prefix = tokenizer.prefix_ids(toolset)
    return [
        [*prefix, *tokenizer.behind_prefix(toolset, case.user, case.context), *tokenizer.completion_ids(case.calls)]
        for case in cases
    ]


def random_tokens(source: Checkpoint, capacity: int) -> list[int]:
    """Random tokens, past the sliding window if there is one: what the network will hardly see."""
    local = "sliding_attention" in source.config["layer_types"]
    count = min(capacity, int(source.config["sliding_window"]) + 64 if local else _RANDOM)
    return random.Random(0).choices(range(source.vocab_size), k=count)


def operations(largest: dict[str, float]) -> Watch:
    """For `runtimes.mil.execute`: keeps in `largest`, by the operation's output, the largest magnitude of every float
    that a saved package computes, what stands for a masked score apart; infinite where one is not a number."""
    import numpy as np

    from export.coreml_neural import MASKED as masked
    from runtimes.mil.program import FLOATS

    def watch(op: Any, values: tuple[np.ndarray, ...]) -> None:
        for output, value in zip(op.outputs, values, strict=True):
            if output.type.dtype in FLOATS and value.size and not output.name.startswith(masked):
                seen = np.abs(value[value != MASKED]).max(initial=0.0)
                largest[output.name] = max(largest.get(output.name, 0.0), _finite(float(seen)))

    return watch


@contextmanager
def _wide_cache(net: Gemma3Stateful) -> Iterator[None]:
    """The cache in float32, then an empty one in float16."""
    net.cache_in(torch.float32)
    try:
        yield
    finally:
        net.cache_in(torch.float16)


def _role(name: str) -> str | None:
    """The role of the module called `name`; None for what is not recorded."""
    parts = name.split(".")
    last = parts[-2] if parts[-1].isdigit() else parts[-1]
    return last if last in ROLES and (parts[0] == "layers") == (len(parts) > 1) else None


def _layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else None


def _watcher(largest: dict[str, float], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen = output
        if isinstance(module, Scores):
            seen = seen.masked_fill(seen == MASKED, 0.0)
        largest[name] = max(largest.get(name, 0.0), _finite(float(seen.abs().max())))

    return hook


def _finite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _round(value: Any) -> Any:
    """To float16 and back; integers, booleans and the cache (which is float16) as they are."""
    if isinstance(value, tuple):
        return tuple(_round(one) for one in value)
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        return value.half().float()
    return value
