"""What validates is withheld from training: whole services, or rows by their text, always the same ones."""

from __future__ import annotations

from train.data.corpus import Corpus, Request, Segment, make_tool
from train.data.leakage import normalised
from train.data.texts import Texts
from train.held_out import ROWS, SERVICES, withhold, withhold_texts


def request(text: str, tool: str | None) -> Request:
    return Request((Segment(text),), tool)


def rows() -> Corpus:
    tools = {name: make_tool(name, name, {}) for name in ("play", "rate")}
    made = [request(f"{tool} number {n}", tool) for n in range(100) for tool in tools]
    return Corpus("snips", tools, [*made, *(request(r.text.upper() + "!", r.tool) for r in made), request("hi", None)])


def services() -> Corpus:
    names = [f"{verb}.{kind}_{n}" for kind in ("events", "hotels") for n in range(10) for verb in ("find", "book")]
    tools = {name: make_tool(name, name, {}) for name in names}
    renames = [{name: make_tool(f"other_{i}", name, {}) for i, name in enumerate(names)}]
    requests = [request(f"{name} {n}", name) for name in names for n in range(3)]
    return Corpus("sgd", tools, requests, renames, [request(f"part of {name}", name) for name in names])


def test_rows_are_withheld_by_their_text() -> None:
    corpus = rows()
    train, held = withhold(corpus)
    said, kept_back = ({normalised(r.text) for r in side.requests} for side in (train, held))
    assert not said & kept_back
    assert len(kept_back) == 201 // ROWS
    assert len(train.requests) + len(held.requests) == len(corpus.requests)
    assert train.requests == [r for r in corpus.requests if normalised(r.text) in said], "in upstream's order"
    assert set(train.tools) == set(held.tools) == set(corpus.tools)
    assert withhold(rows())[1].requests == held.requests


def test_services_are_withheld_with_all_that_belongs_to_them() -> None:
    corpus = services()
    train, held = withhold(corpus)
    of = {side.name: {name.partition(".")[2] for name in side.tools} for side in (held,)}["sgd"]
    assert len(of) == 20 // SERVICES
    assert not any(name.partition(".")[2] in of for name in train.tools)
    assert set(train.tools) | set(held.tools) == set(corpus.tools)
    for side in (train, held):
        assert set(side.renames[0]) == set(side.tools)
        assert {r.tool for r in (*side.requests, *side.partial)} == set(side.tools)
    assert len(train.requests) + len(held.requests) == len(corpus.requests)


def test_a_small_corpus_still_withholds_one_row() -> None:
    train, held = withhold(Corpus("c", {}, [request("one", None), request("two", None)]))
    assert len(train.requests) == len(held.requests) == 1


def test_documents_are_withheld_too() -> None:
    texts = Texts((), None)  # type: ignore[arg-type]
    texts.documents = {"prose": [f"document {n}" for n in range(40)]}
    train, held = withhold_texts(texts)
    assert len(held.documents["prose"]) == 40 // ROWS
    assert set(train.documents["prose"]) == set(texts.documents["prose"]) - set(held.documents["prose"])
