from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.peer import PEERS
from tests.bench.scripted import REGISTRATIONS
from tests.bench.scripted_peer import KINDS


@pytest.fixture(autouse=True, scope="package")
def scripted_runtime() -> Iterator[None]:
    """The scripted runtime and peers are known while the bench's tests run, and to no other test."""
    for registry, name, target in REGISTRATIONS:
        registry[name] = target
    PEERS.update(KINDS)
    yield
    for registry, name, _ in REGISTRATIONS:
        del registry[name]
    for name in KINDS:
        del PEERS[name]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[str], str], None]:
    """`refused(argv, told)`: exit code 2, one line on stderr with `told` in it, nothing on stdout and nothing written.

    The command runs in a folder of its own, where the folder ``full`` holds a file.
    """
    from bench.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")

    def check(argv: list[str], told: str) -> None:
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert told in captured.err and captured.err.count("\n") == 1 and captured.out == ""
        assert [path.name for path in tmp_path.iterdir()] == ["full"]

    return check


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json of 768 entries."""
    from tests.tiny import corpus
    from train.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus(), folder, vocab_size=768)
    return folder / "tokenizer.json"
