"""`organism top`, driven key by key on a real queue, over HTTP and on the table."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from organism_flows.blocks.client.async_client import Client
from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import Queue, TaskFilter
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.cli import main as cli
from organism_flows.deployments.cli.top.app import TopApp
from organism_flows.deployments.cli.top.connection import connect
from organism_flows.deployments.cli.top.filters import filter_of, text_of
from tests.support.gateway.running import running, token_file
from tests.support.gateway.story import HOSTILE, ServingOrganism, fill
from tests.support.proxy import proxied
from tests.support.stack import until

pytestmark = pytest.mark.anyio
SIZE = (140, 45)


@pytest.fixture
async def pilot(database: str) -> AsyncIterator[Pilot[None]]:
    """A screen on the table of a queue with something of everything."""
    await fill(database)
    async with on_the_table(database) as pilot:
        yield pilot


@asynccontextmanager
async def on_the_table(dsn: str) -> AsyncIterator[Pilot[None]]:
    async with (
        connect(Settings(dsn=dsn), table=True) as (client, said),
        TopApp(client, said).run_test(size=SIZE) as pilot,
    ):
        yield pilot


def text(pilot: Pilot[Any], selector: str) -> str:
    console = Console(width=SIZE[0], force_terminal=False)
    with console.capture() as captured:
        console.print(pilot.app.screen.query_one(selector, Static).content)
    return captured.get()


def rows(pilot: Pilot[None], name: str) -> list[list[str]]:
    # The tables are those of the first screen, whatever lies over it.
    table = pilot.app.screen_stack[0].query_one(f"#{name}-table", DataTable)
    return [[cell.plain for cell in table.get_row_at(row)] for row in range(table.row_count)]


async def shown(pilot: Pilot[Any], what: str, selector: str = "#attention") -> None:
    await until(lambda: pilot.app.screen.query(selector) and what in text(pilot, selector))


async def notified(pilot: Pilot[Any], what: str) -> None:
    await until(lambda: any(what in one.message for one in pilot.app._notifications))


async def test_all_is_seen_at_a_glance_over_http(database: str, tmp_path: Path) -> None:
    await fill(database)
    tokens = token_file(tmp_path, operate="s3cret")
    async with (
        running(database, organism=ServingOrganism(), gateway_tokens=tokens) as gateway,
        Client(gateway.url, token="s3cret") as client,
        TopApp(client, gateway.url).run_test(size=SIZE) as pilot,
    ):
        await shown(pilot, "12 dead letters in the last hour, most of type caption")
        assert gateway.url in text(pilot, "#title")
        figures = text(pilot, "#figures")
        assert figures.splitlines()[1].split()[:5] == ["120", "4", "2", "3", "1"]
        refund = next(row for row in rows(pilot, "types") if row[0] == "refund")
        assert refund[1:7] == ["0", "0", "0", "0", "1", "0"]
        caption = next(row for row in rows(pilot, "types") if row[0] == "caption")
        assert caption[1:7] == ["120", "4", "2", "0", "0", "12"]
        assert rows(pilot, "lanes")[0][:2] == ["otter-0", "live"]
        assert [row[0] for row in rows(pilot, "organs")] == ["captions", "vectors"]
        await pilot.press("2")
        await until(lambda: rows(pilot, "failures"))
        assert [row[:1] + row[2:] for row in rows(pilot, "failures")] == [
            ["12", "caption", "ValueError: cannot decode ⟨path⟩: ⟨n⟩% bad marker at byte ⟨n⟩"],
            ["3", "embed", "OSError: ⟨id⟩ is gone"],
        ]


async def test_from_a_type_to_a_task_and_back_into_the_queue(pilot: Pilot[None], queue: Queue) -> None:
    await shown(pilot, "dead letters")
    await pilot.press("slash")
    await until(lambda: pilot.app.screen.query(Input))
    pilot.app.screen.query_one(Input).value = "status=failed type=caption"
    await pilot.press("enter")
    await until(lambda: len(rows(pilot, "tasks")) == 12)
    assert "status=failed type=caption" in text(pilot, "#filter")
    chosen = rows(pilot, "tasks")[0][0]
    await pilot.press("enter")
    await shown(pilot, "cannot decode /data/in/img-", "#task")
    assert 'File "/srv/captions.py", line 88' in text(pilot, "#task")
    await pilot.press("t")
    await until(lambda: is_in(queue, chosen, "queued"))
    await pilot.press("c")
    await until(lambda: pilot.app.screen.query("#yes"))
    await pilot.press("n")
    await until(lambda: pilot.app.screen.query("#task"))
    assert await is_in(queue, chosen, "queued"), "a cancel is asked for twice"
    await pilot.press("c")
    await until(lambda: pilot.app.screen.query("#yes"))
    await pilot.press("y")
    await until(lambda: is_in(queue, chosen, "cancelled"))
    await pilot.press("escape")
    await until(lambda: len(rows(pilot, "tasks")) == 11)


async def test_a_task_that_waits_says_for_what(pilot: Pilot[None]) -> None:
    await pilot.press("slash")
    await until(lambda: pilot.app.screen.query(Input))
    pilot.app.screen.query_one(Input).value = "status=waiting"
    await pilot.press("enter")
    await until(lambda: [row[1:3] for row in rows(pilot, "tasks")] == [["waiting", "refund"]])
    await pilot.press("enter")
    await shown(pilot, "waits for the event approval since", "#task")
    await shown(pilot, "→ send it: `organism tasks signal", "#task")


async def is_in(queue: Queue, task: str, status: str) -> bool:
    return (await queue.get(task)).status == status


async def test_the_tasks_of_a_type_and_of_a_lane(pilot: Pilot[None]) -> None:
    await until(lambda: rows(pilot, "types"))
    assert rows(pilot, "types")[0][0] == "caption", "the busiest comes first"
    await pilot.press("enter")
    await until(lambda: rows(pilot, "tasks"))
    assert {row[2] for row in rows(pilot, "tasks")} == {"caption"}
    await pilot.press("3", "enter")
    await until(lambda: {row[1] for row in rows(pilot, "tasks")} == {"running"})
    assert len(rows(pilot, "tasks")) == 4


async def test_pause_with_a_reason_and_resume(pilot: Pilot[None], queue: Queue) -> None:
    await until(lambda: rows(pilot, "types"))
    await pilot.press("p")
    await until(lambda: pilot.app.screen.query(Input))
    await pilot.press(*"bad", "enter")
    await until(queue.operator.pauses)
    [pause] = await queue.operator.pauses()
    assert (pause.kind, pause.name, pause.reason) == ("type", "caption", "bad")
    await until(lambda: "caption  paused" in [row[0] for row in rows(pilot, "types")])
    await pilot.press("p")
    await until(lambda: "caption" in [row[0] for row in rows(pilot, "types")])
    assert await queue.operator.pauses() == []


async def test_a_group_of_failures_is_redriven_after_a_dry_run(pilot: Pilot[None], queue: Queue) -> None:
    await pilot.press("2")
    await until(lambda: rows(pilot, "failures"))
    await pilot.press("d")
    await until(lambda: pilot.app.screen.query("#yes"))
    assert "Queue 12 dead letters again?" in text(pilot, ".dialog Static")
    failed = TaskFilter(status=["failed"])
    assert (await queue.reader.counts_of(failed))["failed"] == 15
    await pilot.press("y")
    await notified(pilot, "12 are queued again")
    assert (await queue.reader.counts_of(failed))["failed"] == 3


async def test_who_may_only_read_is_told_so(database: str, tmp_path: Path) -> None:
    await fill(database)
    tokens = token_file(tmp_path, read="may-look")
    async with (
        running(database, gateway_tokens=tokens) as gateway,
        Client(gateway.url, token="may-look") as client,
        TopApp(client, gateway.url).run_test(size=SIZE) as pilot,
    ):
        await until(lambda: rows(pilot, "types"))
        await pilot.press("5")
        await until(lambda: rows(pilot, "tasks"))
        await pilot.press("t")
        await notified(pilot, "scope")


async def test_an_outage_is_said_and_passes(database: str) -> None:
    await fill(database)
    async with proxied(database) as proxy, on_the_table(proxy.dsn) as pilot:
        await until(lambda: rows(pilot, "types"))
        proxy.refuse()
        await shown(pilot, "Postgres does not answer")
        assert rows(pilot, "types"), "the last figures stay"
        proxy.accept()
        await shown(pilot, "dead letters in the last hour")


async def test_without_a_gateway_the_screen_says_so() -> None:
    async with Client("http://127.0.0.1:1") as client, TopApp(client, "there").run_test(size=SIZE) as pilot:
        await shown(pilot, "✗ cannot reach the gateway")


async def test_hostile_text_is_text(database: str) -> None:
    hostile = f"[red]{HOSTILE}[/red] \x1b[31m"
    async with Queue(database) as queue:
        await fill(
            database,
            "INSERT INTO tasks (type, status, finished_at, error, log, traceparent, params) "
            "VALUES ($1, 'failed', now(), $1, $1, $1, jsonb_build_object('a', $1::text))",
            hostile,
        )
        [task] = await queue.reader.page(TaskFilter())
    async with on_the_table(database) as pilot:
        await shown(pilot, "[red]<img")
        await pilot.press("5")
        await until(lambda: rows(pilot, "tasks"))
        await pilot.press("enter")
        await shown(pilot, str(task.id), "#task")
        for selector in ("#task",):
            assert "\x1b[31m" not in text(pilot, selector)
            assert "\u202e" not in text(pilot, selector)
            assert "\\x1b[31m" in text(pilot, selector)


@pytest.mark.parametrize("words", ["", "status=failed,retry type='a b'", "error=100% domain=d"])
def test_a_filter_is_read_as_it_is_written(words: str) -> None:
    assert filter_of(text_of(filter_of(words))) == filter_of(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [("nonsense", "'nonsense' is not a field"), ("status=none", "status"), ("type='a", "cannot be read")],
)
def test_a_filter_that_means_nothing(words: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        filter_of(words)


def test_without_a_terminal(
    databases: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    monkeypatch.setenv("ORGANISM_DSN", asyncio.run(databases.create()))
    assert cli.run(["top"]) == 1
    assert "there is no terminal to draw on → `organism top --json`" in capsys.readouterr().err
    assert cli.run(["top", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["queue"]["types"] == []
