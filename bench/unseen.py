"""`bench unseen`: a model on requests that bring their own tools, none of which it was trained on.

The cases are an import's (``edgecall data import sgd``): every request declares a few tools, drawn with a fixed seed.
One model is opened once; requests that share a declaration block are asked one after another, so that each block is
read once.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.folder import write_lines
from bench.machine import describe
from bench.metrics import Verdict, judge, summarize
from bench.page import section, told_calls
from bench.records import MODES
from bench.report import git_state
from bench.tables import Table, percent
from export.atomic import staged, write_json
from router.cases import Case
from router.core import Router
from router.toolset import Call, Toolset
from runtimes.artifact import open_artifact
from runtimes.errors import UserError
from train.data.importers.store import read_import

MOST_MISSES: Final = 30
"""Misses that the page lists."""
SEP: Final = "@"
"""Between a request's id and the wording of its declarations."""


@dataclass(frozen=True)
class Asked:
    """A case and the tools that it declares."""

    case: Case
    toolset: Toolset

    @property
    def right_tool(self) -> str:
        return self.case.calls[0].name if self.case.calls else "no call"


@dataclass(frozen=True)
class Answer:
    calls: list[Call] | None
    text: str
    verdict: Verdict


def cases_of(folder: Path, split: str, *, wordings: str = "original", limit: int | None = None) -> list[Asked]:
    """An import's cases with their toolsets; of rewordings the original alone unless `wordings` is ``all``.

    `limit` takes every k-th, so that all tools stay. Raises `UserError` where there is none.
    """
    if not (folder / f"{split}.jsonl").is_file():
        raise UserError(
            f"{folder / f'{split}.jsonl'}: missing; make it with `edgecall data import sgd FOLDER --out {folder}`"
        )
    found = [
        Asked(case, toolset)
        for case, toolset in read_import(folder, split)  # type: ignore[arg-type]
        if wordings == "all" or SEP not in case.id
    ]
    if not found:
        raise UserError(
            f"{folder / f'{split}.jsonl'}: no case in the original wording; ask for all with --wordings all"
        )
    if limit is not None and len(found) > limit:
        found = [found[i * len(found) // limit] for i in range(limit)]
    return found


def answers(
    router: Router, asked: Sequence[Asked], done: Callable[[int], None] = lambda n: None
) -> dict[str, dict[str, Answer]]:
    """Mode -> case id -> answer, with the grammar and without."""
    out: dict[str, dict[str, Answer]] = {mode: {} for mode in MODES}
    groups: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        groups[one.toolset.sha256].append(one)
    count = 0
    for group in groups.values():
        with closing(Router.from_model(router.model, router.tokenizer, group[0].toolset)) as own:
            for one in group:
                for mode in MODES:
                    out[mode][one.case.id] = _answer(own, one, grammar=mode == "grammar")
                count += 1
                done(count)
    return out


def _answer(router: Router, one: Asked, *, grammar: bool) -> Answer:
    result = router.route(one.case.user, one.case.context, grammar=grammar)
    calls = list(result.calls) if result.error is None else None
    return Answer(calls, result.text, judge(one.case, calls, one.toolset))


def unseen(
    artifact: Path,
    folder: Path,
    out: Path,
    *,
    split: str = "dev",
    wordings: str = "original",
    limit: int | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    command: str = "",
    progress: Callable[[int, int], None] = lambda n, of: None,
) -> dict[str, Any]:
    """Ask every case and write ``report.json``, ``unseen.md`` and ``samples.jsonl`` into `out`; returns the report."""
    asked = cases_of(folder, split, wordings=wordings, limit=limit)
    began = time.monotonic()
    with Router.open(artifact, runtime=runtime, threads=threads) as router:
        got = answers(router, asked, lambda n: progress(n, len(asked)))
    report = build(artifact, folder, split, asked, got, command=command, seconds=time.monotonic() - began)
    with staged(out) as staging:
        write_json(staging / "report.json", report)
        (staging / "unseen.md").write_text(render(report), encoding="utf-8")
        write_lines(staging / "samples.jsonl", _samples(asked, got))
    return report


def build(
    artifact: Path,
    folder: Path,
    split: str,
    asked: Sequence[Asked],
    got: dict[str, dict[str, Answer]],
    *,
    command: str,
    seconds: float,
) -> dict[str, Any]:
    """The report: figures by mode, whole and by the tool that is right (`by_bucket`), intervals by request."""
    manifest = open_artifact(artifact, check="sizes").manifest
    commit, dirty = git_state()
    # Rewordings of one request succeed and fail together.
    same = {one.case.id: one.case.id.split(SEP)[0] for one in asked}
    shared = len(set(same.values())) < len(same)
    modes = {}
    for mode in MODES:
        verdicts = {case: answer.verdict for case, answer in got[mode].items()}
        cases = [_bucketed(one) for one in asked]
        modes[mode] = summarize(cases, verdicts, same if shared else None)
    declared = [len(one.toolset.tools) for one in asked]
    return {
        "schema": "edgecall.unseen/1",
        "commit": commit,
        "dirty": dirty,
        "command": command,
        "machine": describe(),
        "artifact": manifest["format"] + "-" + manifest["quant"],
        "source": manifest["source"],
        "data": folder.name,
        "split": split,
        "cases": len(asked),
        "requests": len(set(same.values())),
        "declared": [min(declared), max(declared)],
        "seconds": round(seconds, 1),
        "modes": modes,
        "misses": [
            {
                "case": one.case.id,
                "user": one.case.user,
                "gold": _plain(list(one.case.calls)),
                "got": _plain(found.calls),
            }
            for one in asked
            if not (found := got["grammar"][one.case.id]).verdict.exact
        ],
    }


def _bucketed(one: Asked) -> Case:
    case = one.case
    return Case(case.id, case.user, case.context, one.right_tool.split(SEP)[0], case.calls, case.accept, case.template)


def _plain(calls: list[Call] | None) -> list[dict[str, Any]] | None:
    return None if calls is None else [call.to_dict() for call in calls]


def _samples(asked: Sequence[Asked], got: dict[str, dict[str, Answer]]) -> Iterator[dict[str, Any]]:
    for mode in MODES:
        for one in asked:
            answer = got[mode][one.case.id]
            yield {
                "mode": mode,
                "case": one.case.id,
                "tools": [tool.name for tool in one.toolset],
                "output": answer.text,
                "calls": _plain(answer.calls),
                "verdict": answer.verdict.to_dict(),
            }


def render(report: dict[str, Any]) -> str:
    """The page in Markdown."""
    low, high = report["declared"]
    tools = str(low) if low == high else f"{low} to {high}"
    name, commit = report["source"].get("name", "model"), (report["commit"] or "none")[:8]
    parts = [
        f"# {name} on declarations it has not seen ({report['data']}, {report['split']})",
        f"{report['cases']} cases from {report['requests']} requests, {tools} tools declared with each; "
        f"{report['artifact']}, commit {commit}.",
        section(table(report), level=2),
        "## Misses\n\n"
        + "\n".join(
            f"- {miss['user']!r}: {told_calls(miss['got'])} where {told_calls(miss['gold'])} is right"
            for miss in report["misses"][:MOST_MISSES]
        ),
        "By the tool that is right. Intervals of 95%: Wilson's, or by request where a request is asked under several "
        "wordings of its declarations.",
    ]
    return "\n\n".join(parts) + "\n"


def table(report: dict[str, Any]) -> Table:
    """Shares whole and by the tool that is right."""
    found, free = report["modes"]["grammar"], report["modes"]["unconstrained"]
    rows = [("all", found, free)]
    rows += [(name, found["by_bucket"][name], free["by_bucket"][name]) for name in found["by_bucket"]]
    cells = tuple(
        (name, str(a["n"]), _share(a, "exact"), _share(a, "tool"), percent(b["exact"]), percent(b["tool"]))
        for name, a, b in rows
    )
    columns = ("right tool", "n", "exact (95% CI)", "tool (95% CI)", "free exact", "free tool")
    return Table("Unseen declarations", columns, cells)


def _share(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_ci95"]
    return f"{percent(figures[name])} ({low:.0%}-{high:.0%})"
