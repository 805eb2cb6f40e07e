"""docs/handlers.md does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from serve_apps.organism.config import load_config
from serve_apps.organism.manager import OrganismManager
from tests.serve_apps.organism.helpers import batch, run

PAGE = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.anyio
async def test_every_example_has_the_outcome_the_page_shows(tmp_path: Path) -> None:
    (tmp_path / "my_handlers.py").write_text(block("python"))
    (tmp_path / "organism.yaml").write_text(block("yaml"))
    manager = OrganismManager(load_config(tmp_path / "organism.yaml"))
    examples = [
        re.fullmatch(r"(\S+) (\{.*\}) → (.*)", line) for line in block("text").splitlines() if line.strip()
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
