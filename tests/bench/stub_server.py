"""A stand-in for llama-server, a program of its own: the endpoints that the peer uses, and what can go wrong with each.

``python stub_server.py ANSWERS BEHAVIOUR`` and then llama-server's own arguments. ANSWERS is a JSON file: what is
written behind a prompt that ends with the key. BEHAVIOUR is one word:

good, slow-start (not healthy at first), dies (at start), ends (at start, well), dies-later (at the third completion),
hangs (at the third),
refuses (500 for every completion), babbles (no JSON), old (JSON as another version might), limit (never ends),
closes (every connection after one answer, without saying so).
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, str]] = {}
    behaviour: ClassVar[str] = "good"
    seen: ClassVar[list[dict[str, Any]]] = []
    health_checks: ClassVar[int] = 0

    def do_GET(self) -> None:
        if self.path == "/health":
            Handler.health_checks += 1
            if self.behaviour == "slow-start" and Handler.health_checks < 3:
                self.say({"error": {"code": 503, "message": "Loading model"}}, 503)
            else:
                self.say({"status": "ok"})
        elif self.path == "/props":
            self.say({"build_info": "b7-stub"})
        else:
            self.say({"error": {"code": 404, "message": "File Not Found"}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.say({"tokens": list(body["content"].encode())})
        elif self.path == "/completion":
            self.complete(body)

    def complete(self, body: dict[str, Any]) -> None:
        Handler.seen.append(body)
        Path(os.environ.get("STUB_SEEN", os.devnull)).open("a").write(json.dumps(body) + "\n")
        if self.behaviour == "dies-later" and len(Handler.seen) >= 3:
            print("the stub says: out of memory", flush=True)
            os._exit(9)
        if self.behaviour == "hangs" and len(Handler.seen) >= 3:
            time.sleep(3600)
        if self.behaviour == "refuses":
            self.say({"error": {"code": 500, "message": "no slot today", "type": "server_error"}}, 500)
            return
        if self.behaviour == "babbles":
            self.send(b"<html>hello</html>", 200)
            return
        text = next((value for key, value in self.answers.items() if body["prompt"].endswith(key)), "")
        answer = {"content": text, "stop_type": "limit" if self.behaviour == "limit" else "eos", "tokens_predicted": 7}
        if self.behaviour == "old":
            answer = {"content": text, "stopped_eos": True}
        self.say(answer)

    def say(self, answer: dict[str, Any], status: int = 200) -> None:
        self.send(json.dumps(answer).encode(), status)

    def send(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
        if self.behaviour == "closes":
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


def main(argv: list[str]) -> int:
    answers, behaviour, *arguments = argv
    if behaviour == "dies":
        print("the stub says: cannot read the model", flush=True)
        return 3
    if behaviour == "ends":
        return 0
    Handler.answers, Handler.behaviour = json.loads(Path(answers).read_text()), behaviour
    port = int(arguments[arguments.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
