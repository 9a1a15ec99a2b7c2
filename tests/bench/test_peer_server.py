"""llama-server as a peer, against a stand-in that speaks its endpoints: asked rightly, and ended whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import peer_server
from bench.peer import PEERS, Opening
from bench.peer_server import Server, open_peer
from bench.process import WorkerFailure, WorkerProcess
from router.gbnf import gbnf
from router.toolset import Toolset
from runtimes.errors import UserError
from tests.bench import made, stub_server
from tests.bench.ended import ends

Program = Callable[[str], str]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """`program(behaviour)`: the path of an executable that behaves so."""
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"lamp on": "<start_function_call>call:on{}<end_function_call>"}))

    def write(behaviour: str) -> str:
        path = tmp_path / f"stub-{behaviour}"
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stub_server.__file__}" "{answers}" {behaviour} "$@"\n')
        path.chmod(0o755)
        return str(path)

    return write


Opener = Callable[..., Server]


@pytest.fixture
def opened(program: Program, tmp_path: Path, kiwi: Toolset) -> Iterator[Opener]:
    servers = []

    def open_(behaviour: str, patience_s: float = 20.0, name: str = "llama-server") -> Server:
        kind = PEERS[name]
        opening = Opening(
            kind=kind, artifact=made.artifact("gguf-q8_0"), prefix="You are",
            grammar=gbnf(kiwi) if kind.grammar else "",
            stops=("<start_function_response>", "<end_of_turn>"), threads=1, limit=40, context_length=512,
            log=tmp_path / "server.log", patience_s=patience_s, server=program(behaviour),
        )  # fmt: skip
        server = open_peer(opening)
        assert isinstance(server, Server)
        servers.append(server)
        return server

    yield open_
    for server in servers:
        server.close()


def test_asks_as_documented(opened: Opener, tmp_path: Path, kiwi: Toolset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_SEEN", str(tmp_path / "seen.jsonl"))
    server = opened("slow-start")
    assert server.versions == {"llama-server": "b7-stub"}
    found = server.complete("turn the lamp on")
    assert (found.text, found.ended, found.passes) == ("<start_function_call>call:on{}<end_function_call>", True, 7)
    assert server.complete("sing").text == ""
    assert server.prompt_ids("abc") == [97, 98, 99]
    bodies = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert bodies[0] == {
        "prompt": "turn the lamp on", "cache_prompt": True, "grammar": gbnf(kiwi), "temperature": 0,
        "repeat_penalty": 1.0, "n_predict": 40, "stop": ["<start_function_response>", "<end_of_turn>"],
    }  # fmt: skip
    command = server._command
    for option, value in (("-np", "1"), ("-t", "1"), ("-tb", "1"), ("-c", "512"), ("--host", "127.0.0.1")):
        assert command[command.index(option) + 1] == value
    (pid,) = server.pids
    server.close()
    assert ends(pid)


def test_a_kind_s_own_options(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_SEEN", str(tmp_path / "seen.jsonl"))
    plain, usual = opened("good", name="llama-server-plain"), opened("good")
    assert plain._command[plain._command.index("-fa") + 1] == "off" and "-fa" not in usual._command
    assert plain.complete("turn the lamp on").ended
    (body,) = (json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines())
    assert "grammar" not in body and body["cache_prompt"] is True


def test_an_answer_at_the_limit_has_no_end(opened: Opener) -> None:
    assert not opened("limit").complete("turn the lamp on").ended


def test_a_connection_that_was_closed_is_opened_again(opened: Opener) -> None:
    server = opened("closes")
    assert [server.complete("turn the lamp on").text[:6] for _ in range(3)] == ["<start"] * 3


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("refuses", r"answered /completion with 500: no slot today; see logs/server.log"),
        ("babbles", r"answered /completion with something else than a JSON object: b'<html>"),
        ("old", r"answered /completion without 'content' and 'stop_type'; it is of another time"),
    ],
)
def test_wrong_answers_are_one_line(opened: Opener, behaviour: str, told: str) -> None:
    server = opened(behaviour)
    with pytest.raises(UserError, match=told) as caught:
        server.complete("turn the lamp on")
    assert "\n" not in str(caught.value)


def test_death_is_told_with_its_last_words(opened: Opener) -> None:
    server = opened("dies-later")
    server.complete("a"), server.complete("b")
    with pytest.raises(UserError, match=r"ended \(exit code 9\) at /completion; see logs/server.log: .*out of memory"):
        server.complete("c")


def test_silence_is_told(opened: Opener) -> None:
    server = opened("hangs", 1.0)
    server.complete("a"), server.complete("b")
    with pytest.raises(UserError, match="did not answer /completion within 1 s"):
        server.complete("c")


def test_a_server_that_does_not_start(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"ended before it was ready \(exit code 3\).*cannot read the model"):
        opened("dies")
    with pytest.raises(UserError, match=r"\(exit code 0\); give llama-server itself with --llama-server \(docs"):
        opened("ends")
    monkeypatch.setattr(peer_server, "START_S", 0.5)
    monkeypatch.setattr(peer_server.Server, "_healthy", lambda self: False)
    with pytest.raises(UserError, match="was not ready after 0 s"):
        opened("good")


def test_programs_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--llama-server nowhere: no such file"):
        peer_server.find("nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="is not an executable program"):
        peer_server.find(str(tmp_path / "notes.txt"))
    monkeypatch.setenv("PATH", str(tmp_path))
    state = peer_server.availability(None)
    assert not state.available and "not on PATH" not in state.fix and "docs/peers.md" in state.fix
    (tmp_path / "llama-server").write_text("#!/bin/sh\n")
    (tmp_path / "llama-server").chmod(0o755)
    assert peer_server.availability(None).available


def test_a_file_that_the_system_cannot_run(tmp_path: Path, kiwi: Toolset) -> None:
    path = tmp_path / "llama-server"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o755)
    opening = Opening(
        kind=PEERS["llama-server"], artifact=made.artifact("gguf-q8_0"), prefix="", stops=(), grammar=gbnf(kiwi),
        threads=1, limit=4, context_length=64, log=tmp_path / "server.log", server=str(path),
    )  # fmt: skip
    with pytest.raises(UserError, match="cannot be started"):
        open_peer(opening)


HOLDER = """
import sys
from pathlib import Path
from bench.channel import serve
from bench.peer import PEERS, Opening
from bench.peer_server import open_peer
from tests.bench import made

