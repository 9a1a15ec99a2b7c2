"""A worker process for tests that does all that a worker should not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from bench.channel import Emit, serve
from runtimes.errors import UnavailableError, UserError


def count(emit: Emit, *, to: int) -> dict[str, Any]:
    for number in range(1, to + 1):
        emit({"done": number})
    return {"counted": to}


def chatter(emit: Emit) -> dict[str, Any]:
    print("from python")
    os.write(1, b"from C\n")
    return {"said": True}


def complain(emit: Emit) -> dict[str, Any]:
    raise UserError("weights: missing;\nexport again")


def lack(emit: Emit) -> dict[str, Any]:
    raise UnavailableError("no such device")


def bug(emit: Emit) -> dict[str, Any]:
    return {"never": 1 // 0}


def nan(emit: Emit) -> dict[str, Any]:
    return {"value": float("nan")}


def crash(emit: Emit) -> dict[str, Any]:
    print("about to crash", file=sys.stderr, flush=True)
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def leave(emit: Emit) -> dict[str, Any]:
    os._exit(3)


def hang(emit: Emit) -> dict[str, Any]:
    while True:
        time.sleep(60)


def forever(emit: Emit) -> dict[str, Any]:
    while True:
        emit({"done": 0})
        time.sleep(0.05)


def spawn(emit: Emit) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return {"pid": child.pid}


if __name__ == "__main__":
    commands = (count, chatter, complain, lack, bug, nan, crash, leave, hang, forever, spawn)
    sys.exit(serve({function.__name__: function for function in commands}))
