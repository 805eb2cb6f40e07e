"""What `organism up` does with the limits and weights of the organism's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack import organism_app

pytestmark = pytest.mark.anyio
FILE = """
limits:
  - {name: provider, kind: rate, types: [shout], amount: 500, period_s: 60}
weights: {acme: 3}
"""


async def test_the_limits_of_a_file_are_in_the_tables(database: str, tmp_path: Path) -> None:
    file = tmp_path / "organism.yaml"
    settings = Settings(dsn=SecretStr(database), config=file)
    for text, names, changed in (
        (FILE, ["provider"], "provider, weights"),
        ("{}", ["provider"], None),
        ("limits: []", [], "provider"),
    ):
        file.write_text(text)
        notes: list[str] = []
        app = await organism_app.load(settings)
        await organism_app.declare_limits(app, settings, on_note=notes.append)
        assert [note.partition(": ")[2] for note in notes] == ([changed] if changed else [])
        async with Queue(database) as queue:
            assert [limit.name for limit in await queue.operator.limits()] == names
            assert await queue.operator.weights() == {"acme": 3}
