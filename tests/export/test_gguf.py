"""The GGUF export: the checkpoint's weights, a vocabulary that tokenizes like ours, grammar and Modelfile."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.base import Checkpoint, Written
from export.checkpoint import open_checkpoint
from router.toolset import Toolset
from runtimes.artifact import Artifact, sha256_file
from runtimes.errors import UserError
from tests.llama import LlamaVocab, field
from tests.odd import odd_checkpoint, reference
from tests.texts import TEXTS, random_texts

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")
pytest.importorskip("sentencepiece")

from gguf import GGUFReader

from export import gguf, gguf_vocab
from export.gguf_modelfile import modelfile
from router.wire import FUNCTIONGEMMA, GEMMA4, render_prompt
from runtimes.llama_cpp import open_model

Writer = Callable[[str], tuple[Path, Written]]


@pytest.fixture(scope="module")
def written(tiny: Checkpoint, kiwi: Toolset, tmp_path_factory: pytest.TempPathFactory) -> Writer:
    made: dict[str, tuple[Path, Written]] = {}

    def make(quant: str) -> tuple[Path, Written]:
        if quant not in made:
            folder = tmp_path_factory.mktemp("gguf") / quant
            made[quant] = folder, gguf.write(tiny, folder, quant, kiwi)
        return made[quant]

    return make


@pytest.fixture(scope="module")
def vocab(written: Writer) -> Iterator[LlamaVocab]:
    loaded = LlamaVocab(written("f32")[0] / "model.gguf")
    yield loaded
    loaded.close()


def checkpoint_weights(source: Checkpoint) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(source.folder / "model.safetensors")


def artifact(folder: Path, source: Checkpoint) -> Artifact:
    return Artifact(folder, {"format": "gguf", "weights": "model.gguf", "vocab_size": source.vocab_size})


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return {t.name: t.data for t in GGUFReader(folder / "model.gguf").tensors}


# Weights


@pytest.mark.parametrize("quant", ["f32", "f16"])
def test_weights_are_the_checkpoints(tiny: Checkpoint, written: Writer, quant: str) -> None:
    folder, facts = written(quant)
    got, want = tensors(folder), checkpoint_weights(tiny)
    assert len(got) == len(want)
    kind = np.float16 if quant == "f16" else np.float32
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.5.attn_q.weight": "model.layers.5.self_attn.q_proj.weight",
        "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
        "blk.6.ffn_down.weight": "model.layers.6.mlp.down_proj.weight",
    }
    for name, original in pairs.items():
        assert got[name].dtype == kind
        np.testing.assert_array_equal(got[name], want[original].astype(kind))
    norms = [name for name in got if name.endswith("norm.weight")]
    assert len(norms) == 6 * 7 + 1
    for name in norms:
        assert got[name].dtype == np.float32
    np.testing.assert_array_equal(got["output_norm.weight"], want["model.norm.weight"] + 1)
    np.testing.assert_array_equal(got["blk.3.attn_k_norm.weight"], want["model.layers.3.self_attn.k_norm.weight"] + 1)
    matrices = {"f32": "F32", "f16": "F16"}[quant]
    assert facts.details["tensor_types"][matrices] >= 50
    assert facts.details["fallback_types"] == {}


@pytest.mark.parametrize("quant", list(gguf.QUANTS))
def test_reported_types_are_those_in_the_file(written: Writer, quant: str) -> None:
    folder, facts = written(quant)
    counted: dict[str, int] = {}
    for t in GGUFReader(folder / "model.gguf").tensors:
        counted[t.tensor_type.name] = counted.get(t.tensor_type.name, 0) + 1
    assert facts.details["tensor_types"] == dict(sorted(counted.items()))
    assert facts.versions.keys() == {"gguf", "llama-cpp-python"}


def test_fallbacks_at_an_odd_width_are_named(written: Writer) -> None:
    """Width 64 is no multiple of 256: llama.cpp then writes other types than the file's name says."""
    assert written("q8_0")[1].details["fallback_types"] == {}
    fallbacks = written("q4_k_m")[1].details["fallback_types"]
    assert sum(fallbacks.values()) == 50
    assert not fallbacks.keys() & {"Q4_K", "Q6_K", "F32"}


