"""A chaos run: tasks on a stack whose parts are killed or replaced by a seeded schedule until all settle."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from uuid import UUID

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.stack.health import check_organism, local_client
from tests.chaos import workload
from tests.chaos.dispatches import Dispatches
from tests.chaos.events import Events
from tests.chaos.victims import VICTIMS, Kind, kill
from tests.support.history import Expected, install_history
from tests.support.sql import pool_of
from tests.support.stack import Stack

SETTLED = "SELECT count(*) FROM tasks WHERE status IN ('completed', 'failed', 'cancelled')"
STILL_HELD = """
SELECT count(*) FROM tasks
WHERE status = 'running' AND locked_at < to_timestamp($1) AND type <> 'long' AND type NOT LIKE 'units%'
"""
STILL_LONG = "SELECT count(*) FROM tasks WHERE type = 'long' AND finished_at IS NULL"
STILL_UNITS = "SELECT count(*) FROM tasks WHERE type LIKE 'units%' AND finished_at IS NULL"
STILL_POISON = "SELECT count(*) FROM tasks WHERE type = 'poison' AND finished_at IS NULL"
STALLED_S = 45.0
"""Without any settlement for so long, something stayed broken: an incident, repaired by `organism up`."""
RECOVERY_LIMIT_S = 90.0
"""A kill that is not recovered from by then is not waited for any longer."""
FINDING_S = 30.0
"""A process to kill is looked for so long."""
REST_S = 600.0
"""After each round of kills the long tasks have so long to end, while nothing is killed."""
BACKLOG = 1500
"""So many tasks are kept unsettled: more than are in flight, so that lanes never run out of work."""
FIRST_KILL_AFTER = 200
"""Tasks settled."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does; the same plan does the same again, as far as the machine's timing allows."""

    seed: int
    tasks: int
    """At least so many; there are more if they run out while things are killed."""
    seconds: float
    """For so long things are killed, at most."""
    deck: tuple[Kind, ...]
    """Each round of kills is this, shuffled; after it, nothing is killed until the long tasks have ended."""
    pause_s: tuple[float, float]
    """Shortest and longest time between recovery from one kill and the next."""
    on_top: float = 0.2
    """Share of kills that come before the one before them is recovered from."""
    kills: int | None = None
    """So many; None: for as long as there is time."""
    lanes: int = 2
    longs: int = 6
    """Long tasks in each round."""
    units: int = 0
    """Tasks of many units, all at the beginning; then things are killed for as long as there are any."""
    mix: workload.Mix = field(default_factory=workload.Mix)
    patience_s: float = 600.0
    """After the kills, for the rest of the tasks."""


@dataclass(frozen=True, slots=True)
class Step:
    """One kill to come."""

    kind: Kind
    pick: float
    """Which of several processes of the kind: 0 the first, nearly 1 the last."""
    hurry_s: float | None
    """The next kill comes so many seconds after this one; None: when this one is recovered from."""
    pause_s: float
    """And then so many seconds later."""


def schedule(plan: Plan) -> Iterator[Step]:
    """Kills without end, the same for the same plan."""
    chance = random.Random(f"kills {plan.seed}")
    while True:
        deck = list(plan.deck)
        chance.shuffle(deck)
        for kind in deck:
            hurry = chance.uniform(0.2, 3.0) if chance.random() < plan.on_top else None
            yield Step(kind, chance.random(), hurry, chance.uniform(*plan.pause_s))


@dataclass(slots=True)
class Killed:
    """One kill."""

    kind: Kind
    victim: str
    at: float
    """Seconds since the epoch."""
    repaired_s: float | None = None
    """Seconds from the kill until `organism up` had ended, where it was needed."""
    ups: int = 0
    """How many it took."""
    http_s: float | None = None
    """Seconds until the organism's HTTP routes answered; None: not within `RECOVERY_LIMIT_S`."""


@dataclass(slots=True)
class Run:
    """What happened in a run, besides what Postgres recorded."""

    plan: Plan
    lease_s: float
    evidence: Path
    expected: dict[UUID, Expected] = field(default_factory=dict)
    killed: list[Killed] = field(default_factory=list)
    dispatches: list[int] = field(default_factory=list)
    """Exit code of each dispatch that ended before the work did; -9 when it was killed."""
    incidents: list[str] = field(default_factory=list)
    """What went wrong that no kill explains."""
    started: float = 0.0
    fed_until: float = 0.0
    """From then on there were fewer and fewer tasks left."""
    ended: float = 0.0

    @property
    def replica_deaths(self) -> list[tuple[float, float]]:
        """Spans in which a task alone on a replica may be charged for its death; see `violations`."""
        return [(k.at - 0.1, k.at + self.lease_s) for k in self.killed if VICTIMS[k.kind].ends_replicas]


