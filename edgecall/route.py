"""`edgecall route`: one request in, tool calls out, as JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecall.cache import artifact_of
from runtimes.artifact import Artifact, is_artifact, open_artifact
from runtimes.console import Parser
from runtimes.errors import UnavailableError, UserError

if TYPE_CHECKING:
    from router.result import RouteResult
    from router.toolset import Toolset

PREFERRED = ("llama_cpp", "onnxruntime", "mlx", "coreml", "torch")
"""Which runtime serves where none is asked for: the first that is available."""

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def parser() -> Parser:
    """The command's argument parser."""
    made = Parser(
        "edgecall route",
        "Turn one request into tool calls and print them as JSON. Without --model the seed\n"
        "router answers; what it needs is exported on first use, into ~/.cache/edgecall\n"
        "($EDGECALL_CACHE names another folder).",
        [
            'edgecall route "find email scripts"',
            'edgecall route "load invoice_parser from registry" --runtime onnxruntime --stats',
            'edgecall route "run backup" --model out/gguf-q8_0 --context project_path=/home/me/p',
        ],
        usage="edgecall route REQUEST [options]",
    )
    made.add_argument("request", metavar="REQUEST", help="what the user typed")
    made.add_argument(
        "--model", metavar="MODEL", default="seed", help="artifact folder, or a model as for export (default: seed)"
    )
    made.add_argument("--runtime", metavar="NAME", help=f"runtime (default: the first there of {', '.join(PREFERRED)})")
    made.add_argument("--quant", metavar="NAME", help="variant to make of a model (default: 8 bits)")
    made.add_argument("--toolset", metavar="NAME|FILE", help="tools to route to (default: the artifact's, or kiwi)")
    made.add_argument(
        "--context",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a value that the router fills in or shows the model (project_path: the current folder; date, weekday, "
        "time: now)",
    )
    made.add_argument("--no-grammar", action="store_true", help="decode freely instead of only what the tools allow")
    made.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, metal, ... (default: auto)")
    made.add_argument("--threads", metavar="N", type=int, help="threads to use (default: half the cores, at most 8)")
    made.add_argument("--stats", action="store_true", help="add token counts, forward passes and times")
    made.add_argument("--json", action="store_true", help="on one line, for programs")
    made.add_argument(
        "--print-prompt",
        action="store_true",
        help="print what the model would be asked, for another program to ask it, and end; nothing is added to it",
    )
    return made


def main(argv: list[str]) -> int:
    """Route one request. 0 with its calls; 1 where what the model wrote (without grammar) is no call."""
    arguments = parser().parse_args(argv)
    if not arguments.request.strip():
        raise UserError('the request is empty; give one, as in `edgecall route "find email scripts"`')
    given = context(arguments.context)
    from router.core import Router
    from router.toolset_load import load_toolset

    toolset = load_toolset(arguments.toolset) if arguments.toolset else None
    artifact = _artifact(arguments, toolset)
    if arguments.print_prompt:
        sys.stdout.write(prompt(artifact, arguments.request, given, toolset))
        return 0
    with Router.open(
        artifact.folder,
        runtime=arguments.runtime,
        device=arguments.device,
        threads=arguments.threads,
        toolset=toolset,
        check="sizes",  # every way here has hashed it
    ) as router:
        result = router.route(arguments.request, given, grammar=not arguments.no_grammar)
    answer = _answer(result, artifact, arguments.stats)
    print(json.dumps(answer, ensure_ascii=False, indent=None if arguments.json else 2))
    return 0 if result.error is None else 1


def context(entries: Sequence[str], now: datetime | None = None) -> dict[str, str]:
    """The request's context from ``KEY=VALUE`` entries.

    Unless given, `project_path` is the current folder, and `date`, `weekday` and `time` are those of `now`.
    """
    now = now or datetime.now()
    out = {
        "project_path": os.getcwd(),
        "date": now.date().isoformat(),
        "weekday": _WEEKDAYS[now.weekday()],
        "time": f"{now:%H:%M}",
    }
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--context {entry!r}: write KEY=VALUE, as in --context project_path=/home/me/project")
        out[key.strip()] = value
    return out


def prompt(artifact: Artifact, request: str, given: Mapping[str, Any], toolset: Toolset | None = None) -> str:
    """The prompt as text, as it stands before a completion; tokenize it with control tokens and without adding a bos.

    Raises `UserError` for a request that spells a control token, or a context without what the toolset shows.
    """
    from router.toolset_load import load_json
    from router.wire import WireError, placed, render_prompt, user_turn, wire_format

    tools = toolset or load_json(artifact.toolset)
    try:
        return render_prompt(placed(tools, given), user_turn(tools, request, given), wire_format(artifact.wire))
    except WireError as error:
        raise UserError(f"the prompt cannot be written down: {error}") from None


def choose_runtime(asked: str | None) -> str:
    """The runtime to use: the one asked for if it is there, else the first of `PREFERRED` that is."""
    from runtimes import runtime

    if asked is not None:
        state = runtime(asked).availability()
        if not state.available:
            raise UnavailableError(f"{asked}: {state.reason}; {state.fix}" if state.fix else f"{asked}: {state.reason}")
        return asked
    for name in PREFERRED:
        if runtime(name).availability().available:
            return name
    raise UnavailableError('no runtime is installed; pip install "edgecall[llama]" (`edgecall doctor` lists them all)')


def _artifact(arguments: Namespace, toolset: Toolset | None) -> Artifact:
    folder = Path(arguments.model).expanduser()
    if is_artifact(folder):
        if arguments.quant:
            raise UserError(f"{folder}: is an artifact already; leave out --quant, or give the model it was made from")
        return open_artifact(folder)
    from edgecall.plan import routing_quant
    from router.toolset_load import load_toolset
    from runtimes import runtime

    fmt = runtime(choose_runtime(arguments.runtime)).FORMAT
    return artifact_of(
        arguments.model,
        fmt,
        arguments.quant or routing_quant(fmt),
        toolset or load_toolset("kiwi"),
        lambda line: print(line, file=sys.stderr, flush=True),
        threads=arguments.threads,
    )


def _answer(result: RouteResult, artifact: Artifact, stats: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"calls": [call.to_dict() for call in result.calls]}
    if result.error is not None:
        answer |= {"error": result.error, "text": result.text}
    if stats:
        answer |= {"artifact": str(artifact.folder), "stats": asdict(result.stats), "tokens": len(result.token_ids)}
    return answer
