"""The worker's end of the channel: commands come in on stdin, answers go out on what was stdout.

Libraries print to stdout when they like; at start its descriptor is moved away and 1 made to point at stderr, so that
only answers reach the bench.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from runtimes.errors import UnavailableError, UserError

Emit = Callable[[dict[str, Any]], None]
Handler = Callable[..., dict[str, Any]]


def serve(handlers: dict[str, Handler]) -> int:
    """Answer commands until stdin closes. A handler is called as ``handler(emit, **arguments)``."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    threading.Thread(target=_outlive_nobody, args=(os.getppid(),), daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        out.write(json.dumps(message, ensure_ascii=True, allow_nan=False) + "\n")
        out.flush()

    for line in sys.stdin:
        request = json.loads(line)
        number, command = request.pop("id"), request.pop("command")
        try:
            result = handlers[command](lambda event, n=number: send({"id": n, "event": event}), **request)
            answer = {"id": number, "result": result}
        except BrokenPipeError:
            return 1
        except Exception as error:
            if not isinstance(error, UserError):
                traceback.print_exc(file=sys.stderr)
            answer = {"id": number, "error": _describe(error)}
        try:
            send(answer)
        except BrokenPipeError:
            return 1
        except ValueError as error:
            traceback.print_exc(file=sys.stderr)
            send({"id": number, "error": _describe(error)})
    return 0


def _outlive_nobody(parent: int) -> None:
    """End with the bench, also where it was killed while a command runs here."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _describe(error: Exception) -> dict[str, Any]:
    """The error as its one line. An `ImportError` counts as something that the machine lacks."""
    text = " ".join(str(error).split()) or repr(error)
    kind = "UserError" if isinstance(error, UserError) else type(error).__name__
    return {"type": kind, "message": text[:2000], "unavailable": isinstance(error, UnavailableError)}
