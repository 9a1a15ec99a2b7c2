"""A trimmed checkpoint: the same weights for the tokens that are left, the same calls, and every format reads it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import path as config
from export.base import Checkpoint
from export.checkpoint import open_checkpoint
from export.merge import merge_checkpoint
from export.pipeline import export_one
from export.proof import verify
from export.trim import trim_checkpoint
from export.trim_cases import BYTES, KEPT, PIECES, by_spelling, write_cases
from export.trim_record import RECORD, Trim
from router.cases import Case, load_cases
from router.core import Router
from router.render import render_prompt
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.wire import FUNCTIONGEMMA
from runtimes.artifact import Artifact, open_artifact
from runtimes.base import Logits
from runtimes.errors import UserError
from runtimes.torch import open_model
from tests.llama import LlamaVocab
from tests.texts import TEXTS, random_texts
from tests.tiny import LIGHTS

CASES = config("cases", "kiwi", "handwritten_dev.jsonl")
BY_CASES = Trim((str(CASES),))
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def whole(work: Path) -> Checkpoint:
    """The seed router, merged."""
    return merge_checkpoint("seed", work, toolset="kiwi")


@pytest.fixture(scope="module")
def trimmed(whole: Checkpoint, kiwi: Toolset, work: Path) -> Checkpoint:
    """The same with the tokens of kiwi and of the development cases."""
    return trim_checkpoint(whole, BY_CASES, kiwi, work)


@pytest.fixture(scope="module")
def kept(whole: Checkpoint, trimmed: Checkpoint) -> list[int]:
    """The kept tokens' ids in the whole vocabulary, by their new ids."""
    return kept_ids(whole, trimmed)


def tokenizer_of(source: Checkpoint) -> RouterTokenizer:
    return RouterTokenizer.load(source.folder / "tokenizer.json")


def kept_ids(whole: Checkpoint, trimmed: Checkpoint) -> list[int]:
    before, after = tokenizer_of(whole).vocabulary, tokenizer_of(trimmed).vocabulary
    return [before.find(after.piece(i)) for i in range(trimmed.vocab_size)]


def plain(source: Checkpoint) -> Artifact:
    """The checkpoint folder as the reference reads it."""
    manifest = {"format": "safetensors", "quant": "fp32", "weights": ".", "wire": "functiongemma"}
    sizes = {"vocab_size": source.vocab_size, "context_length": source.context_length}
    return Artifact(source.folder, manifest | sizes)


def test_ids_are_handed_out_anew_in_the_old_order(trimmed: Checkpoint, whole: Checkpoint, kept: list[int]) -> None:
    assert kept == sorted(set(kept))
    assert len(kept) == trimmed.vocab_size == tokenizer_of(trimmed).vocab_size < 0.6 * whole.vocab_size


def test_weights_are_the_checkpoints_bit_for_bit(whole: Checkpoint, trimmed: Checkpoint, kept: list[int]) -> None:
    before, after = (load_file(one.folder / "model.safetensors") for one in (whole, trimmed))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        want = weight[kept] if name == EMBEDDING else weight
        assert after[name].dtype == want.dtype and after[name].tobytes() == want.tobytes(), name


def test_untied_heads_lose_the_same_rows(tiny: Checkpoint, tmp_path: Path) -> None:
    from tests.odd import odd_checkpoint

    source = odd_checkpoint(tmp_path / "odd", tiny, tie_word_embeddings=False)
    made = trim_checkpoint(source, Trim((), 600), LIGHTS, tmp_path)
    before, after = (load_file(one.folder / "model.safetensors") for one in (source, made))
    rows = kept_ids(source, made)
    for name in (EMBEDDING, "lm_head.weight"):
        assert after[name].tobytes() == before[name][rows].tobytes()
    assert before[EMBEDDING].tobytes() != before["lm_head.weight"].tobytes()


