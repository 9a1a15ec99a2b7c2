"""Training under the rounding of a GGUF export: the forward pass sees the weights that the exported file will hold.

The merged weight W + scaling * B @ A of every adapted layer is rounded anew at every step, and its gradient passes as
if it had not been (straight-through); what is frozen is rounded once. Weights alone: the activations that llama.cpp
rounds in its products stay as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer

from runtimes.errors import UserError
from train.backends.blocks import FORMATS

_ROWS: Final = 8192
"""Rows of a frozen weight that are rounded at once, so that a large vocabulary's copies stay small."""


def train_under(adapted: Any, kind: str) -> None:
    """Make a PEFT model over Gemma 3 compute as its export to GGUF `kind` (q8_0, q4_0) will, from now on.

    Changes frozen weights and how adapted layers compute, not the adapter: what PEFT saves is an ordinary one. Raises
    `UserError` where the embedding or the output layer is adapted.
    """
    core = adapted.get_base_model()
    heads = {"lm_head": core.lm_head, "embed_tokens": core.model.embed_tokens}
    for name, module in heads.items():
        if isinstance(module, BaseTunerLayer):
            raise UserError(f"quantize: {kind} trains no adapter of {name}; leave it out of targets")
    tied = bool(core.config.tie_word_embeddings)
    _freeze(core.model.embed_tokens.weight, stored_as(kind, core.config.hidden_size, head=tied))
    if not tied:
        _freeze(core.lm_head.weight, stored_as(kind, core.config.hidden_size, head=True))
    adapted_layers = [layer for layer in core.modules() if isinstance(layer, LoraLinear)]
    for layer in adapted_layers:
        layer.forward = partial(_forward, layer, stored_as(kind, layer.in_features))
    beneath = {layer.get_base_layer() for layer in adapted_layers}
    for layer in core.model.modules():
        if isinstance(layer, torch.nn.Linear) and layer not in beneath and not layer.weight.requires_grad:
            _freeze(layer.weight, stored_as(kind, layer.in_features))


def stored_as(kind: str, width: int, *, head: bool = False) -> str:
    """The format that llama.cpp gives a matrix with rows of `width` when it quantizes to `kind`.

    `head` is the output layer, or the embedding that serves as one: it gets six bits where the others get four. After
    ``llama_tensor_get_type_impl`` and ``tensor_type_fallback`` in llama.cpp's src/llama-quant.cpp.
    """
    if head and kind == "q4_0":
        kind = "q6_k" if width % 256 == 0 else "q8_0"
    return kind if kind == "q6_k" or width % 32 == 0 else "f16"


def fake_quantize(weight: torch.Tensor, form: str) -> torch.Tensor:
    """`weight`, fp32, as it reads when written in `form` (see `blocks.FORMATS`); the gradient passes unchanged."""
    rounded: torch.Tensor = _StraightThrough.apply(weight, form)
    return rounded


class _StraightThrough(torch.autograd.Function):
    """Exact where ``w + (q(w) - w).detach()`` would round once more, and without its two passes over the weights."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, form: str) -> torch.Tensor:
        return FORMATS[form](weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def _forward(layer: LoraLinear, form: str, x: torch.Tensor) -> torch.Tensor:
    """In place of PEFT's ``Linear.forward``: one product with the merged weight, which is rounded in fp32."""
    base = layer.get_base_layer()
    with torch.autocast(x.device.type, enabled=False):
        merged = base.weight + layer.get_delta_weight(layer.active_adapters[0])  # the sum that merging makes
        weight = fake_quantize(merged, form)
    return torch.nn.functional.linear(x, weight, base.bias)


@torch.no_grad()
def _freeze(weight: torch.Tensor, form: str) -> None:
    for part in weight.split(_ROWS):
        part.copy_(FORMATS[form](part))
