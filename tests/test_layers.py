"""Who may import whom: the rooms depend on each other in one direction, lazy imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = {"configs", "models"}
BELOW = {
    "runtimes": set[str](),
    "router": {"runtimes"},
    "export": {"router", "runtimes"},
    "train": {"export", "router", "runtimes"},
    "bench": {"export", "router", "runtimes"},
    "edgecall": {"bench", "train", "export", "router", "runtimes"},
}
"""Room -> the rooms that it builds on."""
DOORS = {("train/card/measured.py", "bench"), ("bench/unseen.py", "train"), ("bench/accuracy_cases.py", "train")}
"""A card shows what `bench` measured; `bench unseen` and `bench accuracy` ask what `train` imported, no more."""


def imports(path: Path) -> Iterator[str]:
    """The rooms that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
        yield from (name.split(".")[0] for name in names)


def test_every_room_imports_only_what_lies_below_it() -> None:
    upwards = set()
    for room, below in BELOW.items():
        for path in sorted((ROOT / room).rglob("*.py")):
            found = set(imports(path)) & BELOW.keys() - below - {room}
            upwards |= {(path.relative_to(ROOT).as_posix(), other) for other in found}
    assert upwards == DOORS


def test_data_folders_hold_no_code() -> None:
    for folder in DATA:
        code = [path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"]
        assert code == [], folder
