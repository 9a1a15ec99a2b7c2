"""``report.json`` out of what was collected; the schema is ``report.schema.json``."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.metrics import summarize
from bench.ranking import compare, paired_dict, rank
from bench.records import MODES, Answer, Mode, Run, Settings
from bench.stats import paired, percentile, summary
from bench.suites import Suite
from router.cases import Case
from router.causes import CAUSES

SCHEMA = "edgecall.report/1"
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
PERCENTILES = "linear interpolation between closest ranks (Hyndman and Fan, type 7); p99 from 300 requests on"


@dataclass(frozen=True)
class Context:
    """What a report says beside its runs."""

    settings: Settings
    suite: Suite
    toolset: str
    toolset_sha256: str
    model: dict[str, Any]
    machine: dict[str, Any]
    started: datetime
    finished: datetime
    blocks: list[dict[str, Any]] = field(default_factory=list)
    stages_s: dict[str, float] = field(default_factory=dict)


def build(context: Context, runs: Sequence[Run], reference: Run | None) -> dict[str, Any]:
    """The whole report as plain data."""
    return {
        "schema": SCHEMA,
        **head(context),
        "reference": None if reference is None else _reference(reference),
        "runs": [entry(run, context, reference) for run in runs],
        "ranking": rank(runs),
        "comparisons": compare(runs),
        "blocks": context.blocks,
    }


def head(context: Context) -> dict[str, Any]:
    """What was measured with which code, on what, and how it was asked for."""
    commit, dirty = git_state()
    settings = context.settings
    return {
        "commit": commit,
        "dirty": dirty,
        "started": context.started.isoformat(timespec="seconds"),
        "finished": context.finished.isoformat(timespec="seconds"),
        "model": context.model,
        "toolset": context.toolset,
        "toolset_sha256": context.toolset_sha256,
        "suite": context.suite.describe(),
        "settings": {
            "quick": settings.quick,
            "requests": settings.requests,
            "warmup": settings.warmup,
            "budget_s": settings.budget_s,
            "seed": settings.seed,
            "device": settings.device,
            "threads": settings.threads,
            "command": settings.command,
            "percentiles": PERCENTILES,
            "stages_s": {name: round(seconds, 1) for name, seconds in context.stages_s.items()},
        },
        "machines": [{"id": "m0", **context.machine}],
    }


def stamp(schema: str, command: str) -> dict[str, Any]:
    """How a report begins that has no `Context`: its schema, the code, now, and the command."""
    commit, dirty = git_state()
    return {
        "schema": schema,
        "commit": commit,
        "dirty": dirty,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def validate(report: dict[str, Any]) -> bool:
    """Check against the committed schema; False where jsonschema is not installed. Raises ValueError."""
    return check_schema(report, SCHEMA_FILE)


def check_schema(report: dict[str, Any], schema: Path) -> bool:
    """Check a report against the schema in a file; False where jsonschema is not installed. Raises ValueError."""
    try:
        import jsonschema
    except ImportError:
        return False
    checker = jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
    for error in sorted(checker.iter_errors(report), key=lambda e: list(map(str, e.absolute_path))):
        raise ValueError(f"the report breaks its schema at {error.json_path}: {error.message[:300]}")
    return True


def samples(runs: Iterable[Run], suite: Suite) -> Iterator[dict[str, Any]]:
    """The lines of ``samples.jsonl``: every answer with its verdict and times, then every timed request."""
    buckets = {case.id: case.bucket for case in suite.cases}
    for run in runs:
        head = {"run": run.name, "runtime": run.variant.runtime}
        for mode in MODES:
            for case, answer in run.answers[mode].items():
                verdict = run.verdicts[mode][case].to_dict()
                yield {**head, "mode": mode, "case": case, "bucket": buckets[case], **_answer(answer, verdict)}
        for timed in run.timed:
            yield {
                **head, "mode": "latency", "case": timed.case, "block": timed.block, "ms": round(timed.ms, 4),
                "first_decision_ms": timed.first_decision_ms, "parts": timed.parts,
            }  # fmt: skip


def git_state() -> tuple[str | None, bool | None]:
    """Commit and whether files differ from it, of the checkout that this code lies in; None elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def _reference(run: Run) -> dict[str, Any]:
    return {
        "name": f"{run.variant.runtime}-{run.variant.quant}",
        "runtime": run.variant.runtime,
        "artifact": run.name,
        "artifact_sha256": run.artifact.sha256 if run.artifact else None,
        "device": run.opened.get("device"),
        "status": run.status,
        "reason": run.reason,
    }


