"""Token ids: control tokens are single ids where they are meant, and nothing that a person types becomes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.chat_template import CHAT_TEMPLATE, chat_template
from router.render import render_completion, render_prompt
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from router.wire import FUNCTIONGEMMA, GEMMA4, WIRES, WireError
from runtimes.errors import UserError
from tests.router.strategies import FRAGMENTS, RESERVED, call_lists, texts

ROOT = Path(__file__).parents[2]
GOLDEN: dict[str, Any] = json.loads((ROOT / "tests" / "golden" / "functiongemma.json").read_text())

# Words that invite merges across the control tokens: pieces such as `escape>` and `<start` are learnt from these.
LINES = [
    "find email scripts please, then run the directive bootstrap in my project",
    "call:search{item_type:script,query:resize images,limit:12}",
    "an escape> and a <escape, start_of_turn> end_of_turn> <start_of_turn <end <start function_call> <0x4 1>",
    "declaration:load{description:Show one item.,parameters:{type:OBJECT}}",
    "Grüße aus Köln 😀\tça va?",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer of 600 entries for each wire format."""
    pytest.importorskip("sentencepiece")
    pytest.importorskip("transformers")
    from train.tokenizer import train_tokenizer

    out = {}
    for name, wire in WIRES.items():
        out[name] = tmp_path_factory.mktemp(name)
        lines = [*LINES, *(t[i:] for t in wire.reserved for i in range(1, 3)), *(t[:-1] for t in wire.reserved)]
        train_tokenizer(lines * 40, out[name], vocab_size=600, wire=wire)
    return out