class Chaos:
    """One chaos run.

    Args:
        stack: A stack that is up with ``tests/organism/chaos.yaml``.
        queue: Its queue, empty.
        plan: What to do.
        tell: Called with a line on every event.
    """

    def __init__(self, stack: Stack, queue: Queue, plan: Plan, tell: Callable[[str], None]) -> None:
        self.stack = stack
        self.queue = queue
        self.plan = plan
        lease_s = float(stack.env["ORGANISM_LEASE_SECONDS"])
        self.run = Run(plan, lease_s, stack.home / f"evidence-{plan.seed}-{os.getpid()}")
        self._tell = tell
        self._dispatches = Dispatches(stack, queue, plan.lanes, self._dispatch_ended)
        self._settled_at = time.monotonic()
        self._settled = 0
        self._killing = True
        self._done = asyncio.Event()
        self._events = Events(queue)

    async def __call__(self) -> Run:
        """Run it; returns when every task is settled, or patience is over."""
        run, plan = self.run, self.plan
        run.evidence.write_text("")
        run.evidence.chmod(0o666)
        await install_history(self.queue)
        run.started = time.time()
        helpers = [
            asyncio.create_task(work)
            for work in (self._feed(), self._dispatches.keep_one(), self._watch(), self._events.send())
        ]
        try:
            await self._kill_things()
            self._killing = False
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), plan.patience_s)
        finally:
            self._done.set()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._dispatches.stop()
        run.ended = time.time()
        return run

    # Killing

    async def _kill_things(self) -> None:
        await self._until(lambda: self._settled >= FIRST_KILL_AFTER, 120.0)
        if self.plan.units:
            mix, evidence = self.plan.mix, self.run.evidence
            await self._submit([workload.units(number, mix, evidence) for number in range(self.plan.units)])
        end = time.monotonic() + self.plan.seconds
        for number, step in enumerate(islice(schedule(self.plan), self.plan.kills)):
            if number % len(self.plan.deck) == 0:
                await self._begin_round(number)
            if time.monotonic() > end or (self.plan.units and await self._ask(STILL_UNITS) == 0):
                return
            killed = await (self._poison() if step.kind == "poison" else self._kill(step))
            if killed is None:
                continue
            recovering = asyncio.create_task(self._recovered(killed))
            # What `up` brings back is needed, and there is one `up` at a time.
            if step.hurry_s is not None and not VICTIMS[step.kind].needs_up:
                await asyncio.sleep(step.hurry_s)
            else:
                await recovering
                await asyncio.sleep(step.pause_s)

    async def _begin_round(self, number: int) -> None:
        """Wait for the long tasks of the round before, and submit those of this one."""

        async def ended() -> bool:
            return await self._ask(STILL_LONG) == 0

        await self._until(ended, REST_S)
        chance = random.Random(f"long tasks {self.plan.seed} {number}")
        await self._submit(
            [workload.long(chance, self.plan.mix, self.run.evidence) for _ in range(self.plan.longs)]
        )

    async def _kill(self, step: Step) -> Killed | None:
        victim: str | None = None
        deadline = time.monotonic() + FINDING_S
        while victim is None and time.monotonic() < deadline:
            if step.kind == "relief":
                victim = await self._dispatches.relieve()
            else:
                victim = kill(self.stack, step.kind, self._dispatches.newest, step.pick)
            at = time.time()
            if victim is None:  # what was killed before is only coming back
                await asyncio.sleep(0.1)
        if victim is None:
            self._tell(f"{at - self.run.started:6.1f} s  no {step.kind} to kill")
            return None
        self._tell(f"{at - self.run.started:6.1f} s  {step.kind}: {victim}")
        killed = Killed(step.kind, victim, at)
        self.run.killed.append(killed)
        return killed

    async def _poison(self) -> Killed | None:
        """Put a task among the others that ends its replica, and wait for its first death."""
        [task] = await self._submit([workload.poison(self.run.evidence)])
        self._tell(f"{time.time() - self.run.started:6.1f} s  poison: task {task}")
        await self._until(lambda: self._first_run(task) is not None, RECOVERY_LIMIT_S)
        begun = self._first_run(task)
        if begun is None:
            return None
        killed = Killed("poison", str(task), begun)
        self.run.killed.append(killed)
        return killed

    def _first_run(self, task: UUID) -> float | None:
        for line in self.run.evidence.read_text().splitlines():
            if line.startswith(str(task)):
                return float(line.split()[4])
        return None

    def _dispatch_ended(self, code: int) -> None:
        self.run.dispatches.append(code)
        self._tell(f"{time.time() - self.run.started:6.1f} s  dispatch ended with code {code}")
        if code == ExitCode.DEFECT:
            self.run.incidents.append(f"a dispatch ended with code {code}: a defect, not a failure")

    async def _recovered(self, killed: Killed) -> None:
        http = asyncio.create_task(self._http_back(killed))
        await self._work_recovered(killed)
        await http

    async def _http_back(self, killed: Killed) -> None:
        async def answers() -> bool:
            return (await check_organism(client, self.stack.state)).ok

        async with local_client() as client:
            await self._until(answers, RECOVERY_LIMIT_S)
            if await answers():
                killed.http_s = time.time() - killed.at

    async def _work_recovered(self, killed: Killed) -> None:
        if VICTIMS[killed.kind].needs_up:
            await self._up(killed)
        settled = self._settled

        async def over() -> bool:
            if killed.kind == "poison" and await self._ask(STILL_POISON):
                return False
            held = await self._ask(STILL_HELD, killed.at)
            return held == 0 and self._settled > settled

        await self._until(over, RECOVERY_LIMIT_S)

    async def _up(self, killed: Killed | None = None) -> None:
        for _ in range(5):
            code, said = await self._command("up", "--json")
            if killed:
                killed.ups += 1
                killed.repaired_s = time.time() - killed.at
            if code == 0 and (await self._command("status", "--json"))[0] == 0:
                return
            self._tell(f"{time.time() - self.run.started:6.1f} s  `organism up` again: {said[-300:]}")
        self.run.incidents.append(f"`organism up` did not repair the stack: {said[-300:]}")

    async def _command(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *self._organism(*arguments),
            env=self.stack.env,
            cwd=self.stack.home,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(errors="replace").strip()

    def _organism(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "organism_flows.deployments.cli.main", *arguments]

    # Feeding

    @property
    def _more(self) -> bool:
        return self._killing or len(self.run.expected) < self.plan.tasks

    async def _feed(self) -> None:
        chance = random.Random(f"tasks {self.plan.seed}")
        stream = workload.stream(chance, self.plan.mix, self.run.evidence)
        while self._more:
            if len(self.run.expected) - self._settled < BACKLOG:
                await self._submit(list(islice(stream, BACKLOG // 3)))
            else:
                await asyncio.sleep(0.1)
        self.run.fed_until = time.time()

    async def _submit(self, planned: Sequence[workload.Planned]) -> list[UUID]:
        expected = await workload.submit(self.queue, planned)
        self.run.expected |= expected
        self._events.plan(planned)
        return list(expected)

    # Watching

    async def _watch(self) -> None:
        """Count what is left; step in when nothing moves."""
        while not self._done.is_set():
            settled = await self._ask(SETTLED)
            if settled is not None:
                if settled > self._settled:
                    self._settled_at = time.monotonic()
                self._settled = settled
                if not self._more and settled == len(self.run.expected):
                    self._done.set()
            left = len(self.run.expected) - self._settled
            quiet_s = time.monotonic() - self._settled_at
            if quiet_s > STALLED_S and (left > (await self._ask(STILL_LONG) or 0) or quiet_s > REST_S):
                since = time.time() - self.run.started
                self.run.incidents.append(f"{since:.0f} s: nothing was settled for {quiet_s:.0f} s")
                self._tell(f"{since:6.1f} s  stalled with {left} left: `organism up`")
                await self._up()
                self._settled_at = time.monotonic()
            await asyncio.sleep(0.25)

    async def _ask(self, query: str, *arguments: object) -> int | None:
        """A number from the database; None while it is away."""
        with suppress(*TRANSIENT_ERRORS):
            return int(await pool_of(self.queue).fetchval(query, *arguments))
        return None

    async def _until(self, condition: Callable[[], object], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and not self._done.is_set():
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.25)
