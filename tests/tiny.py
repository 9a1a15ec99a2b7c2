"""A tiny random router for tests: local and global layers, its own tokenizer, a few hundred kilobytes, made in seconds.

The weights are random but scaled so that what exporters get wrong shows: norm weights are not zero (the +1 matters),
logits vary by several units, and a wrong window or position moves them further than rounding to 8 bits does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from export.base import Checkpoint
from router.toolset import Schema, Tool, Toolset

if TYPE_CHECKING:
    import torch

LAYERS = 7
PATTERN = 6
WINDOW = 64
CONTEXT = 1024

_ROOM = Schema("string", enum=("kitchen", "hall", "bath"))
_LIGHT = {"room": _ROOM, "level": Schema("integer", minimum=0, maximum=100), "on": Schema("boolean")}

LIGHTS = Toolset(
    "lights",
    (
        Tool("set_light", "Switch a light.", Schema("object", properties=_LIGHT, required=("room", "on"))),
        Tool("status", "Say what is on.", Schema("object", properties={"room": _ROOM}, required=("room",))),
    ),
)
"""Tools without free text: also a random model comes to an end, after a few decisions."""

ONE_LIGHT = Toolset("one-light", LIGHTS.tools[:1])


def tiny_checkpoint(folder: Path, *, seed: int = 0) -> Checkpoint:
    """Write a seeded random Gemma 3 checkpoint (fp32) and its tokenizer into `folder` and open it."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    from export.checkpoint import open_checkpoint
    from train.tokenizer import train_tokenizer

    folder = Path(folder)
    train_tokenizer(corpus(), folder, vocab_size=768, seed=seed)
    config = Gemma3TextConfig(
        vocab_size=_vocabulary(folder),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=CONTEXT,
        sliding_window=WINDOW,
        sliding_window_pattern=PATTERN,
        rope_theta=1e6,
        rope_local_base_freq=1e4,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        torch_dtype="float32",
        architectures=["Gemma3ForCausalLM"],
    )
    model = Gemma3ForCausalLM(config).eval()
    _fill(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder, safe_serialization=True)
    return open_checkpoint(folder, name="tiny")


def _vocabulary(folder: Path) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(with_added_tokens=True))


def _fill(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights by name. Matrices keep the variance of their input; the rest is chosen for the logits' spread.

    The embedding is small and the last norm large, so that a token's own embedding does not win every time (the
    head is tied to it). Larger query and key norms would make the model chaotic: 4 bits then look like a bug.
    """
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith("embed_tokens.weight"):
                weight.copy_(noise * 0.1)
            elif name == "model.norm.weight":
                weight.copy_(2.5 + 0.4 * noise)
            elif weight.ndim == 1:
                weight.copy_(0.3 * noise)
            else:
                weight.copy_(noise / weight.shape[1] ** 0.5)


_VERBS = "find search load open run create update delete publish sync copy show list fetch start make send move".split()
_NOUNS = "directive script knowledge entry registry project user email report backup invoice note page photo".split()
_TAILS = ["from registry", "to user", "in my project", "please", "about taxes", "for tomorrow", "now", "again", "asap"]


def corpus() -> Iterator[str]:
    """A few hundred lines in the words of routers: declarations, calls, requests, some digits and accents."""
    yield "You are a model that can do function calling with the following functions"
    yield "type description properties required items enum parameters STRING NUMBER INTEGER BOOLEAN ARRAY OBJECT"
    yield "item_type item_id action query source destination project_path parameters local registry directive script"
    for i, verb in enumerate(_VERBS):
        for j, noun in enumerate(_NOUNS):
            tail = _TAILS[(i * 5 + j) % len(_TAILS)]
            yield f"{verb} {noun} {tail}"
            yield f"call:{verb}{{item_id:{noun}_{tail.replace(' ', '_')},item_type:{noun},limit:{i * 7 + j}}}"
            yield f"declaration:{verb}_{noun}{{description:{verb.title()} the {noun} {tail}.,parameters:{{}}}}"
    yield "Grüße aus Köln, ça va? naïve café – “quoted” … 1234567890 \t <tag> [list] {object} a/b\\c #5 @home 100% x=y!"
