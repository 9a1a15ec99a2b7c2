"""Every shipped recipe: valid calls, values that can be copied, no wording or filler shared with its test side."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import yaml

import configs
from router.request import Request, SpanKind
from router.validate import schema_errors
from router.wire_format import FUNCTIONGEMMA
from train.data.leakage import find_leaks
from train.data.recipe import load_recipe
from train.data.rows import rows

CONFIGS = Path(configs.__file__).parent
RECIPES = sorted((*(CONFIGS / "data").glob("*.yaml"), *(CONFIGS / "examples").glob("*/recipe.yaml")))
RECIPES = [path for path in RECIPES if "corpora" not in yaml.safe_load(path.read_text())]  # those need upstream's files
STRICT = [path for path in RECIPES if load_recipe(path).strict]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.parent.stem if p.stem == "recipe" else p.stem)
@pytest.mark.parametrize("split", ["train", "test"])
def test_calls_hold_to_their_schemas(path: Path, split: str) -> None:
    recipe = load_recipe(path)
    for case in islice(rows(recipe, split), 1500):  # type: ignore[arg-type]
        for call in case.calls:
            assert not schema_errors(call, recipe.toolset), (case.user, call)


@pytest.mark.parametrize("path", STRICT, ids=lambda p: p.parent.stem if p.stem == "recipe" else p.stem)
def test_copied_values_stand_in_the_request(path: Path) -> None:
    recipe = load_recipe(path)
    wrong = total = 0
    for case in islice(rows(recipe, "train"), 1500):
        request = Request(case.user, FUNCTIONGEMMA)
        for call in case.calls:
            tool = recipe.toolset.tool(call.name)
            assert tool is not None
            for key, value in call.arguments.items():
                if tool.visible[key].copy == "span" and tool.visible[key].type == "string":
                    total += 1
                    data, size = str(value).encode(), len(str(value).encode())
                    wrong += not any(
                        s.source.data.startswith(data, s.at) and s.at + size in s.source.ends
                        for s in request.starts(SpanKind())
                    )
    assert total > 300
    assert wrong <= 0.005 * total


@pytest.mark.parametrize("path", STRICT, ids=lambda p: p.parent.stem if p.stem == "recipe" else p.stem)
def test_the_sides_share_no_request_and_no_template(path: Path) -> None:
    recipe = load_recipe(path)
    test = list(rows(recipe, "test"))
    train = list(islice(rows(recipe, "train"), 3000))
    assert find_leaks(train, test) == []
    assert not {c.template for c in train} & {c.template for c in test}
    parallel = sum(len(c.calls) > 1 for c in train)
    assert parallel > 30 or recipe.parallel is None
    assert sum(not c.calls for c in train) > 0.08 * len(train)