def test_no_fallbacks_at_an_even_width(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    source = odd_checkpoint(
        tmp_path / "even", tiny, hidden_size=256, intermediate_size=512, head_dim=64, query_pre_attn_scalar=64
    )
    facts = gguf.write(source, tmp_path / "out", "q4_k_m", kiwi)
    assert facts.details["fallback_types"] == {}
    assert facts.details["tensor_types"].keys() == {"F32", "Q4_K", "Q6_K"}


def test_the_same_twice(tiny: Checkpoint, kiwi: Toolset, written: Writer, tmp_path: Path) -> None:
    gguf.write(tiny, tmp_path, "q8_0", kiwi)
    for name in ("model.gguf", "toolset.gbnf", "Modelfile"):
        assert sha256_file(tmp_path / name) == sha256_file(written("q8_0")[0] / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Modelfile", "model.gguf", "toolset.gbnf"]


@pytest.mark.parametrize(
    "changes",
    [
        {},  # a global layer every third, queries not scaled by the head's width, other rope bases
        {"tie_word_embeddings": False},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "sliding_window_pattern": 2},
        {"sliding_window_pattern": 1},  # no window at all
    ],
    ids=["odd", "untied", "rope-scaled", "pattern-2", "pattern-1"],
)
def test_other_shapes_compute_the_same(
    tiny: Checkpoint, kiwi: Toolset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    source = odd_checkpoint(tmp_path / "source", tiny, **changes)
    gguf.write(source, tmp_path / "out", "f32", kiwi)
    tokens = random.Random(1).choices(range(source.vocab_size), k=200)
    model = open_model(artifact(tmp_path / "out", source), device="cpu", threads=1)
    try:
        got = model.session().append(tokens, rows="all")
    finally:
        model.close()
    want = reference(source, tokens)
    assert np.abs(got - want).max() < 0.02 < np.abs(want).max()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling"),
        ({"hidden_activation": "silu"}, "hidden_activation"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused(
    tiny: Checkpoint, kiwi: Toolset, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    source = dataclasses.replace(tiny, config=tiny.config | changes)
    with pytest.raises(UserError, match=named) as raised:
        gguf.write(source, tmp_path, "f32", kiwi)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_quantization(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="q9.*q8_0"):
        gguf.write(tiny, tmp_path, "q9", kiwi)


def changed_weights(tiny: Checkpoint, folder: Path, change: Callable[[dict[str, Any]], None]) -> Checkpoint:
    import torch  # noqa: F401
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny.folder, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return open_checkpoint(folder)


def test_values_too_large_for_16_bits(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["model.layers.2.mlp.up_proj.weight"][3, 5] = 1e5

    source = changed_weights(tiny, tmp_path / "large", change)
    with pytest.raises(UserError, match=r"blk\.2\.ffn_up"):
        gguf.write(source, tmp_path / "out", "f16", kiwi)
    assert list((tmp_path / "out").iterdir()) == []
    gguf.write(source, tmp_path / "out", "f32", kiwi)


def test_a_checkpoint_in_bf16_is_refused(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        for name in weights:
            weights[name] = weights[name].bfloat16()

    with pytest.raises(UserError, match="BF16"):
        gguf.write(changed_weights(tiny, tmp_path / "bf16", change), tmp_path / "out", "f32", kiwi)


def test_a_foreign_tensor_is_refused(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["vision_tower.patch.weight"] = weights["model.norm.weight"].clone()

    with pytest.raises(UserError, match="vision_tower"):
        gguf.write(changed_weights(tiny, tmp_path / "foreign", change), tmp_path / "out", "f32", kiwi)


def test_a_broken_safetensors_file(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    shutil.copytree(tiny.folder, tmp_path / "source")
    whole = (tiny.folder / "model.safetensors").read_bytes()
    (tmp_path / "source" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    source = dataclasses.replace(tiny, folder=tmp_path / "source")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        gguf.write(source, tmp_path / "out", "f32", kiwi)


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """`small_disk(n)`: from now on no file may grow beyond n bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("quant", ["f32", "q8_0"])
def test_a_full_disk(
    tiny: Checkpoint, kiwi: Toolset, tmp_path: Path, small_disk: Callable[[int], None], quant: str
) -> None:
    small_disk(200_000)
    with pytest.raises(UserError, match="disk full") as raised:
        gguf.write(tiny, tmp_path, quant, kiwi)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_while_quantizing(written: Writer, tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    small_disk(100_000)
    with pytest.raises(OSError, match="No space left"):
        gguf._quantize(written("f32")[0] / "model.gguf", tmp_path / "q.gguf", "q8_0", {})


# Metadata and vocabulary


def test_metadata(tiny: Checkpoint, written: Writer, vocab: LlamaVocab) -> None:
    reader = GGUFReader(written("q8_0")[0] / "model.gguf")
    config = tiny.config
    want = {
        "general.architecture": "gemma3",
        "gemma3.context_length": tiny.context_length,
        "gemma3.embedding_length": config["hidden_size"],
        "gemma3.block_count": config["num_hidden_layers"],
        "gemma3.feed_forward_length": config["intermediate_size"],
        "gemma3.attention.head_count": config["num_attention_heads"],
        "gemma3.attention.head_count_kv": config["num_key_value_heads"],
        "gemma3.attention.key_length": config["head_dim"],
        "gemma3.attention.value_length": config["head_dim"],
        "gemma3.attention.sliding_window": config["sliding_window"],
        "gemma3.rope.freq_base": config["rope_theta"],
        "gemma3.rope.freq_base_swa": config["rope_local_base_freq"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": (tiny.folder / "chat_template.jinja").read_text(),
    }
    assert {key: field(reader, key) for key in want} == pytest.approx(want)
    assert "gemma3.attention.sliding_window_pattern" not in reader.fields  # llama.cpp's own default is right
    spec = json.loads((tiny.folder / "tokenizer.json").read_text())
    ids = {t["content"]: t["id"] for t in spec["added_tokens"]}
    assert vocab.special("bos") == ids["<bos>"]
    assert vocab.special("eos") == ids["<eos>"]
    assert vocab.special("pad") == ids["<pad>"]
    assert vocab.special("eot") == ids["<end_of_turn>"]


def test_stock_tools_see_calls_and_stop_after_them(tiny: Checkpoint, vocab: LlamaVocab) -> None:
    wire = FUNCTIONGEMMA
    for token in (wire.start_call, wire.end_call, wire.escape):
        (made,) = vocab.encode(token)
        assert vocab.text(made) == token
        assert not vocab.ends(made)
    for token in (*wire.stops, wire.eos):
        (made,) = vocab.encode(token)
        assert vocab.text(made) == ""
        assert vocab.ends(made)
    for token in (wire.start_turn, wire.start_declaration, wire.end_declaration, wire.end_response, wire.bos):
        (made,) = vocab.encode(token)
        assert vocab.text(made) == ""
        assert not vocab.ends(made)
        assert made not in vocab.encode(token, control=False)


@pytest.mark.parametrize("scores", ["tokenizer.model", "tokenizer.json"])
def test_llama_cpp_tokenizes_as_we_do(
    tiny: Checkpoint, kiwi: Toolset, tmp_path: Path, written: Writer, scores: str
) -> None:
    from tokenizers import Tokenizer

    folder, facts = written("f32")
    if scores == "tokenizer.json":
        shutil.copytree(tiny.folder, tmp_path / "source")
        (tmp_path / "source" / "tokenizer.model").unlink()
        folder = tmp_path / "out"
        facts = gguf.write(dataclasses.replace(tiny, folder=tmp_path / "source"), folder, "f32", kiwi)
    assert facts.details["scores_from"] == scores
    ours = Tokenizer.from_file(str(tiny.folder / "tokenizer.json"))
    theirs = LlamaVocab(folder / "model.gguf")
    try:
        for text in [*TEXTS, *random_texts(300, 7), render_prompt(kiwi, "Grüße, 42 × 你好\nzwei")]:
            assert theirs.encode(text) == ours.encode(text, add_special_tokens=False).ids, text
    finally:
        theirs.close()


def test_rows_without_a_token_and_tokens_without_a_row(tiny: Checkpoint, tmp_path: Path) -> None:
    rows = tiny.vocab_size
    longer = gguf_vocab.read_vocabulary(tiny.folder, rows + 3)
    assert longer.pieces[rows:] == [b"[PAD%d]" % i for i in range(rows, rows + 3)]
    assert longer.types[rows:] == [gguf_vocab.UNUSED] * 3
    assert len(longer.scores) == rows + 3
    spec = json.loads((tiny.folder / "tokenizer.json").read_text())
    image = {**spec["added_tokens"][0], "id": rows, "content": "<image_soft_token>"}
    spec["added_tokens"].append(image)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    cut = gguf_vocab.read_vocabulary(tmp_path, rows)
    assert len(cut.pieces) == rows
    assert b"<image_soft_token>" not in cut.pieces
    with pytest.raises(UserError, match="rows"):
        gguf_vocab.read_vocabulary(tmp_path, rows - 1)


def broken(change: Callable[[dict[str, Any]], None], tiny: Checkpoint, folder: Path) -> Path:
    spec = json.loads((tiny.folder / "tokenizer.json").read_text())
    change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    shutil.copyfile(tiny.folder / "tokenizer.model", folder / "tokenizer.model")
    return folder


def test_tokenizers_that_cannot_be_written(tiny: Checkpoint, tmp_path: Path) -> None:
    def swap(spec: dict[str, Any]) -> None:
        vocab = spec["model"]["vocab"]
        one, other = [piece for piece, i in vocab.items() if i >= tiny.vocab_size - 2]
        vocab[one], vocab[other] = vocab[other], vocab[one]

    def byte_level(spec: dict[str, Any]) -> None:
        spec["model"]["byte_fallback"] = False

    def no_escape(spec: dict[str, Any]) -> None:
        spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] != "<escape>"]

    for change, message in ((swap, "agree"), (byte_level, "Gemma"), (no_escape, "<escape>")):
        with pytest.raises(UserError, match=message) as raised:
            gguf_vocab.read_vocabulary(broken(change, tiny, tmp_path), tiny.vocab_size)
        assert "\n" not in str(raised.value)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        gguf_vocab.read_vocabulary(tmp_path, tiny.vocab_size)


# Companions


def test_the_grammar_is_the_toolsets(kiwi: Toolset, written: Writer) -> None:
    from router.gbnf import gbnf

    assert (written("f32")[0] / "toolset.gbnf").read_text() == gbnf(kiwi)


def rendered(text: str, request: str) -> str:
    """What Ollama's template gives for a request: the part of Go's language that the Modelfile uses."""
    (template,) = re.findall(r'^TEMPLATE """(.*?)"""$', text, re.DOTALL | re.MULTILINE)

    def action(match: re.Match[str]) -> str:
        inside = match.group(1).strip()
        return request if inside == ".Prompt" else str(json.loads(inside))

    return re.sub(r"\{\{(.*?)\}\}", action, template)


@pytest.mark.parametrize("wire", [FUNCTIONGEMMA, GEMMA4], ids=lambda w: w.name)
def test_the_modelfile_renders_our_prompt(kiwi: Toolset, wire: Any) -> None:
    tool = kiwi.tools[0]
    nasty = dataclasses.replace(tool, name="nasty", description='braces {{ .X }} {{{ and quotes """" or "" end}}')
    toolset = dataclasses.replace(kiwi, tools=(*kiwi.tools, nasty))
    text = modelfile("model.gguf", toolset, wire, context=32768)
    assert rendered(text, "find email scripts") == render_prompt(toolset, "find email scripts", wire)
    lines = text.splitlines()
    assert "FROM ./model.gguf" in lines
    assert "PARAMETER temperature 0" in lines
    assert {f'PARAMETER stop "{stop}"' for stop in wire.stops} <= set(lines)
    assert "PARAMETER num_ctx 4096" in lines
    assert "PARAMETER num_ctx 512" in modelfile("model.gguf", toolset, wire, context=512)


def test_availability_names_a_version() -> None:
    state = gguf.availability()
    assert state.available
    assert state.version
