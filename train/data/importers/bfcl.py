"""BFCL, the Berkeley Function Calling Leaderboard: single-turn questions with their accepted answers, as test rows.

JSON lines in ``BFCL_v*_<category>.json`` (``id``, ``question``: turns of messages, ``function``: documents) and, for
categories that call, ``possible_answer/`` of the same name (``id``, ``ground_truth``: ``[{function: {parameter:
[accepted, …]}}]``). The first accepted values are the gold calls, the other combinations are ``accept``, and so are
other orders of parallel calls; both are cut at `MAX_ACCEPT`. Strings are compared without case. The leaderboard's
checker is laxer still (it ignores punctuation in strings), so figures made here are not its figures.

The leaderboard is a test set: its rows are never written as training rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.toolset import Call
from router.toolset_schema import MAX_CALLS
from train.data.importers.base import Importer, Options, Row, RowError, Skipped, each, want
from train.data.importers.bfcl_schema import arguments, toolset
from train.data.importers.files import json_lines, missing

MAX_ACCEPT: Final = 256
"""Further right answers that a case lists."""
CALLING: Final = (
    "simple", "simple_python", "simple_java", "simple_javascript", "java", "javascript", "multiple", "parallel",
    "parallel_multiple", "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple",
)  # fmt: skip
"""Single-turn categories with accepted answers."""
NO_CALL: Final = ("irrelevance", "live_irrelevance")
"""Single-turn categories in which no call is right."""

_NAME: Final = re.compile(r"BFCL_v(\d+)_(\w+)\.json")


def files(folder: Path) -> list[Path]:
    """Question files of single-turn categories, the newest version of each, and their answers."""
    found: list[Path] = []
    for category, path in _questions(folder).items():
        found.append(path)
        if category in CALLING:
            answers = folder / "possible_answer" / path.name
            if not answers.is_file():
                raise missing(folder, f"possible_answer/{path.name}", IMPORTER)
            found.append(answers)
    if not found:
        raise missing(folder, "BFCL_v*_<category>.json of a single-turn category", IMPORTER)
    return found


def read(folder: Path, options: Options) -> Iterator[Row | Skipped]:
    files(folder)
    chosen = _questions(folder)
    for path in sorted(folder.glob("BFCL_v*.json")):
        if path not in chosen.values():
            yield Skipped(
                f"{path}:1", "a file of another version, or of a category without single turns or fixed answers"
            )
    for category, path in chosen.items():
        answers = {}
        if category in CALLING:
            for place, answer in json_lines(folder / "possible_answer" / path.name):
                if isinstance(answer, dict):
                    answers[answer.get("id")] = (place, answer)

        def make(place: str, data: Any, category: str = category, answers: dict[Any, Any] = answers) -> Row:
            return _row(place, data, category, answers)

        yield from each(json_lines(path), make)


def _row(place: str, data: Any, category: str, answers: dict[Any, tuple[str, Any]]) -> Row:
    name = want(data, "id", str)
    functions = data.get("function")
    functions = functions if isinstance(functions, list) else [functions] if functions else []
    if not functions:
        raise RowError("corrupt row", "'function' declares nothing")
    parallel = "parallel" in category
    tools = toolset(functions, MAX_CALLS if parallel else 1)
    user = _request(data.get("question"))
    if category in NO_CALL:
        return Row(Case(f"bfcl/{name}", user, bucket=category), "test", tools, place)
    if name not in answers:
        raise RowError("no accepted answer", f"{name!r} is not in possible_answer")
    there, answer = answers[name]
    options = []
    for call in want(answer, "ground_truth", list):
        if not isinstance(call, dict) or len(call) != 1 or not all(isinstance(v, dict) for v in call.values()):
            raise RowError("corrupt row", f"the answer at {there} is not a list of one-function objects")
        ((function, accepted),) = call.items()
        tool = tools.tool(function)
        if tool is None:
            raise RowError(
                "missing tool", f"the answer at {there} calls {function!r}, which the question does not declare"
            )
        found = list(islice((Call(function, a) for a in arguments(tool, accepted)), MAX_ACCEPT + 1))
        options.append(found)
    gold, accept, cut = _answers(options, parallel)
    notes = (f"accepted answers cut at {MAX_ACCEPT}",) if cut else ()
    return Row(Case(f"bfcl/{name}", user, bucket=category, calls=gold, accept=accept), "test", tools, place, notes)


def _answers(options: list[list[Call]], parallel: bool) -> tuple[tuple[Call, ...], tuple[tuple[Call, ...], ...], bool]:
    """The gold calls, what is as right, and whether that was cut.

    Other values come first, then other orders of the gold calls, then both at once; half of the room is for orders,
    so that a call with many spellings does not leave every other order wrong.
    """
    gold = tuple(found[0] for found in options)
    orders = math.factorial(len(gold)) if parallel else 1
    cut = orders * math.prod(len(found) for found in options) > MAX_ACCEPT + 1
    room = MAX_ACCEPT // 2 if orders > 1 else MAX_ACCEPT
    found = [gold, *islice(product(*options), 1, room + 1)]
    if orders > 1:
        found += islice(permutations(gold), 1, MAX_ACCEPT - len(found) + 2)
        both = (calls for order in islice(permutations(options), 1, None) for calls in product(*order))
        found += islice(both, 0 if len(found) > MAX_ACCEPT else 2 * MAX_ACCEPT)
    different = {repr(calls): calls for calls in found}
    return gold, tuple(list(different.values())[1 : MAX_ACCEPT + 1]), cut


def _request(question: Any) -> str:
    """The words of a single turn; what a system message says stands before them."""
    while isinstance(question, list) and len(question) == 1 and isinstance(question[0], list):
        question = question[0]
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    if not isinstance(question, list) or not question or not all(isinstance(m, dict) for m in question):
        raise RowError("corrupt row", "'question' is neither text nor a turn of messages")
    if [m.get("role") for m in question].count("user") != 1 or question[-1].get("role") != "user":
        raise RowError("a dialogue, not one request", fault=False)
    return "\n\n".join(want(m, "content", str).strip() for m in question)


def _questions(folder: Path) -> dict[str, Path]:
    """Category -> the file of its newest version."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("BFCL_v*.json")):
        name = _NAME.fullmatch(path.name)
        if name and name.group(2) in (*CALLING, *NO_CALL):
            version = int(name.group(1))
            if version >= found.get(name.group(2), (0, path))[0]:
                found[name.group(2)] = (version, path)
    return {category: path for category, (_, path) in found.items()}


IMPORTER: Final = Importer(
    "bfcl",
    "Berkeley Function Calling Leaderboard: single-turn categories with accepted answers",
    "Apache-2.0",
    "github.com/ShishirPatil/gorilla (berkeley-function-call-leaderboard/bfcl_eval/data)",
    files,
    read,
    toolset=False,
    held_out="all of it: every row is a test row",
)
