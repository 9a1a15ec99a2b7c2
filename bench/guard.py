"""Runs a program that must not outlive the process that wants it: ``python -m bench.guard LOG PROGRAM ARGUMENT...``.

The first line on stdout is the program's process id, or ``! REASON`` where it cannot be started. It ends when the
guard's stdin ends, which is also what happens to a process that is killed; where it ends by itself the guard ends too,
with its exit code (128 and the number of a signal).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading


def main(argv: list[str]) -> int:
    log, *command = argv
    try:
        with open(log, "ab") as out:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    except OSError as error:
        print(f"! {error.strerror or error}", flush=True)
        return 126
    print(child.pid, flush=True)
    threading.Thread(target=_follow, args=(child,), daemon=True).start()
    sys.stdin.buffer.read()
    child.kill()
    child.wait()
    return 0


def _follow(child: subprocess.Popen[bytes]) -> None:
    code = child.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
