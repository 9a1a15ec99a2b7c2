"""A packed row must give every request what it would give alone behind the block."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from train.base import gemma3_config  # noqa: E402
from train.packing import IGNORED, TARGET_ROOM, collate, pack, use_packed_attention  # noqa: E402


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    from transformers import Gemma3ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 7, "num_attention_heads": 4,
             "num_key_value_heads": 1, "head_dim": 32}  # fmt: skip
    config = gemma3_config(shape, 300)
    config.sliding_window = 32
    return Gemma3ForCausalLM(config).eval()


def ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(4, 300) for _ in range(count)]


def test_packed_rows_equal_single_rows(model) -> None:  # type: ignore[no-untyped-def]
    rng = random.Random(0)
    blocks = [
        (ids(rng, 50), [(ids(rng, 9), ids(rng, 5)), (ids(rng, 20), ids(rng, 30)), (ids(rng, 3), ids(rng, 1))]),
        (ids(rng, 20), [(ids(rng, 4), ids(rng, 6))]),  # far shorter: padded by more than its longest request
    ]
    model.config._attn_implementation = "eager"
    alone = []
    with torch.no_grad():
        for prefix, pairs in blocks:
            for request, completion in pairs:
                logits = model(torch.tensor([[*prefix, *request, *completion]])).logits[0]
                alone.append(logits[len(prefix) + len(request) - 1 : -1])
        use_packed_attention(model)
        batch = collate([pack(prefix, pairs, limit=500) for prefix, pairs in blocks], window=32)
        masks = {"full_attention": batch.full, "sliding_attention": batch.sliding}
        hidden = model.model(batch.ids, attention_mask=masks, position_ids=batch.positions, use_cache=False)
        packed = model.lm_head(hidden.last_hidden_state.reshape(-1, 64)[batch.where])[: batch.scored]
    torch.testing.assert_close(packed, torch.cat(alone), atol=2e-5, rtol=1e-4)
    wanted = [t for _, pairs in blocks for _, completion in pairs for t in completion]
    assert batch.targets.tolist() == [*wanted, *[IGNORED] * (TARGET_ROOM - len(wanted))]


def test_pack_stops_at_the_limit_and_scores_only_completions() -> None:
    row = pack([1, 2, 3], [([4, 5], [6, 7]), ([8], [9]), ([10] * 50, [11])], limit=12)
    assert row.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4]
    assert row.segments.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    predicted = [int(row.ids[i + 1]) for i in row.loss.nonzero()[0]]
    assert predicted == [6, 7, 9]
