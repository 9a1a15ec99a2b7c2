"""Where a completion's values stand in the request, piece by piece."""

from __future__ import annotations

from typing import Any

import pytest

from export.base import Checkpoint
from router.tokenizer import RouterTokenizer
from router.toolset import Call
from train.copying import copied_places


@pytest.fixture
def tokenizer(tiny: Checkpoint) -> RouterTokenizer:
    return RouterTokenizer.load(tiny.folder / "tokenizer.json")


def read(tokenizer: RouterTokenizer, text: str, *calls: Call) -> list[tuple[str, str]]:
    """(what comes next, what is looked at in the request), spelled."""
    request, completion = tokenizer.request_ids(text), tokenizer.completion_ids(calls)
    ids = request + completion

    def spelled(index: int) -> str:
        return tokenizer.spelling(ids[index]).decode(errors="replace")

    pairs = copied_places(tokenizer, text, request, completion)
    assert all(source < len(request) <= place + 1 for place, source in pairs)
    return [(spelled(place + 1), spelled(source)) for place, source in pairs]


def call(**arguments: Any) -> Call:
    return Call("f", arguments)


def test_a_string_is_read_where_it_stands_and_its_end_behind_it(tokenizer: RouterTokenizer) -> None:
    pieces = tokenizer.encode_text("rain today")
    found = read(tokenizer, "is there rain today, in town?", call(q="rain today"))
    assert len(found) == len(pieces) + 1
    assert "".join(a for a, _ in found[:-1]) == "rain today"
    for said, seen in found[:-1]:
        # Behind a space stands what decides whether the string goes on.
        assert seen.strip() == said.strip() or (said == " " and "today".startswith(seen))
    assert found[-1] == ("<escape>", ",")


def test_the_end_of_the_request_ends_a_string(tokenizer: RouterTokenizer) -> None:
    assert read(tokenizer, "find rain", call(q="rain"))[-1] == ("<escape>", "<end_of_turn>")
    said, seen = read(tokenizer, "find rain now", call(q="rain"))[-1]
    assert said == "<escape>"
    assert "now".startswith(seen.strip()) and seen.strip()


def test_snake_case_is_read_from_words(tokenizer: RouterTokenizer) -> None:
    found = read(tokenizer, "run the Csv parser now", call(id="csv_parser"))
    assert "".join(a for a, _ in found[:-1]) == "csv_parser"
    assert found[-1][0] == "<escape>"
    under = next(seen for said, seen in found if said == "_")
    assert "parser".startswith(under)


def test_numbers_and_free_keys_are_read_too(tokenizer: RouterTokenizer) -> None:
    found = read(tokenizer, "start it with days 17 and dry true", call(options={"days": 17, "dry": True}))
    said = "".join(a for a, _ in found)
    assert "days" in said and "17" in said and "dry" in said and "true" in said
    ones = [(a, b) for a, b in found if a.isdigit()]
    assert ones and all(a == b for a, b in ones)


def test_what_the_request_does_not_say_is_left_out(tokenizer: RouterTokenizer) -> None:
    assert read(tokenizer, "what is new", call(source="registry", n=4, on=True)) == []
    assert read(tokenizer, "hello") == []
    assert read(tokenizer, "scripts", call(q="script")) == []  # a part of a word is not said


def test_equal_values_are_read_one_behind_the_other(tokenizer: RouterTokenizer) -> None:
    text = "mail ann and mail ann"
    request = tokenizer.request_ids(text)
    completion = tokenizer.completion_ids([call(to="ann"), call(to="ann")])
    pairs = copied_places(tokenizer, text, request, completion)
    size = len(tokenizer.encode_text("ann"))
    starts = [pairs[0][1], pairs[size + 1][1]]
    assert starts[0] < starts[1]


def test_bytes_and_other_scripts(tokenizer: RouterTokenizer) -> None:
    found = read(tokenizer, "ruf Jürgen 日本 an", call(to="Jürgen 日本"))
    assert found[-1][0] == "<escape>"
    assert all("ruf" not in seen for _, seen in found)
