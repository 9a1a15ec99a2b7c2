"""Which tokens a trimmed vocabulary keeps: text of kept tokens is tokenized as before, whatever the merges are."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from export.trim_files import trimmed_tokenizer
from export.trim_select import ALWAYS, MULTIPLE, TYPOGRAPHIC, Pieces, basics, read_pieces, select
from export.trim_texts import Said, file_texts, toolset_texts
from models import path as model_path
from router.tokenizer import RouterTokenizer
from router.toolset import Schema, Tool, Toolset
from router.wire import FUNCTIONGEMMA
from runtimes.errors import UserError

SEED = model_path("seed", "base", "tokenizer.json")
NOWHERE = Path("tokenizer.json")
BYTES = [f"<0x{n:02X}>" for n in range(256)]
LETTERS = "abcd"


def made_up(chance: random.Random, *, splits: bool) -> dict[str, Any]:
    """A BPE tokenizer of random merges; `splits`: every split of a piece merges, as where SentencePiece made it."""
    pieces = list(LETTERS)
    merges: list[list[str]] = []
    while len(pieces) < 30:
        left, right = chance.choices(pieces, k=2)
        if left + right not in pieces and len(left + right) < 9:
            pieces.append(left + right)
            merges.append([left, right])
    if splits:
        merges = [
            [piece[:at], piece[at:]]
            for piece in chance.sample(pieces, len(pieces))
            for at in range(1, len(piece))
            if piece[:at] in pieces and piece[at:] in pieces
        ]
    elif chance.random() < 0.5:
        chance.shuffle(merges)  # no trained tokenizer has such an order; the rule does not need any
    vocab = {piece: i for i, piece in enumerate(["<unk>", *BYTES, *pieces])}
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": True, "unk_token": "<unk>"}
    empty = {"truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None, "post_processor": None}
    return {"version": "1.0", "added_tokens": [], "decoder": None, **empty, "model": model}


def loaded(spec: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(spec))


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def random_texts(chance: random.Random, n: int) -> Iterator[str]:
    for _ in range(n):
        yield "".join(chance.choices(LETTERS, k=chance.randint(1, 14)))


def pieces_of(spec: dict[str, Any]) -> Pieces:
    return read_pieces(spec, NOWHERE, len(spec["model"]["vocab"]))


@pytest.mark.parametrize("splits", [True, False], ids=["every-split", "any-merges"])
def test_text_of_kept_tokens_is_tokenized_as_before(splits: bool) -> None:
    """Property: random merges, random tokens kept with their parts, random texts."""
    same, other = 0, 0
    for seed in range(60):
        chance = random.Random(seed)
        spec = made_up(chance, splits=splits)
        pieces = pieces_of(spec)
        wanted = chance.sample(sorted(pieces.ids.values()), 8) + [pieces.ids[b] for b in ("<unk>", *BYTES)]
        ids = sorted(pieces.closed(wanted))
        before, after = loaded(spec), loaded(trimmed_tokenizer(spec, ids, NOWHERE))
        for text in random_texts(chance, 60):
            want, got = ids_of(before, text), [ids[i] for i in ids_of(after, text)]
            if set(want) <= set(ids):
                assert got == want, (seed, text)
                same += 1
            else:
                spelled = (pieces.spelling[i] for i in got)
                raw = b"".join(bytes([int(p[3:5], 16)]) if p in BYTES else p.encode() for p in spelled)
                assert raw.decode() == text
                other += 1
    assert same > 300 and other > 300


def test_the_parts_are_those_of_the_way_that_is_taken() -> None:
    """`abc` is merged as `a` `bc`, though `ab` `c` would make it too: `bc` is kept with it and `ab` is not.

    Kept without `bc`, it would be lost: the first merge that remains takes its halves elsewhere.
    """
    spec = made_up(random.Random(0), splits=True)
    vocab = {p: i for i, p in enumerate(["<unk>", *BYTES, *LETTERS, "bc", "ab", "abc"])}
    spec["model"] |= {"vocab": vocab, "merges": [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]}
    pieces = pieces_of(spec)
    assert pieces.parts("abc") == {vocab[p] for p in ("a", "b", "c", "bc", "abc")}
    whole = sorted(pieces.closed([vocab["abc"], *(vocab[p] for p in ("<unk>", *BYTES))]))
    assert vocab["ab"] not in whole
    for ids, tokens in ((whole, ["abc"]), ([i for i in whole if i != vocab["bc"]], ["a", "b", "c"])):
        assert loaded(trimmed_tokenizer(spec, ids, NOWHERE)).encode("abc").tokens == tokens


def test_a_piece_that_no_text_becomes_has_no_parts() -> None:
    spec = made_up(random.Random(0), splits=True)
    vocab = {p: i for i, p in enumerate(["<unk>", *BYTES, *LETTERS, "ab", "bc", "abc", "xy"])}
    spec["model"] |= {"vocab": vocab, "merges": [["a", "b"], ["b", "c"], ["a", "bc"]]}
    pieces = pieces_of(spec)
    assert pieces.parts("abc") is None and pieces.parts("xy") is None
    assert pieces.closed([vocab["abc"], vocab["xy"]]) == {vocab["abc"], vocab["xy"]}
    assert loaded(spec).encode("abc").tokens == ["ab", "c"]


@pytest.fixture(scope="module")
def seed() -> tuple[dict[str, Any], Pieces, RouterTokenizer]:
    spec = json.loads(SEED.read_text(encoding="utf-8"))
    return spec, read_pieces(spec, SEED, len(spec["model"]["vocab"])), RouterTokenizer.load(SEED)


Seed = tuple[dict[str, Any], Pieces, RouterTokenizer]


def test_what_is_always_kept(seed: Seed) -> None:
    _, pieces, tokenizer = seed
    kept = select(pieces, basics(pieces, tokenizer, {7}), english=False, tokens=None, what="toolset x").ids
    spelled = {pieces.spelling[i] for i in kept}
    assert {*FUNCTIONGEMMA.reserved, *BYTES} <= spelled
    assert ALWAYS & pieces.ids.keys() <= spelled and "▁" in spelled
    assert 7 in kept and list(kept) == sorted(set(kept))


def test_sizes(seed: Seed) -> None:
    _, pieces, tokenizer = seed
    wanted = basics(pieces, tokenizer, set()) | set(tokenizer.encode_text("find the quarterly report"))
    plain = select(pieces, wanted, english=False, tokens=None, what="toolset x")
    assert plain.needed <= len(plain.ids) < plain.needed + MULTIPLE and len(plain.ids) % MULTIPLE == 0
    exact = select(pieces, wanted, english=False, tokens=plain.needed + 100, what="toolset x")
    assert len(exact.ids) == plain.needed + 100 and set(plain.ids) - set(exact.ids) == set()
    english = select(pieces, wanted, english=True, tokens=None, what="toolset x").ids
    written = {pieces.spelling[i] for i in english if i not in wanted} - set(BYTES)
    assert all(set(piece) <= ALWAYS | TYPOGRAPHIC for piece in written)
    assert {p for p in pieces.by_rank if set(p) <= ALWAYS and pieces.parts(p)} <= written | {
        pieces.spelling[i] for i in wanted
    }
    with pytest.raises(UserError, match=rf"--trim-tokens 300: toolset x needs {plain.needed}") as raised:
        select(pieces, wanted, english=False, tokens=300, what="toolset x")
    assert "\n" not in str(raised.value)


def test_what_fills_comes_in_the_order_of_merges(seed: Seed) -> None:
    """Frequent pieces first: each one that is left out comes after those that fill, or its parts had no room."""
    _, pieces, tokenizer = seed
    wanted = basics(pieces, tokenizer, set())
    kept = set(select(pieces, wanted, english=True, tokens=900, what="x").ids)
    ranks = {piece: rank for rank, piece in enumerate(pieces.by_rank)}
    filled = [ranks[pieces.spelling[i]] for i in kept if pieces.spelling[i] in ranks]
    left = [ranks[p] for p in ranks if pieces.ids[p] not in kept and set(p) <= ALWAYS and pieces.parts(p)]
    assert len(kept) == 900 and max(filled) - min(left) < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "Unigram"}, "not a Gemma tokenizer"),
        ({"byte_fallback": False}, "not a Gemma tokenizer"),
        ({"ignore_merges": True}, "ignore_merges is True"),
        ({"vocab": {"a": 0, **{b: i for i, b in enumerate(BYTES[:-1], 1)}}, "merges": []}, "no token '<0xFF>'"),
    ],
)
def test_tokenizers_that_cannot_be_trimmed(change: dict[str, Any], message: str) -> None:
    spec = made_up(random.Random(0), splits=True)
    spec["model"] |= change
    with pytest.raises(UserError, match=message) as raised:
        read_pieces(spec, NOWHERE, 1000)
    assert "\n" not in str(raised.value)


def test_other_post_processors_are_refused_and_templates_follow(seed: Seed) -> None:
    spec, pieces, _ = seed
    bos, ids = pieces.ids["<bos>"], [1, 2, 3]
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [bos], "tokens": ["<bos>"]}},
    }
    both = {"type": "Sequence", "processors": [template]}
    made = trimmed_tokenizer({**spec, "post_processor": both}, ids, NOWHERE)
    assert made["post_processor"]["processors"][0]["special_tokens"]["<bos>"]["ids"] == [ids.index(bos)]
    with pytest.raises(UserError, match="BertProcessing"):
        trimmed_tokenizer({**spec, "post_processor": {"type": "BertProcessing"}}, ids, NOWHERE)


# Texts


NESTED = Toolset(
    "nested",
    (
        Tool(
            "set_scene",
            "Set a scene.",
            Schema(
                "object",
                properties={
                    "mood": Schema("string", enum=("calm", "brisk")),
                    "loud": Schema("boolean"),
                    "level": Schema("integer", minimum=5, maximum=95),
                    "rooms": Schema("array", items=Schema("string", enum=("attic", "cellar"))),
                    "where": Schema("string", copy="snake_case", also=("inbox",), default="home"),
                    "deep": Schema("object", properties={"hue": Schema("string", enum=("teal", "ochre"))}),
                    "hidden": Schema("string", bind="context.path"),
                },
                required=("mood",),
            ),
        ),
    ),
    shown=("date", "weekday"),
)


def test_a_toolsets_texts_say_all_that_a_call_may(seed: Seed) -> None:
    said = list(toolset_texts(NESTED, FUNCTIONGEMMA))
    calls = [one.text for one in said if one.text.startswith(FUNCTIONGEMMA.start_call)]
    for word in ("calm", "brisk", "attic", "cellar", "inbox", "home", "teal", "ochre", "true", "false", "5", "95"):
        assert any(word in call for call in calls), word
    keys = ["deep", "level", "loud", "mood", "rooms", "where"]
    for i, key in enumerate(keys):
        assert any(f"{{{key}:" in call for call in calls)
        for other in keys[i + 1 :]:
            assert any(f"{{{key}:" in call and f",{other}:" in call for call in calls), (key, other)
    assert any("level:95,loud:" in call for call in calls) and not any("hidden" in call for call in calls)
    plain = [one.text for one in said if not one.rendered]
    assert any("weekday: Saturday" in text for text in plain)
    assert any(one.text.startswith("<bos>") for one in said)


CALLED = {"tool_calls": [{"function": {"name": "h", "arguments": "{}"}}]}
BLOCKS = [{"type": "text", "text": "blocks"}, {"type": "tool_use", "name": "k", "input": {}}]
ROWS: list[dict[str, Any]] = [
    {"user": " find Köln ", "calls": [{"name": "f", "arguments": {"q": "Köln"}}], "accept": [[{"name": "g"}]]},
    {"text": "<start_of_turn>user\nhi"},
    {"messages": [{"role": "user", "content": "hello"}, CALLED]},
    {"conversations": [{"content": BLOCKS}]},
]


def test_rows_of_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    w = FUNCTIONGEMMA

    def call(inside: str) -> Said:
        return Said(f"{w.start_call}call:{inside}{w.end_call}{w.start_response}", True)

    assert list(file_texts(path, NESTED, w)) == [
        Said("find Köln"), call("f{q:<escape>Köln<escape>}"), call("g{}"),
        Said("<start_of_turn>user\nhi", True), Said("hello"), Said(""), call("h{}"), Said("blocks"), call("k{}"),
    ]  # fmt: skip
    (tmp_path / "plain.txt").write_text("one line\n\n two\n", encoding="utf-8")
    assert list(file_texts(tmp_path / "plain.txt", NESTED, w)) == [Said("one line"), Said(" two")]


def test_the_shown_context_stands_before_the_request(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"user": "hi", "context": {"date": "2026-01-02", "weekday": "Friday"}}))
    assert list(file_texts(path, NESTED, FUNCTIONGEMMA)) == [Said("date: 2026-01-02, weekday: Friday\nhi")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"rows\.jsonl:2: not JSON"),
        ('{"request": "x"}', r"rows\.jsonl:2: not a row with 'user'.*it has request"),
        ("[1]", r"rows\.jsonl:2: not a row"),
        ('{"user": 7}', r"rows\.jsonl:2: not a row"),
        ('{"user": "x", "calls": [{"arguments": {}}]}', r"rows\.jsonl:2: not a row"),
        ('{"user": "x", "calls": [{"name": "f", "arguments": {"q": "<escape>"}}]}', r"rows\.jsonl:2: .*control token"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"user": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=message) as raised:
        list(file_texts(path, NESTED, FUNCTIONGEMMA))
    assert "\n" not in str(raised.value)
