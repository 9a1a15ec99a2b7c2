"""docs/cli.md is what `--help` prints."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from edgecall.cli import COMMANDS
from edgecall.help_page import PAGES, help_text, page
from tests.edgecall.conftest import ROOT, Ran


@pytest.mark.parametrize("name", PAGES)
def test_every_help_shows_an_example_of_itself(name: str) -> None:
    command = f"edgecall {name}".strip()
    _, found, examples = help_text(name.split()).partition("example")
    assert found and (command in " ".join(examples.split()) or command.removeprefix("edgecall ") in examples)


def test_every_command_has_its_page() -> None:
    assert {name.split()[0] for name in PAGES if name} == COMMANDS.keys()


def test_every_subcommand_has_its_page(cli: Callable[..., Ran]) -> None:
    """A command that has some lists them where it is given another."""
    for group in {name.split()[0] for name in PAGES if " " in name}:
        listed = re.search(r"(?:choose from|there are) ([^;)]+)", cli(group, "no-such-command").err)
        assert listed, group
        named = {name.split()[1] for name in PAGES if name.startswith(f"{group} ")}
        assert named == set(re.findall(r"[a-z-]+", listed[1])), group


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions of argparse wrap usage lines differently")
def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page(), "run `make docs`"
