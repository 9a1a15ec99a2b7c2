"""Train the base model from scratch: tokenizer, Gemma 3 of any size, on declarations and calls."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint import TOKENIZER_FILES
from router.tokenizer import RouterTokenizer
from router.wire import render_completion, render_prompt
from runtimes.errors import UserError
from train.data.corpus import realise
from train.data.mixture import Block, Mixture
from train.data.sources import read_all
from train.data.synthetic import Words
from train.init import init_for_copying
from train.loop import LoopConfig, fit
from train.packing import Row, pack
from train.plot import plot_loss


@dataclass(frozen=True)
class BaseConfig:
    """``configs/train/base-*.yaml``: the model's shape, the mixture and the loop."""

    name: str
    vocab_size: int
    model: dict[str, Any]
    weights: dict[str, float]
    loop: LoopConfig
    words: Sequence[str]
    rows_per_step: int = 2
    row_tokens: int = 1024
    swap: float = 0.5
    seed: int = 0
    start: str | None = None
    """A base to go on from (shape and tokenizer are its), a folder relative to the working directory; None: none."""


def gemma3_config(shape: dict[str, Any], vocab_size: int) -> Any:
    """A `Gemma3TextConfig` with FunctionGemma's context, window and layer pattern, and the given widths."""
    from transformers import Gemma3TextConfig

    layers = int(shape["num_hidden_layers"])
    return Gemma3TextConfig(
        vocab_size=vocab_size,
        max_position_embeddings=32768,
        sliding_window=512,
        layer_types=["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)],
        query_pre_attn_scalar=shape["head_dim"],
        rope_theta=1_000_000.0,
        rope_local_base_freq=10_000.0,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        **shape,
    )


def tokenizer_lines(mixture: Mixture, *, blocks: int = 1500) -> Iterator[str]:
    """What the tokenizer is trained on: real requests, and prompts and completions of the first blocks."""
    rng = random.Random(mixture.seed)
    for corpus in mixture.corpora:
        for request in corpus.requests:
            yield realise(corpus, request, rng, swap=0.0)[0]
    for number in range(blocks):
        block = mixture.block(number, rows=10)
        yield render_prompt(block.toolset, block.rows[0][0])
        for text, calls in block.rows:
            yield text
            yield render_completion(calls)


def encode_block(tokenizer: RouterTokenizer, block: Block, *, limit: int) -> Row:
    """One packed row of a block."""
    requests = [
        (tokenizer.request_ids(text), tokenizer.completion_ids(calls)) for text, calls in block.rows if text.strip()
    ]
    return pack(tokenizer.prefix_ids(block.toolset), requests, limit=limit)


def make_mixture(config: BaseConfig, data: Path, *, dev: bool = False) -> Mixture:
    """The mixture over the corpora under `data`; `dev` takes their development portions."""
    train = read_all(data)
    texts = [r.text for c in train for r in c.requests]
    # The technical words are the vocabulary of the requests that routers for engineers see: weigh them up.
    words = Words([*texts, *[" ".join(config.words)] * 2])
    words.vocabulary += list(config.words) * 12
    corpora = read_all(data, dev=True) if dev else train
    weights = {
        k: v for k, v in config.weights.items() if k == "synthetic" or any(c.name == k and c.requests for c in corpora)
    }
    return Mixture(
        corpora, words, weights, seed=config.seed + (1_000_003 if dev else 0), swap=0.0 if dev else config.swap
    )


def _earlier(config: BaseConfig, folder: Path) -> Path:
    """The checkpoint that `start` names. Raises `UserError` where it is none, or of another shape."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json here; `start` names the base of an earlier stage, train that first")
    found = json.loads(path.read_text(encoding="utf-8"))
    for key, value in config.model.items():
        if found.get(key) != value:
            raise UserError(f"{path}: {key} is {found.get(key)}, the configuration says {value}; they must agree")
    return folder


def train_base(
    config: BaseConfig, data: Path, folder: Path, report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Train and write a Hugging Face checkpoint (bf16) with its tokenizer into ``folder/base``. Resumable."""
    import torch
    from transformers import Gemma3ForCausalLM

    from train.tokenizer import train_tokenizer

    mixture = make_mixture(config, data)
    target = folder / "base"
    torch.manual_seed(config.seed)
    if config.start is not None:
        first = _earlier(config, Path(config.start))
        target.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if (first / name).is_file():
                shutil.copyfile(first / name, target / name)
        tokenizer = RouterTokenizer.load(target / "tokenizer.json")
        model = Gemma3ForCausalLM.from_pretrained(first, dtype=torch.float32, local_files_only=True)
    else:
        if not (target / "tokenizer.json").is_file():
            train_tokenizer(tokenizer_lines(mixture), target, vocab_size=config.vocab_size, seed=config.seed)
        tokenizer = RouterTokenizer.load(target / "tokenizer.json")
        model = Gemma3ForCausalLM(gemma3_config(config.model, tokenizer.vocab_size))
        init_for_copying(model)
    parameters = sum(p.numel() for p in model.parameters())
    report({"steps": config.loop.steps, "parameters": parameters, "vocab_size": tokenizer.vocab_size})
    dev = make_mixture(config, data, dev=True)
    validation = [[encode_block(tokenizer, dev.block(n, rows=20), limit=config.row_tokens)] for n in range(24)]

    def rows(step: int) -> list[Row]:
        first = step * config.rows_per_step
        return [
            encode_block(tokenizer, mixture.block(first + i, rows=32), limit=config.row_tokens)
            for i in range(config.rows_per_step)
        ]

    result = fit(
        model,
        rows,
        validation,
        folder / "run",
        config.loop,
        trainable=lambda m: {k: v for k, v in m.state_dict().items() if k != "lm_head.weight"},
        report=report,
    )
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = list(tokenizer.stop_ids)
    model.to(torch.bfloat16).save_pretrained(target)
    plot_loss(folder / "run" / "log.jsonl", target / "loss.png", title=f"{config.name}: loss per completion token")
    return result
