"""A plugin that cannot be imported is a mistake of the command line: one line, and nothing is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.plugins import load_plugins
from runtimes.errors import UserError

COMMANDS = (
    ["all-runtimes"],
    ["lift", "--base", "models/seed/base", "--tuned", "seed", "--out", "lift"],
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=["all-runtimes", "lift"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "--plugin mine_{n}: there is no such module"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("import torch_that_is_missing.part", "ModuleNotFoundError"),
        ("\nraise ValueError('no\\nluck')", "imported: ValueError: no luck ({file}:2); mend it"),
        ("def broken(:\n    pass", "SyntaxError: "),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("from runtimes.errors import UserError\nraise UserError('no device')", "UserError: no device"),
    ],
    ids=["missing", "needs a missing module", "needs a missing package", "raises", "syntax", "exits", "user error"],
)
def test_one_line(
    command: list[str],
    text: str | None,
    expected: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    number = abs(hash(request.node.name))  # modules are remembered by name
    file = folder / f"mine_{number}.py"
    if text is not None:
        file.write_text(text)
    assert main([*command, "--plugin", file.stem]) == 2
    captured = capsys.readouterr()
    assert expected.format(n=number, file=file) in captured.err and file.stem in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert [path.name for path in folder.iterdir() if path != file and path.name != "__pycache__"] == []


@pytest.mark.parametrize("name", ["nosuch.part", "json.nosuch", ".nosuch", "no-such", "scripted.py"])
def test_names_of_no_module(name: str) -> None:
    with pytest.raises(UserError, match=r"there is no such module"):
        load_plugins([name])


def test_plugins_are_imported_in_order(folder: Path) -> None:
    (folder / "plugin_one.py").write_text("import sys\nassert 'plugin_two' not in sys.modules\n")
    (folder / "plugin_two.py").write_text("import sys\nassert 'plugin_one' in sys.modules\n")
    load_plugins(["plugin_one", "plugin_two"])
    assert {"plugin_one", "plugin_two"} <= set(sys.modules)
