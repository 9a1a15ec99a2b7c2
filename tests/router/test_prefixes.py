"""A prompt's prefix is computed once: kept in memory for prompts that take turns, in files for the next process."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from export.base import Checkpoint
from export.pipeline import export_one
from router.core import Router
from router.prefixes import FOLDER, PrefixFiles, PrefixMemory
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from runtimes import open_model
from runtimes.artifact import Artifact, open_artifact
from runtimes.base import Session, Snapshots
from runtimes.errors import SessionError
from tests.fake import FakeModel, FakeSession, random_rule
from tests.unbound import unbound

CONTEXT = {"project_path": "."}


class Kept(FakeSession):
    """A fake session that can be kept."""

    def snapshot(self) -> bytes:
        return json.dumps(self.tokens).encode()

    def restore(self, data: bytes) -> None:
        self.tokens.clear()
        try:
            self.tokens += json.loads(data)
        except ValueError:
            raise SessionError("restore: no snapshot") from None


class KeepingModel(FakeModel):
    def session(self) -> FakeSession:
        self.sessions.append(Kept(self))
        return self.sessions[-1]


def filled(tokens: list[int], kind: type[FakeSession] = Kept) -> FakeSession:
    session = kind(FakeModel(random_rule(100), 100))
    session.tokens += tokens
    return session


def test_memory_gives_back_what_it_was_given_and_forgets_the_oldest() -> None:
    memory = PrefixMemory(limit=3 * len(json.dumps([1, 2, 3])))
    for first in range(1, 5):
        memory.keep([first, 2, 3], filled([first, 2, 3]))
    session = filled([])
    assert not memory.restore([1, 2, 3], session)
    assert memory.restore([2, 2, 3], session) and session.tokens == [2, 2, 3]
    memory.keep([5, 2, 3], filled([5, 2, 3]))  # the third is now the one that was not used for longest
    assert memory.restore([2, 2, 3], session) and not memory.restore([3, 2, 3], session)
    memory.keep(list(range(99)), filled(list(range(99))))
    assert not memory.restore(list(range(99)), session)  # larger than all the room


def test_sessions_that_cannot_be_kept_are_not(tmp_path: Path) -> None:
    memory = PrefixMemory()
    memory.keep([1], filled([1], FakeSession))
    assert not memory.restore([1], filled([], FakeSession))
    assert not isinstance(filled([], FakeSession), Snapshots)


@pytest.fixture(params=["gguf", "onnx"])
def artifact(request: pytest.FixtureRequest, tiny: Checkpoint, kiwi: Toolset, tmp_path: Path) -> Artifact:
    pytest.importorskip({"gguf": "llama_cpp", "onnx": "onnxruntime"}[request.param])
    return export_one(tiny, request.param, {"gguf": "f32", "onnx": "fp32"}[request.param], tmp_path, unbound(kiwi))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of every pass of every runtime's session."""
    from runtimes import llama_cpp, onnxruntime

    seen: list[int] = []
    for kind in (llama_cpp.LlamaSession, onnxruntime.OnnxSession):

        def append(self: Session, tokens: list[int], *, rows: object = "last", plain: object = kind.append) -> object:
            seen.append(len(tokens))
            return plain(self, tokens, rows=rows)  # type: ignore[operator]

        monkeypatch.setattr(kind, "append", append)
    return seen


def test_the_next_process_need_not_compute_it(artifact: Artifact, counted: list[int]) -> None:
    answers = []
    for turn in range(2):
        counted.clear()
        with Router.open(artifact.folder, threads=1) as router:
            length = len(router.prefix_ids)
            assert counted == ([length] if turn == 0 else [])
            answers.append(
                [
                    router.route(text, CONTEXT, max_new_tokens=40).token_ids
                    for text in ("find email scripts", "run it", "hello")
                ]
            )
            assert router._session.position == length
    assert answers[0] == answers[1]
    open_artifact(artifact.folder)  # the file is no part of the artifact
    counted.clear()
    Router.open(artifact.folder, threads=1, save_prefix=False).close()
    assert counted == [length]


