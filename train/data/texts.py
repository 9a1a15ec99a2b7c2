"""Plain text for a base's first stages: what people say, prose, and code; a document a draw.

==============  ===============================================================================  =================
``utterances``  the corpora's training requests, and whole dialogues of Schema-Guided Dialogue     as sources.py says
``prose``       docstrings of the Python standard library and its language reference (pydoc)       PSF-2.0
``code``        sources of the Python standard library                                             PSF-2.0
==============  ===============================================================================  =================

The standard library is the running Python's, so the last two differ a little from one Python to the next.
"""

from __future__ import annotations

import ast
import json
import random
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from runtimes.errors import UserError
from train.data.sources import SGD_HELD_OUT, read_all

KINDS: Final = ("utterances", "prose", "code")
LICENCES: Final = {
    "prose": ("docstrings of the Python standard library and its language reference", "PSF-2.0"),
    "code": ("sources of the Python standard library", "PSF-2.0"),
}
"""What a kind that is no corpus consists of, and its licence; ``utterances`` has those of the corpora."""
_LEFT_OUT: Final = frozenset(("test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__", "encodings"))
_SHORT: Final = 40
"""Characters of the shortest docstring that counts as prose."""


class Texts:
    """Documents of some kinds, drawn at random; of long ones a window."""

    def __init__(self, kinds: Sequence[str], corpora: Path) -> None:
        unknown = set(kinds) - set(KINDS)
        if unknown:
            raise UserError(f"text {sorted(unknown)[0]!r}: no such kind; there are {', '.join(KINDS)}")
        self.documents = {kind: documents(kind, corpora) for kind in kinds}

    def draw(self, rng: random.Random, *, characters: int) -> str:
        """A document, or a window of `characters` of it that begins at a line."""
        found = self.documents[rng.choice(sorted(self.documents))]
        text = rng.choice(found)
        if len(text) <= characters:
            return text
        start = rng.randrange(len(text) - characters // 2)
        start = text.rfind("\n", 0, start) + 1
        return text[start : start + characters]


def documents(kind: str, corpora: Path) -> list[str]:
    """All documents of a kind, in a fixed order."""
    if kind == "utterances":
        return _utterances(corpora)
    return [text for path in _library() for text in (_prose(path) if kind == "prose" else [_read(path)]) if text]


def _utterances(corpora: Path) -> list[str]:
    said = [request.text for corpus in read_all(corpora) for request in corpus.requests]
    dialogues = []
    for path in sorted((corpora / "sgd" / "train").glob("dialogues_*.json")):
        for dialogue in json.loads(path.read_text(encoding="utf-8")):
            if not SGD_HELD_OUT & set(dialogue["services"]):
                dialogues.append("\n".join(turn["utterance"] for turn in dialogue["turns"]))
    # As many lines from either: single requests are joined, so that a draw costs as much as a dialogue does.
    random.Random(0).shuffle(said)
    return [*dialogues, *("\n".join(said[i : i + 12]) for i in range(0, len(said), 12))]


@cache
def _library() -> tuple[Path, ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return tuple(p for p in sorted(root.rglob("*.py")) if not _LEFT_OUT & set(p.relative_to(root).parts))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _prose(path: Path) -> list[str]:
    source = _read(path)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    if path.name == "topics.py":  # the language reference, as a dict of texts
        return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, kinds))
    return [text for text in found if text and len(text) >= _SHORT]
