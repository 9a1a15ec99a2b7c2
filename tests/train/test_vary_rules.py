"""Variation by rules: values survive to the letter, and a file is a function of its cases and the seed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.cases import Case, CaseError, load_cases
from router.toolset import Call, Schema, Tool, Toolset
from runtimes.console import Parser, run
from train.data import vary_cmd
from train.data.vary.rules import RULES, cut, join, vary
from train.data.vary.run import Plan, vary_cases, write_cases
from train.data.vary.values import keeps, said_in, values_of


def _toolset() -> Toolset:
    properties = {
        "kind": Schema("string", enum=("script", "note")),
        "query": Schema("string", case_insensitive=True),
        "count": Schema("integer"),
        "share": Schema("number", default=0.5),
        "tags": Schema("array", items=Schema("string")),
        "inputs": Schema("object", additional=True),
        "folder": Schema("string", bind="folder"),
        "loud": Schema("boolean"),
    }
    return Toolset("box", (Tool("find", "Find", Schema("object", properties=properties)),))


BOX = _toolset()


def case(user: str, **arguments: Any) -> Case:
    return Case("c", user, calls=(Call("find", arguments),))


def spans(user: str, **arguments: Any) -> tuple[list[str], tuple[str, ...]]:
    said = said_in(user, values_of(case(user, **arguments), BOX))
    return [user[a:b] for a, b in said.spans], said.missing


@pytest.mark.parametrize(
    ("user", "arguments", "found", "missing"),
    [
        ("find Email_Scripts now", {"query": "email scripts"}, ["Email_Scripts"], ()),
        ("find e-mail", {"query": "mail"}, ["mail"], ()),
        ("find scripts and a note", {"kind": "script"}, ["scripts"], ()),
        ("look for docs", {"kind": "note"}, [], ()),
        ("find emails", {"query": "email"}, [], ("email",)),
        ("first 5 of 2.5 or 5.5 or 15 or 5.", {"count": 5}, ["5", "5"], ()),
        ("show 1,500 rows", {"count": 1500}, ["1,500"], ()),
        ("show twenty five rows", {"count": 25}, ["twenty five"], ()),
        ("show many rows", {"count": 25}, [], ("25",)),
        ("use half", {"share": 0.5}, [], ()),
        ("use 0.75", {"share": 0.75}, ["0.75"], ()),
        ("tagged red and sky blue", {"tags": ["red", "sky blue"]}, ["red", "sky blue"], ()),
        ("zone being gallery", {"inputs": {"zone": "gallery"}}, ["zone", "gallery"], ()),
        ("being gallery", {"inputs": {"zone": "gallery"}}, ["gallery"], ("zone",)),
        ("red sky blue", {"tags": ["red sky", "sky blue"]}, ["red sky blue"], ()),
        ("go", {"folder": "/srv/x", "loud": True}, [], ()),
        ("搜索电子邮件脚本", {"query": "电子邮件"}, ["电子邮件"], ()),
    ],
)
def test_values_are_found_where_the_request_says_them(
    user: str, arguments: dict[str, Any], found: list[str], missing: tuple[str, ...]
) -> None:
    assert spans(user, **arguments) == (found, missing)


def test_a_case_of_another_toolset_is_told() -> None:
    with pytest.raises(CaseError, match="case c: the toolset box has no tool 'fid'; did you mean 'find'"):
        values_of(Case("c", "x", calls=(Call("fid", {}),)), BOX)
    with pytest.raises(CaseError, match="find has no parameter 'querry'; did you mean 'query'"):
        values_of(case("x", querry="x"), BOX)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("please look for Big Data", None),
        ("please look for big data", None),  # compared without case
        ("please look for bigdata", "Big Data"),
        ("please look for Big Database", "Big Data"),
        ("please look for Big  Data", None),
    ],
)
def test_a_variation_keeps_what_the_calls_copy(text: str, lost: str | None) -> None:
    user = "find Big Data"
    assert keeps(text, said_in(user, values_of(case(user, query="big data"), BOX))) == lost


def test_case_counts_where_the_toolset_compares_with_it() -> None:
    user = "tag it Red"
    said = said_in(user, values_of(case(user, tags=["Red"]), BOX))
    assert (keeps("it gets Red", said), keeps("it gets red", said)) == (None, "Red")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from("please find the For with 5 quarterly-report, my I'd Notes? 'q4' you . übung".split()),
             min_size=1, max_size=9),
    st.lists(st.sampled_from(sorted(RULES)), min_size=1, unique=True),
    st.integers(0, 9),
)  # fmt: skip
def test_rules_leave_values_to_the_letter(words: list[str], rules: list[str], seed: int) -> None:
    user = " ".join([*words, "quarterly-report", *words[:2]])
    subject = case(user, query="Quarterly Report", **({"count": 5} if "5" in words else {}))
    said = said_in(user, values_of(subject, BOX))
    assert join(cut(user, said)) == user and not said.missing
    held = [user[a:b] for a, b in said.spans]
    texts = [user]
    for variation in vary(user, said, rules, 4, str(seed)):
        rest = variation.text
        for value in held:  # in their order, each spelled as it was
            assert value in rest, variation
            rest = rest.split(value, 1)[1]
        assert keeps(variation.text, said) is None
        assert set(variation.rules) <= set(rules) and variation.text not in texts
        texts.append(variation.text)


@pytest.mark.parametrize(
    ("rule", "user", "expected"),
    [
        ("drop", "find the docs a Report", {"find docs Report", "find docs a Report", "find the docs Report"}),
        ("abbreviate", "docs about Report", {"docs abt Report"}),
        ("case", "docs on Report", {"DOCS ON Report", "Docs On Report", "Docs on Report"}),
    ],
)  # fmt: skip
def test_what_a_rule_may_do(rule: str, user: str, expected: set[str]) -> None:
    said = said_in(user, values_of(case(user, query="Report"), BOX))
    seen = set()
    for seed in range(60):
        seen |= {variation.text for variation in vary(user, said, [rule], 1, str(seed))}
    assert seen == expected


def test_slips_are_in_free_words_only_and_speech_has_no_marks() -> None:
    user = 'Open the "Report.2" folder, then wait!'
    said = said_in(user, values_of(case(user, query="Report.2"), BOX))
    for seed in range(40):
        (slip,) = vary(user, said, ["typos"], 1, str(seed))
        assert '"Report.2"' in slip.text and slip.text != user
        (spoken,) = vary(user, said, ["speech"], 1, str(seed))
        assert not set(spoken.text.replace("Report.2", "")) & set('".,!') and "Report.2" in spoken.text
        assert spoken.text.replace("Report.2", "").islower()


def test_politeness_says_nothing_a_tool_could_take_for_an_argument() -> None:
    subject = said_in("play Report", values_of(case("play Report", query="Report"), BOX))
    texts = {v.text for seed in range(200) for v in vary("play Report", subject, ["polite"], 1, str(seed))}
    assert len(texts) > 10
    assert not any(word in text.split() for text in texts for word in ("now", "today", "again", "first", "time"))
    question = said_in("where is Report", values_of(case("where is Report", query="Report"), BOX))
    for seed in range(60):
        assert all(v.text.startswith("where is") for v in vary("where is Report", question, ["polite"], 1, str(seed)))


def test_nothing_is_made_where_no_rule_applies() -> None:
    said = said_in("Report", values_of(case("Report", query="Report"), BOX))
    assert vary("Report", said, ["drop", "abbreviate", "typos"], 3, "0") == []


def _cases() -> list[Case]:
    calls = (Call("find", {"query": "email"}),)
    return [
        Case("a", "please find the email notes", {"folder": "/x"}, "easy", calls, template="t"),
        Case("b", "find letters for me", {}, "easy", calls),
        Case("c", "what is the weather like in the north", {}, "no-call"),
    ]


def test_cases_keep_all_but_their_words_and_unfound_values_are_counted() -> None:
    made, report = vary_cases(_cases(), BOX, Plan(tuple(RULES), per_case=4, originals=True))
    assert [c.id for c in made if "~" not in c.id] == ["a", "b", "c"]
    varied = [c for c in made if "~" in c.id]
    assert {c.id.partition("~")[0] for c in varied} == {"a", "c"} and len({c.id for c in made}) == len(made)
    assert all((c.template, c.bucket, c.context) == ("t", "easy", {"folder": "/x"}) for c in varied if c.id[0] == "a")
    assert all((c.template, c.calls) == ("case c", ()) for c in varied if c.id[0] == "c")
    assert (report["cases"], report["varied"], report["written"]) == (3, 2, len(made))
    assert report["values_not_in_request"] == {"cases": 1, "first": [{"id": "b", "missing": ["email"]}]}
    assert sum(report["made_by"].values()) >= len(varied)


def test_a_case_varies_alike_whatever_stands_around_it() -> None:
    plan = Plan(tuple(RULES), per_case=3, seed=5)
    alone, _ = vary_cases(_cases()[2:], BOX, plan)
    among, _ = vary_cases(_cases(), BOX, plan)
    assert [c.user for c in alone] == [c.user for c in among if c.id[0] == "c"]
    other, _ = vary_cases(_cases(), BOX, Plan(tuple(RULES), per_case=3, seed=6))
    assert [c.user for c in other] != [c.user for c in among]


def test_no_variation_repeats_a_case_or_a_test_request() -> None:
    plan = Plan(("drop",), per_case=1)
    (first, *_), _ = vary_cases(_cases()[:1], BOX, plan)
    again, report = vary_cases([*_cases()[:1], Case("d", first.user)], BOX, plan)
    assert report["rejected"] == {"duplicate": 1} and first.user not in [c.user for c in again]
    made, report = vary_cases(_cases()[:1], BOX, plan, against=[Case("test", first.user.upper() + "!")])
    assert (made, report["rejected"]) == ([], {"against": 1})


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "out.jsonl"
    write_cases(_cases(), path)
    assert load_cases(path) == _cases()

    def broken() -> Any:
        yield _cases()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cases(broken(), path)
    assert load_cases(path) == _cases() and [p.name for p in path.parent.iterdir()] == ["out.jsonl"]


def command(argv: list[str]) -> int:
    parser = Parser("edgecall data", "", [])
    vary_cmd.add_parser(parser.add_subparsers(dest="verb", parser_class=Parser))
    return run(lambda arguments: vary_cmd.main(parser.parse_args(arguments)), ["vary", *argv])


def test_the_command_makes_the_same_file_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = tmp_path / "cases.jsonl"
    call = Call("search", {"item_type": "script", "query": "resize images", "source": "registry"})
    write_cases([Case("x", "find scripts that resize images in the registry", calls=(call,))], cases)
    outs = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for out in outs:
        assert (
            command([str(cases), "--toolset", "kiwi", "--out", str(out), "--per-case", "5", "--rules", "typos,drop"])
            == 0
        )
    report = json.loads(capsys.readouterr().out.split("\n}\n")[0] + "}")
    assert (report["cases"], report["varied"]) == (1, 1)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    made = load_cases(outs[0])
    assert len(made) == report["written"] > 2
    assert all("resize images" in c.user and "registry" in c.user and c.calls == (call,) for c in made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rules", "typo"], "unknown rule 'typo'; there are polite"),
        (["--rules", ","], "names none"),
        (["--per-case", "0"], "at least 1"),
        (["--budget", "1"], "--budget is for a language model"),
        (["--check"], "--check and --hint are for a language model"),
        (["--model", "m", "--price-in", "1"], "go together"),
        (["--model", "m", "--budget", "1"], "a budget needs prices"),
        (["--model", "m", "--key-env", "NO_SUCH_KEY_HERE"], "the environment has no NO_SUCH_KEY_HERE"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openai", reason="the openai client is not installed (extra: data)")
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    cases, out = tmp_path / "cases.jsonl", tmp_path / "out.jsonl"
    write_cases([Case("x", "hello there")], cases)
    assert command([str(cases), "--toolset", "kiwi", "--out", str(out), *options]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not out.exists()


def test_the_cases_themselves_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = tmp_path / "cases.jsonl"
    write_cases([Case("x", "hello there")], cases)
    assert command([str(cases), "--toolset", "kiwi", "--out", str(cases)]) == 2
    assert "is the file of the cases themselves" in capsys.readouterr().err


def test_rules_draw_from_the_generator_they_are_given() -> None:
    """A rule that drew elsewhere would make files that differ from run to run."""
    pieces = cut("please find the big Report about you", said_in("please find the big Report about you", ()))
    for rule in RULES.values():
        state = random.getstate()
        assert rule(pieces, random.Random(3)) == rule(pieces, random.Random(3))
        assert random.getstate() == state
