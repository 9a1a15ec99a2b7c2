"""The time from the start of a process to its first call: fresh processes, with the prefix saved and without."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.process import LOADING_S, environment
from bench.stats import percentile
from router.known import sample_context
from router.toolset import Toolset
from runtimes.errors import UserError

PROGRAM: Final = "bench.first_call"
FIGURES: Final = ("wall_ms", "cpu_ms", "import_ms", "import_cpu_ms", "open_ms", "request_ms")


@dataclass(frozen=True)
class Start:
    """How a process opens which artifact, and what it is asked."""

    folder: Path
    runtime: str
    user: str
    context: Mapping[str, Any]
    device: str = "auto"
    threads: int | None = None
    plugins: Sequence[str] = ()


def context_for(toolset: Toolset, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A context that has every value which a toolset binds or shows; those `given` as they are."""
    return dict.fromkeys(toolset.bound_keys, ".") | sample_context(toolset) | dict(given or {})


def first_calls(
    start: Start, n: int, seconds: float = float("inf"), tick: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """The report's entry: medians over `n` fresh processes of each kind, in turns, behind one that is not counted.

    That one leaves the prefix beside the artifact, and the files in the machine's cache. No more are begun after
    `seconds`, but one of each is. ``saved`` is None where the runtime or the folder cannot keep a prefix. Raises
    `UserError` for a process that fails.
    """
    begun = time.monotonic()
    _once(start, save_prefix=True)
    saved: list[dict[str, Any]] = []
    computed: list[dict[str, Any]] = []
    while not computed or (len(computed) < n and time.monotonic() - begun < seconds):
        kept = _once(start, save_prefix=True)
        if kept["prefix_restored"]:
            saved.append(kept)
        computed.append(_once(start, save_prefix=False))
        tick(len(computed))
    return {"n": len(computed), "saved": _figures(saved) if saved else None, "computed": _figures(computed)}


def _figures(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    walls = [one["wall_ms"] for one in found]
    medians = {key: percentile([one[key] for one in found], 50) for key in FIGURES}
    return {"n": len(found), **medians, "wall_range_ms": [min(walls), max(walls)]}


def _once(start: Start, *, save_prefix: bool) -> dict[str, Any]:
    """One process and what it tells."""
    asked = {
        "folder": str(start.folder), "runtime": start.runtime, "device": start.device, "threads": start.threads,
        "user": start.user, "context": dict(start.context), "save_prefix": save_prefix,
        "plugins": list(start.plugins),
    }  # fmt: skip
    env = environment(start.threads)
    try:
        done = subprocess.run(
            [sys.executable, "-m", PROGRAM, json.dumps(asked | {"started_ns": time.monotonic_ns()})],
            env=env, capture_output=True, text=True, errors="replace", timeout=LOADING_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"{start.folder}: no first call within {LOADING_S:.0f} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = said[-1][:300] if said else f"exit code {done.returncode}"
        raise UserError(f"{start.folder}: a fresh process made no call: {why}")
    told: dict[str, Any] = json.loads(lines[-1])
    return told
