"""Which completions the grammar allows, what it forces, and what cannot be compiled."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from router.free import FREE_DEPTH, FREE_ITEMS, FREE_KEY_LENGTH, FREE_KEYS, FREE_LENGTH, MAX_ITEMS, SPACES
from router.grammar import Grammar
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Schema, Tool, Toolset
from router.toolset_load import from_dict
from router.walk import GrammarError
from router.wire import render_call, render_completion
from runtimes.errors import UserError

ROOT = Path(__file__).parents[2]


def toolset(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> Toolset:
    """A toolset of the one tool ``f``."""
    parameters = {"type": "object", "properties": properties, "required": required or []}
    return from_dict({"name": "t", "tools": [{"name": "f", "description": "", "parameters": parameters}], **more})


def accepts(grammar: Grammar, text: str, user: str = "find it") -> bool:
    """Whether the grammar takes a completion, whatever it forces on the way agreeing."""
    ids = grammar.tokenizer.encode(text)
    matcher = grammar.matcher(user)
    done = 0
    while done <= len(ids):
        forced = matcher.forced()
        if ids[done : done + len(forced)] != forced:
            return False
        done += len(forced)
        if matcher.finished:
            return done == len(ids)
        if done == len(ids) or not matcher.allows(ids[done]):
            return False
        assert ids[done] in matcher.allowed(grammar.tokenizer.vocab_size)
        matcher.accept(ids[done])
        done += 1
    return False


def call(arguments: str) -> str:
    return f"<start_function_call>call:f{arguments}<end_function_call><start_function_response>"


def test_optional_arguments_and_their_commas(tokenizer: RouterTokenizer) -> None:
    properties = {name: {"type": "boolean"} for name in "bDaCe"}
    properties["b"]["default"] = True  # type: ignore[assignment]
    grammar = Grammar.compile(toolset(properties, ["C", "e"]), tokenizer)
    ordered = ["a", "b", "C", "D", "e"]
    for chosen in itertools.product([False, True], repeat=5):
        names = [name for name, given in zip(ordered, chosen, strict=True) if given]
        arguments = "{" + ",".join(f"{name}:true" for name in names) + "}"
        assert accepts(grammar, call(arguments)) == ({"C", "e"} <= set(names))
    for wrong in ("{C:true,e:true,}", "{,C:true,e:true}", "{C:true,,e:true}", "{C:true;e:true}", "{e:true,C:true}",
                  "{C:true,C:true,e:true}", "{C:true,e:true,x:true}", "{C: true,e:true}", "{C:true, e:true}",
                  "{ C:true,e:true}", "{C:true,e:null}", "{C:<escape>true<escape>,e:true}"):  # fmt: skip
        assert not accepts(grammar, call(wrong))


def test_what_stands_around_the_arguments(tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(toolset({}), tokenizer)
    good = render_completion([Call("f", {})])
    assert accepts(grammar, good)
    assert accepts(grammar, "<end_of_turn>")
    for wrong in ("", "hi<end_of_turn>", "<start_function_response>", good + "<end_of_turn>", good.replace("f{", "g{"),
                  good.replace("<start_function_response>", "<end_of_turn>"), render_call(Call("f", {})) + good,
                  good.replace("call:", "call: "), good.replace("<end_function_call>", ""), "<eos>"):  # fmt: skip
        assert not accepts(grammar, wrong)


def test_the_number_of_calls(tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(toolset({}, max_calls=3), tokenizer)
    for n in range(6):
        assert accepts(grammar, render_completion([Call("f", {})] * n)) == (n <= 3)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "enum": ["a", "ab", "abc", "", "b c"]}, ["a", "ab", "abc", "", "b c"], ["b", "abcd", "c"]),
        ({"type": "string", "pattern": "^[a-c]+$"}, ["a", "abc"], ["", "d", "abd", "ab "]),
        ({"type": "string", "pattern": "b"}, ["b", "abc", "xx<b"], ["", "a", "B"]),
        ({"type": "string", "pattern": "^a*$", "maxLength": 3}, ["", "a", "aaa"], ["aaaa", "b"]),
        ({"type": "string", "pattern": "^(foo|ba[rz])+$", "maxLength": 7}, ["foo", "barfoo"], ["", "foobarbaz", "fo"]),
        ({"type": "string", "pattern": "x", "maxLength": 60}, ["x", "a" * 59 + "x"], ["a" * 60, "a" * 60 + "x"]),
        ({"type": "string", "pattern": "^(a|<escape>|<e)$"}, ["a", "<e"], ["<", "<escape>"]),
        ({"type": "string", "format": "email", "maxLength": 10}, ["ab@cde.fgh"], ["abc@cde.fgh", "a@bcdefghi"]),
        ({"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "\u00e9\u65e5\U0001f600", "a<bc"],
         ["", "a", "abcde"]),
        ({"type": "string", "minLength": 1}, ["a", " ", "<", "<escape"], [""]),
        ({"type": "string", "maxLength": 0}, [""], ["a"]),
        ({"type": "string"}, ["", "{}", "a:b,c", "\n\t", "<end_of_tur", "<<escape", "\x7f\x01"], ["\0", "a\0b"]),
        ({"type": "string", "format": "date"}, ["2024-02-29"], ["2024-2-9", "2024-13-01", "2024-01-01T00:00:00"]),
        ({"type": "string", "format": "time"}, ["23:59:59", "07:00:00Z"], ["24:00:00", "7:00"]),
        ({"type": "string", "format": "date-time"}, ["2024-02-29T07:00:00+01:00"], ["2024-02-29 07:00:00"]),
        ({"type": "string", "format": "email"}, ["a.b@c.de"], ["a@b", "a b@c.de", "@c.de"]),
        ({"type": "string", "format": "uri"}, ["https://a.b/c?d=e#f", "mailto:a@b"], ["a b", "://x"]),
        ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
        ({"type": "integer"}, [0, -5, 12345678901234567890], [1.5, True, None, "1"]),
        ({"type": "integer", "minimum": -3, "exclusiveMaximum": 12}, [-3, 0, 9, 11], [-4, 12, 100, -30]),
        ({"type": "integer", "minimum": 100}, [100, 101, 5000], [99, -100, 10]),
        ({"type": "integer", "enum": [1, 12, -7]}, [1, 12, -7], [2, 7, 121]),
        ({"type": "number"}, [0, 1.5, -2e-07, 1e21, 3.0], [True, None, "1"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, [0.001, 1, 1.0, 1e-07], [0, 0.0, 1.01, -1, 2]),
        ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0.25}, [-0.5, 0, 0.2499, -0.1], [0.25, 0.3, -0.51]),
        ({"type": "boolean"}, [True, False], [None, 1, "true"]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3}, [[1], [1, 2, 3]],
         [[], [1, 2, 3, 4], [True], 1]),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 0}, [[]], [["a"]]),
        ({"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}}, [[], [[]], [[True], [False]]],
         [[True]]),
        ({"type": "array"}, [[], [1, "a", None, {"k": []}]], ["a"]),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["b"]},
         [{"a": 1, "b": True}, {"b": False}], [{}, {"a": 1}, {"b": True, "c": 1}]),
        ({"type": "object", "properties": {"m": {"type": "integer"}}, "additionalProperties": True},
         [{}, {"m": 1}, {"a": "x", "m": 1, "z z": [None]}, {"mm": {}}, {"l": 1, "n": 2}], [{"m": "x"}, {"m": None}]),
        ({"type": "object", "additionalProperties": True, "maxProperties": 2}, [{}, {"a": 1}, {"a": 1, "b": {"c": 1}}],
         [{"a": 1, "b": 2, "c": 3}]),
        ({"type": "object", "additionalProperties": True, "maxProperties": 0}, [{}], [{"a": 1}]),
        ({"type": "object", "required": ["c"], "maxProperties": 2,
          "properties": {"a": {"type": "integer"}, "c": {"type": "integer"}, "e": {"type": "integer"}}},
         [{"c": 1}, {"a": 1, "c": 1}, {"c": 1, "e": 1}],
         [{"a": 1, "c": 1, "e": 1}, {"a": 1, "e": 1}, {}]),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "c": {"type": "integer"}}, "required": ["c"],
          "additionalProperties": True, "maxProperties": 3},
         [{"c": 1}, {"a": 1, "b": 1, "c": 1}, {"0": 1, "b": 1, "c": 1}, {"c": 1, "d": 1, "e": 1}],
         [{"0": 1, "a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1}, {"0": 1, "b": 1, "bb": 1},
          {"c": 1, "d": 1, "e": 1, "f": 1}]),
        ({"type": "object"}, [{}, {"a": {"b": [{"c": 1}]}}, {"k\u00e9y": "v"}, {"a-b.c d": 1}], [[], "a"]),
    ],
)  # fmt: skip
def test_values(tokenizer: RouterTokenizer, schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    grammar = Grammar.compile(toolset({"x": schema}, ["x"]), tokenizer)
    for value in good:
        assert accepts(grammar, render_completion([Call("f", {"x": value})])), value
    for value in bad:
        try:
            text = render_completion([Call("f", {"x": value})])
        except UserError:
            text = call(f"{{x:<escape>{value}<escape>}}")
        assert not accepts(grammar, text), value


def test_no_choice_leads_into_a_dead_end(tokenizer: RouterTokenizer) -> None:
    """Near the longest length a pattern leaves only what can still be ended."""
    schema = {"type": "string", "pattern": "^(foo|ba[rz])+$", "maxLength": 7}
    grammar = Grammar.compile(toolset({"x": schema}, ["x"]), tokenizer)
    matcher = grammar.matcher("find it")
    matcher.accept(tokenizer.control_id("start_call"))
    matcher.forced()
    for token in tokenizer.encode_text("foobar"):
        matcher.accept(token)
    assert tokenizer.decode(matcher.forced()) == "<escape>}<end_function_call><start_function_response>"
    assert matcher.finished


def test_a_length_that_does_not_fit_in_is_left_to_the_router(tokenizer: RouterTokenizer) -> None:
    for schema, text in (
        ({"type": "string", "format": "email", "maxLength": 254}, "a@bc.de"),
        ({"type": "string", "pattern": "^(a|b{5,})$", "minLength": 3}, "bbbbb"),
    ):
        grammar = Grammar.compile(toolset({"x": schema}, ["x"]), tokenizer)
        assert grammar.loose
        assert accepts(grammar, render_completion([Call("f", {"x": text})]))
    assert not Grammar.compile(toolset({"x": {"type": "string", "maxLength": 254}}), tokenizer).loose


def test_numbers_are_spelled_as_json_spells_them(tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(toolset({"x": {"type": "number"}}, ["x"]), tokenizer)
    for text in ("01", "+1", ".5", "1.", "1e5", "1E-07", "0x1", "1e-7", "NaN", "1e+400", "--1", "1e-05.0", "- 1"):
        assert not accepts(grammar, call(f"{{x:{text}}}")), text


def test_free_values_nest_so_deep_and_no_deeper(tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(toolset({"x": {"type": "object"}}, ["x"]), tokenizer)

    def nested(depth: int) -> dict[str, Any]:
        return {"k": nested(depth - 1)} if depth > 1 else {}

    assert accepts(grammar, render_completion([Call("f", {"x": nested(FREE_DEPTH)})]))
    assert not accepts(grammar, render_completion([Call("f", {"x": nested(FREE_DEPTH + 1)})]))


def test_a_free_key_cannot_be_a_declared_one(tokenizer: RouterTokenizer) -> None:
    schema = {"type": "object", "properties": {"ab": {"type": "integer"}, "abc": {"type": "integer"}}}
    grammar = Grammar.compile(toolset({"x": {**schema, "additionalProperties": True}}, ["x"]), tokenizer)
    for keys, good in (("a", True), ("abcd", True), ("abd", True), ("ab", False), ("abc", False)):
        assert accepts(grammar, call(f"{{x:{{{keys}:true}}}}")) == good
    for key in (" a", "a ", "a,b", "", "a}b", "a[b", "a\nb", "<escape>", "\u3000a"):
        assert not accepts(grammar, call(f"{{x:{{{key}:1}}}}")), key


def test_free_values_are_so_large_and_no_larger(tokenizer: RouterTokenizer) -> None:
    """Where no schema can say it, the grammar does; a key's length counts characters, whatever they take in tokens."""
    declared = {"type": "object", "properties": {"c": {"type": "integer"}}, "additionalProperties": True}
    properties = {"d": declared, "l": {"type": "array", "items": {"type": "integer"}, "minItems": 0},
                  "m": {"type": "array", "items": {"type": "integer"}, "minItems": MAX_ITEMS + 2},
                  "o": {"type": "object"}, "a": {"type": "array"}, "s": {"type": "string"}}  # fmt: skip
    grammar = Grammar.compile(toolset(properties), tokenizer)

    def good(**arguments: Any) -> bool:
        return accepts(grammar, render_completion([Call("f", arguments)]))

    def keys(count: int) -> dict[str, Any]:
        return {f"k{i:02}": i for i in range(count)}

    for letter in "a\u00e9\u65e5":
        assert good(o={letter * FREE_KEY_LENGTH: 1})
        assert not good(o={letter * (FREE_KEY_LENGTH + 1): 1})
    assert good(o=keys(FREE_KEYS))
    assert not good(o=keys(FREE_KEYS + 1))
    assert good(d={"c": 1, **keys(FREE_KEYS)})
    assert good(d={"B": 1, "c": 1, **keys(FREE_KEYS - 1)})
    assert not good(d={"c": 1, **keys(FREE_KEYS + 1)})
    assert not good(d=keys(FREE_KEYS + 1))
    assert good(o={"k": list(range(FREE_ITEMS))})
    assert not good(o={"k": list(range(FREE_ITEMS + 1))})
    assert good(o={"k": "<" + "x" * (FREE_LENGTH - 1)})
    assert not good(o={"k": "x" * (FREE_LENGTH + 1)})
    assert good(l=[1] * MAX_ITEMS, a=[None] * MAX_ITEMS)
    assert not good(l=[1] * (MAX_ITEMS + 1))
    assert not good(a=[None] * (MAX_ITEMS + 1))
    assert good(m=[1] * (MAX_ITEMS + 2))
    assert not good(m=[1] * (MAX_ITEMS + 3))
    assert good(s="x" * (FREE_LENGTH + 1))  # a declared string's length is its schema's to say


