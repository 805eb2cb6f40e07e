"""The recorded run: long tasks beside short ones under the default schedule, through four events."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.deployments.stack.health import check_organism, local_client
from tests.chaos.project import edit_handlers, make_project
from tests.chaos.victims import kill
from tests.support.history import install_history, runs_in
from tests.support.sql import pool_of
from tests.support.stack import Stack, until

FOREIGN = ("ORGANISM_", "PREFECT_", "RAY_", "PG", "SEEDCORE_")
"""Settings that begin so are not taken from the environment: the run shows the defaults."""
FIRST_LANE_S = 400.0
"""Until the first lane of the schedule claims."""
BATCH_S = 0.1
"""Short tasks are inserted so often."""
SAMPLE_S = 3.0
BACK_S = 120.0
"""Longest wait for the organism to answer again."""
SHORT_S = 0.05
PROJECT = """\
organs:
  - id: long
    task_types: [long]
    handler: chaos_handlers:endure
    concurrency: {slots}
    timeout_s: {timeout:g}
  - id: short
    task_types: [short]
    handler: chaos_handlers:brief
    concurrency: 16
    timeout_s: 30
"""
INSERT = """
INSERT INTO tasks (type, params)
SELECT 'short', jsonb_build_object('seconds', $1::float8) FROM generate_series(1, $2)
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does."""

    minutes: float = 60.0
    """For so long short tasks are submitted."""
    long_minutes: float = 20.0
    """What a long task takes."""
    longs: int = 8
    rate: float = 50.0
    """Short tasks a second."""
    replicas: int = 2


@dataclass(frozen=True, slots=True)
class EventKind:
    """Something done to the stack at a fixed moment."""

    name: str
    what: str
    at: float
    """Share of the run's minutes."""
    limit_s: float
    """Longest time in which no short task may be settled; for the replica, beyond its start."""


EVENTS = (
    EventKind("replica", "kill -9 of a replica with long tasks", 0.15, 10.0),
    EventKind("redeploy", "one line of the handlers edited, `organism up`", 0.3, 10.0),
    # A run of the schedule starts within a minute, and takes some seconds to start.
    EventKind("flow", "kill -9 of the dispatch flow", 0.48, 90.0),
    EventKind("postgres", "kill -9 of Postgres, `organism up`", 0.7, 20.0),
)


@dataclass(slots=True)
class Event:
    """One event; seconds since the epoch."""

    kind: EventKind
    victim: str
    at: float
    back_s: float | None = None
    """Seconds until `organism up` had ended, and the organism answered again."""


@dataclass(slots=True)
class Recorded:
    """What happened, besides what Postgres recorded."""

    plan: Plan
    evidence: Path
    longs: list[UUID] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    started: float = 0.0
    fed_until: float = 0.0
    ended: float = 0.0
    peak_runs: int = 0
    """Most dispatch flow processes at once."""
    peak_lanes: int = 0
    incidents: list[str] = field(default_factory=list)
    """What went wrong that is no broken promise of a task."""


