"""Our own encoder and its file: ids as the `tokenizers` library gives them, masks as llguidance's own reader does."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from router.grammar import Grammar
from router.grammar_tokenizer import native_tokenizer
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Schema, Tool, Toolset
from router.vocabulary import SPACE, Vocabulary
from router.vocabulary_file import FILE, from_spec, keep_vocabulary, load_vocabulary, read_spec
from runtimes.errors import UserError
from tests.texts import TEXTS, random_texts

ROOT = Path(__file__).parents[2]
SEED = ROOT / "models" / "seed" / "base" / "tokenizer.json"
FREE = Toolset(
    "free",
    (Tool("note", "Keep it.", Schema("object", properties={
        "text": Schema("string"), "tag": Schema("string", min_length=1, max_length=12), "n": Schema("number"),
    }, required=("text", "tag"))),),
)  # fmt: skip


class Both:
    """A tokenizer read by us and by the library."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ours = load_vocabulary(path)
        self.theirs = Tokenizer.from_file(str(path))
        self.theirs.encode_special_tokens = True

    def check(self, text: str) -> None:
        assert self.ours.encode(text) == self.theirs.encode(text, add_special_tokens=False).ids, repr(text)

    def texts(self, n: int) -> Iterator[str]:
        """Words, noise, the vocabulary's own pieces in any order, and runs of one letter."""
        chance = random.Random(n)
        yield from [*TEXTS, *random_texts(n, 4)]
        for _ in range(n):
            pieces = [self.ours.piece(chance.randrange(self.ours.size)) or "" for _ in range(chance.randrange(25))]
            yield "".join(pieces)
            yield "".join(pieces).replace(SPACE, " ")
            yield chance.choice("a \n=-1é😀") * chance.randrange(150)
            anything = (chance.choice((chance.randrange(32, 127), chance.randrange(0xD800))) for _ in range(30))
            yield "".join(map(chr, anything))
        yield (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def both() -> Both:
    return Both(SEED)


def test_ids_are_the_librarys(both: Both) -> None:
    for text in both.texts(200):
        both.check(text)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(text=st.text())
def test_ids_of_any_text_are_the_librarys(both: Both, text: str) -> None:
    both.check(text)


def test_pieces_are_the_librarys(both: Both) -> None:
    ours, theirs = both.ours, both.theirs
    assert ours.size == theirs.get_vocab_size(with_added_tokens=True)
    assert all(ours.piece(i) == theirs.id_to_token(i) for i in range(ours.size))
    assert all(ours.find(piece) == i for piece, i in theirs.get_vocab(with_added_tokens=True).items())
    assert ours.find("no such piece") is None and ours.piece(ours.size) is None and ours.piece(-1) is None
    assert ours.spelling(ours.encode("\x00")[0]) == b"\x00" and len(ours.byte_of) == 256


def test_no_piece_goes_past_where_words_part(both: Both) -> None:
    vocabulary = both.ours
    for token in range(vocabulary.size):
        piece = vocabulary.piece(token)
        assert piece is None or vocabulary.reach(piece) == len(piece)
    assert [vocabulary.reach(text) for text in ("", "▁two▁words", "two▁", "▁▁▁x▁y")] == [0, 4, 3, 4]


def test_gemmas_ids_are_the_librarys(gemma_tokenizer: Path) -> None:
    both = Both(gemma_tokenizer)
    assert both.ours.facts.joints == ">", "its piece '>▁</' goes on behind a space"
    for text in ["<b> </b>> </", "a > </ b>  </", *both.texts(400)]:
        both.check(text)


def test_what_is_kept_is_what_is_made(both: Both, tmp_path: Path) -> None:
    """Mapped from the file; for another tokenizer.json, another order of bytes or half a file it counts as none."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(both.path.read_bytes())
    kept = keep_vocabulary(path)
    assert kept == tmp_path / FILE and kept.stat().st_size < 0.7 * path.stat().st_size
    whole = kept.read_bytes()
    mapped = load_vocabulary(path)
    assert mapped.facts == both.ours.facts and mapped.size == both.ours.size
    for text in both.texts(60):
        assert mapped.encode(text) == both.ours.encode(text)
    assert uses_file(mapped) and not uses_file(both.ours)
    for broken in (b"", whole[:-4], whole[:200], whole.replace(b'"byteorder": "', b'"byteorder": "x', 1), b"[]\n"):
        kept.write_bytes(broken)
        assert not uses_file(load_vocabulary(path))
    kept.write_bytes(whole)
    path.write_bytes(both.path.read_bytes() + b"\n")
    assert not uses_file(load_vocabulary(path)), "it belongs to the file with that hash"


def uses_file(vocabulary: Vocabulary) -> bool:
    return vocabulary._arrays.text.readonly and type(vocabulary._arrays.text.obj).__name__ == "mmap"


def test_added_tokens(both: Both) -> None:
    """Text becomes those that are not special wherever it spells them, the longest first; special ones never,
    but what they spell is theirs."""
    spec = read_spec(both.path)
    size = both.ours.size
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for n, content in enumerate(["<b>", "<b><i>", "  ", "☃", "fi#d", "☃☃f"]):
        spec["added_tokens"].append({"id": size + n, "content": content, **plain, "special": "☃" in content})
    theirs, ours = Tokenizer.from_str(json.dumps(spec)), from_spec(spec, "t")
    theirs.encode_special_tokens = True
    assert ours.size == theirs.get_vocab_size(with_added_tokens=True) == size + 6
    texts = ["x<b><i>y<b>", "a   b  c", "fi#d fi final", "☃", "fi#d☃fi#d\n  \n", "☃☃fi#d ☃fi#d"]
    for text in [*texts, *random_texts(60, 1)]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text
    assert size + 4 in ours.encode("fi#d") and size + 3 not in ours.encode("☃")


def test_merges_that_are_lines_or_come_twice(both: Both) -> None:
    spec = read_spec(both.path)
    merges = spec["model"]["merges"]
    spec["model"]["merges"] = [f"{a} {b}" for a, b in [*merges, *merges[::7]]]
    again = from_spec(spec, "t")
    theirs = Tokenizer.from_str(json.dumps(spec))
    theirs.encode_special_tokens = True
    for text in both.texts(40):
        assert again.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["model"].update(type="Unigram"), "its type is 'Unigram'"),
        (lambda s: s["model"].update(dropout=0.1), "dropout is 0.1"),
        (lambda s: s.update(normalizer=None), "the normalizer is {}"),
        (lambda s: s.update(pre_tokenizer={"type": "Whitespace"}), 'the pre-tokenizer is {"type": "Whitespace"}'),
        (lambda s: s["added_tokens"][0].update(lstrip=True), "of '<pad>' more than the spelling counts"),
        (lambda s: s["model"]["vocab"].pop("<0x41>"), "Gemma's kind .*: bytes are no tokens; routers need one"),
        (lambda s: s["model"]["merges"].append(["q", "\x00"]), r"merge \d+, .* is not of its vocabulary"),
        (lambda s: s["model"]["vocab"].update(another=5), "each have an id of their own"),
        (lambda s: s.pop("model"), "no model"),
    ],
)  # fmt: skip
def test_what_is_not_gemmas_kind_is_refused(both: Both, tmp_path: Path, change: Any, message: str) -> None:
    spec = read_spec(both.path)
    change(spec)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec))
    with pytest.raises(UserError, match=message) as caught:
        load_vocabulary(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


# What llguidance makes of it


def same_masks(path: Path, toolset: Toolset, calls: list[Call]) -> int:
    """Walk along `calls` with a grammar over llguidance's own reading of `path` and one over ours. Steps compared."""
    tokenizer = RouterTokenizer.load(path)
    lark = Grammar.compile(toolset, tokenizer).lark
    pair = (LLTokenizer(path.read_text(encoding="utf-8"), slices=[]), native_tokenizer(tokenizer))
    assert pair[0].vocab_size == pair[1].vocab_size and pair[0].eos_token == pair[1].eos_token
    steps = 0
    for call in calls:
        theirs, ours = (LLMatcher(one, lark, log_level=0) for one in pair)
        for token in tokenizer.completion_ids([call]):
            assert theirs.compute_ff_tokens() == ours.compute_ff_tokens()
            assert theirs.compute_bitmask() == ours.compute_bitmask()
            assert theirs.consume_token(token) and ours.consume_token(token), (call, token)
            steps += 1
        assert theirs.is_stopped() and ours.is_stopped()
    return steps


CALLS = [
    Call("note", {"text": "Grüße aus Köln, 北京 🎉\n  two", "tag": "a b"}),
    Call("note", {"text": "", "tag": "123456789012", "n": -12.5e-7}),
    Call("note", {"text": "<b> </b>> </ \x07", "tag": "\t"}),
]


def test_masks_are_those_of_llguidances_own_reader(both: Both) -> None:
    assert same_masks(both.path, FREE, CALLS) > 60


def test_gemmas_masks_are_those_of_llguidances_own_reader(gemma_tokenizer: Path) -> None:
    assert same_masks(gemma_tokenizer, FREE, CALLS) > 60


def test_forced_text_is_spelled_as_llguidances_own_reader_does(both: Both) -> None:
    """Long fixed texts, a control token among them: the callback into our encoder."""
    texts = ("find the e-mails of last week", "北京 🎉 1234", "a  b\n\nc")
    schema = Schema("object", properties={"x": Schema("string", enum=texts)}, required=("x",))
    toolset = Toolset("fixed", (Tool("only", "One.", schema),))
    assert same_masks(both.path, toolset, [Call("only", {"x": text}) for text in texts]) > 20


def test_nothing_holds_a_tokenizer_that_is_gone(both: Both) -> None:
    import gc
    import weakref

    tokenizer = RouterTokenizer.load(both.path)
    native_tokenizer(tokenizer)
    gone = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert gone() is None


def test_arrays_are_what_they_say(both: Both) -> None:
    arrays = both.ours._arrays
    ends = np.asarray(arrays.ends)
    assert (np.diff(ends.astype(np.int64)) > 0).all() and ends[-1] == len(arrays.text)
    slots = np.asarray(arrays.slots)
    assert sorted(slots[slots > 0] - 1) == list(range(both.ours.size)) and len(slots) >= 2 * both.ours.size
    starts = np.asarray(arrays.starts).astype(np.int64)
    assert len(starts) == both.ours.size + 1 and starts[-1] == len(arrays.rights) and (np.diff(starts) >= 0).all()