def test_every_file_names_the_new_ids(whole: Checkpoint, trimmed: Checkpoint, kiwi: Toolset) -> None:
    """config, generation config, tokenizer config and transformers' own view of them."""
    from transformers import AutoTokenizer

    before, after = tokenizer_of(whole), tokenizer_of(trimmed)
    moved = [t for t in FUNCTIONGEMMA.control_tokens if before.control_id(t) != after.control_id(t)]
    for name in ("config.json", "generation_config.json"):
        old, new = (json.loads((one.folder / name).read_text()) for one in (whole, trimmed))
        for key in (k for k in old if k.endswith("_token_id")):
            ids = [(value if isinstance(value, list) else [value]) for value in (old[key], new[key])]
            assert [before.vocabulary.piece(i) for i in ids[0]] == [after.vocabulary.piece(i) for i in ids[1]], key
    assert json.loads((trimmed.folder / "config.json").read_text())["vocab_size"] == trimmed.vocab_size
    settings = json.loads((trimmed.folder / "tokenizer_config.json").read_text())
    for i, token in settings["added_tokens_decoder"].items():
        assert after.vocabulary.piece(int(i)) == token["content"]
    hugging = AutoTokenizer.from_pretrained(trimmed.folder)
    assert len(hugging) == trimmed.vocab_size and hugging.chat_template
    text = render_prompt(kiwi, "find email scripts")
    assert hugging(text, add_special_tokens=False)["input_ids"] == after.encode(text)
    assert not moved, "the seed's control tokens come first; ids that move are tested below"


