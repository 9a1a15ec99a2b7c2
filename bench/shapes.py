"""Shapes: what a Gemma 3 router's cost depends on, by name, and what of it is multiplied in a pass."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from runtimes.errors import UserError

ROPE, LOCAL_ROPE = 1e6, 1e4
"""Bases of the rotations in global and local layers, as Gemma 3 has them."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a network; every `pattern`-th layer sees all tokens, the others the last `window`."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    window: int = 512
    pattern: int = 6
    context: int = 32_768
    seed: int = 0
    """Of the random weights."""

    def is_local(self, layer: int) -> bool:
        """Whether a layer (from 0) sees a window only."""
        return (layer + 1) % self.pattern != 0

    @property
    def kv_weights(self) -> int:
        """Of the keys' and values' matrices of a layer."""
        return 2 * self.hidden * self.kv_heads * self.head_dim

    @property
    def other_weights(self) -> int:
        """Of the other matrices of a layer: query, output, and the three of the MLP."""
        return 2 * self.hidden * self.heads * self.head_dim + 3 * self.hidden * self.intermediate

    @property
    def output_weights(self) -> int:
        """Of the output matrix, which is the embedding too."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All weights, norms included."""
        norms = self.layers * (4 * self.hidden + 2 * self.head_dim) + self.hidden
        return self.layers * (self.kv_weights + self.other_weights) + self.output_weights + norms

    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "query_pre_attn_scalar": self.head_dim,
            "max_position_embeddings": self.context,
            "sliding_window": self.window,
            "sliding_window_pattern": self.pattern,
            "rope_theta": ROPE,
            "rope_local_base_freq": LOCAL_ROPE,
            "tie_word_embeddings": True,
        }


PRESETS: Final = {
    shape.name: shape
    for shape in (
        Shape("functiongemma-270m", 640, 2048, 18, 4, 1, 256, 262_144),
        Shape("router-30m", 512, 1536, 9, 4, 1, 128, 16_384),
        Shape("seed-9m", 256, 768, 8, 4, 1, 64, 10_240, window=8192, pattern=1),
        Shape("tiny", 64, 128, 7, 4, 1, 32, 10_240, window=64, context=2048),
    )
}
"""FunctionGemma's own, and smaller ones: the seed router's is among them. All have rows for the seed's tokenizer;
router-30m is named after its layers' 27M and a small vocabulary, and has 36M with its 16,384 rows."""

OPTIONS: Final = {
    "layers": "layers",
    "hidden": "width",
    "intermediate": "width of the MLP",
    "heads": "attention heads",
    "kv_heads": "heads of keys and values",
    "head_dim": "width of a head",
    "vocab": "rows of the embedding",
    "window": "tokens that local layers see",
    "pattern": "every how many layers one is global",
    "context": "tokens of context",
}
"""The sizes that the command line can change."""


def preset(name: str) -> Shape:
    """The shape called `name`. Raises `UserError` for an unknown one."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"--shape: unknown shape {name!r}; there are {', '.join(PRESETS)}{hint}")
    return PRESETS[name]


def changed(shape: Shape, values: Mapping[str, int | None]) -> Shape:
    """`shape` with the sizes given, which its name then tells. Raises `UserError` for sizes that make no network."""
    given = {key: value for key, value in values.items() if value is not None and value != getattr(shape, key)}
    for key, value in given.items():
        least = 0 if key == "seed" else 1
        if value < least:
            raise UserError(f"{option(key)}: {value} is too small; give {least} or more")
    parts = [shape.name, *(f"{key.replace('_', '')}{value}" for key, value in given.items())]
    new = replace(shape, **given, name="-".join(parts))
    if new.heads % new.kv_heads:
        raise UserError(f"--heads {new.heads}: is no multiple of the {new.kv_heads} of --kv-heads; give one that is")
    if new.head_dim % 2:
        raise UserError(f"--head-dim {new.head_dim}: is odd; positions rotate pairs, give an even width")
    return new


def of_config(config: Mapping[str, Any], name: str) -> Shape:
    """The shape of a checkpoint, from its flat config."""
    return Shape(
        name,
        hidden=int(config["hidden_size"]),
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=int(config["num_attention_heads"]),
        kv_heads=int(config["num_key_value_heads"]),
        head_dim=int(config["head_dim"]),
        vocab=int(config["vocab_size"]),
        window=int(config["sliding_window"]),
        pattern=int(config.get("sliding_window_pattern") or 6),
        context=int(config["max_position_embeddings"]),
    )


def add_shape_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for every size of `OPTIONS`, and ``--weights-seed``."""
    for key, what in OPTIONS.items():
        parser.add_argument(option(key), type=int, metavar="N", help=f"{what} (default: the shape's)")
    parser.add_argument("--weights-seed", type=int, metavar="N", help="of the random weights (default: 0)")


def shape_asked(name: str, options: argparse.Namespace) -> Shape:
    """The named shape with what the options change. Raises `UserError`."""
    values = {key: getattr(options, key) for key in OPTIONS}
    return changed(preset(name), values | {"seed": options.weights_seed})


def any_size_asked(options: argparse.Namespace) -> str | None:
    """The first option of a shape that was given, for a command that has none."""
    asked = (key for key in (*OPTIONS, "weights_seed") if getattr(options, key) is not None)
    return next((option(key) for key in asked), None)


def option(key: str) -> str:
    return "--weights-seed" if key == "seed" else f"--{key.replace('_', '-')}"
