from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

import configs
from router.cases import load_cases
from router.toolset_load import load_toolset
from router.validate import schema_errors
from train.data.leakage import find_leaks
from train.data.recipe import load_recipe
from train.data.rows import rows
from train.data_cli import build_data, training_cases

RECIPE = Path(configs.__file__).parent / "data" / "kiwi.yaml"


@pytest.fixture(scope="module")
def recipe():  # type: ignore[no-untyped-def]
    return load_recipe(RECIPE)


def test_rows_are_a_function_of_the_seed(recipe) -> None:  # type: ignore[no-untyped-def]
    first = [c.to_dict() for c in islice(rows(recipe, "train"), 300)]
    assert first == [c.to_dict() for c in islice(rows(load_recipe(RECIPE), "train"), 300)]


def test_every_gold_call_is_valid_and_bound_parameters_are_absent(recipe) -> None:  # type: ignore[no-untyped-def]
    kiwi = load_toolset("kiwi")
    for case in islice(rows(recipe, "train"), 3000):
        for call in case.calls:
            assert "project_path" not in call.arguments
            errors = schema_errors(call, kiwi)
            assert not errors, (case.user, errors)


def test_words_of_the_splits_are_disjoint(recipe) -> None:  # type: ignore[no-untyped-def]
    train, test = recipe.words["train"], recipe.words["test"]
    assert recipe.shared == {"types", "city"}
    for kind, listed in test.lists().items():
        assert not set(train.lists()[kind]) & set(listed) or kind in recipe.shared, kind


def test_templates_of_the_splits_are_disjoint(recipe) -> None:  # type: ignore[no-untyped-def]
    train = {c.template for c in islice(rows(recipe, "train"), 4000)}
    assert not train & {c.template for c in rows(recipe, "test")}


def test_committed_test_set_is_what_the_recipe_makes_and_does_not_leak(recipe) -> None:  # type: ignore[no-untyped-def]
    folder = RECIPE.parent.parent / "cases" / "kiwi"
    committed = load_cases(folder / "templates_test.jsonl")
    assert [c.to_dict() for c in committed] == [c.to_dict() for c in rows(recipe, "test")]
    by_hand = load_cases(folder / "handwritten_dev.jsonl") + load_cases(folder / "handwritten_test.jsonl")
    train = list(islice(training_cases(recipe, "train", by_hand), 6000))
    assert find_leaks(train, [*committed, *by_hand]) == []


def test_a_leak_is_found(recipe) -> None:  # type: ignore[no-untyped-def]
    case = next(iter(rows(recipe, "train")))
    louder = type(case)("x", case.user.upper() + " !!", calls=case.calls)
    assert [leak.kind for leak in find_leaks([case], [louder])] == ["normalised"]
    assert [leak.kind for leak in find_leaks([case], [case])] == ["exact"]


def test_build_writes_three_splits_and_a_report(recipe, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    small = type(recipe)(**{**recipe.__dict__, "rows": {"train": 200, "dev": 40, "test": 30}})
    report = build_data(small, tmp_path, [])
    names = {"train.jsonl", "dev.jsonl", "test.jsonl", "toolset.json", "report.json"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert load_toolset(tmp_path / "toolset.json").sha256 == recipe.toolset.sha256
    assert len(load_cases(tmp_path / "train.jsonl")) == report["train"]["rows"]  # type: ignore[index]
