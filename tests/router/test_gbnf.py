"""The GBNF against llama.cpp itself: at every step of a completion it allows what our own grammar allows."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings

from router.gbnf import gbnf
from router.grammar import Grammar
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Schema, Toolset
from router.toolset_load import from_dict
from router.wire import FUNCTIONGEMMA, GEMMA4
from tests.router.decodable import REQUEST, toolsets_with_calls
from tests.unbound import unbound

if TYPE_CHECKING:
    from tests.exports import Maker

slow = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


class Vocabulary:
    """The tiny model's vocabulary as llama.cpp reads it from our GGUF."""

    def __init__(self, path: str, tokenizer: RouterTokenizer) -> None:
        import llama_cpp

        from runtimes import llama_native

        llama_native.native()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.lib = llama_cpp
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        assert self.model
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.ends = {i for i in range(self.size) if llama_cpp.llama_vocab_is_eog(self.vocab, i)}
        self.tokenizer = tokenizer
        # Whether the first byte of a character can still become one of a class is judged more coarsely by llama.cpp.
        self.parts = {tokenizer.vocabulary.find(f"<0x{b:02X}>") for b in range(0x80, 0x100)}


class Stock:
    """One walk through a GBNF grammar in llama.cpp."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        self.v = vocabulary
        self.sampler = vocabulary.lib.llama_sampler_init_grammar(vocabulary.vocab, grammar.encode(), b"root")
        assert self.sampler, "llama.cpp refuses the grammar"

    def allowed(self) -> set[int]:
        data = (self.v.lib.llama_token_data * self.v.size)()
        for i in range(self.v.size):
            data[i].id, data[i].logit = i, 0.0
        array = self.v.lib.llama_token_data_array(data=data, size=self.v.size, selected=-1, sorted=False)
        self.v.lib.llama_sampler_apply(self.sampler, ctypes.byref(array))
        return {array.data[i].id for i in range(array.size) if array.data[i].logit > -math.inf}

    def accept(self, token: int) -> None:
        self.v.lib.llama_sampler_accept(self.sampler, token)

    def close(self) -> None:
        self.v.lib.llama_sampler_free(self.sampler)


@pytest.fixture(scope="module")
def vocabulary(exported: Maker) -> Iterator[Vocabulary]:
    pytest.importorskip("llama_cpp")
    artifact = exported("gguf", "f16")
    found = Vocabulary(str(artifact.weights), RouterTokenizer.load(artifact.tokenizer))
    yield found
    found.lib.llama_model_free(found.model)


def compare(vocabulary: Vocabulary, toolset: Toolset, calls: list[Call]) -> None:
    """Walk `calls` token by token in both grammars and compare what they allow."""
    tokenizer = vocabulary.tokenizer
    stops = {tokenizer.control_id("start_response"), tokenizer.control_id("end_turn")}
    ours = Grammar.compile(toolset, tokenizer).matcher(REQUEST)
    stock = Stock(vocabulary, gbnf(toolset))
    written = ""
    try:
        for token in tokenizer.completion_ids(calls):
            mine, theirs = set(ours.allowed(vocabulary.size).tolist()), stock.allowed()
            # The stop is ours alone to spell out; stock ends where its grammar may, with whatever ends generation.
            assert bool(mine & stops) == bool(theirs & vocabulary.ends)
            mine, theirs = (side - stops - vocabulary.ends - vocabulary.parts for side in (mine, theirs))
            if len(mine) == 1:
                assert mine <= theirs  # forced: our grammar takes the tokenizer's own spelling, GBNF knows only text
            else:
                assert mine <= theirs
                assert tokenizer.special_ids.isdisjoint(theirs - mine)
                assert all(_spells_control(written + tokenizer.decode([t])) for t in theirs - mine)
            if token in stops:
                break
            ours.accept(token)
            stock.accept(token)
            written = "" if token in tokenizer.special_ids else written + tokenizer.decode([token])
    finally:
        stock.close()


def _spells_control(text: str) -> bool:
    """Whether text spells a control token out or ends in the beginning of one: GBNF takes that for the token."""
    return any(
        spelling in text or any(text.endswith(spelling[:n]) for n in range(1, len(spelling)))
        for spelling in FUNCTIONGEMMA.control_tokens
    )


def sayable(schema: Schema) -> Schema:
    """What GBNF can say: no spans, no lengths beside a pattern or in strings with ``<``."""
    inner = {name: sayable(s) for name, s in schema.properties.items()}
    items = None if schema.items is None else sayable(schema.items)
    return replace(schema, copy=None, also=(), min_length=None, max_length=None, properties=inner, items=items)


@slow
@given(drawn=toolsets_with_calls())
def test_llama_cpp_allows_what_we_allow(vocabulary: Vocabulary, drawn: tuple[Toolset, list[Call]]) -> None:
    toolset, calls = drawn
    plain = tuple(replace(tool, parameters=sayable(tool.parameters)) for tool in toolset.tools)
    compare(vocabulary, replace(toolset, tools=plain), calls)


CALLS = [
    [],
    [Call("search", {"item_type": "script", "query": "email <b> scripts", "source": "registry"})],
    [Call("load", {"item_type": "knowledge", "item_id": "n\u00f6tes\n2"})],
    [
        Call(
            "execute", {"item_type": "script", "action": "run", "item_id": "x", "parameters": {"a": [1, {"b c": None}]}}
        )
    ],
]


@pytest.mark.parametrize("calls", CALLS, ids=len)
def test_kiwi(vocabulary: Vocabulary, kiwi: Toolset, calls: list[Call]) -> None:
    toolset = unbound(kiwi)  # GBNF cannot hold a string to the request
    compare(vocabulary, toolset, calls)
    compare(vocabulary, replace(toolset, max_calls=3), calls * 3)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"minLength": 2, "maxLength": 4}, ["ab", "\u00e9\u65e5\U0001f600d"], ["a", "abcde", "\0ab"]),
        ({"minLength": 2, "maxLength": 40}, ["ab", "x" * 40], ["a", "x" * 41, "a<b"]),
        ({"maxLength": 900}, ["", "x" * 900], ["x" * 901]),
        ({"maxLength": 4000}, ["", "x" * 1200], ["<"]),
        ({"pattern": "^[a-c]*$", "maxLength": 3}, ["", "abc"], ["abca", "d"]),
        ({"pattern": "b", "minLength": 3}, ["aab", "baaa"], ["b", "aaaa"]),
        ({"format": "email", "maxLength": 12}, ["a@bc.de"], ["a@b", "aaaaaaaa@bcde.fg"]),
        ({"copy": True, "minLength": 1}, ["anything"], [""]),
        ({"copy": True}, ["anything", ""], ["<escape>"]),
    ],
)
def test_lengths(vocabulary: Vocabulary, schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "string", **schema}}, "required": ["x"]}
    toolset = from_dict({"name": "t", "tools": [{"name": "f", "description": "", "parameters": parameters}]})
    tokenizer = vocabulary.tokenizer
    head = tokenizer.encode("<start_function_call>call:f{x:<escape>")
    tail = tokenizer.encode("<escape>}<end_function_call>")
    for text in (*good, *bad):
        stock = Stock(vocabulary, gbnf(toolset))
        taken = True
        for token in (*head, *tokenizer.encode_text(text), *tail):
            taken = taken and token in stock.allowed()
            if taken:
                stock.accept(token)
        assert taken == (text in good), text
        if taken:
            assert stock.allowed() & vocabulary.ends
        stock.close()


def test_gemma_4_spellings(kiwi: Toolset) -> None:
    text = gbnf(kiwi, GEMMA4)
    assert '"<|tool_call>"' in text
    assert '"<|\\x22|>"' in text
    assert "escape" not in text


def test_no_call_is_the_empty_completion(kiwi: Toolset) -> None:
    root = next(line for line in gbnf(kiwi).splitlines() if line.startswith("root"))
    assert root.endswith('| "")')
    assert "end_of_turn" not in root


def test_rules_are_named_as_llama_cpp_names_them(kiwi: Toolset) -> None:
    lines = gbnf(kiwi).splitlines()[1:]
    names = [line.split(" ::= ")[0] for line in lines]
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in names)
    assert len(set(names)) == len(names)
    used = {
        word for line in lines for word in re.findall(r"\b[rt]\d+(?:-\d+)?\b", re.sub(r'"[^"]*"|\[[^]]*\]', "", line))
    }
    assert used <= set(names)
