"""A second random router, odd where the tiny one is even: what a format gets right for both is not luck.

Width 80 (its root, the embedding's scale, is no bfloat16 number; not divisible by 32), two key heads, a global layer
every third, a window of 24, the query scale not the head's width.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from export.base import Checkpoint

LAYERS = 4
PATTERN = 3
WINDOW = 24


def odd_checkpoint(folder: Path, tiny: Checkpoint, *, seed: int = 1, **changes: Any) -> Checkpoint:
    """Write it into `folder`, with `tiny`'s tokenizer; `changes` are further settings of `Gemma3TextConfig`."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    from export.checkpoint import open_checkpoint
    from tests.tiny import _fill

    settings: dict[str, Any] = {
        "vocab_size": tiny.vocab_size,
        "hidden_size": 80,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "query_pre_attn_scalar": 20,
        "max_position_embeddings": 512,
        "sliding_window": WINDOW,
        "sliding_window_pattern": PATTERN,
        "rope_theta": 5e4,
        "rope_local_base_freq": 1e3,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "torch_dtype": "float32",
    }
    folder.mkdir(parents=True, exist_ok=True)
    net = Gemma3ForCausalLM(Gemma3TextConfig(**(settings | changes))).eval()
    _fill(net, torch.Generator().manual_seed(seed))
    net.save_pretrained(folder, safe_serialization=True)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny.folder / name, folder / name)
    return open_checkpoint(folder, name="odd")


def reference(source: Checkpoint, tokens: list[int]) -> Any:
    """transformers' float32 logits, shape (len(tokens), vocab), of one pass without a cache."""
    import torch
    from transformers import Gemma3ForCausalLM

    net = Gemma3ForCausalLM.from_pretrained(source.folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        return net(torch.tensor([tokens])).logits[0].numpy()


def walk(session: Any, tokens: list[int], rng: Any, *, longest: int = 40) -> Any:
    """Feed `tokens` in random splits with random rewinds between; the logits row of every token, as last seen."""
    import numpy as np

    rows: dict[int, Any] = {}
    while session.position < len(tokens):
        if session.position and rng.random() < 0.4:
            session.rewind(int(rng.integers(0, session.position + 1)))
        start = session.position
        step = tokens[start : start + int(rng.integers(1, longest))]
        kind = "all" if rng.random() < 0.7 else "last"
        out = session.append(step, rows=kind)
        assert session.position == start + len(step)
        if kind == "last":
            out = out[None]
            start = session.position - 1
        assert out.dtype == np.float32
        rows |= {start + i: row.copy() for i, row in enumerate(out)}
    return rows


def random_tokens(source: Checkpoint, count: int, seed: int) -> list[int]:
    """Ids of the model's vocabulary, its first four control tokens left out."""
    import numpy as np

    return [int(token) for token in np.random.default_rng(seed).integers(4, source.vocab_size, count)]


def check_walk(model: Any, tokens: list[int], want: Any, seed: int, *, longest: int = 40) -> None:
    """Random splits and rewinds come to the logits `want`, a row for each token."""
    import numpy as np

    rows = walk(model.session(), tokens, np.random.default_rng(seed), longest=longest)
    assert len(rows) > len(tokens) / 4
    for position, row in rows.items():
        np.testing.assert_allclose(row, want[position], atol=2e-3, err_msg=f"position {position}")


def check_independence(model: Any, tokens: list[int], want: Any) -> None:
    """Two sessions turn and turn about come to the logits `want`, a row for each of more than 111 tokens."""
    import numpy as np

    first, second = model.session(), model.session()
    first.append(tokens[:100])
    second.append(tokens[5:50])
    np.testing.assert_allclose(first.append(tokens[100:110], rows="all"), want[100:110], atol=2e-3)
    second.rewind(0)
    np.testing.assert_allclose(second.append(tokens[:30], rows="all"), want[:30], atol=2e-3)
    np.testing.assert_allclose(first.append(tokens[110:112], rows="all"), want[110:112], atol=2e-3)
    np.testing.assert_allclose(second.append(tokens[30:32]), want[31], atol=2e-3)
