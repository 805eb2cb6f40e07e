"""The page on limits: each of its commands runs, and does what it says."""

from __future__ import annotations

import asyncio
import re
import shlex

import asyncpg
import pytest

from organism_flows.blocks.queue import Queue
from organism_flows.deployments.cli import main as cli
from tests.conftest import Databases
from tests.support.page import Page

PAGE = Page("how-to/respect-an-api-limit.md")


@pytest.mark.anyio
async def test_the_sql_of_the_page_sets_a_limit(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(PAGE.block("sql"))
    await connection.close()
    async with Queue(database) as queue:
        [limit] = await queue.operator.limits()
    assert (limit.name, limit.kind, limit.types, limit.amount) == ("gpu", "running", ["shout"], 4)


def test_each_command_of_the_page_runs(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORGANISM_DSN", asyncio.run(databases.create()))
    commands = re.findall(r"^organism .*", PAGE.text, re.MULTILINE)
    for command in commands:
        if "<id>" not in command:
            assert cli.run(shlex.split(command)[1:]) == 0, command
    said = capsys.readouterr().out
    assert "customers: 3 at once for each key, of shout" in said
    assert "provider: 500 in 60.0 s, of shout" in said
