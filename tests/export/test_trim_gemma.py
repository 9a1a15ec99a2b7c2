"""FunctionGemma's own vocabulary of 262,144 tokens cut to 32,768, under a small random network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from export.base import Checkpoint
from export.checkpoint import open_checkpoint
from export.trim import trim_checkpoint
from export.trim_record import Trim
from router.cases import load_cases
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from tests.llama import LlamaVocab
from tests.texts import TEXTS, random_texts

ROOT = Path(__file__).parents[2]
CASES = ROOT / "configs" / "cases" / "kiwi" / "handwritten_dev.jsonl"
TOKENS = 32_768
SHAPE = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4,
         "num_key_value_heads": 1, "head_dim": 256}  # fmt: skip
"""FunctionGemma 270M's."""


@pytest.fixture(scope="module")
def whole(gemma_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("gemma-small")
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=262_144, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=4096,
    )  # fmt: skip
    Gemma3ForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    shutil.copyfile(gemma_tokenizer, folder / "tokenizer.json")
    return open_checkpoint(folder, name="gemma-small")


@pytest.fixture(scope="module")
def trimmed(whole: Checkpoint, kiwi: Toolset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """By merge order, and with every token of the development requests."""
    return trim_checkpoint(whole, Trim(("english", str(CASES)), TOKENS), kiwi, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def tokenizers(whole: Checkpoint, trimmed: Checkpoint) -> tuple[RouterTokenizer, RouterTokenizer, list[int]]:
    """Before, after, and the kept tokens' old ids."""
    before, after = (RouterTokenizer.load(one.folder / "tokenizer.json") for one in (whole, trimmed))
    return before, after, [before.vocabulary.find(after.vocabulary.piece(i)) for i in range(TOKENS)]


Both = tuple[RouterTokenizer, RouterTokenizer, list[int]]


def english() -> list[str]:
    """Lines that people wrote: the project's pages and its hand-written requests."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines() if line.strip()]
    cases = (ROOT / "configs" / "cases").glob("*/handwritten_*.jsonl")
    return lines + [json.loads(line)["user"] for path in sorted(cases) for line in path.read_text().splitlines()]


def test_english_text_is_tokenized_as_before(tokenizers: Both, kiwi: Toolset) -> None:
    before, after, kept = tokenizers
    known = set(kept)
    lines, same = english(), 0
    for line in [*lines, *TEXTS, *random_texts(100, 9)]:
        want, got = before.encode_text(line), after.encode_text(line)
        assert after.decode(got) == before.decode(want) == line.replace("▁", " ")
        if known.issuperset(want):
            assert [kept[i] for i in got] == want, line
            same += line in lines
    assert same > len(lines) / 3, "merge order keeps nine tokens of ten"
    for case in load_cases(CASES):
        assert [kept[i] for i in after.encode_text(case.user)] == before.encode_text(case.user)
    assert [kept[i] for i in after.prefix_ids(kiwi)] == before.prefix_ids(kiwi)
    assert before.control_id("start_turn") == 105 != after.control_id("start_turn")


def test_what_it_takes(whole: Checkpoint, trimmed: Checkpoint, tokenizers: Both) -> None:
    """Rows bit for bit; the tokenizer's file an eighth of what it was; at 270M less than half of the weights."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    kept = tokenizers[2]
    assert trimmed.vocab_size == len(kept) == TOKENS and kept == sorted(kept)
    name = "model.embed_tokens.weight"
    old, new = (load_file(one.folder / "model.safetensors")[name] for one in (whole, trimmed))
    assert new.tobytes() == old[kept].tobytes()
    sizes = [(one.folder / "tokenizer.json").stat().st_size for one in (whole, trimmed)]
    assert sizes[1] < sizes[0] / 8
    counts = []
    for tokens in (262_144, TOKENS):
        with torch.device("meta"):
            net = Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=tokens, **SHAPE))
        counts.append(sum(weight.numel() for weight in net.parameters()))
    assert counts[0] == 268_098_176 and counts[1] < 0.46 * counts[0]


def test_llama_cpp_tokenizes_as_we_do(trimmed: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    from export import gguf

    gguf.write(trimmed, tmp_path, "f32", kiwi)
    theirs, ours = LlamaVocab(tmp_path / "model.gguf"), Tokenizer.from_file(str(trimmed.folder / "tokenizer.json"))
    try:
        for text in [*TEXTS, *random_texts(100, 10), *english()[:200]]:
            assert theirs.encode(text) == ours.encode(text, add_special_tokens=False).ids, text
    finally:
        theirs.close()
