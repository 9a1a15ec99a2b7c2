"""Tools of random topics: requests go to the tool that their words are closest to."""

from __future__ import annotations

import random

import numpy as np
import pytest

from train.data.matching import COMMON, Matching, Thesaurus
from train.vectors import WordVectors

FAMILY = 5
"""Words a family."""


@pytest.fixture(scope="module")
def thesaurus() -> Thesaurus:
    """Invented words in families of like meaning, behind the common ones."""
    rng = np.random.default_rng(3)
    letters = random.Random(4)
    families = 120
    common = rng.normal(size=(COMMON, 64))
    centres = np.repeat(rng.normal(size=(families, 64)), FAMILY, axis=0)
    matrix = np.concatenate([common, centres + 0.3 * rng.normal(size=centres.shape)])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    words: list[str] = []
    while len(words) < len(matrix):
        word = "".join(letters.choices("abdeilmnorstu", k=7))
        words += [word] if word not in words else []
    return Thesaurus(WordVectors(tuple(words), matrix.astype(np.float32), "made", "0"))


def family(thesaurus: Thesaurus, word: str) -> int:
    return (thesaurus.row[word.lower()] - COMMON) // FAMILY


def test_what_is_alike_is_of_the_family(thesaurus: Thesaurus) -> None:
    word = thesaurus.known.words[COMMON + 17]
    others = thesaurus.alike(word)
    assert len(others) == FAMILY - 1
    assert word not in others
    assert {family(thesaurus, w) for w in others} == {family(thesaurus, word)}


def test_the_same_seed_gives_the_same(thesaurus: Thesaurus) -> None:
    def made() -> list[object]:
        rng = random.Random("5/1")
        matching = Matching(rng, thesaurus)
        return [matching.tools, [matching.request(rng) for _ in range(20)]]

    assert made() == made()


def test_requests_go_to_the_tool_of_their_topic(thesaurus: Thesaurus) -> None:
    served, stray, lacking = 0, 0, 0
    for seed in range(40):
        rng = random.Random(seed)
        matching = Matching(rng, thesaurus)
        names = [t.name for t in matching.tools]
        assert 2 <= len(set(names)) == len(names) <= 8
        topics = {t.tool.name: t for t in matching.topics}
        families = [family(thesaurus, t.declared[0]) for t in matching.topics + matching.unserved]
        assert len(set(families)) == len(families)  # no topic twice
        for _ in range(25):
            text, calls = matching.request(rng)
            words = [w.strip(".?,:;") for w in text.lower().split()]
            said = {family(thesaurus, w) for w in words if w in thesaurus.row}
            if not calls:
                stray += 1
                assert said & {family(thesaurus, t.declared[0]) for t in matching.unserved}
                continue
            served += 1
            (call,) = calls
            topic = topics[call.name]
            assert family(thesaurus, topic.declared[0]) in said
            assert call.arguments.keys() <= topic.tool.parameters.properties.keys()
            assert all(value in text for value in call.arguments.values())
            lacking += not set(words) & set(topic.declared)
    assert 0.03 < stray / (served + stray) < 0.12
    assert lacking > 0.2 * served  # words that the declaration lacks