def moved_tokens(source: Checkpoint, folder: Path) -> Checkpoint:
    """`source` with its tokens in another order: control tokens last, as no trained tokenizer has them."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    spec = json.loads((source.folder / "tokenizer.json").read_text())
    controls = {t["id"] for t in spec["added_tokens"]}
    order = [*(i for i in range(source.vocab_size) if i not in controls), *sorted(controls)]
    new = {old: i for i, old in enumerate(order)}
    spec["added_tokens"] = [{**t, "id": new[t["id"]]} for t in spec["added_tokens"]]
    spec["model"]["vocab"] = {piece: new[i] for piece, i in spec["model"]["vocab"].items()}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    settings = json.loads((source.folder / "tokenizer_config.json").read_text())
    decoder = settings["added_tokens_decoder"]
    settings["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in decoder.items()}
    settings |= {"boi_token": "<start_of_image>", "extra_special_tokens": {"image": "<start_of_image>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    state = load_file(source.folder / "model.safetensors")
    state[EMBEDDING] = state[EMBEDDING][torch.tensor(order)]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    names = {"bos_token_id": new[2], "eos_token_id": new[1], "pad_token_id": new[0]}
    (folder / "config.json").write_text(json.dumps(source.config | names))
    ends = [new[1], *(t["id"] for t in spec["added_tokens"] if t["content"] == "<end_of_turn>")]
    (folder / "generation_config.json").write_text(json.dumps({**names, "eos_token_id": ends}))
    return open_checkpoint(folder, name="moved")


def add_tokens(folder: Path, **added: bool) -> None:
    """Give rare pieces of ``tokenizer.json`` up for added tokens; the values say whether they are special."""
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    vocab = spec["model"]["vocab"]
    taken = {t["id"] for t in spec["added_tokens"]}
    spare = [p for p, i in sorted(vocab.items(), key=lambda item: item[1]) if len(p) == 2 and i not in taken]
    for old, (content, special) in zip(spare, added.items(), strict=False):
        vocab[content] = i = vocab.pop(old)
        spec["model"]["merges"] = [m for m in spec["model"]["merges"] if old not in (*m, "".join(m))]
        spec["added_tokens"].append({**spec["added_tokens"][0], "id": i, "content": content, "special": special})
    path.write_text(json.dumps(spec))


def test_control_tokens_that_move(tiny: Checkpoint, tmp_path: Path) -> None:
    source = moved_tokens(tiny, tmp_path / "moved")
    add_tokens(source.folder, **{"<start_of_image>": True})
    source = open_checkpoint(source.folder, name="moved")
    made = trim_checkpoint(source, Trim((), 600), LIGHTS, tmp_path)
    before, after = tokenizer_of(source), tokenizer_of(made)
    gone = tiny.vocab_size - 600
    assert all(before.control_id(t) - after.control_id(t) == gone for t in FUNCTIONGEMMA.control_tokens)
    ends = json.loads((made.folder / "generation_config.json").read_text())["eos_token_id"]
    assert [after.vocabulary.piece(i) for i in ends] == ["<eos>", "<end_of_turn>"]
    assert after.vocabulary.piece(made.config["pad_token_id"]) == "<pad>"
    assert "<start_of_image>" not in (made.folder / "tokenizer.json").read_text(), "nobody needs it"
    settings = json.loads((made.folder / "tokenizer_config.json").read_text())
    assert "boi_token" not in settings and settings["extra_special_tokens"] == {}
    prompts = [one.prompt_ids(LIGHTS, "kitchen on") for one in (before, after)]
    assert [kept_ids(source, made)[i] for i in prompts[1]] == prompts[0]


# Texts


def requests() -> list[str]:
    return [case.user for case in load_cases(CASES)]


def mixed(words: list[str], n: int) -> Iterator[str]:
    chance = random.Random(3)
    for _ in range(n):
        yield " ".join(chance.choices(words, k=chance.randint(1, 8)))


def test_text_of_kept_tokens_is_tokenized_as_before(
    whole: Checkpoint, trimmed: Checkpoint, kept: list[int], kiwi: Toolset
) -> None:
    """Also in other orders and other surroundings; all other text is spelled in what is left and reads back."""
    before, after = tokenizer_of(whole), tokenizer_of(trimmed)
    known = [w for line in requests() for w in line.split()]
    foreign = "quixotic Überraschung 北京 🎉 naïve zymurgy tourniquet".split()
    mine = [*requests(), *mixed(known, 400)]
    others = [*TEXTS, *random_texts(200, 5), *mixed(known + foreign * 20, 300)]
    counts = [0, 0]
    for text in [*mine, *others]:
        want, got = before.encode_text(text), after.encode_text(text)
        assert after.decode(got) == before.decode(want) == text.replace("▁", " ")
        as_before = set(want) <= set(kept)
        counts[as_before] += 1
        if as_before:
            assert [kept[i] for i in got] == want, text
    assert counts[0] > 100 and counts[1] > 480
    assert [kept[i] for i in after.prefix_ids(kiwi)] == before.prefix_ids(kiwi)


def test_sentencepieces_model_agrees(trimmed: Checkpoint) -> None:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(trimmed.folder / "tokenizer.model"))
    after = tokenizer_of(trimmed)
    assert model.get_piece_size() == trimmed.vocab_size
    assert [model.id_to_piece(i) for i in range(20)] == [after.vocabulary.piece(i) for i in range(20)]
    assert (model.pad_id(), model.eos_id(), model.bos_id(), model.unk_id()) == (0, 1, 2, 3)
    for text in [*requests()[:20], "Grüße, 42 × 你好", "zymurgy\n\ttourniquet  🎉"]:
        assert model.encode(text) == after.encode_text(text)


@pytest.mark.parametrize("scores", ["tokenizer.model", "tokenizer.json"])
def test_llama_cpp_tokenizes_as_we_do(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path, scores: str) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    from tokenizers import Tokenizer

    from export import gguf

    made = trim_checkpoint(tiny, Trim((), 600), kiwi, tmp_path)
    if scores == "tokenizer.json":
        (made.folder / "tokenizer.model").unlink()
    assert gguf.write(made, tmp_path / "out", "f32", kiwi).details["scores_from"] == scores
    ours, theirs = tokenizer_of(made), LlamaVocab(tmp_path / "out" / "model.gguf")
    stock = Tokenizer.from_file(str(made.folder / "tokenizer.json"))
    try:
        for text in [*TEXTS, *random_texts(200, 8), *requests()[:20], render_prompt(kiwi, "Grüße, 42 × 你好\nzwei")]:
            assert theirs.encode(text) == stock.encode(text, add_special_tokens=False).ids, text
        assert theirs.special("bos") == ours.bos_id
        assert theirs.special("eot") == ours.control_id("end_turn")
    finally:
        theirs.close()


# The model


def logits(source: Checkpoint, tokens: list[int]) -> Logits:
    model = open_model(plain(source), device="cpu", threads=1)
    try:
        return model.session().append(tokens, rows="all")
    finally:
        model.close()


def test_logits_of_kept_tokens_agree(whole: Checkpoint, trimmed: Checkpoint, kept: list[int], kiwi: Toolset) -> None:
    """Within 1e-5, and with the same best token among them, at every position of whole prompts with their answers."""
    before, after = tokenizer_of(whole), tokenizer_of(trimmed)
    for case in load_cases(CASES)[:2]:
        tokens = [*before.prompt_ids(kiwi, case.user), *before.completion_ids(case.calls)]
        same = [*after.prompt_ids(kiwi, case.user), *after.completion_ids(case.calls)]
        assert [kept[i] for i in same] == tokens
        want, got = logits(whole, tokens)[:, kept], logits(trimmed, same)
        assert np.abs(got - want).max() < 1e-5 < want.std()
        assert (got.argmax(axis=1) == want.argmax(axis=1)).all()


def test_the_router_makes_the_same_calls(
    whole: Checkpoint, trimmed: Checkpoint, kept: list[int], kiwi: Toolset
) -> None:
    """On requests of kept tokens, with the grammar and without, token for token."""
    models = [open_model(plain(source), device="cpu", threads=1) for source in (whole, trimmed)]
    one, other = (Router.from_model(m, tokenizer_of(s), kiwi) for m, s in zip(models, (whole, trimmed), strict=True))
    same = 0
    for case in load_cases(CASES)[:6]:
        for grammar in (True, False):
            want = one.route(case.user, case.context, grammar=grammar)
            if not set(want.token_ids) <= set(kept):
                continue  # it said a word that nobody asked to keep
            got = other.route(case.user, case.context, grammar=grammar)
            assert [kept[i] for i in got.token_ids] == want.token_ids
            assert (got.calls, got.error) == (want.calls, want.error)
            same += 1
    assert same >= 6
    for model in models:
        model.close()


# Export


def test_an_artifact_says_how_it_was_trimmed_and_is_proved(tiny: Checkpoint, tmp_path: Path) -> None:
    made = trim_checkpoint(tiny, Trim(("english",), 600), LIGHTS, tmp_path / "work")
    artifact = export_one(made, "safetensors", "fp32", tmp_path / "out", LIGHTS, requests=("please on",), threads=1)
    trim = open_artifact(artifact.folder).manifest["trim"]
    assert (trim["form"], trim["rule"], trim["tokens"], trim["of"]) == ("full", ["english"], 600, tiny.vocab_size)
    assert trim["source_sha256"] == tiny.sha256 != artifact.manifest["source"]["sha256"] == made.sha256
    assert len(trim["selection_sha256"]) == 64 and trim["needed"] < 600
    assert artifact.vocab_size == 600 and artifact.manifest["source"]["name"] == "tiny-trim"
    assert verify(artifact, threads=1).status == "proven"
    with Router.open(artifact.folder, device="cpu", threads=1) as router:
        assert router.route("kitchen 北京 please").error is None


def test_the_second_time_is_a_cache_hit_and_damage_is_mended(tiny: Checkpoint, tmp_path: Path) -> None:
    lines: list[str] = []
    first = trim_checkpoint(tiny, Trim((), 600), LIGHTS, tmp_path, progress=lines.append)
    before = (first.folder / RECORD).stat().st_mtime_ns
    assert trim_checkpoint(tiny, Trim((), 600), LIGHTS, tmp_path, progress=lines.append) == first
    assert (first.folder / RECORD).stat().st_mtime_ns == before and len(lines) == 1
    (first.folder / "tokenizer.json").write_text("{}")
    assert trim_checkpoint(tiny, Trim((), 600), LIGHTS, tmp_path) == first
    assert tokenizer_of(first).vocab_size == 600
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.folder.name]


def test_what_goes_in_decides_what_is_found(tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("invoice")
    made = [
        trim_checkpoint(tiny, trim, toolset, tmp_path / "work")
        for trim, toolset in [
            (Trim((), 600), LIGHTS), (Trim((), 610), LIGHTS), (Trim((), 600), kiwi),
            (Trim(("english",), 600), LIGHTS), (Trim((str(words),), 600), LIGHTS),
        ]
    ]  # fmt: skip
    assert len({one.folder for one in made}) == 5
    changed = replace(tiny, folder=tmp_path / "copy", sha256="0" * 64)
    import shutil

    shutil.copytree(tiny.folder, changed.folder)
    assert trim_checkpoint(changed, Trim((), 600), LIGHTS, tmp_path / "work").folder.name.startswith("copy-trim-")


def test_an_export_is_made_anew_for_another_rule(tiny: Checkpoint, tmp_path: Path) -> None:
    """Also where the kept tokens are the same: the manifest says how they were chosen."""
    keys = set()
    for rules in ((), ("english",)):
        made = trim_checkpoint(tiny, Trim(rules, 600), LIGHTS, tmp_path / "work")
        done = export_one(made, "safetensors", "fp32", tmp_path / "out", LIGHTS, requests=("on",), threads=1)
        assert done.manifest["trim"]["rule"] == list(rules)
        keys.add(done.manifest["key"])
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("trim", "message"),
    [
        (Trim(("no-such.txt",)), "no-such.txt: cannot be read .No such file or directory.; give a text or JSONL file"),
        (Trim((), 300), r"--trim-tokens 300: toolset lights needs \d+; give that many"),
        (Trim((str(CASES),), 400), r"400: toolset lights and handwritten_dev.jsonl need \d+"),
        (Trim((str(CASES),), 400, called="the cases"), r"400: toolset lights and the cases need \d+"),
        (Trim((str(CASES), str(CASES.with_name("handwritten_test.jsonl"))), 400), "handwritten_dev.jsonl and hand"),
    ],
)
def test_what_cannot_be_trimmed_is_one_line(tiny: Checkpoint, tmp_path: Path, trim: Trim, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        trim_checkpoint(tiny, trim, LIGHTS, tmp_path)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def edited(source: Checkpoint, folder: Path, **model: Any) -> Checkpoint:
    import shutil

    shutil.copytree(source.folder, folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"] |= model
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return replace(source, folder=folder)


def test_checkpoints_that_cannot_be_trimmed(tiny: Checkpoint, tmp_path: Path) -> None:
    small = trim_checkpoint(tiny, Trim((), 600), LIGHTS, tmp_path)
    for source, trim, message in [
        (small, Trim((), 600), "nothing to trim, all 600 tokens are kept"),
        (edited(tiny, tmp_path / "greedy", ignore_merges=True), Trim((), 600), "ignore_merges is True"),
        (replace(tiny, config=tiny.config | {"vocab_size": 700}), Trim((), 600), r"beyond the embedding's 700 rows"),
        (replace(tiny, config=tiny.config | {"vocab_size": 800}), Trim((), 600), "768 rows, config.json says 800"),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            trim_checkpoint(source, trim, LIGHTS, tmp_path / "none")
        assert "\n" not in str(raised.value)
        assert not list((tmp_path / "none").glob("*"))
    (tiny_copy := edited(tiny, tmp_path / "broken")).folder.joinpath("tokenizer.model").write_bytes(b"\xff not a model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        trim_checkpoint(tiny_copy, Trim((), 600), LIGHTS, tmp_path / "none")


def test_an_added_token_that_shadows_others_is_noticed(tiny: Checkpoint, tmp_path: Path) -> None:
    """What was tokenized otherwise would be another prompt: the check after trimming finds it."""
    source = edited(tiny, tmp_path / "shadow")
    add_tokens(source.folder, **{"<zz": True, "zzq": False})
    words = tmp_path / "words.txt"
    words.write_text("zzq\na <zzq b\n")
    with pytest.raises(UserError, match=r"'a <zzq b' \(words.txt\) would be tokenized otherwise") as raised:
        trim_checkpoint(source, Trim((str(words),), 600), LIGHTS, tmp_path / "work")
    assert "\n" not in str(raised.value)


# Requests that are spelled otherwise


def test_cases_by_how_their_requests_are_spelled(
    whole: Checkpoint, trimmed: Checkpoint, kiwi: Toolset, tmp_path: Path
) -> None:
    known = load_cases(CASES)[:3]
    others = [Case("piece", "find zymurgy tourniquets"), Case("byte", f"find {rare_character(whole, trimmed)}")]
    made = by_spelling([*known, *others], whole, trimmed, kiwi)
    assert [case.bucket for case in made] == [KEPT] * 3 + [PIECES, BYTES]
    line = write_cases(made, tmp_path / "new" / "trim-cases.jsonl")
    assert "5 cases" in line and f"3 {KEPT}, 1 {PIECES}, 1 {BYTES}" in line
    assert load_cases(tmp_path / "new" / "trim-cases.jsonl") == made
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["trim-cases.jsonl"]


def rare_character(whole: Checkpoint, trimmed: Checkpoint) -> str:
    """A character that was a token and is none any more."""
    before, after = tokenizer_of(whole).vocabulary, tokenizer_of(trimmed).vocabulary
    pieces = map(before.piece, range(before.size))
    return next(p for p in pieces if len(p) == 1 and p.isalpha() and after.find(p) is None)
