"""Which requests a trimmed tokenizer spells otherwise than the whole one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from export.base import Checkpoint
from export.checkpoint import read_json
from export.pipeline import wire_name
from export.trim_files import trimmed_tokenizer
from router.cases import Case
from router.render import user_turn
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.vocabulary_file import from_spec
from router.wire_format import wire_format
from runtimes.artifact import TOKENIZER

KEPT: Final = "kept-tokens"
"""The request is tokenized as before."""
PIECES: Final = "smaller-pieces"
BYTES: Final = "needs-bytes"
"""Some of its characters are spelled in bytes that were not before."""
BUCKETS: Final = (KEPT, PIECES, BYTES)


def by_spelling(cases: Sequence[Case], source: Checkpoint, trimmed: Checkpoint, toolset: Toolset) -> list[Case]:
    """`cases` with how the kept tokens spell their requests as their bucket. Raises `UserError`.

    Where the output alone was trimmed, that is how an answer would have to spell what it copies from them.
    """
    path = source.folder / TOKENIZER
    before = RouterTokenizer.load(path, wire_format(wire_name(path)))
    if trimmed.output_ids is None:
        after = RouterTokenizer.load(trimmed.folder / TOKENIZER, before.wire)
    else:
        spec = trimmed_tokenizer(read_json(path), trimmed.output_ids, path)
        after = RouterTokenizer(from_spec(spec, str(path)), before.wire)
    return [replace(case, bucket=_bucket(user_turn(toolset, case.user, case.context), before, after)) for case in cases]


def write_cases(cases: Sequence[Case], path: Path) -> str:
    """Write a suite of them; returns a line that tells how many are in each bucket."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    lines = (json.dumps(case.to_dict(), ensure_ascii=False) + "\n" for case in cases)
    scratch.write_text("".join(lines), encoding="utf-8")
    os.replace(scratch, path)
    counts = Counter(case.bucket for case in cases)
    told = ", ".join(f"{counts[bucket]} {bucket}" for bucket in BUCKETS)
    return f"requests of {len(cases)} cases after trimming: {told}; {path} has it as their bucket"


def _bucket(turn: str, before: RouterTokenizer, after: RouterTokenizer) -> str:
    one, other = (_spelled(tokenizer, turn) for tokenizer in (before, after))
    if one == other:
        return KEPT
    counts = [sum(piece in _BYTES for piece in pieces) for pieces in (one, other)]
    return BYTES if counts[1] > counts[0] else PIECES


_BYTES: Final = frozenset(f"<0x{n:02X}>" for n in range(256))


def _spelled(tokenizer: RouterTokenizer, text: str) -> list[str]:
    return [str(tokenizer.vocabulary.piece(i)) for i in tokenizer.encode_text(text)]
