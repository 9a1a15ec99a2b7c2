"""Invented services: tools are distinct and all asked for, calls are valid, and values stand in the request."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from router.toolset import Call, Toolset
from router.validate import schema_errors
from train.data.corpus import Corpus, Request, Segment
from train.data.invented import Invented
from train.data.lexicon import Lexicon, cased, material, number, plural
from train.data.mixture import Mixture
from train.data.services import KEPT_APART
from train.data.words import Words

WORDS = Words(["please find the quarterly report now", "who ate all of the cheese", "is there a heron on the roof"])
SETS, REQUESTS = 150, 30
Drawn = list[tuple[Invented, list[tuple[str, list[Call]]]]]


def draw(lexicon: Lexicon, seed: str) -> tuple[Invented, list[tuple[str, list[Call]]]]:
    rng = random.Random(seed)
    made = Invented(rng, lexicon)
    return made, [made.request(rng) for _ in range(REQUESTS)]


@pytest.fixture(scope="module", params=[False, True], ids=["own words", "with words"])
def drawn(request: pytest.FixtureRequest) -> Drawn:
    lexicon = Lexicon(WORDS if request.param else None)
    return [draw(lexicon, f"{request.param}/{i}") for i in range(SETS)]


def test_the_same_seed_gives_the_same_set_and_requests() -> None:
    assert [draw(Lexicon(WORDS), "a")[1], draw(Lexicon(WORDS), "a")[0].tools] == [
        draw(Lexicon(WORDS), "a")[1],
        draw(Lexicon(WORDS), "a")[0].tools,
    ]
    assert draw(Lexicon(WORDS), "a")[1] != draw(Lexicon(WORDS), "b")[1]


def test_tools_are_distinct_and_none_is_of_the_test_set(drawn: Drawn) -> None:
    for made, _ in drawn:
        names = [tool.name for tool in made.tools]
        assert 3 <= len(names) <= 8
        assert len(set(names)) == len(names)
        assert not KEPT_APART & set(names)


def test_calls_hold_to_their_schemas(drawn: Drawn) -> None:
    for made, rows in drawn:
        toolset = Toolset("t", tuple(made.tools))
        for text, calls in rows:
            assert len(calls) <= 1
            assert [schema_errors(call, toolset) for call in calls] in ([], [[]]), text


def test_values_are_pieces_of_the_request(drawn: Drawn) -> None:
    spans = 0
    for made, rows in drawn:
        toolset = Toolset("t", tuple(made.tools))
        for text, calls in rows:
            assert text == " ".join(text.split())
            assert text.isprintable() and not set(text) & set("{}[]<>|"), text
            for call in calls:
                tool = toolset.tool(call.name)
                assert tool is not None
                for name, value in call.arguments.items():
                    schema = tool.parameters.properties[name]
                    if schema.type == "string" and schema.enum is None:
                        assert value and value in text
                        spans += 1
    assert spans > SETS * REQUESTS / 2


def test_a_tenth_calls_nothing(drawn: Drawn) -> None:
    share = sum(not calls for _, rows in drawn for _, calls in rows) / (SETS * REQUESTS)
    assert 0.07 < share < 0.14


def test_every_tool_of_a_set_is_asked_for() -> None:
    for seed in range(10):
        rng = random.Random(seed)
        made = Invented(rng, Lexicon())
        called = {call.name for _ in range(200) for call in made.request(rng)[1]}
        assert called == {tool.name for tool in made.tools}


def test_there_is_much_to_see(drawn: Drawn) -> None:
    assert len(material()["domains"]) >= 150
    assert len({tool.name for made, _ in drawn for tool in made.tools}) > 4 * SETS
    assert len({text for _, rows in drawn for text, _ in rows}) > 0.95 * SETS * REQUESTS
    types = Counter(s.type for made, _ in drawn for t in made.tools for s in t.parameters.properties.values())
    assert min(types[kind] for kind in ("string", "integer", "boolean")) > 50
    assert any(s.enum for made, _ in drawn for t in made.tools for s in t.parameters.properties.values())


def test_every_kind_can_be_drawn() -> None:
    data, lexicon, rng = material(), Lexicon(WORDS), random.Random(0)
    local = {"x": "film", "X": "Film", "xs": "films", "s": "so", "v": "such"}
    for kind in data["kinds"].values():
        for text in [*kind.names, *kind.about, *kind.v, *kind.say, *kind.lead]:
            assert not set(lexicon.fill(text, rng, local)) & set("{}"), text
    for row in data["domains"]:
        assert set(row.get("do", "").split()) <= set(data["groups"][row["as"]]), row


def test_values_of_the_corpora_are_borrowed() -> None:
    rows = [Request((Segment("weather in "), Segment(city, "city")), "w") for city in ("Ouagadougou", "x", "a, b")]
    lexicon = Lexicon(None, [Corpus("c", {}, rows)])
    assert lexicon.borrowed["city"] == ["Ouagadougou"]
    assert any("Ouagadougou" in text for i in range(40) for text, _ in draw(lexicon, str(i))[1])


def test_blocks_of_a_mixture() -> None:
    mixture = Mixture([], WORDS, {"invented": 1.0}, seed=2)
    block = mixture.block(4, rows=6)
    assert len(block.rows) == 6 and block.toolset.name == "invented"
    assert block == Mixture([], WORDS, {"invented": 1.0}, seed=2).block(4, rows=6)


@pytest.mark.parametrize(
    ("said", "meant"), [("4", 4), ("Four", 4), ("$1,200", 1200), ("30k", 30000), ("50 dollars", 50), ("7 pm", 7)]
)
def test_numbers(said: str, meant: int) -> None:
    assert number(said) == meant


def test_words() -> None:
    nouns = {"film": "films", "city": "cities", "place to eat": "places to eat", "dress": "dresses", "dish": "dishes"}
    nouns |= {"handyman": "handymen", "piece of clothing": "pieces of clothing", "series": "series", "bus": "buses"}
    assert {noun: plural(noun) for noun in nouns} == nouns
    assert [cased("find to-do items", s) for s in ("snake", "camel", "pascal")] == [
        "find_to_do_items",
        "findToDoItems",
        "FindToDoItems",
    ]
