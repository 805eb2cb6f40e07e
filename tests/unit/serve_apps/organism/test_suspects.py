"""Suspects, tasks that a replica has died with, run in processes of their own: nobody waits for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from organism_flows.serve_apps.organism.execution.local import isolation
from organism_flows.serve_apps.organism.manager import OrganismManager
from organism_flows.serve_apps.organism.processes import pool as agents_module
from tests.support.organism import misbehaviour
from tests.support.organism.helpers import batch, in_flight, organ, organism, run, suspected
from tests.support.stack import until

pytestmark = pytest.mark.anyio

CRASHES = "tests.support.organism.crashes"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    misbehaviour.reset()
    yield
    misbehaviour.RELEASE.set()


def named(wire: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {**wire, "ids": [f"{prefix}-{n}" for n in range(len(wire["ids"]))]}


@pytest.mark.parametrize("handler", ["pid", "pid_async", "pids", "pids_async"])
async def test_a_suspect_runs_in_a_process_of_its_own_and_the_others_here(handler: str) -> None:
    manager = organism(organ("p", f"{CRASHES}:{handler}", batch=handler.startswith("pids")))
    here = await run(manager, named(batch(("p", {}), ("p", {})), "here"))
    there = await run(manager, named(suspected(batch(("p", {}), ("p", {}))), "there"))
    pids = {part: {str(value) for value in part.results.values()} for part in (here, there)}
    assert all(str(os.getpid()) in value for value in pids[here])
    assert not any(str(os.getpid()) in value for value in pids[there])


async def test_a_death_is_charged_to_the_suspect_alone_and_the_replica_lives() -> None:
    manager = organism(organ("c", f"{CRASHES}:misbehave", concurrency=4))
    wire = suspected(batch(*[("c", {"how": how}) for how in ("exit 3", "nothing", "nothing")]))
    beside = asyncio.create_task(run(manager, named(batch(*[("echo", {})] * 3), "beside")))
    result = await run(manager, wire)
    assert result.causes == {0: "failed", 1: "completed", 2: "completed"}
    assert "the worker process died: exited with code 3" in (result.errors[0] or "")
    assert set((await beside).causes.values()) == {"completed"}


async def test_several_long_suspects_run_at_once_beside_the_others(tmp_path: Path) -> None:
    pipes = [tmp_path / f"waits-{n}" for n in range(3)]
    for pipe in pipes:
        os.mkfifo(pipe)
    manager = organism(organ("p", f"{CRASHES}:pid", concurrency=4))
    rows = [("p", {"says": str(tmp_path / f"says-{n}"), "waits": str(pipes[n])}) for n in range(3)]
    long = asyncio.create_task(run(manager, suspected(batch(*rows))))
    await until(lambda: all((tmp_path / f"says-{n}").exists() for n in range(3)))
    assert manager.status()["organs"]["p"]["suspects"] == 3
    quick = await run(manager, named(batch(*[("p", {})] * 20, ("echo", {})), "quick"))
    assert set(quick.causes.values()) == {"completed"}, "nothing waits for them"
    assert not long.done()
    for pipe in pipes:
        await asyncio.to_thread(pipe.write_text, "go on")
    assert set((await long).causes.values()) == {"completed"}
    assert manager.status()["organs"]["p"]["suspects"] == in_flight(manager) == 0


async def test_its_process_is_killed_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "waits")
    manager = organism(organ("p", f"{CRASHES}:pid"))
    row = ("p", {"says": str(tmp_path / "says"), "waits": str(tmp_path / "waits")})
    gone = asyncio.create_task(run(manager, suspected(batch(row))))
    await until(lambda: (tmp_path / "says").exists())
    pid = int((tmp_path / "says").read_text())
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await until(lambda: not Path(f"/proc/{pid}").exists())
    assert in_flight(manager) == 0


async def test_processes_go_when_there_are_no_suspects_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "KEPT_S", 0.05)
    manager = organism(organ("p", f"{CRASHES}:pid"))
    pid = (await run(manager, suspected(batch(("p", {}))))).results[0]
    await until(lambda: not Path(f"/proc/{pid}").exists())
    assert (await run(manager, suspected(batch(("p", {}))))).causes == {0: "completed"}


async def test_where_no_process_starts_suspects_run_here_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no more processes")

    manager = organism(organ("p", f"{CRASHES}:pid"))
    monkeypatch.setattr(agents_module, "WorkerProcess", refuse)
    result = await run(manager, suspected(batch(("p", {}), ("p", {}))))
    assert result.results == {0: os.getpid(), 1: os.getpid()}
    assert manager.health()["status"] == "healthy"


async def test_builtin_handlers_that_ask_the_organism_stay_on_the_replica() -> None:
    manager: OrganismManager = organism()
    result = await run(manager, suspected(batch(("health_check", {}), ("echo", {"n": 1}))))
    assert result.causes == {0: "completed", 1: "completed"}
    assert result.results[0]["organism_initialized"]