def test_a_file_that_does_not_fit_is_made_anew(artifact: Artifact, counted: list[int]) -> None:
    with Router.open(artifact.folder, threads=1) as router:
        length = len(router.prefix_ids)
        want = router.route("find email scripts", CONTEXT, max_new_tokens=40).token_ids
    (path,) = (artifact.folder / FOLDER).glob("*.kv")
    whole = path.read_bytes()
    head, _, data = whole.partition(b"\n")
    for damaged in (b"", b"{}", whole[:-1], whole.replace(head, b"{}"), head + b"\n" + data[:-9] + bytes(9), data):
        path.write_bytes(damaged)
        counted.clear()
        with Router.open(artifact.folder, threads=1) as router:
            assert counted == [length]
            assert router.route("find email scripts", CONTEXT, max_new_tokens=40).token_ids == want
        assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_where_nothing_can_be_written_nothing_is_kept(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "read-only", str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with Router.open(artifact.folder, threads=1) as router:
        assert router.route("find email scripts", CONTEXT, max_new_tokens=40).token_ids
    assert not list(artifact.folder.glob(f"{FOLDER}/*"))


def test_another_models_snapshot_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    model = open_model(artifact, threads=1)
    session = model.session()
    assert isinstance(session, Snapshots)
    session.append([5, 6, 7, 8])
    data = session.snapshot()
    row = session.append([9]).copy()
    other = model.session()
    assert isinstance(other, Snapshots)
    other.append([1, 2])
    other.restore(data)
    assert other.position == 4
    assert other.append([9]).tolist() == row.tolist()
    other.rewind(3)
    session.rewind(3)
    assert other.append([4]).tolist() == session.append([4]).tolist()
    for wrong in (b"", b"no snapshot at all", data[:-5], data[: len(data) // 2]):
        with pytest.raises(SessionError, match="restore"):
            other.restore(wrong)
        assert other.position == 0
        other.append([1])
    model.close()
    for use in (other.snapshot, lambda: other.restore(data)):
        with pytest.raises(SessionError, match="closed"):
            use()


def test_the_folder_stays_within_its_limit(artifact: Artifact) -> None:
    model = open_model(artifact, threads=1)
    session = model.session()
    sizes = []
    for number in range(4):
        session.rewind(0)
        session.append([5 + number, 6, 7])
        files = PrefixFiles(artifact, model, "any", limit=10**9)
        files._belongs = {}
        files.keep([5 + number, 6, 7], session)
        (newest,) = set(files.folder.glob("*.kv")) - {p for p, _ in sizes}
        os.utime(newest, (number, number))
        sizes.append((newest, newest.stat().st_size))
    files.limit = 2 * sizes[0][1] + 10
    session.rewind(0)
    session.append([20, 6, 7])
    files.keep([20, 6, 7], session)
    left = set(files.folder.glob("*.kv"))
    assert len(left) == 2 and sizes[3][0] in left
    files.limit = 10
    files.keep([21, 6, 7], session)  # too large for all the room
    assert set(files.folder.glob("*.kv")) == left
    model.close()


def test_contexts_that_take_turns_are_kept(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    from dataclasses import replace

    toolset = replace(unbound(kiwi), instruction="It is {date}. Call functions.", shown=("date",))
    model = KeepingModel(random_rule(tokenizer.vocab_size), tokenizer.vocab_size)
    router = Router(model, tokenizer, toolset)
    session = model.sessions[0]
    long = len(tokenizer.context_ids(toolset, {"date": "2026-03-11"}))
    computed = []
    for date in ("2026-03-11", "2026-03-12", "2026-03-11", "2026-03-12", "2026-03-12"):
        session.passes.clear()
        router.route("hello", {"date": date, **CONTEXT}, max_new_tokens=3)
        computed.append(max(session.passes) >= long)
        assert session.tokens == tokenizer.prefix_ids(toolset) + tokenizer.context_ids(toolset, {"date": date})
    assert computed == [True, True, False, False, False]


def test_contexts_are_kept_for_the_next_process(
    artifact: Artifact, kiwi: Toolset, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many of them; of the same length all, and the tokens before them are not worth a file."""
    from dataclasses import replace

    from router import core

    toolset = replace(unbound(kiwi), instruction="It is {date}. Call functions.", shown=("date",))
    monkeypatch.setattr(core, "CONTEXTS", 2)
    dates = [f"2026-03-1{n}" for n in range(3)]
    found = []
    for turn in range(2):
        with Router.open(artifact.folder, toolset=toolset, threads=1) as router:
            computed = []
            for date in dates:
                counted.clear()
                context = {"date": date, **CONTEXT}
                found.append(router.route("find email scripts", context, max_new_tokens=20).token_ids)
                computed.append(max(counted) > 100)
            assert computed == ([True, True, True] if turn == 0 else [False, False, True])
        assert len(list((artifact.folder / FOLDER).iterdir())) == 2 + turn
    assert found[:3] == found[3:]


def test_an_artifact_that_is_copied_takes_its_prefixes_along(
    artifact: Artifact, tmp_path: Path, counted: list[int]
) -> None:
    Router.open(artifact.folder, threads=1).close()
    shutil.copytree(artifact.folder, tmp_path / "copy")
    counted.clear()
    Router.open(tmp_path / "copy", threads=1).close()
    assert counted == []
