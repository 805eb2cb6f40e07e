"""The project folder of a chaos run: a configuration and a copy of the handlers, which may be edited."""

from __future__ import annotations

import shutil
import time

from tests.support.stack import CONFIG, Stack

HANDLERS = "chaos_handlers.py"


def make_project(stack: Stack, config: str) -> None:
    """Give ``stack`` a project folder in its home.

    Args:
        config: Text of its organism.yaml.
    """
    folder = stack.home / "project"
    folder.mkdir(exist_ok=True)
    shutil.copy(CONFIG.with_name(HANDLERS), folder)
    (path := folder / "organism.yaml").write_text(config)
    stack.env["ORGANISM_CONFIG"] = str(path)


def edit_handlers(stack: Stack) -> str:
    """Add a line to the handlers; `organism up` deploys it."""
    with (stack.home / "project" / HANDLERS).open("a") as file:
        file.write(f"# edited at {time.time():.3f}\n")
    return HANDLERS
