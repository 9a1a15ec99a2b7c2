"""What an adapter is trained on: the rows of a data recipe, of files of cases (Contract 4), or of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from router.cases import Case
from router.toolset import Toolset
from runtimes.errors import UserError
from train.data.build import training_cases
from train.data.formats import check_case, stream_cases
from train.data.leakage import normalised
from train.data.recipe import load_recipe
from train.data.summary import origins, tally

if TYPE_CHECKING:
    from train.lora import LoraConfig

HELD_BACK: Final = 20
"""Of the rows of `train_files`, every so manieth validates where no `dev_files` are named and no recipe has some."""


def lora_rows(
    config: LoraConfig,
    place: Path,
    toolset: Toolset,
    corpora: Path | None,
    tests: Mapping[Path, Sequence[Case]],
) -> tuple[list[Case], list[Case], dict[str, Any]]:
    """Training rows, validation rows, and the record of them for ``data.json``.

    `place` is the configuration's file, which the names in it are relative to; `corpora` the folder of public corpora.
    Rows that repeat a request of `tests`, and training rows that repeat one of the validation rows, are left out (case
    and marks aside). Raises `UserError` with file and line of a row that is no case or whose calls the toolset does
    not allow, and where nothing is left.
    """
    if not (config.recipe or config.train_files):
        raise UserError(f"{place}: nothing to train on; set recipe (a data recipe) or train_files (JSONL of cases)")
    against = [case for cases in tests.values() for case in cases]
    train: list[Case] = []
    dev: list[Case] = []
    record: dict[str, Any] = {"toolset": toolset.name}
    sources: Sequence[Any] = ()
    if config.recipe:
        recipe = load_recipe(place.parent / config.recipe, corpora)
        train, dev = (list(training_cases(recipe, split, against)) for split in ("train", "dev"))  # type: ignore[arg-type]
        record["seed"], sources = recipe.seed, recipe.corpora
    given = {name: _read(place.parent / name, toolset) for name in config.train_files}
    held = {name: _read(place.parent / name, toolset) for name in config.dev_files}
    rows = [case for cases in given.values() for case in cases]
    dev += [case for cases in held.values() for case in cases]
    if not dev:
        dev, rows = rows[HELD_BACK - 1 :: HELD_BACK], [c for n, c in enumerate(rows, start=1) if n % HELD_BACK]
        if not dev:
            raise UserError(
                f"{place}: {len(rows)} rows are too few to hold every {HELD_BACK}th back; name dev_files as well"
            )
    forbidden = {normalised(case.user) for case in against}
    if config.train_files or config.dev_files:
        dev = [case for case in dev if normalised(case.user) not in forbidden]
        forbidden |= {normalised(case.user) for case in dev}
        train = [case for case in (*train, *rows) if normalised(case.user) not in forbidden]
    for what, left in (("train", train), ("validate", dev)):
        if not left:
            raise UserError(f"{place}: no row is left to {what} with once those that repeat test requests are out")
    record |= origins(sources, ((path.name, len(cases)) for path, cases in tests.items()))
    if given or held:
        record["files"] = [{"file": Path(name).name, "rows": len(cases)} for name, cases in (given | held).items()]
    return train, dev, record | {"train": tally(train), "dev": tally(dev)}


def _read(path: Path, toolset: Toolset) -> list[Case]:
    """The cases of a file, each checked against the toolset."""
    cases = []
    for place, case in stream_cases(path):
        check_case(place, case, toolset)
        cases.append(case)
    return cases