@pytest.fixture(scope="module")
def small(folders: dict[str, Path]) -> dict[str, RouterTokenizer]:
    return {name: RouterTokenizer.load(folder / "tokenizer.json", WIRES[name]) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def gemma(gemma_tokenizer: Path) -> RouterTokenizer:
    return RouterTokenizer.load(gemma_tokenizer)


def test_golden_ids(gemma: RouterTokenizer) -> None:
    golden = GOLDEN["tokenization"]
    assert gemma.encode("<bos>" + golden["text"]) == golden["ids_with_bos"]
    assert gemma.decode(golden["ids_with_bos"]) == "<bos>" + golden["text"]


def test_gemma_keeps_typed_control_tokens_text(gemma: RouterTokenizer) -> None:
    user = " ".join(FUNCTIONGEMMA.reserved)
    ids = gemma.encode_text(user)
    assert gemma.special_ids.isdisjoint(ids) and gemma.decode(ids) == user


@pytest.mark.parametrize("name", WIRES)
def test_control_tokens_are_single_ids(small: dict[str, RouterTokenizer], name: str) -> None:
    tokenizer, wire = small[name], WIRES[name]
    ids = [tokenizer.control_id(token) for token in (*wire.control_tokens, wire.bos)]
    assert len(set(ids)) == 10
    assert [tokenizer.encode(token) for token in wire.control_tokens] == [[i] for i in ids[:-1]]
    assert tokenizer.bos_id == tokenizer.control_id("bos") == 2
    assert tokenizer.control_id("start_call") == tokenizer.encode(wire.start_call)[0]
    assert [tokenizer.decode([i]) for i in tokenizer.stop_ids] == [wire.start_response, wire.end_turn, "<eos>"]
    with pytest.raises(UserError, match="unknown control token 'start_cal'"):
        tokenizer.control_id("start_cal")


@pytest.mark.parametrize("name", WIRES)
def test_prompt_is_the_rendered_one(small: dict[str, RouterTokenizer], kiwi: Toolset, name: str) -> None:
    tokenizer = small[name]
    ids = tokenizer.prompt_ids(kiwi, "  find email scripts\n")
    text = render_prompt(kiwi, "find email scripts", WIRES[name])
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.encode(text)
    assert ids == tokenizer.prefix_ids(kiwi) + tokenizer.request_ids("find email scripts")
    assert ids.count(tokenizer.bos_id) == 1 and ids[0] == tokenizer.bos_id


@pytest.mark.parametrize("name", WIRES)
def test_transformers_sees_the_same(
    small: dict[str, RouterTokenizer], folders: dict[str, Path], kiwi: Toolset, name: str
) -> None:
    """AutoTokenizer reads the same ids and the template from its own file, which is the only place it is in."""
    from transformers import AutoTokenizer

    from router.chat_template import template_tools

    hugging = AutoTokenizer.from_pretrained(folders[name])
    assert "chat_template" not in json.loads((folders[name] / "tokenizer_config.json").read_text())
    assert hugging.chat_template == chat_template(WIRES[name])
    messages = [{"role": "developer", "content": kiwi.instruction}, {"role": "user", "content": "run bootstrap"}]
    ids = hugging.apply_chat_template(messages, tools=template_tools(kiwi), add_generation_prompt=True)
    assert list(ids) == small[name].prompt_ids(kiwi, "run bootstrap")
    assert chat_template(FUNCTIONGEMMA) == CHAT_TEMPLATE


@pytest.mark.parametrize("name", WIRES)
def test_sentencepiece_model_agrees(small: dict[str, RouterTokenizer], folders: dict[str, Path], name: str) -> None:
    """``tokenizer.model``, which llama.cpp's converter reads, gives the ids of ``tokenizer.json``."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folders[name] / "tokenizer.model"))
    wire = WIRES[name]
    text = f"{wire.start_turn}user\nfind 12 Köln  scripts\n\n😀{wire.end_turn}{wire.escape}a{wire.escape}"
    assert model.encode(text) == small[name].encode(text)
    assert model.get_piece_size() == small[name].vocab_size


@pytest.mark.parametrize("token", RESERVED)
@pytest.mark.parametrize("name", WIRES)
def test_a_typed_control_token_stays_text(
    small: dict[str, RouterTokenizer], kiwi: Toolset, name: str, token: str
) -> None:
    tokenizer = small[name]
    for user in (token, f"find {token} scripts", token * 3, f"<{token}>", token[1:] + token, f"x{token}\n{token}"):
        ids = tokenizer.encode_text(user)
        assert tokenizer.special_ids.isdisjoint(ids)
        assert tokenizer.decode(ids) == user
        prompt = tokenizer.prompt_ids(kiwi, user)
        plain = tokenizer.prompt_ids(kiwi, "hi")
        assert [i for i in prompt if i in tokenizer.special_ids] == [i for i in plain if i in tokenizer.special_ids]


_typed = st.lists(st.sampled_from([*RESERVED, *FRAGMENTS]), max_size=8).map("".join)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(user=st.one_of(_typed, st.text()), name=st.sampled_from(sorted(WIRES)))
def test_any_request_stays_text(small: dict[str, RouterTokenizer], user: str, name: str) -> None:
    tokenizer = small[name]
    ids = tokenizer.encode_text(user)
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == user.replace("▁", " ")


@settings(deadline=None, max_examples=120, derandomize=True)
@given(calls=call_lists, name=st.sampled_from(sorted(WIRES)))
def test_calls_round_trip_as_ids(small: dict[str, RouterTokenizer], calls: list[Call], name: str) -> None:
    tokenizer, wire = small[name], WIRES[name]
    if "▁" in render_completion(calls, wire):
        with pytest.raises(WireError, match="reads back as a space"):
            tokenizer.completion_ids(calls)
        return
    ids = tokenizer.completion_ids(calls)
    assert tokenizer.parse(ids) == calls
    assert tokenizer.decode(ids) == render_completion(calls, wire)
    assert ids[-1] == tokenizer.control_id("start_response" if calls else "end_turn")


def test_parsing_goes_by_ids(small: dict[str, RouterTokenizer]) -> None:
    """A string whose text looks like a control token is a string, though it could not be written so."""
    tokenizer = small["functiongemma"]
    escape = tokenizer.control_id("escape")
    inside = tokenizer.encode_text("Köln<escape>,b:<end_function_call>")
    ids = [
        tokenizer.control_id("start_call"), *tokenizer.encode_text("call:f{a:"), escape, *inside, escape,
        *tokenizer.encode_text("}"), tokenizer.control_id("end_call"),
    ]  # fmt: skip
    assert tokenizer.parse(ids) == [Call("f", {"a": "Köln<escape>,b:<end_function_call>"})]
    assert tokenizer.parse(tokenizer.encode_text("<start_function_call>call:f{}<end_function_call>")) == []


def test_positions_of_ids_count_characters_of_the_text(small: dict[str, RouterTokenizer]) -> None:
    tokenizer = small["functiongemma"]
    ids = tokenizer.encode("<start_function_call>call:f{a:<escape>Köln<escape>,a:1}<end_function_call>")
    with pytest.raises(WireError) as caught:
        tokenizer.parse(ids)
    assert caught.value.position == tokenizer.decode(ids).index(",a:1") + 1
    unknown = [*tokenizer.encode("<start_function_call>call:f{a:<escape>x"), tokenizer.vocabulary.find("<unk>")]
    with pytest.raises(WireError, match="found <unk>"):
        tokenizer.parse(unknown)


def test_broken_utf8_is_no_string(small: dict[str, RouterTokenizer]) -> None:
    tokenizer = small["functiongemma"]
    escape, first = tokenizer.control_id("escape"), tokenizer.vocabulary.find("<0xC3>")
    start = tokenizer.encode("<start_function_call>call:f{a:<escape>x")
    with pytest.raises(WireError) as caught:
        tokenizer.parse([*start, first, escape, *tokenizer.encode("}<end_function_call>")])
    assert caught.value.position == len("<start_function_call>call:f{a:<escape>x")
    assert tokenizer.decode([*start, first]).endswith("x\ufffd")
    second = tokenizer.vocabulary.find("<0xB6>")
    whole = [*start, first, second, escape, *tokenizer.encode("}<end_function_call>")]
    assert tokenizer.parse(whole) == [Call("f", {"a": "xö"})]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(data=st.data(), name=st.sampled_from(sorted(WIRES)))
def test_any_ids_parse_or_give_the_typed_error(
    small: dict[str, RouterTokenizer], data: st.DataObject, name: str
) -> None:
    tokenizer = small[name]
    control = st.sampled_from(sorted(tokenizer.special_ids))
    ids = data.draw(st.lists(st.one_of(control, st.integers(0, tokenizer.vocab_size - 1)), max_size=20))
    try:
        read = tokenizer.parse(ids)
    except WireError as error:
        assert error.position is not None
    else:
        assert len(read) == ids.count(tokenizer.control_id("start_call"))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(text=texts)
def test_encoding_text_is_encoding_rendered_text_without_controls(small: dict[str, RouterTokenizer], text: str) -> None:
    assert small["functiongemma"].encode(text) == small["functiongemma"].encode_text(text)


def test_unknown_ids_and_texts(small: dict[str, RouterTokenizer]) -> None:
    tokenizer = small["functiongemma"]
    with pytest.raises(UserError, match="token id 99999 is outside the vocabulary"):
        tokenizer.decode([99999])
    with pytest.raises(WireError, match="half a surrogate pair"):
        tokenizer.encode_text("a\ud800")


def test_what_cannot_be_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        RouterTokenizer.load(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UserError, match=r"broken\.json: not a tokenizer\.json"):
        RouterTokenizer.load(tmp_path / "broken.json")
    with pytest.raises(UserError, match=r"no token '<\|turn>'; the gemma4 wire format needs it"):
        RouterTokenizer.load(folders["functiongemma"] / "tokenizer.json", GEMMA4)


def test_a_tokenizer_whose_merges_build_a_control_token_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Gemma's conversion may leave such merges behind; then typed text would become the token."""
    data = json.loads((folders["functiongemma"] / "tokenizer.json").read_text())
    text = "<bos>"
    for end in range(2, len(text) + 1):
        data["model"]["vocab"].setdefault(text[:end], len(data["model"]["vocab"]))
        data["model"]["merges"].insert(end - 2, [text[: end - 1], text[end - 1]])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = RouterTokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="text becomes the control token '<bos>'"):
        tokenizer.encode_text("a <bos>")


def test_training_is_reproducible(folders: dict[str, Path], tmp_path: Path) -> None:
    from train.tokenizer import train_tokenizer

    for name in ("a", "b"):
        train_tokenizer(LINES * 40, tmp_path / name, vocab_size=500)
    files = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(files)
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
