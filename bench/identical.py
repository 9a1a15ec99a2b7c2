"""`bench identical`: the same answers with guesses and without, one by one and at once, trimmed and whole.

What saves passes and bytes may not change an answer. Each artifact answers every case plainly (one by one, without
guesses, whole vocabulary), and then each other way; where two answers part, the distance of the two tokens' logits says
whether rounding decided (a tie) or something is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from bench import identical_page, identical_report
from bench.answering import LabelledRun
from bench.fleet import Fleet, Member, try_open
from bench.folder import check_out, workplace, write_cases
from bench.judging import first_difference
from bench.records import Run, Settings
from bench.report import git_state
from bench.run import Bench, Outcome, equip, export_all, model_of, suite_asked
from bench.screen import Bars, Screen
from bench.suites import Suite, digest, order
from bench.variants import Missing, choose
from export.atomic import write_json
from export.trim_record import FORMS, Form, Trim
from router.cases import Case
from router.tokenizer import RouterTokenizer
from router.toolset_load import load_toolset
from router.wire_format import wire_format
from runtimes import runtime
from runtimes.artifact import Artifact
from runtimes.base import default_threads
from runtimes.output import read_output_ids

WORKER: Final = "bench.identical_worker"
ROUNDED: Final = 12
"""Cases whose passes' rounding is measured."""
TRIM_CASES: Final = "identical-cases.jsonl"

Way = Literal["guess", "lanes", "trim-output", "trim-full"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)
Artifacts = dict[str, Artifact | Missing]


@dataclass(frozen=True)
class Asked:
    """What is compared, of which toolsets."""

    toolsets: tuple[str, ...] = ("kiwi",)
    ways: tuple[Way, ...] = WAYS
    trim: Trim | None = None
    """Which tokens trimmed vocabularies keep (its form is not looked at); without any rule what the cases need."""
    limit: int | None = None
    """The most cases of a toolset."""


class Said(NamedTuple):
    """An answer: its ids in the whole vocabulary, and whether it ended."""

    token_ids: tuple[int, ...]
    ended: bool
    text: str = ""


Answers = Mapping[str, Said]
Margins = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@dataclass(eq=False)
class Examined:
    """One artifact and what came of comparing its answers."""

    run: Run
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    rounding: dict[str, Any] | None = None


@dataclass(eq=False)
class Part:
    """A toolset: its bench, its artifacts in every form, and the artifacts that were examined."""

    bench: Bench
    forms: dict[str, Artifacts]
    """``whole``, ``output`` and ``full`` -> artifact by name."""
    model: dict[str, Any]
    examined: list[Examined] = field(default_factory=list)


def identical(
    settings: Settings,
    asked: Asked,
    screen: Screen,
    *,
    out: Path | None = None,
    artifacts: dict[str, Artifacts] | None = None,
) -> Outcome:
    """Compare and write the report. `artifacts` gives made ones by form and name, and then nothing is exported.

    Raises `UserError` for what can be mended before anything is asked; a run that fails later is reported.
    """
    settings = replace(settings, threads=settings.threads or default_threads(), modes=("grammar",))
    started = datetime.now(UTC)
    if out is not None:
        check_out(out)
    wanted = []
    for name in asked.toolsets:
        own = replace(settings, toolset=name)
        wanted.append((own, suite_of(own, asked), choose(own)))
    with workplace(out, started, git_state()[0]) as place:
        parts = []
        for number, (own, suite, variants) in enumerate(wanted, 1):
            scratch = place.scratch / str(number)
            scratch.mkdir()
            toolset, runs = load_toolset(own.toolset), [Run(variant) for variant in variants]
            bench = Bench(own, toolset, suite, screen, runs, scratch, place.logs)
            title = f"{settings.model} on toolset {toolset.name}: {len(suite.cases)} cases, {', '.join(asked.ways)}"
            screen.stage(number, len(wanted), "Identical", title)
            for run in runs:
                state = runtime(run.variant.runtime).availability()
                if not state.available:  # nothing is exported that nobody here can ask
                    run.skip(state.reason, state.fix)
            part = _provided(bench, asked, artifacts)
            parts.append(part)
            for run in runs:
                part.examined.append(_examine(part, run, asked))
        report = identical_report.build(settings, parts, started)
        identical_report.validate(report)
        write_json(place.staging / "identical.json", report)
        (place.staging / "identical.md").write_text(identical_page.render(report), encoding="utf-8")
    return Outcome(report, place.target)


def suite_of(settings: Settings, asked: Asked) -> Suite:
    """The cases of a toolset, of which `asked.limit` are taken. Raises `UserError`."""
    suite = suite_asked(settings, load_toolset(settings.toolset))
    if asked.limit is None or len(suite.cases) <= asked.limit:
        return suite
    kept = tuple(order(suite.cases)[: asked.limit])
    return replace(suite, cases=kept, sha256=digest(kept), of=suite.of or len(suite.cases))


