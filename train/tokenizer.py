"""Train a Gemma-style SentencePiece tokenizer and write it in every form that the exporters need.

Beside each other in one folder: ``tokenizer.model`` (llama.cpp's own converter insists on it), ``tokenizer.json``
(what every runtime here reads), ``tokenizer_config.json`` and ``chat_template.jinja``.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from router.chat_template import chat_template
from router.wire import FUNCTIONGEMMA, WireFormat

_PIECE = re.compile(r"[^\W\d_]+|[^\s]")
PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"


def train_tokenizer(
    lines: Iterable[str], folder: Path, *, vocab_size: int = 8192, wire: WireFormat = FUNCTIONGEMMA, seed: int = 0
) -> None:
    """Train BPE with byte fallback on `lines` and write the tokenizer's files into `folder`.

    Settings are Gemma's: digits split, spaces kept, no dummy prefix, identity normalization, ids pad 0, eos 1,
    bos 2, unk 3; control tokens and the newline are symbols of their own. Unlike Gemma's, no piece spans a space or a
    mark: a word is the same pieces after a space, an underscore or a quote, so that a name can be copied piece by piece
    ("run the csv parser" -> ``csv_parser``).
    """
    import sentencepiece as spm

    spm.set_random_generator_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()  # not a file: its name would be kept in the model
    spm.SentencePieceTrainer.train(
        sentence_iterator=_words(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        character_coverage=0.9999,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece=PAD,
        eos_piece=EOS,
        bos_piece=BOS,
        unk_piece=UNK,
        required_chars="▁",
        user_defined_symbols=[*wire.control_tokens, "\n"],
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    _replace(folder / "tokenizer.model", model.getvalue())
    _write_fast(folder, wire)


def _words(lines: Iterable[str]) -> Iterator[str]:
    """The words and marks of `lines`, each as a sentence of its own, frequent ones less often than they occur."""
    counts = Counter(piece for line in lines for piece in _PIECE.findall(line))
    for piece, count in counts.items():
        for _ in range(math.ceil(count**0.75)):
            yield piece


def _write_fast(folder: Path, wire: WireFormat) -> None:
    """Convert ``tokenizer.model`` to ``tokenizer.json`` as transformers does for Gemma."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from transformers.convert_slow_tokenizer import SentencePieceExtractor, import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    vocab_scores = [(p.piece, p.score) for p in proto.pieces]
    vocab, merges = SentencePieceExtractor(str(folder / "tokenizer.model")).extract(vocab_scores)
    special = [PAD, EOS, BOS, UNK, *wire.control_tokens]
    merges = [pair for pair in merges if _may_be_built("".join(pair), special)]
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True, dropout=None))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.add_tokens([AddedToken("\n", normalized=False, special=False)])
    config: dict[str, Any] = {
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "add_bos_token": True,
        "add_eos_token": False,
        "additional_special_tokens": list(wire.control_tokens),
        # llama.cpp's converter learns from here which pieces are control tokens; without it they are plain text.
        "added_tokens_decoder": {
            str(i): {
                "content": t.content,
                "lstrip": t.lstrip,
                "normalized": t.normalized,
                "rstrip": t.rstrip,
                "single_word": t.single_word,
                "special": t.special,
            }
            for i, t in sorted(tokenizer.get_added_tokens_decoder().items())
        },
        "clean_up_tokenization_spaces": False,
        "spaces_between_special_tokens": False,
        "sp_model_kwargs": {},
        "model_max_length": 32768,
    }
    _replace(folder / "chat_template.jinja", chat_template(wire))
    _replace(folder / "tokenizer_config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    _replace(folder / "tokenizer.json", tokenizer.to_str(pretty=True))


def _may_be_built(piece: str, special: list[str]) -> bool:
    """Whether merges may make `piece`: never a control token or a byte, or text that spells one would become one.

    The extractor makes a merge for every split of a piece into two pieces, so `<` and `escape>` would suffice.
    """
    return piece not in special and piece != "\n" and not re.fullmatch(r"<0x[0-9A-F]{2}>", piece)


def _replace(path: Path, content: str | bytes) -> None:
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(content.encode() if isinstance(content, str) else content)
    scratch.replace(path)