def entry(run: Run, context: Context, reference: Run | None) -> dict[str, Any]:
    """One run of the report."""
    run = _untimed(run) if run.emulated else run
    latency = summary([timed.ms for timed in run.timed]) if run.timed else None
    if latency is not None:
        busy = {block["index"] for block in context.blocks if block["busy"]}
        latency["in_busy_blocks"] = sum(timed.block in busy for timed in run.timed)
    floor = _floor(run)
    return {
        "runtime": run.variant.runtime,
        "artifact": run.name,
        "format": run.variant.format,
        "quant": run.variant.quant,
        "precision": run.variant.precision,
        "status": run.status,
        "reason": run.reason if not run.fix else f"{run.reason}; {run.fix}",
        "fix": run.fix,
        "stage": run.stage,
        "machine": "m0",
        "device": run.opened.get("device"),
        "threads": run.opened.get("threads"),
        "dtype": run.opened.get("dtype"),
        "emulated": run.emulated,
        "artifact_path": str(run.artifact.folder) if run.artifact else None,
        "artifact_sha256": run.artifact.sha256 if run.artifact else None,
        "max_new_tokens": run.opened.get("max_new_tokens"),
        "versions": run.opened.get("versions", {}),
        "size_mb": run.artifact.size_bytes / 1e6 if run.artifact else None,
        "load_ms": run.opened.get("load_ms"),
        "cold_start_ms": run.opened.get("cold_start_ms"),
        "first_call_ms": run.first_call,
        "peak_rss_mb": run.opened.get("peak_rss_mb"),
        "device_memory_mb": run.opened.get("device_memory_mb"),
        "accuracy": _accuracy(run, "grammar", context.suite),
        "accuracy_unconstrained": _accuracy(run, "unconstrained", context.suite),
        "latency_ms": latency,
        "first_decision_ms": _first_decision(run),
        "prefill_tok_s": run.speed.get("prefill_tok_s"),
        "decode_tok_s": run.speed.get("decode_tok_s"),
        "throughput": run.speed.get("throughput"),
        "forward_passes": passes(run),
        "floor_ms": floor,
        "overhead": latency["p50"] / floor["p50"] if latency and floor and floor["p50"] else None,
        "overhead_same_request": floor["request_p50"] / floor["p50"] if floor and floor["request_p50"] else None,
        "own_code": own_code(run),
        "parity": _parity(run, reference),
        "warnings": run.warnings,
    }


def _untimed(run: Run) -> Run:
    """An emulated run without what its process took: that is not what the runtime takes that it stands in for."""
    needs = ("load_ms", "cold_start_ms", "peak_rss_mb", "device_memory_mb")
    opened = {key: value for key, value in run.opened.items() if key not in needs}
    return replace(run, opened=opened, timed=[], speed={}, floor={}, first_call=None)


def _accuracy(run: Run, mode: Mode, suite: Suite) -> dict[str, Any] | None:
    verdicts = run.verdicts[mode]
    if not verdicts:
        return None
    answers = run.answers[mode].values()
    checked = sum(answer.checked for answer in answers)
    counts = {"routed": len(answers) - checked, "checked": checked}
    return summarize(suite.cases, verdicts, suite.templates) | counts


