"""What a bench collects about each runtime and variant while it runs; `bench.report` makes the report of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from bench.metrics import Verdict
from export.trim_record import Trim
from router.toolset import Call
from runtimes import STAND_INS
from runtimes.artifact import Artifact

Status = Literal["ok", "skipped", "failed"]
Mode = Literal["grammar", "unconstrained"]
MODES: tuple[Mode, ...] = ("grammar", "unconstrained")


@dataclass(frozen=True)
class Variant:
    """One artifact on one runtime, and where: on `device`, or where `Settings.device` says."""

    runtime: str
    format: str
    quant: str
    precision: int
    device: str | None = None

    @property
    def artifact(self) -> str:
        """The artifact's name, e.g. ``gguf-q8_0``."""
        return f"{self.format}-{self.quant}"

    @property
    def name(self) -> str:
        """What it is called: as its artifact, or after a runtime that stands in for the artifact's own; with a device
        of its own ``@`` and that."""
        stands_in = STAND_INS.get(self.format) == self.runtime
        name = f"{self.runtime}-{self.quant}" if stands_in else self.artifact
        return name if self.device is None else f"{name}@{self.device}"


@dataclass(frozen=True)
class Answer:
    """What a router answered to one case. `calls` is None where the completion could not be parsed."""

    case: str
    calls: list[Call] | None
    token_ids: list[int]
    text: str
    error: str | None
    stats: dict[str, Any]
    checked: bool
    """Decoded along a guess rather than pass by pass (`bench.guess`)."""

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Answer:
        """From the event that a worker sends."""
        calls = event["calls"]
        return cls(
            case=event["case"],
            calls=None if calls is None else calls_from(calls),
            token_ids=event["token_ids"],
            text=event["text"],
            error=event["error"],
            stats=event["stats"],
            checked=event["checked"],
        )


PARTS: Final = ("total_ms", "model_ms", "grammar_ms", "tokenize_ms")


@dataclass(frozen=True)
class Timed:
    """One timed request: milliseconds from the request as a string to the parsed calls."""

    case: str
    ms: float
    first_decision_ms: float | None
    block: int
    calls: list[Call] | None
    parts: dict[str, float] | None = None
    """Of a run of ours (`PARTS`), milliseconds of the request, within the model's passes, grammar and tokenizer."""


@dataclass(eq=False)
class Run:
    """Everything known about one variant so far."""

    variant: Variant
    status: Status = "ok"
    reason: str | None = None
    fix: str | None = None
    stage: str | None = None
    artifact: Artifact | None = None
    opened: dict[str, Any] = field(default_factory=dict)
    """Device, dtype, threads, versions, load_ms; cold_start_ms; memory."""
    answers: dict[Mode, dict[str, Answer]] = field(default_factory=lambda: {mode: {} for mode in MODES})
    verdicts: dict[Mode, dict[str, Verdict]] = field(default_factory=lambda: {mode: {} for mode in MODES})
    timed: list[Timed] = field(default_factory=list)
    speed: dict[str, Any] = field(default_factory=dict)
    floor: dict[str, Any] = field(default_factory=dict)
    """The floor's case and passes, and the lists `ms` (bare) and `request_ms` (routed)."""
    first_call: dict[str, Any] | None = None
    """Of fresh processes (`bench.cold`)."""
    parity: dict[str, Any] | None = None
    same_calls: dict[str, bool] | None = None
    disagreements: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    worker: str = "bench.worker"
    """The module of its process,"""
    more: dict[str, Any] = field(default_factory=dict)
    """and what that is told when it opens, beside the usual."""

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def emulated(self) -> bool:
        """Whether it stands in for another runtime: its times are nobody's."""
        return bool(self.opened.get("emulated", False))

    def exact(self, mode: Mode = "grammar") -> dict[str, bool]:
        """Case id -> whether the calls were right."""
        return {case: verdict.exact for case, verdict in self.verdicts[mode].items()}

    def skip(self, reason: str, fix: str | None = None) -> None:
        self.status, self.reason, self.fix = "skipped", reason, fix or None

    def fail(self, reason: str, stage: str) -> None:
        self.status, self.reason, self.stage = "failed", reason, stage


RUN_KEYS: Final = (
    "runtime", "artifact", "artifact_sha256", "device", "dtype", "threads", "max_new_tokens", "versions",
)  # fmt: skip


def described(run: Run) -> dict[str, Any]:
    """What a report of one run says of it: `RUN_KEYS`, None where it has not come to that."""
    sha256 = run.artifact.sha256 if run.artifact else None
    known = run.opened | {
        "runtime": run.variant.runtime, "artifact": run.variant.artifact, "artifact_sha256": sha256,
    }  # fmt: skip
    return {key: known.get(key) for key in RUN_KEYS}


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    model: str = "seed"
    toolset: str = "kiwi"
    runtimes: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    device: str = "auto"
    threads: int | None = None
    suite: str = "default"
    cases: Path | None = None
    requests: int = 1000
    budget_s: float = 1500.0
    quick: bool = False
    seed: int = 0
    warmup: int = 10
    blocks: int = 20
    cache: Path = Path("out/artifacts")
    trim: Trim | None = None
    """The vocabulary is cut before anything is exported, the reference's too."""
    silence_s: float = 120.0
    cold: int = 0
    """Fresh processes of each kind for the time to a first call, of every run."""
    modes: tuple[Mode, ...] = MODES
    """How cases are answered."""
    proved: tuple[str, ...] | None = None
    """Requests that exports are proved with; None: those made from the toolset."""
    plugins: tuple[str, ...] = ()
    """Modules that every worker imports first: a place to register runtimes of one's own."""
    command: str = ""

    @property
    def takes(self) -> str:
        """How long a bench is likely to take, for its first line: the budget holds what is measured, not all else."""
        minutes, seconds = f"{self.budget_s / 60:.0f} minutes", f"{self.budget_s:.0f} s"
        return f"about {minutes if self.budget_s >= 120 else seconds}, more where artifacts are made or slow to load"


def calls_from(rows: list[dict[str, Any]]) -> list[Call]:
    return [Call(row["name"], row["arguments"]) for row in rows]
