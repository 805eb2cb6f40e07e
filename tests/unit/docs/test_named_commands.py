"""Every command of `organism` that a page shows exists, with these options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from organism_flows.deployments.cli.main import build
from tests.support.page import DOCS

ROOT = DOCS.parent
PAGES = [page for page in (ROOT / "README.md", *DOCS.rglob("*.md")) if "_build" not in page.parts]


def commands(text: str) -> Iterator[str]:
    """Return the commands in the shell blocks of a page, each without what a shell does with it."""
    for block in re.findall(r"^ *```(?:sh|bash)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r" *(?:[A-Z_]+=\S+ )*(organism .*)", line)
            if found:
                yield re.split(r" +(?:#|\||>|&)", found[1])[0]


def shown() -> list[str]:
    """Return every command once."""
    return sorted({command for page in PAGES for command in commands(page.read_text())})


@pytest.mark.parametrize("command", shown())
def test_a_command_that_is_shown_exists(command: str) -> None:
    _, *arguments = shlex.split(command)
    build().parse_args(arguments, exit_on_error=False, print_error=False, help_on_error=False)


def test_commands_are_found() -> None:
    assert len(shown()) > 50
