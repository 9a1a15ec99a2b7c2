"""Word vectors: two layouts, what is made of them, and an embedding that starts from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export.base import Checkpoint  # noqa: E402
from router.tokenizer import RouterTokenizer  # noqa: E402
from runtimes.errors import UserError  # noqa: E402
from train.vectors import directions, embed, piece_vectors, read_vectors  # noqa: E402

FAMILIES = (
    "the of and to", "film movie cinema", "doctor dentist nurse", "rain weather snow", "car taxi bus",
    "song tune melody", "bread cake flour", "red green blue", "horse cow goat", "river lake sea",
)  # fmt: skip
SIZE = 24


def made() -> dict[str, list[float]]:
    """Words of a few families, alike within one and shifted all together."""
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    return {
        word: [round(float(x), 4) for x in 3 + 2 * centres[family] + 0.1 * rng.normal(size=SIZE)]
        for family, words in enumerate(FAMILIES)
        for word in words.split()
    }


def as_text(path: Path, head: str = "") -> Path:
    lines = [" ".join([word, *map(str, numbers)]) for word, numbers in made().items()]
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return as_text(tmp_path / "glove.txt")


def test_both_layouts_are_the_same_vectors(tmp_path: Path, text: Path) -> None:
    data = {"dimensions": SIZE, "vectors": {w: [*v, 5.0, i] for i, (w, v) in enumerate(made().items())}}
    (tmp_path / "vectors.json").write_text(json.dumps(data), encoding="utf-8")
    found = [read_vectors(p) for p in (text, tmp_path / "vectors.json", as_text(tmp_path / "w2v.txt", f"31 {SIZE}\n"))]
    assert {f.words for f in found} == {tuple(made())}
    for other in found[1:]:
        np.testing.assert_allclose(found[0].vectors @ found[0].vectors.T, other.vectors @ other.vectors.T, atol=1e-4)


def test_words_of_a_family_are_alike_and_others_are_not(text: Path) -> None:
    known = read_vectors(text)
    np.testing.assert_allclose(np.linalg.norm(known.vectors, axis=1), 1, rtol=1e-5)
    row = {w: i for i, w in enumerate(known.words)}
    cosine = known.vectors @ known.vectors.T
    assert cosine[row["film"], row["movie"]] > 0.6 > 0.4 > cosine[row["film"], row["nurse"]]
    spread = (known.vectors**2).mean(axis=0)
    assert (np.diff(spread) < 1e-6).all()  # the main directions come first


def test_only_words_of_letters_and_no_more_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("the 1 0\n, 0 1\nU.S. 1 1\nof 0 2\n42 1 3\nand 3 1\n", encoding="utf-8")
    assert read_vectors(path).words == ("the", "of", "and")
    assert read_vectors(path, words=2).words == ("the", "of")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("v.txt", "the 1 2\nof 1 x\n", r"v\.txt:2: a word and numbers"),
        ("v.txt", "the 1 2\nof 1 2 3\n", r"v\.txt:2: 3 numbers, the lines before have 2"),
        ("v.txt", "the 1 nan\nof 1 2\n", r"v\.txt:1"),
        ("v.txt", "the 1 2\n", "1 words; word vectors are expected"),
        ("v.json", "[1, 2]", "is expected"),
        ("v.json", '{"dimensions": 2}', "is expected"),
        ("v.json", "{", "is expected"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said) as raised:
        read_vectors(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot read"):
        read_vectors(tmp_path / "none.txt")


def test_pieces_have_the_vectors_of_their_words(tiny: Checkpoint, text: Path) -> None:
    tokenizer, known = RouterTokenizer.load(tiny.folder / "tokenizer.json"), read_vectors(text)
    vectors = piece_vectors(tokenizer, known)
    assert vectors.shape == (tokenizer.vocab_size, SIZE)
    assert np.linalg.norm(vectors, axis=1).max() <= 1 + 1e-5
    assert not vectors[list(tokenizer.special_ids)].any()
    assert not vectors[tokenizer.encode_text(".")].any()
    ids = {w: tokenizer.encode_text(w) for w in known.words}
    assert any(vectors[i].any() for parts in ids.values() for i in parts)
    for word, parts in ids.items():
        if len(parts) == 1 and len(word) > 1:
            own = vectors[parts[0]]
            np.testing.assert_allclose(own, known.vectors[known.words.index(word)] * np.linalg.norm(own), atol=1e-5)


def test_an_embedding_takes_up_what_words_mean_and_keeps_them_apart(text: Path) -> None:
    known = read_vectors(text)
    model = torch.nn.Module()
    model.get_input_embeddings = lambda: table  # type: ignore[assignment]
    table = torch.nn.Embedding(len(known.words), 64)
    with torch.no_grad():
        table.weight.mul_(0.1)
        table.weight[:, 0] = 0.25
        table.weight[:, -16:] = 0
    before = table.weight.detach().clone()
    meaning = directions(known, 64, free=16)
    np.testing.assert_allclose(meaning @ meaning.T, np.eye(SIZE), atol=1e-5)
    vectors = known.vectors.copy()
    vectors[0] = 0
    embed(model, vectors, meaning)
    after = table.weight.detach()
    assert torch.equal(after[:, 0], before[:, 0])
    assert not after[:, -16:].any()
    assert torch.allclose(after[0], before[0])  # without a vector: as it was
    unit = torch.nn.functional.normalize(after[:, 1:], dim=1)
    cosine, row = unit @ unit.T, {w: i for i, w in enumerate(known.words)}
    assert 0.3 < cosine[row["film"], row["movie"]] < 0.9
    assert cosine[row["film"], row["movie"]] > cosine[row["film"], row["nurse"]] + 0.2


def test_vectors_wider_than_the_embedding(text: Path) -> None:
    with pytest.raises(UserError, match="24 dimensions; the embedding has 23"):
        directions(read_vectors(text), 32, free=8)
