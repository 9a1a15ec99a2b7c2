"""An initialization in which copying already works, so that a small model need not discover it.

A router mostly copies: names and topics out of the request, enum values out of the declarations. Transformers learn
this late and suddenly, when induction heads form (Olsson et al. 2022, "In-context Learning and Induction Heads"). As
in mimetic initialization (Trockman & Kolter 2023), the weights here start out close to that circuit and are then
trained like any others:

- the embedding keeps one constant coordinate, from which layer 0 makes queries and keys that do not depend on the
  token; with rotary positions each of its heads then looks a fixed number of tokens back (1, 2, 3) and writes what
  stood there into subspaces of its own;
- in the layers `COPY_LAYERS`, two heads compare the current token with those predecessors and write what followed in
  the direction of its embedding, which raises its logit.
"""

from __future__ import annotations

import math
from typing import Any

COPY_LAYERS = (1, 2, 4)
_CONSTANT = 4.0
_FAST = 4
"""Rotary frequencies that tell neighbouring positions apart (the fastest ones)."""


def init_for_copying(model: Any, *, gain: float = 0.4) -> None:
    """Set the weights of a Gemma 3 causal LM in place; `gain` scales what every block adds to the residual stream.

    Draws from torch's global generator. Raises `ValueError` for fewer than five layers.
    """
    import torch

    config = model.config
    width, dim, heads = config.hidden_size, config.head_dim, config.num_attention_heads
    layers = model.model.layers
    if len(layers) < 5:
        raise ValueError(f"{len(layers)} layers; copying needs at least five")
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding.normal_(0.0, 1 / math.sqrt(width))
        embedding[:, 0] = _CONSTANT / math.sqrt(width)
        for layer in layers:
            for weight in layer.parameters():
                if weight.dim() == 2:
                    weight.normal_(0.0, 1 / math.sqrt(weight.shape[1]))
            layer.post_attention_layernorm.weight.fill_(gain - 1)
            layer.post_feedforward_layernorm.weight.fill_(gain / 2 - 1)

        half = dim // 2
        slow = torch.tensor([*range(half // 2, half), *range(half + half // 2, dim)])
        reader = _orthogonal(dim, width)  # what a head carries of a token
        reader[:, 0] = 0
        places = [_orthogonal(width, dim) for _ in range(heads)]  # where each shift is written
        _shift(layers[0].self_attn, reader, places, config)
        for index in COPY_LAYERS:
            attention = layers[index].self_attn
            match = torch.zeros(dim, width)
            match[slow] = _orthogonal(len(slow), dim) @ reader
            before = torch.zeros(dim, width)
            before[slow] = match[slow] @ reader.T @ places[0].T
            attention.k_proj.weight.copy_(before + 0.1 * attention.k_proj.weight)
            for head in (0, 1):
                rows = slice(head * dim, (head + 1) * dim)
                attention.q_proj.weight[rows] = match + 0.1 * attention.q_proj.weight[rows]
            attention.q_norm.weight.fill_(0.5)
            attention.k_norm.weight.fill_(0.5)
            carry = _orthogonal(dim, width)
            carry[:, 0] = 0
            attention.v_proj.weight.copy_(carry)
            attention.o_proj.weight.mul_(0.3)
            for head in (0, 1):
                attention.o_proj.weight[:, head * dim : (head + 1) * dim] = carry.T


def _shift(attention: Any, reader: Any, places: list[Any], config: Any) -> None:
    import torch

    dim, half = config.head_dim, config.head_dim // 2
    rates = [config.rope_local_base_freq ** (-i / half) for i in range(_FAST)]
    attention.k_proj.weight.mul_(0.02)
    attention.k_proj.weight[:_FAST, 0] = 1.0
    attention.q_proj.weight.mul_(0.02)
    for head, _ in enumerate(places):
        back = (1, 2, 3, 4)[head % 4]
        for i, rate in enumerate(rates):
            attention.q_proj.weight[head * dim + i, 0] = math.cos(back * rate)
            attention.q_proj.weight[head * dim + half + i, 0] = -math.sin(back * rate)
    attention.q_norm.weight.fill_(0.6)
    attention.k_norm.weight.fill_(0.6)
    attention.v_proj.weight.copy_(reader)
    attention.o_proj.weight.copy_(
        torch.cat(places, dim=1)
        * torch.tensor([1.0, 0.5, 0.35, 0.25])[torch.arange(len(places)) % 4].repeat_interleave(dim)
    )


def _orthogonal(rows: int, columns: int) -> Any:
    import torch

    return torch.nn.init.orthogonal_(torch.empty(rows, columns))
