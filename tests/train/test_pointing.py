"""Heads that are taught where to look: what they are asked, how it is scored, and that nothing of it stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from export.base import Checkpoint  # noqa: E402
from router.tokenizer import RouterTokenizer  # noqa: E402
from router.toolset import Call, Schema, Toolset  # noqa: E402
from runtimes.errors import UserError  # noqa: E402
from train.base_rows import encode_block  # noqa: E402
from train.data.corpus import make_tool  # noqa: E402
from train.data.mixture import Block  # noqa: E402
from train.loop import LoopConfig, fit  # noqa: E402
from train.packing import Layout, collate  # noqa: E402
from train.pointing import (  # noqa: E402
    CHOICE,
    COPY,
    TAUGHT,
    choosing,
    copying,
    forget,
    naming,
    reading,
    taught_loss,
    teach,
)

Lesson = Callable[..., tuple[torch.Tensor, float, int]]
TOOLS = tuple(
    make_tool(name, about, {"query": Schema("string")})
    for name, about in (("find_movies", "Find films"), ("GetWeather", "Weather in a city"), ("send", "Send a mail"))
)
ROWS = [
    ("films with rain", [Call("find_movies", {"query": "rain"})]),
    ("hello", []),
    ("rain today? then mail bob", [Call("GetWeather", {"query": "today"}), Call("send", {"query": "bob"})]),
]


@pytest.fixture
def tokenizer(tiny: Checkpoint) -> RouterTokenizer:
    return RouterTokenizer.load(tiny.folder / "tokenizer.json")


def layout(tokenizer: RouterTokenizer) -> tuple[Layout, list[int]]:
    row = encode_block(tokenizer, Block(Toolset("three", TOOLS), ROWS), limit=2000)
    batch = collate([row], window=512)
    return batch.full[0], batch.ids[0].tolist()


def test_the_places_are_those_of_ends_and_names(tokenizer: RouterTokenizer) -> None:
    found, ids = layout(tokenizer)
    assert [ids[i] for i in found.ends] == [tokenizer.control_id("end_declaration")] * 3
    pieces = [tokenizer.encode_text(t.name) for t in TOOLS]
    assert [ids[i] for i in found.named] == [i for p in pieces for i in p]
    assert found.owner.tolist() == [n for n, p in enumerate(pieces) for _ in p]
    assert [ids[i + 1] for i in found.asked] == [i for p in pieces for i in p]  # each tool is called once, in order
    assert found.right.tolist() == found.owner.tolist()


def test_a_head_that_looks_right_has_no_loss_and_one_that_does_not_has(tokenizer: RouterTokenizer) -> None:
    found, ids = layout(tokenizer)
    axes = 9 * torch.eye(len(TOOLS))
    nothing = torch.zeros(len(ids), len(TOOLS))

    def scored(look: dict[str, int]) -> tuple[float, float, float, float]:
        """Both heads, where every query looks at the tool that is `look` further than the right one."""
        query, key = nothing.clone(), nothing.clone()
        key[found.ends] = axes
        query[found.asked] = axes[(found.right + look["choosing"]) % 3] * 0.5
        chosen = choosing(query, key, found)
        query, key = nothing.clone(), nothing.clone()
        key[found.named] = axes[found.owner]
        query[found.ends] = axes[(torch.arange(3) + look["naming"]) % 3] * 0.5
        named = naming(query, key, found)
        assert (chosen[2], named[2]) == (len(found.right), 3)
        return float(chosen[0]), chosen[1] / chosen[2], float(named[0]), named[1] / named[2]

    assert scored({"choosing": 0, "naming": 0}) == pytest.approx((0, 1, 0, 1), abs=1e-3)
    loss, share, other_loss, other_share = scored({"choosing": 1, "naming": 1})
    assert loss > 10
    assert share == 0
    assert other_loss > 10
    assert other_share < 0.5  # the first declaration sees no name but its own


@pytest.mark.parametrize("lesson", [reading, copying])
def test_copying_is_scored_within_the_own_request(tokenizer: RouterTokenizer, lesson: Lesson) -> None:
    found, ids = layout(tokenizer)
    places, targets = (found.reading, found.ahead) if lesson is reading else (found.copying, found.source)
    assert len(places) == len(targets) > 0
    assert bool((targets >= found.prefix).all())
    size = len(ids)
    key = 9 * torch.eye(size)
    right = torch.zeros(size, size)
    right[places, targets] = 1
    loss, hits, count = lesson(right, key, found)
    assert (float(loss), hits, count) == pytest.approx((0, len(targets), len(targets)), abs=0.5)
    # What another request or the block says is no choice: the strongest key there changes nothing.
    loud = key.clone()
    loud[: found.prefix] = 99
    assert float(lesson(right, loud, found)[0]) == pytest.approx(float(loss), abs=1e-4)
    wrong = torch.zeros(size, size)
    wrong[places, places] = 1
    assert lesson(wrong, key, found)[1] == 0


def test_a_batch_without_calls_has_no_loss(tokenizer: RouterTokenizer) -> None:
    row = encode_block(tokenizer, Block(Toolset("three", TOOLS), [("hello", [])]), limit=2000)
    found = collate([row], window=512).full[0]
    query = torch.randn(len(row) + 100, 4, requires_grad=True)
    assert choosing(query, query, found)[2] == 0

    class Module:
        taught = (choosing(query, query, found),)

    loss, share = taught_loss(Module())
    assert (float(loss), share) == (0, 0)


def test_training_teaches_the_heads_and_leaves_nothing_behind(tmp_path: Path, tokenizer: RouterTokenizer) -> None:
    from tests.train.test_loop import small_model

    torch.manual_seed(0)
    model = small_model(vocab=tokenizer.vocab_size, layers=max(COPY) + 1)
    row = encode_block(tokenizer, Block(Toolset("three", TOOLS), ROWS), limit=2000)
    config = LoopConfig(
        steps=40, learning_rate=5e-3, warmup=2, validate_every=40, save_every=40, threads=1, pointing=1.0, copying=1.0,
        log_every=10, precision="fp32",
    )  # fmt: skip
    fit(model, lambda step: [row], [[row]], tmp_path, config, trainable=lambda m: dict(m.state_dict()))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    heads = [line["heads"] for line in log if "heads" in line]
    assert heads[-1] == [1.0, 1.0, 1.0, 1.0]
    assert sum(heads[0]) < 4
    for layer in (*CHOICE, *COPY):
        attention = model.model.layers[layer].self_attn
        assert not hasattr(attention, TAUGHT)
        assert not hasattr(attention, "taught")


def test_teach_and_forget(tokenizer: RouterTokenizer) -> None:
    from tests.train.test_loop import small_model

    model = small_model(vocab=tokenizer.vocab_size, layers=max(COPY) + 1)
    taught = teach(model, pointing=1.0, copying=0.5)
    assert [(getattr(m, TAUGHT), w) for m, w in taught] == [(naming, 1), (reading, 0.5), (choosing, 1), (copying, 0.5)]
    forget(taught)
    assert not any(hasattr(m, TAUGHT) for m, _ in taught)
    assert [getattr(m, TAUGHT) for m, _ in teach(model, pointing=0.2, copying=0)] == [naming, choosing]
    short = small_model(vocab=tokenizer.vocab_size)
    assert not teach(short, pointing=0, copying=0)
    with pytest.raises(UserError, match="need at least 7 layers; the model has 6"):
        teach(short, pointing=0, copying=0.1)