def _provided(bench: Bench, asked: Asked, given: dict[str, Artifacts] | None) -> Part:
    """Artifacts of the whole model and of the trimmed ones that are compared."""
    forms = [form for form in FORMS if f"trim-{form}" in asked.ways]
    if given is not None:
        return Part(bench, given, model_of(given["whole"]))
    variants = [run.variant for run in bench.runs if run.status == "ok"]
    whole, model = export_all(bench, variants)
    part = Part(bench, {"whole": whole}, model)
    cases = write_cases(bench.scratch / TRIM_CASES, bench.suite.cases)
    trim = asked.trim or Trim(())
    if not trim.rules:
        trim = replace(trim, rules=(str(cases),), called="the cases")
    for form in forms:
        own = replace(bench, settings=replace(bench.settings, trim=replace(trim, form=form)))
        part.forms[form] = export_all(own, variants)[0]
    return part


def _examine(part: Part, run: Run, asked: Asked) -> Examined:
    """Open an artifact, ask it every way, and open its trimmed ones beside it."""
    bench, out = part.bench, Examined(run)
    if run.status == "ok":
        equip(bench, run, part.forms["whole"].get(run.variant.artifact, Missing("there is no artifact of it", True)))
    if run.status != "ok":
        (bench.screen.failed if run.status == "failed" else bench.screen.skipped)(run.name, str(run.reason))
        return out
    with Fleet(bench.logs, bench.settings) as fleet, bench.screen.progress() as bars:
        for member in _opened(bench, fleet, run):
            member.attempt("plain", partial(_compare_all, part, out, member, fleet, asked, bars), bench.screen.failed)
            bars.end(run.name)
    return out


def _opened(bench: Bench, fleet: Fleet, run: Run) -> list[Member]:
    run.worker = WORKER
    cases = write_cases(bench.scratch / "cases.jsonl", bench.suite.cases)
    device = "auto" if run.variant.format == "mlx" else bench.settings.device
    return try_open(bench.screen, fleet, run, device, cases)


def _compare_all(part: Part, out: Examined, member: Member, fleet: Fleet, asked: Asked, bars: Bars) -> None:
    bench, run = part.bench, member.run
    cases = [case.id for case in bench.suite.cases]
    plain = asked_all(member, "plain", cases, bars)[0]
    known = [case for case in cases if plain[case].token_ids]
    items = [{"case": case, "token_ids": plain[case].token_ids} for case in known[:ROUNDED]]
    out.rounding = member.call("rounding", items=items)
    margins: Margins = lambda items: list(member.call("margins", items=items)["margins"])  # noqa: E731
    judge = partial(compared, plain=plain, margins=margins, tie=run.opened["tie"], users=_users(bench))
    for way in asked.ways:
        begun = time.monotonic()
        if way == "lanes" and run.opened["lanes"] < 2:
            found = skipped(way, "this runtime, or an instruction that shows the context, has requests one by one")
        elif way in ("guess", "lanes"):
            # What plain routing refuses, `route_many` refuses as a whole.
            answers, told = asked_all(member, way, known if way == "lanes" else cases, bars)
            detail = f"{run.opened['lanes']} at once" if way == "lanes" else _guessed(told)
            found = judge(way, answers=answers) | {"detail": detail}
        else:
            found = _trimmed(part, member, fleet, way, plain, judge, bars)
        out.comparisons.append(found)
        _tell(bench, run, found, time.monotonic() - begun)


def _users(bench: Bench) -> dict[str, str]:
    return {case.id: case.user for case in bench.suite.cases}


def _guessed(told: Mapping[str, int]) -> str:
    return f"{told['guessed']:,} tokens guessed, {told['right']:,} of them right"


def asked_all(member: Member, way: str, cases: list[str], bars: Bars) -> tuple[dict[str, Said], dict[str, int]]:
    """The answers to `cases`, and what the worker tells of its guesses. Raises `WorkerFailure`."""
    answers: dict[str, Said] = {}

    def keep(event: dict[str, Any]) -> None:
        answers[event["case"]] = Said(tuple(event["token_ids"]), event["error"] is None, event["text"])
        bars.describe(member.run.name, f"{way} {len(answers)} of {len(cases)}")

    return answers, member.call("ask", on_event=keep, way=way, cases=cases)