def test_a_string_cannot_spell_a_control_token(tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(toolset({"x": {"type": "string"}}, ["x"]), tokenizer)
    for spelling in tokenizer.wire.reserved:
        for text in (spelling, f"a {spelling} b"):
            matcher = grammar.matcher("find it")
            for token in (tokenizer.control_id("start_call"), *matcher.forced()):
                matcher.accept(token)
            matcher.forced()
            refused = False
            for token in tokenizer.encode_text(text):
                refused = refused or not matcher.allows(token)
                if not refused:
                    matcher.accept(token)
            assert refused


def test_within_a_string_only_one_special_token_is_allowed(tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(toolset({"x": {"type": "string"}}, ["x"]), tokenizer)
    matcher = grammar.matcher("find it")
    matcher.accept(tokenizer.control_id("start_call"))
    assert tokenizer.decode(matcher.forced()) == "call:f{x:<escape>"
    allowed = set(matcher.allowed(tokenizer.vocab_size).tolist())
    assert allowed & tokenizer.special_ids == {tokenizer.control_id("escape")}
    assert set(tokenizer.encode_text("hello \n world")) <= allowed
    assert max(matcher.allowed(100)) < 100
    assert max(matcher.allowed(10**6)) < tokenizer.vocab_size


def test_walks_are_independent(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    grammar = Grammar.compile(kiwi, tokenizer)
    one, two = grammar.matcher("a"), grammar.matcher("b")
    one.accept(tokenizer.control_id("start_call"))
    two.accept(tokenizer.control_id("end_turn"))
    assert two.finished
    assert not one.finished
    assert tokenizer.decode(one.forced()) == "call:"
    with pytest.raises(GrammarError, match="does not allow|cannot go on"):
        one.accept(tokenizer.control_id("escape"))


def test_spans_of_the_request(tokenizer: RouterTokenizer) -> None:
    tools = toolset({"q": {"type": "string", "copy": True}, "n": {"type": "integer"}}, ["q"], max_calls=2)
    grammar = Grammar.compile(tools, tokenizer)
    user = " find email_scripts <escape> now "
    for span in ("find", "email_scripts", "find email_scripts", "escape", "> now"):
        assert accepts(grammar, render_completion([Call("f", {"q": span})] * 2), user), span
        assert accepts(grammar, render_completion([Call("f", {"n": 3, "q": span})]), user)
    for other in ("", "email", "scripts", "found", "find ", "now x", "find now"):
        assert not accepts(grammar, render_completion([Call("f", {"q": other})]), user), other


def test_spans_in_lists_and_objects(tokenizer: RouterTokenizer) -> None:
    span = {"type": "string", "copy": True}
    properties = {
        "l": {"type": "array", "items": span},
        "o": {"type": "object", "properties": {"a": span, "b": {**span, "maxLength": 4}}},
    }
    grammar = Grammar.compile(toolset(properties), tokenizer)
    assert accepts(grammar, render_completion([Call("f", {"l": ["find", "it"], "o": {"a": "find", "b": "it"}})]))
    assert accepts(grammar, render_completion([Call("f", {"l": [], "o": {"b": "find"}})]))
    assert not accepts(grammar, render_completion([Call("f", {"l": ["that"]})]))
    assert not accepts(grammar, render_completion([Call("f", {"o": {"b": "find it"}})]))


def test_strings_in_a_free_form_object_may_be_held_to_the_request(tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(toolset({"o": {"type": "object", "copy": True}}), tokenizer)
    for good in (
        {"a": "find"},
        {"a": "find it"},
        {"a": "find_it", "b": 3},
        {"a": ["it", {"b": "find it"}]},
        {"a": True},
    ):
        assert accepts(grammar, render_completion([Call("f", {"o": good})]))
    for bad in ({"a": "that"}, {"a": ["it", {"b": "itit"}]}, {"a": ""}):
        assert not accepts(grammar, render_completion([Call("f", {"o": bad})]))
    assert accepts(grammar, render_completion([Call("f", {"o": {"a": 3}})]), "!")
    free = Grammar.compile(toolset({"o": {"type": "object", "additionalProperties": True}}), tokenizer)
    assert accepts(free, render_completion([Call("f", {"o": {"a": "that"}})]))


def test_what_a_request_does_not_offer_is_left_out(tokenizer: RouterTokenizer) -> None:
    short = {"type": "string", "copy": True, "maxLength": 3}
    need = Grammar.compile(toolset({"q": short}, ["q"]), tokenizer)
    assert accepts(need, render_completion([Call("f", {"q": "it"})]), "find it")
    matcher = need.matcher("everything")
    assert matcher.forced() == [tokenizer.control_id("end_turn")]  # no call can be made: nothing is left to choose
    assert matcher.finished
    may = Grammar.compile(toolset({"q": short, "l": {"type": "array", "items": short}}), tokenizer)
    assert accepts(may, render_completion([Call("f", {})]), "everything")
    assert accepts(may, render_completion([Call("f", {"l": []})]), "everything")
    assert accepts(may, render_completion([Call("f", {"l": ["it"], "q": "it"})]), "find it")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (Schema("string", pattern=r"a\b"), r"tool f: x: pattern 'a\\\\b': an anchor"),
        (Schema("string", pattern="(?i)a"), "tool f: x: pattern .* flags"),
        (Schema("string", pattern="^a$", min_length=2), "tool f: x: no value holds"),
        (Schema("integer", minimum=1.2, maximum=1.8), "tool f: x: no value holds"),
        (Schema("array", items=Schema("string", pattern="a^b")), "tool f: x: pattern"),
        (Schema("object", properties={"y": Schema("integer")}, required=("y",), max_properties=0),
         "tool f: x: maxProperties 0 is below"),
        (Schema("object", properties={"y": Schema("string", pattern="a^b")}), "tool f: x: y: pattern"),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_told_by_name(tokenizer: RouterTokenizer, schema: Schema, message: str) -> None:
    """Loading a toolset finds most of it already; one that is built by hand meets it here."""
    tools = Toolset("t", (Tool("f", "", Schema("object", properties={"x": schema})),))
    with pytest.raises(UserError, match=message) as caught:
        Grammar.compile(tools, tokenizer)
    assert "\n" not in str(caught.value)


def test_what_strip_removes_is_what_keys_leave_out() -> None:
    assert set(SPACES) == {chr(p) for p in range(0x110000) if chr(p).isspace()}


def test_a_grammar_needs_no_deep_learning_library(tokenizer: RouterTokenizer) -> None:
    code = (
        "import sys; from router import Grammar, RouterTokenizer, load_toolset; import router.core, router.gbnf\n"
        f"g = Grammar.compile(load_toolset('kiwi'), RouterTokenizer.load({tokenizer.source!r}))\n"
        "assert g.matcher('find it').forced() == []\n"
        "print(sorted({'torch', 'transformers', 'llama_cpp', 'onnxruntime', 'mlx', 'coremltools'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