def _first_decision(run: Run) -> dict[str, Any] | None:
    values = [timed.first_decision_ms for timed in run.timed if timed.first_decision_ms is not None]
    return {"p50": percentile(values, 50), "p95": percentile(values, 95)} if values else None


def passes(run: Run) -> dict[str, Any] | None:
    """Means of passes and tokens over the cases that were routed pass by pass; None where nobody told of tokens."""
    routed = [a.stats for a in run.answers["grammar"].values() if not a.checked and "forced_tokens" in a.stats]
    if not routed:
        return None

    def mean(key: str) -> float:
        return math.fsum(stats[key] for stats in routed) / len(routed)

    return {
        "mean": mean("forward_passes"),
        "forced_tokens": mean("forced_tokens"),
        "decided_tokens": mean("decided_tokens"),
        "request_tokens": mean("request_tokens"),
        "by_cause": by_cause([stats["pass_causes"] for stats in routed if stats.get("pass_causes")]),
    }


def by_cause(found: Sequence[Mapping[str, int]]) -> dict[str, float] | None:
    """Mean passes of each cause (`router.causes`) over requests; None where there are none."""
    return {cause: fmean(one[cause] for one in found) for cause in CAUSES} if found else None


def own_code(run: Run) -> dict[str, Any] | None:
    """What of a timed request is not the model's passes: its share with quartiles, and milliseconds (medians).

    None where requests do not tell, as a peer's.
    """
    known = [timed.parts for timed in run.timed if timed.parts is not None]
    if not known:
        return None
    own = [parts["total_ms"] - parts["model_ms"] for parts in known]
    shares = [ms / parts["total_ms"] for ms, parts in zip(own, known, strict=True)]
    return {
        "n": len(known),
        "share_p50": percentile(shares, 50),
        "share_quartiles": [percentile(shares, 25), percentile(shares, 75)],
        "ms_p50": percentile(own, 50),
        "grammar_ms_p50": percentile([parts["grammar_ms"] for parts in known], 50),
        "tokenize_ms_p50": percentile([parts["tokenize_ms"] for parts in known], 50),
    }


def _floor(run: Run) -> dict[str, Any] | None:
    times = run.floor.get("ms")
    if not times:
        return None
    routed = run.floor["request_ms"]
    return {
        "p50": percentile(times, 50),
        "n": len(times),
        "case": run.floor["case"],
        "passes": run.floor["passes"],
        "request_p50": percentile(routed, 50) if routed else None,
    }


def _parity(run: Run, reference: Run | None) -> dict[str, Any] | None:
    if reference is None or (run.parity is None and run.same_calls is None):
        return None
    found = dict(run.parity or {"max_abs_logit": None, "mean_kl": None, "top1_agreement": None})
    same = run.same_calls or {}
    return {
        "reference": f"{reference.variant.runtime}-{reference.variant.quant}",
        **found,
        "same_calls": sum(same.values()) / len(same) if same else None,
        "same_calls_n": len(same),
        "disagreements": run.disagreements,
        "accuracy_vs_reference": paired_dict(paired(reference.exact(), run.exact())) if same else None,
    }


def _answer(answer: Answer, verdict: dict[str, Any]) -> dict[str, Any]:
    return {
        "output": answer.text,
        "calls": None if answer.calls is None else [call.to_dict() for call in answer.calls],
        "error": answer.error,
        "verdict": verdict,
        "checked": answer.checked,
        "stats": answer.stats,
        "token_ids": answer.token_ids,
    }


def median_case(cases: Sequence[Case], answers: dict[str, Answer]) -> Case | None:
    """The case whose cost for the reference is the median: by forward passes, then by tokens."""
    known = [case for case in cases if case.id in answers and answers[case.id].stats]
    if not known:
        return None

    def cost(case: Case) -> tuple[int, int, str]:
        stats = answers[case.id].stats
        return stats["forward_passes"], sum(stats["pass_sizes"]), case.id

    return sorted(known, key=cost)[len(known) // 2]
