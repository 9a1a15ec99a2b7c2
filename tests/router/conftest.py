"""A small tokenizer for each wire format, trained once."""

from __future__ import annotations

import pytest

from router.tokenizer import RouterTokenizer
from router.wire_format import FUNCTIONGEMMA, GEMMA4, WireFormat


def _train(factory: pytest.TempPathFactory, wire: WireFormat) -> RouterTokenizer:
    pytest.importorskip("sentencepiece")
    pytest.importorskip("transformers")
    from tests.tiny import corpus
    from train.tokenizer import train_tokenizer

    folder = factory.mktemp(wire.name)
    train_tokenizer(corpus(), folder, vocab_size=768, wire=wire)
    return RouterTokenizer.load(folder / "tokenizer.json", wire)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> RouterTokenizer:
    return _train(tmp_path_factory, FUNCTIONGEMMA)


@pytest.fixture(scope="session")
def gemma4(tmp_path_factory: pytest.TempPathFactory) -> RouterTokenizer:
    return _train(tmp_path_factory, GEMMA4)
