"""What `bench accuracy` asks whom: a model's adapters, each with its toolset, and that toolset's cases in sets.

A case is in one set: ``templates`` (held-out templates), ``hard`` (those of them whose bucket says so),
``handwritten_dev`` and ``handwritten_test`` (other files by their names too), or ``corpus <source>`` for upstream's
development rows of the corpora that the toolset's recipe draws on, which are not trained on and not ours to commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from bench.suites import NoCases, Suite, digest, load_suite, order
from configs import path as config
from export.checkpoint import adapters_of, locate
from router.cases import Case
from router.explain import near
from router.toolset import Toolset
from router.toolset_load import load_toolset
from runtimes.errors import UserError

TEMPLATES, HARD, CORPUS, CORPORA, ALL = "templates", "hard", "corpus ", "corpora", "all"
FIRST: Final = (TEMPLATES, HARD, "handwritten_dev", "handwritten_test")


@dataclass(frozen=True)
class Wanted:
    """One adapter that is to be measured. `adapter` is None for the model's own, a folder, or ``none`` for its base."""

    name: str
    """The toolset, by name or file."""
    adapter: str | None = None
    found: bool = False
    """Taken because the model has it, not because it was asked for."""


@dataclass(frozen=True)
class Subject:
    """What is asked of one adapter; `suite` is None where there is nothing to ask, and `reason` says why."""

    wanted: Wanted
    toolset: Toolset | None
    adapter: str | None
    """The adapter's folder in words; None for the base alone."""
    suite: Suite | None = None
    sets: dict[str, str] | None = None
    """Case id -> the set that it is in."""
    reason: str | None = None

    @property
    def name(self) -> str:
        return self.toolset.name if self.toolset else self.wanted.name


def wanted(model: str, names: Sequence[str]) -> list[Wanted]:
    """The adapters that are meant: ``NAME``, ``NAME=FOLDER`` or ``NAME=none``; all that the model has where none is.

    Raises `UserError` for one that is not there, and where there is none at all.
    """
    own = adapters_of(model)
    if not names and not own:
        locate(model)
        raise UserError(f"{model}: has no adapters of its own; name toolsets with --adapters NAME=FOLDER or NAME=none")
    out: dict[str, Wanted] = {}
    for entry in names or own:
        name, given, adapter = entry.partition("=")
        if name in out:
            raise UserError(f"--adapters: {name} is there twice; compare two adapters of a toolset with `bench lift`")
        if given and not (name and adapter):
            raise UserError(f"--adapters: {entry!r} lacks a name or a folder; write NAME=FOLDER or NAME=none")
        if not given and name not in own:
            there = ", ".join(own) or "none"
            raise UserError(
                f"--adapters: {model} has no adapter for {name!r}; it has {there}{near(name, own)}; one elsewhere is "
                "named NAME=FOLDER"
            )
        out[name] = Wanted(name, _adapter(adapter) if given else None, not names)
    return list(out.values())


def subject(model: str, one: Wanted, suite: str, data: Path | None, limit: int | None) -> Subject:
    """The toolset of an adapter and its cases; `data` is the corpora's folder, `limit` the most rows of them.

    Raises `UserError` for an adapter that is not there, an unknown toolset that was asked for, and broken files.
    """
    parts = locate(model, adapter=one.adapter, toolset=one.name)
    own = parts.adapter is not None and one.adapter is None
    adapter = None if parts.adapter is None else parts.adapter.name if own else str(one.adapter)
    try:
        toolset = load_toolset(one.name)
    except UserError as error:
        if not one.found:
            raise
        return Subject(one, None, adapter, reason=str(error))
    notes: list[str] = []
    try:
        found = load_suite(suite, toolset.name)
    except NoCases as error:
        found = Suite(suite, (), digest(()))
        notes.append(error.brief)
    sets = {case.id: set_of(found.origins[case.id], case) for case in found.cases}
    cases, sources, note = _corpora(toolset, data, limit, taken=set(sets))
    notes += [note] if note else []
    if not sets and not cases:
        return Subject(one, toolset, adapter, reason="; ".join(notes))
    templates = {case.id: case.template for case in cases if case.template is not None}
    bare = tuple(replace(case, template=None) for case in cases)
    whole = (*found.cases, *bare)
    both = replace(
        found, cases=whole, sha256=digest(whole), templates=found.templates | templates, notes=(*found.notes, *notes)
    )
    return Subject(one, toolset, adapter, both, sets | {case: CORPUS + source for case, source in sources.items()})


def set_of(file: str, case: Case) -> str:
    """The set of a case of one of a suite's files."""
    stem = Path(file).stem
    if not stem.startswith(TEMPLATES):
        return stem
    return HARD if case.bucket == HARD or HARD in stem.split("_") else TEMPLATES


def in_order(names: Sequence[str]) -> list[str]:
    """Names of sets as reports list them: the suite's own first, then other files', then corpora."""
    return sorted(names, key=lambda n: (FIRST.index(n) if n in FIRST else len(FIRST) + n.startswith(CORPUS), n))


def _corpora(
    toolset: Toolset, data: Path | None, limit: int | None, *, taken: set[str]
) -> tuple[list[Case], dict[str, str], str]:
    """Upstream's development rows for a toolset, the source of each, and what to say where they are left out.

    `limit` takes the beginning of `bench.suites.order`, which is a fair sample of all sources together.
    """
    recipe = config("data", f"{toolset.name}.yaml")
    entries: list[dict[str, Any]] = []
    if recipe.is_file():
        entries = yaml.load(recipe.read_text(encoding="utf-8"), _LOADER).get("corpora") or []
    if not entries:
        return [], {}, ""
    named = ", ".join(dict.fromkeys(str(entry["source"]) for entry in entries))
    if data is None:
        return [], {}, f"public corpora ({named}) are left out; give their folder with --data"
    from train.data.corpora import corpus_cases
    from train.data.recipe import load_recipe

    made = load_recipe(recipe, data)
    if made.toolset.sha256 != toolset.sha256:
        return [], {}, f"public corpora ({named}) are left out: {recipe.name} is for another {toolset.name}"
    cases: list[Case] = []
    sources: dict[str, str] = {}
    for corpus in made.corpora:
        for case in corpus_cases(corpus, data, toolset, "test", made.seed):
            if case.id in sources or case.id in taken:  # one source may be drawn on twice
                case = replace(case, id=f"{case.id}/{len(sources)}")
            sources[case.id] = corpus.source
            cases.append(case)
    if limit is not None:
        cases = order(cases)[:limit]
    return cases, {case.id: sources[case.id] for case in cases}, ""


def _adapter(given: str) -> str:
    """The adapter's own folder where the one above it is given, as training leaves it."""
    below = Path(given).expanduser() / "adapter"
    return str(below) if (below / "adapter_config.json").is_file() else given


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
