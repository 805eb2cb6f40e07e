"""The page on limits: each of its commands runs, and does what it says."""

from __future__ import annotations

import asyncio
import re
import shlex
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest
from ruamel.yaml import YAML

from organism_flows import RetryAfter
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.snooze import Snooze
from organism_flows.deployments.cli import main as cli
from organism_flows.serve_apps.organism.config import parse_config
from organism_flows.serve_apps.organism.handler_api.snoozing import snooze_of
from tests.conftest import Databases
from tests.support.page import Page

PAGE = Page("how-to/respect-an-api-limit.md")


@pytest.mark.anyio
async def test_the_sql_of_the_page_opens_a_limit_and_sets_one(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO closures (kind, name, until) "
        "SELECT 'limit', name, now() + interval '1 hour' FROM unnest(ARRAY['provider', 'other']) name"
    )
    for block in re.findall(r"```sql\n(.*?)```", PAGE.text, re.DOTALL):
        await connection.execute(block)
    await connection.close()
    async with Queue(database) as queue:
        [limit] = await queue.operator.limits()
        assert [closure.name for closure in await queue.operator.closures()] == ["other"]
    assert (limit.name, limit.kind, limit.types, limit.amount) == ("gpu", "running", ["shout"], 4)


@pytest.mark.anyio
async def test_the_handler_of_the_page_puts_its_task_off(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(200, json={"ok": 1})]
    client = partial(httpx.AsyncClient, transport=httpx.MockTransport(lambda _: answers.pop(0)))
    monkeypatch.setattr(httpx, "AsyncClient", client)
    page: dict[str, Any] = {}
    exec(PAGE.block("python"), page)
    params = {"url": "http://api.example", "body": {}}
    with pytest.raises(RetryAfter) as caught:
        await page["ask"](params)
    assert snooze_of(caught.value) == Snooze(after_s=7, closes="provider")
    assert await page["ask"](params) == {"ok": 1}


async def keys_and_costs(dsn: str) -> list[tuple[str, float]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch("SELECT key, cost FROM tasks")]
    finally:
        await connection.close()


def test_each_command_of_the_page_on_sharing_runs_and_its_file_is_one(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = asyncio.run(databases.create())
    monkeypatch.setenv("ORGANISM_DSN", dsn)
    page = Page("how-to/share-fairly.md")
    for command in re.findall(r"^organism .*", page.text, re.MULTILINE):
        assert cli.run(shlex.split(command)[1:]) == 0, command
    said = capsys.readouterr().out
    assert "closed: limit provider until" in said
    assert "closed: type shout for key acme until 2100-01-01 00:00:00 UTC" in said
    assert "weight 3 of key acme" in said
    assert asyncio.run(keys_and_costs(dsn)) == [("acme", 300)]
    declared = parse_config({**YAML(typ="safe").load(page.block("yaml")), "include_builtin": True})
    assert [limit.name for limit in declared.limits or ()] == ["provider", "customers"]
    assert declared.weights == {"acme": 3}


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
    assert "tokens: 200000 units in 60.0 s, of shout" in said
    assert "provider: 500 in 60.0 s, of shout" in said