def hold(emit, *, server, log):
    opening = Opening(kind=PEERS["llama-server"], artifact=made.artifact("gguf-q8_0"), prefix="", stops=(), grammar="",
                      threads=1, limit=4, context_length=64, log=Path(log), server=server)
    global peer
    peer = open_peer(opening)
    return {"pids": peer.pids}

sys.exit(serve({"hold": hold}))
"""


@pytest.mark.parametrize("how", ["crash", "close"])
def test_the_server_goes_with_its_worker(
    how: str, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with one that is killed alone and can do nothing about it."""
    (tmp_path / "holder.py").write_text(HOLDER)
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = WorkerProcess("holder", tmp_path / "holder.log", module="holder")
    try:
        (pid,) = worker.call("hold", server=program("good"), log=str(tmp_path / "server.log"))["pids"]
        assert not ends(pid, 0.2)
        if how == "crash":
            os.kill(worker.pid, signal.SIGKILL)
            with pytest.raises(WorkerFailure):
                worker.call("hold", server="", log="")
        else:
            worker.close()
        assert ends(pid)
    finally:
        worker.kill()


def test_the_guard_says_what_cannot_be_started(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.guard", str(tmp_path / "log"), str(tmp_path / "nothing")],
        input=b"", capture_output=True, cwd=Path(peer_server.__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 126 and done.stdout.startswith(b"! No such file")
