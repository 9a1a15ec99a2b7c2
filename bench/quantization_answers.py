"""Answers that are kept, so that a search which was interrupted, or is asked something else, does not ask again.

One file for each artifact and suite. Its name is a hash of all that may change an answer: the artifact's content, the
cases, the toolset, the runtime and its version, device, threads, and the code that decodes.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import router
import runtimes
from bench.metrics import Verdict
from bench.records import Answer, Mode, Run, Settings, calls_from
from bench.report import samples
from bench.suites import Suite
from runtimes.artifact import sha256_file

SCHEMA: Final = "edgecall.answers/1"
_TOLD: Final = ("device", "dtype", "threads", "max_new_tokens", "versions", "peak_rss_mb", "load_ms")
_MODE: Final[Mode] = "grammar"


def path_of(run: Run, suite: Suite, toolset_sha256: str, settings: Settings) -> Path:
    """Where the answers of a run to a suite are kept."""
    assert run.artifact is not None
    version = runtimes.runtime(run.variant.runtime).availability().version
    parts = [
        SCHEMA, run.artifact.sha256, suite.sha256, toolset_sha256, run.variant.runtime, str(version), settings.device,
        str(settings.threads), _code(),
    ]  # fmt: skip
    return settings.cache / "answers" / f"{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:32]}.json"


def keep(path: Path, run: Run, suite: Suite) -> None:
    """Write a run's answers, if it answered all."""
    if run.status != "ok" or len(run.answers[_MODE]) != len(suite.cases):
        return
    data = {
        "schema": SCHEMA,
        "opened": {key: run.opened[key] for key in _TOLD if key in run.opened},
        "warnings": run.warnings,
        "answers": [line for line in samples([run], suite) if line["mode"] == _MODE],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def restore(path: Path, run: Run, suite: Suite) -> bool:
    """Give a run the answers that are kept; False where there are none, or not to all cases."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        lines = {line["case"]: line for line in data["answers"]}
        answers = {case: _answer(line) for case, line in lines.items()}
        verdicts = {
            case: Verdict(**line["verdict"] | {"problems": tuple(line["verdict"]["problems"])})
            for case, line in lines.items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if data.get("schema") != SCHEMA or set(answers) != {case.id for case in suite.cases}:
        return False
    run.answers[_MODE], run.verdicts[_MODE] = answers, verdicts
    run.opened, run.warnings = dict(data["opened"]), list(data["warnings"])
    return True


def _answer(line: dict[str, Any]) -> Answer:
    calls = line["calls"]
    return Answer(
        case=line["case"], calls=None if calls is None else calls_from(calls), token_ids=line["token_ids"],
        text=line["output"], error=line["error"], stats=line["stats"], checked=line["checked"],
    )  # fmt: skip


@cache
def _code() -> str:
    """Names the code that turns a request into calls."""
    files = [path for room in (router, runtimes) for path in Path(str(room.__file__)).parent.glob("*.py")]
    return hashlib.sha256("\n".join(f"{path.name} {sha256_file(path)}" for path in sorted(files)).encode()).hexdigest()
