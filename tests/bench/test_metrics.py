"""The verdict on an answer, and the figures over many."""

from __future__ import annotations

from typing import Any

import pytest

from bench.metrics import judge, summarize
from router.cases import Case
from router.toolset import Call, Toolset

CONTEXT = {"project_path": "/home/me/p"}


def call(name: str, **arguments: Any) -> Call:
    return Call(name, arguments)


GOLD = call("search", item_type="script", query="email")
SERVED = Case("c1", "find email scripts", CONTEXT, "easy", (GOLD,))
UNSERVED = Case("c2", "make me a sandwich", CONTEXT, "no-call", ())


def test_right(kiwi: Toolset) -> None:
    verdict = judge(SERVED, [GOLD], kiwi)
    assert verdict.syntax_valid and verdict.schema_valid and verdict.tool and verdict.exact and verdict.no_call


def test_defaults_and_bound_parameters_do_not_count(kiwi: Toolset) -> None:
    filled = call("search", item_type="script", query="email", source="local", project_path="/elsewhere")
    assert judge(SERVED, [filled], kiwi).exact
    assert judge(SERVED, [filled], kiwi).schema_valid


def test_wrong_argument(kiwi: Toolset) -> None:
    verdict = judge(SERVED, [call("search", item_type="script", query="mail")], kiwi)
    assert verdict.tool and verdict.schema_valid and verdict.no_call and not verdict.exact


def test_wrong_tool(kiwi: Toolset) -> None:
    verdict = judge(SERVED, [call("load", item_type="script", item_id="email")], kiwi)
    assert verdict.schema_valid and not verdict.tool and not verdict.exact and verdict.no_call


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (call("find", query="email"), "unknown tool 'find'"),
        (call("search", item_type="script"), "query"),
        (call("search", item_type="program", query="email"), "item_type"),
        (call("search", item_type="script", query=3), "query"),
        (call("search", item_type="script", query="email", limit=3), "limit"),
    ],
)
def test_schema_problems(kiwi: Toolset, answer: Call, problem: str) -> None:
    verdict = judge(SERVED, [answer], kiwi)
    assert verdict.syntax_valid and not verdict.schema_valid and not verdict.exact
    assert any(problem in line for line in verdict.problems)


def test_not_parseable(kiwi: Toolset) -> None:
    verdict = judge(SERVED, None, kiwi)
    assert not any((verdict.syntax_valid, verdict.schema_valid, verdict.tool, verdict.exact, verdict.no_call))
    assert not judge(UNSERVED, None, kiwi).no_call, "nothing readable is not the same as no call"


def test_no_call(kiwi: Toolset) -> None:
    right = judge(UNSERVED, [], kiwi)
    assert right.exact and right.tool and right.no_call and right.schema_valid
    wrong = judge(UNSERVED, [GOLD], kiwi)
    assert not wrong.exact and not wrong.tool and not wrong.no_call
    assert not judge(SERVED, [], kiwi).no_call


def test_accepted_alternatives(kiwi: Toolset) -> None:
    other = call("load", item_type="script", item_id="email")
    case = Case("c3", "email script", CONTEXT, "hard", (GOLD,), ((other,), ()))
    assert judge(case, [other], kiwi).exact and judge(case, [other], kiwi).tool
    assert judge(case, [], kiwi).exact and judge(case, [], kiwi).no_call


def test_order_and_number_of_calls_count(kiwi: Toolset) -> None:
    other = call("load", item_type="script", item_id="email")
    case = Case("c4", "find and load", CONTEXT, "parallel", (GOLD, other))
    assert judge(case, [GOLD, other], kiwi).exact
    assert not judge(case, [other, GOLD], kiwi).tool
    assert not judge(case, [GOLD], kiwi).tool


def test_summary_by_hand(kiwi: Toolset) -> None:
    cases = [SERVED, UNSERVED, Case("c5", "x", CONTEXT, "easy", (GOLD,)), Case("c6", "y", CONTEXT, "easy", (GOLD,))]
    verdicts = {
        "c1": judge(cases[0], [GOLD], kiwi),
        "c2": judge(cases[1], [GOLD], kiwi),
        "c5": judge(cases[2], [call("search", item_type="script", query="mail")], kiwi),
        "c6": judge(cases[3], None, kiwi),
    }
    out = summarize(cases, verdicts)
    assert out["n"] == 4
    assert out["exact"] == 0.25
    assert out["tool"] == 0.5
    assert out["syntax_valid"] == 0.75
    assert out["no_call"] == 0.5
    assert (out["missed_calls"], out["false_calls"]) == (1, 1)
    assert out["by_bucket"]["easy"]["n"] == 3
    assert out["by_bucket"]["easy"]["exact"] == pytest.approx(1 / 3)
    assert out["by_bucket"]["no-call"]["exact"] == 0
    assert out["exact_ci_method"] == "wilson"


def test_summary_counts_only_what_was_judged(kiwi: Toolset) -> None:
    out = summarize([SERVED, UNSERVED], {"c2": judge(UNSERVED, [], kiwi)})
    assert out["n"] == 1 and out["exact"] == 1.0
    assert list(out["by_bucket"]) == ["no-call"]
    assert summarize([SERVED], {})["exact"] is None


def test_summary_uses_templates(kiwi: Toolset) -> None:
    cases = [Case(f"c{i}", "find email scripts", CONTEXT, "easy", (GOLD,)) for i in range(20)]
    verdicts = {case.id: judge(case, [GOLD] if i < 10 else [], kiwi) for i, case in enumerate(cases)}
    out = summarize(cases, verdicts, {case.id: f"t{i // 5}" for i, case in enumerate(cases)})
    assert out["exact"] == 0.5
    assert out["exact_ci_method"] == "bootstrap by template"