def default_stack(home: Path, *, longs: int, long_s: float, replicas: int = 2) -> Stack:
    """A stack with every other setting at its default, and a project with two organs, `long` and `short`.

    Args:
        longs: Slots of the long organ, over all replicas.
        long_s: What a long task takes, in seconds; its timeout is twice that.
    """
    home.chmod(0o711)
    stack = Stack(home)
    stack.env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    stack.env["ORGANISM_HOME"] = str(home)
    stack.env["ORGANISM_REPLICAS"] = str(replicas)
    make_project(stack, PROJECT.format(slots=-(-longs // replicas), timeout=2 * long_s + 60))
    return stack


async def first_lane(queue: Queue) -> None:
    """Wait until a lane claims."""

    async def claims() -> bool:
        return any(lane.claiming for lane in await queue.reader.lanes())

    await until(claims, patience=FIRST_LANE_S)


class LongRun:
    """One recorded run.

    Args:
        stack: One of `default_stack`, up.
        queue: Its queue, empty.
        plan: What to do.
        tell: Called with a line on every event.
    """

    def __init__(self, stack: Stack, queue: Queue, plan: Plan, tell: Callable[[str], None]) -> None:
        self.stack = stack
        self.queue = queue
        self.plan = plan
        self.recorded = Recorded(plan, stack.home / "evidence")
        self._tell = tell
        self._flows: dict[str, bool] = {}
        """By flow run: whether it is one of dispatch."""

    async def __call__(self) -> Recorded:
        """Run it; returns when every task is settled, or the longs cannot be expected to end any more."""
        recorded, plan = self.recorded, self.plan
        recorded.evidence.touch(mode=0o666)
        await install_history(self.queue)
        self.stack.run("schedule", "dispatch", "on")
        await first_lane(self.queue)
        recorded.started = time.time()
        params = {"seconds": plan.long_minutes * 60, "file": str(recorded.evidence)}
        recorded.longs = await self.queue.submit([NewTask(type="long", params=params)] * plan.longs)
        sampling = asyncio.create_task(self._sample())
        feeding = asyncio.create_task(self._feed())
        try:
            for kind in EVENTS:
                await asyncio.sleep(recorded.started + kind.at * plan.minutes * 60 - time.time())
                await self._do(kind)
            await feeding
            recorded.fed_until = time.time()
            self._say("no more short tasks; waiting for the long ones")
            with suppress(AssertionError):
                await until(self._settled, patience=2 * plan.long_minutes * 60 + 180)
        finally:
            for task in (sampling, feeding):
                task.cancel()
            await asyncio.gather(sampling, feeding, return_exceptions=True)
        recorded.ended = time.time()
        return recorded

    def _say(self, line: str) -> None:
        self._tell(f"{time.time() - self.recorded.started:6.0f} s  {line}")

    async def _settled(self) -> bool:
        with suppress(*TRANSIENT_ERRORS):
            return bool(
                await pool_of(self.queue).fetchval(
                    "SELECT NOT EXISTS (SELECT FROM tasks WHERE finished_at IS NULL)"
                )
            )
        return False

    async def _feed(self) -> None:
        started, sent = time.time(), 0
        while (elapsed := time.time() - started) < self.plan.minutes * 60:
            due = int(elapsed * self.plan.rate) - sent
            sent += due
            # What could not be submitted while Postgres was away is not made up for.
            with suppress(*TRANSIENT_ERRORS):
                await pool_of(self.queue).execute(INSERT, SHORT_S, min(due, int(self.plan.rate)), timeout=5)
            await asyncio.sleep(BATCH_S)

    # Events

    async def _do(self, kind: EventKind) -> None:
        victim = None
        while victim is None:
            victim = await self._victim(kind)
            event = Event(kind, str(victim), time.time())
            await asyncio.sleep(0.1)
        self._say(f"{kind.what}: {victim}")
        self.recorded.events.append(event)
        if kind.name in ("redeploy", "postgres"):
            await self.stack_up()
        if kind.name != "flow":
            async with local_client() as client:

                async def answers() -> bool:
                    return (await check_organism(client, self.stack.state)).ok

                with suppress(AssertionError):
                    await until(answers, patience=BACK_S)
                    event.back_s = time.time() - event.at
                    self._say(f"back after {event.back_s:.1f} s")

    async def _victim(self, kind: EventKind) -> str | None:
        match kind.name:
            case "replica":
                runs = [run for each in runs_in(self.recorded.evidence).values() for run in each]
                live = next((run.replica for run in reversed(runs) if run.ended is None), None)
                return self._kill(live) if live else None
            case "redeploy":
                return edit_handlers(self.stack)
            case "flow":
                with suppress(*TRANSIENT_ERRORS):
                    runs_of_lanes = {lane.run for lane in await self.queue.reader.lanes() if lane.claiming}
                    for run, process in self._flow_processes().items():
                        if run in runs_of_lanes:
                            return self._kill(process.pid)
                return None
            case _:
                return kill(self.stack, "postgres", None, 0.0)

    def _kill(self, pid: int) -> str | None:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            name = f"{process.name()} {pid}"
            process.send_signal(signal.SIGKILL)
            return name
        return None

    async def stack_up(self) -> None:
        """Bring up what was killed or changed, while everything else goes on."""
        try:
            said = json.dumps(await asyncio.to_thread(self.stack.run, "up"))
        except AssertionError as error:
            said = str(error)
            self.recorded.incidents.append(f"`organism up` failed: {said[-300:]}")
        self._say(f"`organism up`: {said[:300]}")

    # Watching

    async def _sample(self) -> None:
        while True:
            with suppress(*TRANSIENT_ERRORS, httpx.HTTPError):
                lanes = sum(lane.live for lane in await self.queue.reader.lanes())
                self.recorded.peak_lanes = max(self.recorded.peak_lanes, lanes)
                dispatches = await asyncio.to_thread(self._flow_processes)
                self.recorded.peak_runs = max(self.recorded.peak_runs, len(dispatches))
            await asyncio.sleep(SAMPLE_S)

    def _flow_processes(self) -> dict[str, psutil.Process]:
        """The processes of the dispatch flow, by flow run."""
        found: dict[str, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                run = process.environ().get("PREFECT__FLOW_RUN_ID")
                ours = process.environ().get("ORGANISM_HOME") == str(self.stack.home)
                if run and ours and run not in found and self._is_dispatch(run):
                    found[run] = process
        return found

    def _is_dispatch(self, run: str) -> bool:
        if run not in self._flows:
            flow = self._ask(f"flow_runs/{run}")["flow_id"]
            self._flows[run] = self._ask(f"flows/{flow}")["name"] == "dispatch"
        return self._flows[run]

    def _ask(self, path: str) -> Any:
        """What Prefect's server has there."""
        url = f"{self.stack.prefect_api}/{path}"
        return httpx.get(url, trust_env=False, timeout=10).raise_for_status().json()
