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


def read(tokenizer: RouterTokenizer, text: str, *calls: Call) -> list[tuple[str, str, str]]:
    """(the next token, what the request says next, what is said next), spelled; "-" before a piece."""
    request, completion = tokenizer.request_ids(text), tokenizer.completion_ids(calls)
    ids = request + completion

    def spelled(index: int) -> str:
        return "-" if index < 0 else tokenizer.spelling(ids[index]).decode(errors="replace")

    copies = copied_places(tokenizer, text, request, completion)
    assert all(-1 <= ahead < len(request) and 0 <= said < len(request) <= place + 1 for place, ahead, said in copies)
    return [(spelled(place + 1), spelled(ahead), spelled(said)) for place, ahead, said in copies]


def call(**arguments: Any) -> Call:
    return Call("f", arguments)


def test_a_string_is_read_where_it_stands_and_its_end_behind_it(tokenizer: RouterTokenizer) -> None:
    pieces = tokenizer.encode_text("rain today")
    found = read(tokenizer, "is there rain today, in town?", call(q="rain today"))
    assert len(found) == len(pieces) + 1
    assert "".join(token for token, *_ in found[:-1]) == "rain today"
    for token, ahead, said in found[:-1]:
        # Behind a space stands what decides whether the string goes on.
        assert said.strip() == token.strip() or (token == " " and "today".startswith(said))
        assert ahead == ("-" if token == found[0][0] and said == found[0][2] else said)
    assert found[-1] == ("<escape>", ",", "<end_of_turn>")


def test_the_end_of_the_request_ends_a_string(tokenizer: RouterTokenizer) -> None:
    assert read(tokenizer, "find rain", call(q="rain"))[-1] == ("<escape>", "<end_of_turn>", "<end_of_turn>")
    token, ahead, said = read(tokenizer, "find rain now", call(q="rain"))[-1]
    assert (token, said) == ("<escape>", "<end_of_turn>")
    assert "now".startswith(ahead.strip()) and ahead.strip()


def test_snake_case_is_read_from_words(tokenizer: RouterTokenizer) -> None:
    found = read(tokenizer, "run the Csv parser now", call(id="csv_parser"))
    assert "".join(token for token, *_ in found[:-1]) == "csv_parser"
    assert found[-1][0] == "<escape>"
    under = next(said for token, _, said in found if token == "_")
    assert "parser".startswith(under)


def test_numbers_and_free_keys_are_read_too(tokenizer: RouterTokenizer) -> None:
    found = read(tokenizer, "start it with days 17 and dry true", call(options={"days": 17, "dry": True}))
    text = "".join(token for token, *_ in found)
    assert "days" in text and "17" in text and "dry" in text and "true" in text
    digits = [(token, said) for token, _, said in found if token.isdigit()]
    assert digits and all(token == said for token, said in digits)


def test_what_the_request_does_not_say_is_left_out(tokenizer: RouterTokenizer) -> None:
    assert read(tokenizer, "what is new", call(source="registry", n=4, on=True)) == []
    assert read(tokenizer, "hello") == []
    assert read(tokenizer, "scripts", call(q="script")) == []  # a part of a word is not said


def test_equal_values_are_read_one_behind_the_other(tokenizer: RouterTokenizer) -> None:
    text = "mail ann and mail ann"
    request = tokenizer.request_ids(text)
    completion = tokenizer.completion_ids([call(to="ann"), call(to="ann")])
    copies = copied_places(tokenizer, text, request, completion)
    size = len(tokenizer.encode_text("ann"))
    assert copies[0][2] < copies[size + 1][2]


def test_bytes_and_other_scripts(tokenizer: RouterTokenizer) -> None:
    found = read(tokenizer, "ruf Jürgen 日本 an", call(to="Jürgen 日本"))
    assert found[-1][0] == "<escape>"
    assert all("ruf" not in said for *_, said in found)
