"""An initialization in which copying already works, so that a small model need not discover it.

A router mostly copies: names and topics out of the request, enum values out of the declarations. Transformers learn
this late and suddenly, when induction heads form (Olsson et al. 2022, "In-context Learning and Induction Heads"). As
in mimetic initialization (Trockman & Kolter 2023), the weights here start out close to that circuit and are then
trained like any others:

- the embedding keeps one constant coordinate, from which layer 0 makes queries and keys that do not depend on the
  token; with rotary positions each of its heads then looks a fixed number of tokens back (1, 2, 3) and writes what
  stood there into subspaces of its own;
- in the layers `COPY_LAYERS`, two heads compare the current token with those predecessors and write what followed in
  the direction of its embedding, which raises its logit;
- where the embedding has directions of meaning (`train.vectors`), the last head of layer 0 writes their average over
  the surroundings into coordinates that nothing else uses. The first head of `CHOOSING_LAYER` compares those: the end
  of a declaration with the place where a tool's name comes next. It copies what the end of the declaration carries
  from the name, which the first head of `NAMING_LAYER` is to find. The first head of `COPYING_LAYER` carries
  what it looks at in the same way (`train.pointing` teaches all of them).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

COPY_LAYERS = (1, 2, 4)
NAMING_LAYER = 3
"""Where the end of a declaration takes up its name,"""
CHOOSING_LAYER = 5
"""where what was asked for is compared with the ends of declarations, and the name of the fitting one copied."""
READING_LAYER = 4
"""Where copying looks at what the request says next,"""
COPYING_LAYER = 6
"""and where at what is said next."""
_NEAR = (0.005, 0.06)
"""Rotary frequencies, in radians per token, whose sum is highest nearby: a head that averages looks so,"""
_CALM = 10.0
"""and this much of its query goes where keys have nothing, or it would see the last few tokens alone."""
_AROUND = 4.0
"""Weight of the average, beside 1 for the token before."""
_CONSTANT = 4.0
_FAST = 4
"""Rotary frequencies that tell neighbouring positions apart (the fastest ones)."""


def init_for_copying(model: Any, *, gain: float = 0.4, meaning: torch.Tensor | None = None) -> None:
    """Set the weights of a Gemma 3 causal LM in place; `gain` scales what every block adds to the residual stream.

    `meaning`: directions of the embedding that hold what words mean, shape (directions, width), the main ones first.
    Draws from torch's global generator. Raises `ValueError` for fewer layers than the circuits need.
    """
    import torch

    config = model.config
    width, dim, heads = config.hidden_size, config.head_dim, config.num_attention_heads
    layers = model.model.layers
    needed = 1 + (max(COPY_LAYERS) if meaning is None else CHOOSING_LAYER)
    if len(layers) < needed:
        raise ValueError(f"{len(layers)} layers; at least {needed} are needed")
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
        slow = _slow(dim)
        reader = _orthogonal(dim, width)  # what a head carries of a token
        reader[:, 0] = 0
        if meaning is not None:
            reader[: dim // 2] = meaning[: dim // 2]
            reader[dim // 2 :] -= reader[dim // 2 :] @ meaning.T @ meaning
        places = [_orthogonal(width, dim) for _ in range(heads)]  # where each shift is written
        if meaning is not None:
            places[-1] = torch.zeros(width, dim)
            places[-1][-half:, :half] = _AROUND * torch.eye(half)
        _shift(layers[0].self_attn, reader, places, config, around=meaning is not None)
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
        if meaning is not None:
            _choice(model, places[-1])


def _choice(model: Any, around: torch.Tensor) -> None:
    """The circuit that compares what surrounds two places; `around` is where layer 0 writes it, (width, dim)."""
    import torch

    layers, dim = model.model.layers, model.config.head_dim
    half = dim // 2
    model.model.embed_tokens.weight[:, -half:] = 0
    for layer in layers[:CHOOSING_LAYER]:
        layer.mlp.down_proj.weight[-half:] = 0
        layer.self_attn.o_proj.weight[-half:] = 0
    layers[0].self_attn.o_proj.weight[-half:, -dim:] = around[-half:]
    attention = layers[CHOOSING_LAYER].self_attn
    read = torch.zeros(dim, model.config.hidden_size)
    read[_slow(dim), -half:] = torch.eye(half)
    attention.k_proj.weight.copy_(read + 0.02 * attention.k_proj.weight)
    attention.q_proj.weight[:dim] = read + 0.02 * attention.q_proj.weight[:dim]
    carry = _orthogonal(dim, model.config.hidden_size - half)
    for index in (i for i in (NAMING_LAYER, CHOOSING_LAYER, COPYING_LAYER) if i < len(layers)):
        attention = layers[index].self_attn
        attention.q_norm.weight.fill_(0.5)
        attention.k_norm.weight.fill_(0.5)
        attention.v_proj.weight.zero_()
        attention.v_proj.weight[:, 1:-half] = carry[:, 1:]
        attention.o_proj.weight.mul_(0.3)
        attention.o_proj.weight[:, :dim] = attention.v_proj.weight.T


def _slow(dim: int) -> torch.Tensor:
    """The coordinates of a head that rotary positions turn least: what is compared there may be far apart."""
    import torch

    half = dim // 2
    return torch.tensor([*range(half // 2, half), *range(half + half // 2, dim)])


def _shift(attention: Any, reader: Any, places: list[Any], config: Any, *, around: bool) -> None:
    import torch

    dim, half = config.head_dim, config.head_dim // 2
    local = config.layer_types[0] == "sliding_attention"
    base = config.rope_local_base_freq if local else config.rope_theta
    rates = [base ** (-i / half) for i in range(_FAST)]
    attention.k_proj.weight.mul_(0.02)
    attention.k_proj.weight[:_FAST, 0] = 1.0
    attention.q_proj.weight.mul_(0.02)
    near = [i for i in range(half) if _NEAR[0] <= base ** (-i / half) <= _NEAR[1]] if around else []
    attention.k_proj.weight[near, 0] = 1.0
    for head, _ in enumerate(places):
        if near and head == len(places) - 1:
            for i in near:
                attention.q_proj.weight[head * dim + i, 0] = 1.0
            attention.q_proj.weight[head * dim + half - 1, 0] = _CALM
            continue
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
