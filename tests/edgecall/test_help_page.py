"""docs/cli.md is what `--help` prints."""

from __future__ import annotations

import sys

import pytest

from edgecall.cli import COMMANDS
from edgecall.help_page import PAGES, help_text, page
from tests.edgecall.conftest import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_every_help_shows_an_example_of_itself(name: str) -> None:
    command = f"edgecall {name}".strip()
    _, found, examples = help_text(name.split()).partition("example")
    assert found and (command in " ".join(examples.split()) or command.removeprefix("edgecall ") in examples)


def test_every_command_has_its_page() -> None:
    assert {name.split()[0] for name in PAGES if name} == COMMANDS.keys()


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions of argparse wrap usage lines differently")
def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page(), "run `make docs`"
