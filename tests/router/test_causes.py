"""Why passes are made: read off completions token by token, and told with every request."""

from __future__ import annotations

import pytest

from router.causes import CAUSES, Trace, causes
from router.core import Router
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.toolset_load import from_dict
from tests.fake import BatchModel, FakeModel, random_rule, scripted_rule

NOTES = from_dict(
    {
        "name": "notes",
        "tools": [
            {
                "name": "write_2",
                "description": "Write a note.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "color": {"type": "string", "enum": ["red", "green"]},
                        "count": {"type": "integer"},
                        "extra": {"type": "object", "additionalProperties": True},
                        "level": {"type": "integer", "enum": [10, 20]},
                        "pinned": {"type": "boolean"},
                        "place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
                        "sizes": {"type": "array", "items": {"type": "number"}},
                        "tags": {"type": "array", "items": {"type": "string"}},
                        "text": {"type": "string"},
                    },
                    "required": ["text"],
                },
            },
            {"name": "clear", "description": "Clear all.", "parameters": {"type": "object", "properties": {}}},
        ],
    }
)
START, END, TURN, ESCAPE = "<start_function_call>", "<end_function_call>", "<start_function_response>", "<escape>"

# What is written, and below it what each character would be decided for: f a fork, s a string, n a number. A control
# token is one character below.
PARTS = [
    (START, "f"),
    ("call:write_2{color:", "f" * 19),
    (ESCAPE, "f"), ("red", "fff"), (ESCAPE, "f"),
    (",count:", "f" * 7), ("12", "nn"),
    (",", "n"), ("extra:", "ffffff"), ("{", "f"), ("k2", "fs"), (":", "s"), ("-5", "fn"), ("}", "n"),
    (",level:", "f" * 7), ("10", "ff"),
    (",pinned:", "f" * 8), ("true", "ffff"),
    (",place:{x:", "f" * 10), ("1.5", "nnn"), ("}", "n"),
    (",sizes:[", "f" * 8), ("1", "n"), (",", "n"), ("2", "n"), ("]", "n"),
    (",tags:[", "f" * 7), (ESCAPE, "f"), ("a{b:1,", "ssssss"), (ESCAPE, "s"), ("]", "f"),
    (",text:", "f" * 6), (ESCAPE, "f"), ("5 ferns", "sssssss"), (ESCAPE, "s"), ("}", "f"),
    (END, "f"), (TURN, "f"),
]  # fmt: skip
LETTERS = {"f": "fork", "s": "string", "n": "number"}


def test_every_token_of_a_completion(tokenizer: RouterTokenizer) -> None:
    trace = Trace(tokenizer, NOTES)
    for text, below in PARTS:
        offset = 0
        for token in tokenizer.encode(text):
            assert trace.cause() == LETTERS[below[offset]], (text, offset)
            trace.add(token)
            offset += 1 if text.startswith("<") else len(tokenizer.spelling(token))
        assert offset == len(below), text
    assert trace.cause() == "fork"


def test_a_pass_counts_for_its_first_decision(tokenizer: RouterTokenizer) -> None:
    ids = tokenizer.encode("".join(text for text, _ in PARTS))
    escape = tokenizer.control_id("escape")
    free = len(ids) - 1 - ids[::-1].index(escape)  # where the last string ends
    found = causes(tokenizer, NOTES, ids, [2, 2, free, len(ids)])
    assert found == {"request": 1, "fork": 2, "string": 1, "number": 0}
    assert causes(tokenizer, NOTES, ids, []) == dict.fromkeys(CAUSES, 0)


def test_a_request_tells_its_causes(tokenizer: RouterTokenizer) -> None:
    """A number takes a pass for every digit and one for its end; what is forced takes none."""
    call = Call("write_2", {"count": 417, "text": "fern"})
    rule = scripted_rule(tokenizer.vocab_size, tokenizer.prompt_ids(NOTES, "a fern"), tokenizer.completion_ids([call]))
    model = FakeModel(rule, tokenizer.vocab_size, 2048)
    result = Router.from_model(model, tokenizer, NOTES, guess=False).route("a fern")
    assert result.calls == [call]
    found = result.stats.pass_causes
    assert sum(found.values()) == result.stats.forward_passes
    assert found["request"] == 1 and found["number"] == len("417,")
    assert found["string"] == len(tokenizer.encode_text("fern")) + 1
    assert result.to_dict()["stats"]["pass_causes"] == found


@pytest.mark.parametrize("lanes", [1, 4])
def test_whatever_is_decoded_all_passes_are_told(tokenizer: RouterTokenizer, kiwi: Toolset, lanes: int) -> None:
    rule = random_rule(tokenizer.vocab_size, seed=1, bias={tokenizer.control_id("end_turn"): -20.0})
    model = BatchModel(rule, tokenizer.vocab_size, 2048)
    router = Router.from_model(model, tokenizer, kiwi, guess=True)
    users = [f"find the {word} scripts" for word in ("email", "backup", "rename")]
    for limit in (5, 60):
        for one in router.route_many(users, [{"project_path": "."}] * 3, lanes=lanes, max_new_tokens=limit):
            assert sum(one.stats.pass_causes.values()) == one.stats.forward_passes > 1
            assert one.stats.pass_causes["request"] == 1
    assert router.route(users[0], {"project_path": "."}, grammar=False, max_new_tokens=5).stats.pass_causes == {}
