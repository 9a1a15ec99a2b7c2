"""llama-server: a child process with one slot, asked over a kept-open HTTP connection, the prompt's beginning cached;
our GBNF is sent with every request of a peer that decodes under it.

Requests are those that ``tools/server/README.md`` of llama.cpp documents. ``--swa-full`` spares it the checkpoints that
it otherwise makes for models with local layers, each of which cuts a prompt in two passes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.peer import Completion, Opening, Peer
from bench.process import environment
from runtimes.base import Availability
from runtimes.errors import UserError

PROGRAM: Final = "llama-server"
FIX: Final = "build it as docs/peers.md tells and give it with --llama-server PATH"
HOST: Final = "127.0.0.1"
START_S: Final = 300.0
"""Time to load the model and say that it is ready."""
_ENDED: Final = ("eos", "word")
_HEADERS: Final = {"Content-Type": "application/json"}


def availability(server: str | None) -> Availability:
    """Whether there is a llama-server: the one given, or one on PATH."""
    found = find(server)
    if found is None:
        return Availability(False, reason=f"there is no {PROGRAM} on PATH", fix=FIX)
    return Availability(True, found)


def find(server: str | None) -> str | None:
    """The program to run. Raises `UserError` for one that was given and cannot be run."""
    if server is None:
        return shutil.which(PROGRAM)
    if not Path(server).exists():
        raise UserError(f"--llama-server {server}: no such file; give the path of the program")
    found = shutil.which(str(Path(server).absolute()))
    if found is None:
        raise UserError(f"--llama-server {server}: is not an executable program; give the path of {PROGRAM} itself")
    return found


def open_peer(opening: Opening) -> Peer:
    """Start the server and wait until it is ready. Raises `UserError` where that does not come to pass."""
    program = find(opening.server)
    if program is None:
        raise UserError(f"there is no {PROGRAM} on PATH; {FIX}")
    server = Server(opening, program)
    try:
        server.begin()
    except BaseException:
        server.close()
        raise
    return server


class Server:
    """A running llama-server and the connection to it."""

    device = "cpu"

    def __init__(self, opening: Opening, program: str) -> None:
        self.dtype = opening.artifact.quant
        self.threads = opening.threads
        self.versions: dict[str, str] = {}
        self._pid: int | None = None
        self._log = opening.log
        self._patience = opening.patience_s
        self._asks = {
            "temperature": 0,
            "repeat_penalty": 1.0,
            "n_predict": opening.limit,
            "cache_prompt": True,
            "stop": list(opening.stops),
        }
        if opening.grammar:
            self._asks["grammar"] = opening.grammar
        port, threads = _free_port(), str(opening.threads)
        self._command = [
            program, "-m", str(opening.artifact.weights), "--host", HOST, "--port", str(port),
            "-c", str(opening.context_length), "-np", "1", "-t", threads, "-tb", threads, "-ngl", "0", "--swa-full",
            *opening.kind.options,
        ]  # fmt: skip
        self._connection = http.client.HTTPConnection(HOST, port, timeout=self._patience)
        self._guard: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it, wait until it is healthy, ask what it is."""
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "bench.guard", str(self._log), *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert self._guard.stdout is not None
        said = self._guard.stdout.readline().decode("utf-8", "replace").strip()
        if not said.isdecimal():
            reason = said.removeprefix("! ") or "its guard ended"
            raise UserError(f"{self._command[0]}: cannot be started ({reason}); give another with --llama-server")
        self._pid = int(said)
        deadline = time.monotonic() + START_S
        while not self._healthy():
            if time.monotonic() > deadline:
                raise UserError(f"{PROGRAM} was not ready after {START_S:.0f} s{self._last_words()}")
            time.sleep(0.1)
        build = self._ask("GET", "/props").get("build_info")
        self.versions = {PROGRAM: str(build or "unknown")}

    def complete(self, prompt: str, along: Sequence[int] = ()) -> Completion:
        if along:
            raise UserError(f"{PROGRAM} cannot be told within a request which tokens to take; leave it out")
        answer = self._ask("POST", "/completion", {"prompt": prompt, **self._asks})
        text, stopped = answer.get("content"), answer.get("stop_type")
        if not isinstance(text, str) or not isinstance(stopped, str):
            raise UserError(
                f"{PROGRAM} answered /completion without 'content' and 'stop_type'; it is of another time than "
                f"docs/peers.md builds: {json.dumps(answer)[:200]}"
            )
        made = answer.get("tokens_predicted")
        return Completion(text, stopped in _ENDED, passes=made if isinstance(made, int) else None)

    def prompt_ids(self, prompt: str) -> list[int]:
        ids = self._ask("POST", "/tokenize", {"content": prompt, "add_special": False, "parse_special": True})
        found = ids.get("tokens")
        if not isinstance(found, list):
            raise UserError(f"{PROGRAM} answered /tokenize without 'tokens': {json.dumps(ids)[:200]}")
        return found

    @property
    def pids(self) -> list[int]:
        return [] if self._pid is None else [self._pid]

    def close(self) -> None:
        """End the server. Fine where it has ended, or was never started."""
        self._connection.close()
        guard = self._guard
        if guard is None:
            return
        with contextlib.suppress(OSError):
            if guard.stdin is not None:
                guard.stdin.close()
        try:
            guard.wait(10)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        if guard.stdout is not None:
            guard.stdout.close()

    def _healthy(self) -> bool:
        """Whether it says that it is ready. Raises `UserError` where it has ended."""
        connection = http.client.HTTPConnection(HOST, self._connection.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            code = self._exit_code(wait=0)
            if code is not None:
                # Help and other programs end well; a server that fails does not.
                hint = f"; give {PROGRAM} itself with --llama-server (docs/peers.md)" if code == 0 else ""
                told = f"{PROGRAM} ended before it was ready (exit code {code}){hint}"
                raise UserError(told + self._last_words()) from None
            return False
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's JSON object. Raises `UserError` for everything else."""
        status, data = self._exchange(method, path, None if body is None else json.dumps(body).encode())
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if status != 200:
            error = found.get("error") if isinstance(found, dict) else None
            told = error.get("message") if isinstance(error, dict) else data[:200].decode("utf-8", "replace")
            raise UserError(f"{PROGRAM} answered {path} with {status}: {told or 'nothing'}{self._last_words()}")
        if not isinstance(found, dict):
            raise UserError(f"{PROGRAM} answered {path} with something else than a JSON object: {data[:200]!r}")
        return found

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Status and body. A connection that the server has closed since (it does when idle) is opened again, once."""
        connection = self._connection
        while True:
            kept = connection.sock is not None
            try:
                connection.request(method, path, body, _HEADERS)
                response = connection.getresponse()
                return response.status, response.read()
            except TimeoutError:
                connection.close()
                raise UserError(
                    f"{PROGRAM} did not answer {path} within {self._patience:.0f} s{self._last_words()}"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                code = self._exit_code(wait=0 if kept else 2)
                if code is not None:
                    raise UserError(f"{PROGRAM} ended (exit code {code}) at {path}{self._last_words()}") from None
                if not kept:
                    said = str(error) or type(error).__name__
                    raise UserError(f"{PROGRAM} broke off at {path} ({said}){self._last_words()}") from None

    def _exit_code(self, wait: float) -> int | None:
        """The server's exit code; None while it runs. A connection is gone a moment before its process is."""
        if self._guard is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(wait)
        return self._guard.poll()

    def _last_words(self) -> str:
        """Where its log is, and the log's last line."""
        try:
            lines = [line.strip() for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        return f"; see logs/{self._log.name}" + (f": {lines[-1][:300]}" if lines else "")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])
