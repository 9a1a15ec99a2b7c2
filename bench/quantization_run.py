"""What `bench quantization` does: export mixes and ask them, time the best in shuffled turns, write the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.answering import ask, check_runs_here
from bench.fleet import Fleet, Member, try_open
from bench.folder import check_out, workplace, write_cases, write_lines
from bench.quantization import Candidate, Search, build, compare, loses, validate
from bench.quantization_answers import keep, path_of, restore
from bench.quantization_page import render
from bench.quantization_plot import draw
from bench.quantization_search import Tried, descend, grid, types_of
from bench.records import Run, Settings, Variant
from bench.report import git_state, samples
from bench.run import Bench, Outcome, model_of
from bench.screen import Screen
from bench.suites import Suite, load_files, load_suite, subset
from bench.timing import latency
from bench.variants import Missing, export, made_from, merge
from configs import path as config
from export.atomic import write_json
from export.base import Checkpoint
from export.mixed import Mix, Scheme, name_of, parse
from export.pipeline import exporter, quant_of, scheme_of
from router.toolset import Toolset
from router.toolset_load import load_toolset
from runtimes import FORMATS
from runtimes.artifact import Artifact
from runtimes.base import default_threads
from runtimes.errors import UserError

STAGES: Final = 3
DEV_CASES: Final = "handwritten_dev.jsonl"
UNHURRIED_S: Final = 24 * 3600.0
"""Time for the cases of one candidate: enough to decode them all pass by pass on any runtime."""

Provider = Callable[[Sequence[Variant]], Mapping[str, Artifact | Missing]]
"""Artifacts of some variants, by name."""


@dataclass(frozen=True)
class Asked:
    """What is searched."""

    formats: tuple[str, ...] = ("gguf",)
    types: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Format -> the types to choose from, where not the usual ones."""
    most: int = 30
    """So many combinations are all tried; where there are more, a descent tries some."""
    lose: float = 1.0
    """Points of exact that may be lost."""
    limit: int | None = None
    timed: int = 12
    """Candidates of a format that are timed, beside the unquantized."""


def quantization(
    settings: Settings,
    asked: Asked,
    screen: Screen,
    *,
    out: Path | None = None,
    artifacts: Mapping[str, Artifact | Missing] | None = None,
) -> Outcome:
    """Search, time and write the report. `artifacts` gives made ones by name, and then nothing is exported.

    Raises `UserError` for what can be mended before anything is measured, and where the unquantized weights cannot be
    asked; a candidate that fails is reported.
    """
    settings = replace(settings, threads=settings.threads or default_threads(), modes=("grammar",), proved=())
    started = datetime.now(UTC)
    if out is not None:
        check_out(out)
    schemes = {fmt: _scheme(fmt) for fmt in dict.fromkeys(asked.formats)}
    types = {fmt: types_of(scheme, dict(asked.types).get(fmt, ())) for fmt, scheme in schemes.items()}
    for fmt in schemes:
        check_runs_here(_unquantized(fmt), fmt)
    toolset = load_toolset(settings.toolset)
    suite = dev_cases(settings, toolset, asked.limit)
    with workplace(out, started, git_state()[0]) as place:
        bench = Bench(settings, toolset, suite, screen, [], place.scratch, place.logs)
        screen.say(f"{settings.model} on toolset {toolset.name}: {len(suite.cases)} cases (suite {suite.name})")
        for note in suite.notes:
            screen.say(f"  note: {note}")
        if artifacts is None:
            provider, model = _exporter(bench)
        else:
            known = artifacts
            provider, model = lambda _: known, model_of(dict(artifacts))
        searches = bench.stage(
            1, STAGES, "Search", "each mix exported and asked the cases; what is kept is not asked again",
            lambda: [_search(bench, asked, scheme, types[fmt], provider) for fmt, scheme in schemes.items()],
        )  # fmt: skip
        _time(bench, [one for search in searches for one in to_time(search, asked.timed)])
        report = build(bench.context(model, started), searches, lose=asked.lose, limit=asked.limit)
        _write(place.staging, report, bench, searches)
    return Outcome(report, place.target)


def dev_cases(settings: Settings, toolset: Toolset, limit: int | None) -> Suite:
    """The cases that choose: those given, or the toolset's hand-written ones for development. Raises `UserError`.

    Never by itself a suite with test cases: what was chosen on them could not be measured by them.
    """
    if settings.cases is not None:
        suite = load_files([settings.cases], name=settings.cases.stem)
    elif settings.suite:
        suite = load_suite(settings.suite, toolset.name)
    else:
        path = config("cases", toolset.name, DEV_CASES)
        if not path.is_file():
            raise UserError(
                f"no {DEV_CASES} in configs/cases/{toolset.name}; give cases to choose by with --cases FILE"
            )
        suite = load_files([path], name=path.stem)
    return suite if limit is None else subset(suite, limit)


def to_time(search: Search, most: int) -> list[Candidate]:
    """The unquantized, and at most so many others: those that no other beats in both size and exact calls, then what is
    one type or quantization throughout, then the smallest.
    """
    known = sorted((one for one in search.candidates if one.answered), key=lambda one: (one.size or 0, -_right(one)))
    best, seen = [], -1
    for one in known:
        if _right(one) > seen:
            best.append(one)
            seen = _right(one)
    plain = [one for one in known if "+" not in one.run.name]
    return [search.reference, *list(dict.fromkeys([*best, *plain, *known]))[:most]]