def compared(
    way: str,
    *,
    plain: Answers,
    answers: Answers,
    margins: Margins,
    tie: float,
    users: Mapping[str, str],
    left_out: int = 0,
) -> dict[str, Any]:
    """The report's entry on one way to answer: `answers` beside the plain ones to the same cases.

    `margins` tells for items (a case, the ids before, tokens `a` and `b`) by how much a's logit is above b's. Answers
    that part at tokens whose logits are nearer than `tie` part by rounding.
    """
    differing = [case for case, said in answers.items() if said[:2] != plain[case][:2]]
    items = []
    for case in differing:
        mine, other = plain[case].token_ids, answers[case].token_ids
        at = first_difference(mine, other)
        if at is not None:
            items.append({"case": case, "before": list(mine[:at]), "a": mine[at], "b": other[at]})
    found = {row["case"]: row for row in margins(items)} if items else {}
    differences = []
    for case in differing:
        row = found.get(case)
        margin = None if row is None else abs(row["margin"])
        differences.append(
            {
                "case": case,
                "user": users[case],
                "at_token": first_difference(plain[case].token_ids, answers[case].token_ids),
                "tokens": None if row is None else row["tokens"],
                "margin": margin,
                "tie": margin is not None and margin <= tie,
                "plain": plain[case].text,
                "other": answers[case].text,
            }
        )
    ties = sum(one["tie"] for one in differences)
    largest = max((one["margin"] for one in differences if one["margin"] is not None), default=None)
    return entry(
        way, n=len(answers), equal=len(answers) - len(differing), ties=ties, different=len(differing) - ties,
        left_out=left_out, largest_margin=largest, differences=differences,
    )  # fmt: skip


def entry(way: str, **figures: Any) -> dict[str, Any]:
    """An entry of the report on one way to answer."""
    empty: dict[str, Any] = {
        "status": "ok", "reason": None, "n": 0, "equal": 0, "ties": 0, "different": 0, "left_out": 0,
        "largest_margin": None, "detail": "", "differences": [],
    }  # fmt: skip
    return {"way": way, **empty, **figures}


def skipped(way: str, reason: str) -> dict[str, Any]:
    return entry(way, status="skipped", reason=reason)


def _trimmed(
    part: Part, whole: Member, fleet: Fleet, way: Way, plain: Answers, judge: Callable[..., dict[str, Any]], bars: Bars
) -> dict[str, Any]:
    """Ask a trimmed artifact the cases whose text it keeps the tokens of."""
    bench, own = part.bench, whole.run
    form: Form = "output" if way == "trim-output" else "full"
    run = LabelledRun(own.variant, label=f"{own.name}-{form}")
    equip(bench, run, part.forms.get(form, {}).get(own.variant.artifact, Missing("there is no artifact of it", True)))
    assert own.artifact is not None
    member = next(iter(_opened(bench, fleet, run)), None) if run.status == "ok" else None
    if member is None or run.artifact is None:
        return entry(way, status=run.status, reason=run.reason)
    vocabulary = Vocabulary(own.artifact, run.artifact)
    fitting = [case for case in bench.suite.cases if vocabulary.keeps(bench, case, plain[case.id])]
    asked = member.attempt(
        way, lambda: asked_all(member, "plain", [case.id for case in fitting], bars), bench.screen.failed
    )
    if asked is None:
        return entry(way, status="failed", reason=run.reason)
    bars.end(run.name)
    member.process.close()
    answers = {case: vocabulary.whole(said) for case, said in asked[0].items()}
    left_out = len(bench.suite.cases) - len(fitting)
    return judge(way, answers=answers, left_out=left_out) | {"detail": vocabulary.told}


class Vocabulary:
    """Which tokens a trimmed artifact keeps of a whole one's, and under which ids."""

    def __init__(self, whole: Artifact, trimmed: Artifact) -> None:
        wire = wire_format(whole.wire)
        self._tokenizer = RouterTokenizer.load(whole.tokenizer, wire)
        kept = read_output_ids(trimmed)
        self._reads_all = kept is not None
        if kept is not None:
            self._ids = list(range(whole.vocab_size))
            self._kept = frozenset(kept.tolist())
        else:
            own = RouterTokenizer.load(trimmed.tokenizer, wire)
            pieces = [own.vocabulary.piece(i) for i in range(own.vocab_size)]
            self._ids = [self._tokenizer.vocabulary.find(piece or "") for piece in pieces]
            self._kept = frozenset(self._ids)
        self.told = f"{len(self._kept):,} of {whole.vocab_size:,} tokens"

    def keeps(self, bench: Bench, case: Case, plain: Said) -> bool:
        """Whether a case's text is of kept tokens: what is written, and what is read unless all of that is kept."""
        if not plain.token_ids or not self._kept.issuperset(plain.token_ids):
            return False
        return self._reads_all or self._kept.issuperset(
            self._tokenizer.behind_prefix(bench.toolset, case.user, case.context)
        )

    def whole(self, said: Said) -> Said:
        """An answer of the trimmed artifact in the whole one's ids."""
        return said._replace(token_ids=tuple(self._ids[token] for token in said.token_ids))


def _tell(bench: Bench, run: Run, found: Mapping[str, Any], seconds: float) -> None:
    name = f"{run.name} {found['way']}"
    if found["status"] != "ok":
        (bench.screen.failed if found["status"] == "failed" else bench.screen.skipped)(name, str(found["reason"]))
        return
    told = f"{found['equal']} of {found['n']} equal"
    told += f", {found['ties']} by a tie" if found["ties"] else ""
    told += f", {found['different']} DIFFERENT" if found["different"] else ""
    told += f", {found['left_out']} left out" if found["left_out"] else ""
    (bench.screen.failed if found["different"] else bench.screen.done)(name, f"{told}; {seconds:.0f} s")
