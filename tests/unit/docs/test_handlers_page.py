"""docs/how-to/handlers.md does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from organism_flows.serve_apps.organism.config import load_config
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism.helpers import batch, run
from tests.support.page import Page

PAGE = Page("how-to/handlers.md")


@pytest.mark.anyio
async def test_every_example_has_the_outcome_the_page_shows(tmp_path: Path) -> None:
    PAGE.write(tmp_path, ("python", "my_handlers.py"), ("yaml", "organism.yaml"))
    manager = OrganismManager(load_config(tmp_path / "organism.yaml"))
    examples = [
        re.fullmatch(r"(\S+) (\{.*\}) → (.*)", line)
        for line in PAGE.block("text").splitlines()
        if line.strip()
    ]
    assert len(examples) >= 5
    for example in examples:
        assert example is not None
        kind, params, expected = example.groups()
        result = await run(manager, batch((kind, json.loads(params))))
        if expected.startswith(("rejected: ", "failed: ")):
            assert f"{result.causes[0]}: {result.errors[0]}" == expected
        else:
            assert (result.errors[0], result.results[0]) == (None, json.loads(expected))