def _search(bench: Bench, asked: Asked, scheme: Scheme, types: Sequence[str], provider: Provider) -> Search:
    """Ask the unquantized weights of a format, and then the mixes. Raises `UserError` where the first cannot be."""
    finest = _unquantized(scheme.format)
    reference = Candidate(parse(scheme, finest.quant), Run(finest))
    _measure(bench, [reference], provider)
    if not reference.answered:
        raise UserError(f"{finest.artifact}: {reference.run.reason}; there is nothing to compare with")
    every = grid(scheme, types)
    search = Search(scheme.format, "grid" if len(every) <= asked.most else "descent", tuple(types), reference)
    done = {reference.mix: reference}

    def measure(mixes: Sequence[Mix]) -> list[Tried | None]:
        new = [Candidate(mix, Run(_variant(scheme, mix))) for mix in mixes if mix not in done]
        done.update({one.mix: one for one in new})
        search.candidates += new
        _measure(bench, new, provider)
        return [_tried(bench, reference, done[mix], asked.lose) for mix in mixes]

    if search.method == "grid":
        measure(every)
    else:
        search.path = [_variant(scheme, mix).artifact for mix in descend(scheme, types, measure)]
    return search


def _measure(bench: Bench, candidates: Sequence[Candidate], provider: Provider) -> None:
    """Export what is missing, and ask each what is not kept."""
    settings, screen = bench.settings, bench.screen
    made = provider([one.run.variant for one in candidates])
    for one in candidates:
        run, found = one.run, made.get(one.run.name, Missing("there is no artifact of it", True))
        if isinstance(found, Missing):
            run.skip(found.reason) if found.unavailable else run.fail(found.reason, "export")
            (screen.skipped if found.unavailable else screen.failed)(run.name, found.reason)
            continue
        run.artifact = found
        kept = path_of(run, bench.suite, bench.toolset.sha256, settings)
        one.kept = restore(kept, run, bench.suite)
        if one.kept:
            screen.done(run.name, f"{found.size_bytes / 1e6:7.2f} MB  kept: {_right(one)} of {len(run.exact())} exact")
            continue
        try:
            ask(
                run, run.name, bench.suite, bench.toolset, settings, screen, bench.scratch, bench.logs,
                seconds=UNHURRIED_S,
            )  # fmt: skip
            keep(kept, run, bench.suite)
        except UserError as failure:
            if run.status == "ok":  # it failed before it was asked, so nobody has told yet
                run.fail(str(failure).removeprefix(f"{run.name}: "), "open")
                screen.failed(run.name, str(run.reason))


def _tried(bench: Bench, reference: Candidate, one: Candidate, lose: float) -> Tried | None:
    if not one.answered or one.size is None or one.run.status != "ok":
        return None
    test = None if one is reference else compare(reference.run, one.run, bench.suite.templates)
    return Tried(one.size, _right(one), all(loses(test, lose)))


def _time(bench: Bench, candidates: Sequence[Candidate]) -> None:
    """All of them at once, a process each, in shuffled turns."""
    settings = bench.settings
    bench.runs = [one.run for one in candidates]
    cases = write_cases(bench.scratch / "cases.jsonl", bench.suite.cases)
    with Fleet(bench.logs, settings) as fleet:

        def opened() -> list[Member]:
            able = [run for run in bench.runs if run.status == "ok"]
            return [one for run in able for one in try_open(bench.screen, fleet, run, settings.device, cases)]

        members: list[Member] = bench.stage(
            2, STAGES, "Open", f"{len(candidates)} candidates, a process each", opened
        )  # fmt: skip
        bench.deadline = time.monotonic() + settings.budget_s
        latency(bench, 3, STAGES, members)


def _exporter(bench: Bench) -> tuple[Provider, dict[str, Any]]:
    """Merge the model, and say how its variants are made: apart from those that others use, since these are not proved
    by requests of their own but judged by the cases.
    """
    settings = bench.settings
    with bench.screen.progress() as bars:
        checkpoint, parameters = merge(settings, bench.logs / "merge.log", bars.describe)
        bars.end("merge")
    model = {"name": checkpoint.name, "sha256": checkpoint.sha256, "parameters": parameters}
    parts = (checkpoint.name, checkpoint.sha256[:8], bench.toolset.name, bench.toolset.sha256[:8])
    out = settings.cache / "-".join(parts) / "search"
    return lambda variants: _exported(bench, checkpoint, variants, out), model | made_from(checkpoint)


def _exported(bench: Bench, checkpoint: Checkpoint, variants: Sequence[Variant], out: Path) -> dict[str, Any]:
    with bench.screen.progress() as bars:
        return export(
            checkpoint, variants, out, bench.settings, bench.logs, bars.describe, lambda name, _: bars.end(name)
        )  # fmt: skip


def _scheme(fmt: str) -> Scheme:
    known = [name for name in FORMATS if scheme_of(name) is not None]
    if fmt not in known:
        raise UserError(f"--formats {fmt}: has no mixed precisions; there are {', '.join(known)}")
    found = scheme_of(fmt)
    assert found is not None
    return found


def _unquantized(fmt: str) -> Variant:
    quant = next(iter(exporter(fmt).QUANTS))
    return Variant(FORMATS[fmt], fmt, quant, quant_of(fmt, quant).precision)


def _variant(scheme: Scheme, mix: Mix) -> Variant:
    quant = name_of(scheme, mix)
    return Variant(FORMATS[scheme.format], scheme.format, quant, quant_of(scheme.format, quant).precision)


def _right(one: Candidate) -> int:
    return sum(one.run.exact().values())


def _write(folder: Path, report: dict[str, Any], bench: Bench, searches: Sequence[Search]) -> None:
    validate(report)
    drawn = draw(report, folder / "quantization.png")
    write_json(folder / "report.json", report)
    page = render(report, plot="quantization.png" if drawn else None)
    (folder / "quantization.md").write_text(page, encoding="utf-8")
    write_lines(folder / "samples.jsonl", samples([one.run for search in searches for one in search.all], bench.suite))
