"""What a Prefect server that gets another database keeps of the old one: schedules, on or off."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from organism_flows.flows.prefect_support import carry_over
from organism_flows.flows.prefect_support.schedules import scheduled, turn
from tests.support.stack import Stack

TABLES = """
CREATE TABLE flow (id TEXT, name TEXT);
CREATE TABLE deployment (id TEXT, flow_id TEXT, name TEXT, paused BOOLEAN);
CREATE TABLE deployment_schedule (id TEXT, deployment_id TEXT, active BOOLEAN);
"""


def database(path: Path, *rows: tuple[str, str, bool, bool]) -> Path:
    """The tables of Prefect 3.8.8 that are read; a row is flow, deployment, paused, active."""
    connection = sqlite3.connect(path)
    connection.executescript(TABLES)
    for number, (flow, deployment, paused, active) in enumerate(rows):
        connection.execute("INSERT INTO flow VALUES (?, ?)", (number, flow))
        connection.execute("INSERT INTO deployment VALUES (?, ?, ?, ?)", (number, number, deployment, paused))
        connection.execute("INSERT INTO deployment_schedule VALUES (?, ?, ?)", (number, number, active))
    connection.commit()
    connection.close()
    return path


def test_schedules_of_ours_are_read(tmp_path: Path) -> None:
    file = database(
        tmp_path / "prefect.db",
        ("dispatch", "organism", False, True),
        ("verify", "organism", False, False),
        ("watchdog", "organism", True, True),
        ("mine", "nightly", False, True),
    )
    assert carry_over.schedules(file) == {"dispatch": True, "verify": False, "watchdog": False}


@pytest.mark.parametrize("content", [None, b"", b"no database"])
def test_a_file_that_says_nothing_carries_nothing(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "prefect.db"
    if content is not None:
        file.write_bytes(content)
    assert carry_over.schedules(file) == {}


@pytest.mark.anyio
@pytest.mark.stack
@pytest.mark.soak
async def test_they_are_turned_on_and_off_on_the_server(stack: Stack, tmp_path: Path) -> None:
    await asyncio.to_thread(stack.run, "deploy")
    file = database(
        tmp_path / "prefect.db",
        ("dispatch", "organism", False, True),
        ("verify", "organism", False, False),
        ("gone", "organism", False, True),
    )
    try:
        assert sorted(await carry_over.apply(file)) == ["dispatch on", "verify off"]
        on = {one.deployment: one.on for one in await scheduled()}
        assert (on["dispatch/organism"], on["verify/organism"], on["watchdog/organism"]) == (
            True,
            False,
            True,
        )
        assert await carry_over.apply(file) == []
    finally:
        await turn("dispatch", on=False)
        await turn("verify", on=True)
