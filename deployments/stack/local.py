"""Starts and stops the embedded stack on this machine: Postgres, Ray, Prefect, organism and gateway."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from organism_flows.blocks.disk_space import full_disks
from organism_flows.blocks.errors import StackError
from organism_flows.blocks.finding import Finding, ok
from organism_flows.blocks.local_stack.access_token import make_token
from organism_flows.blocks.local_stack.stack_state import ProcessRef, StackState, read_secret, read_stack
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack import components, health, organism_app
from organism_flows.deployments.stack.addresses import dsn_mark, ignored_ports, plan
from organism_flows.deployments.stack.child_environment import postgres_environment
from organism_flows.deployments.stack.postgres.server import STOP_SIGNAL, EmbeddedPostgres
from organism_flows.deployments.stack.progress import Event, Progress, StepTimer, silent
from organism_flows.deployments.stack.secret_files import own_prefect_secret
from organism_flows.deployments.stack.state import (
    forget_stack,
    known_processes,
    refuse_other_installation,
    stack_id_of,
    turn,
    write_stack,
)
from organism_flows.deployments.stack.system import ports, processes
from organism_flows.deployments.stack.system.concurrency import all_of, uninterrupted
from organism_flows.deployments.stack.system.folders import private_folder, short_folder

if TYPE_CHECKING:
    from organism_flows.serve_apps.organism.release.replacement import ReplacementDone, When

STOPPING = (("gateway", "worker"), ("ray", "prefect"), ("postgres",))
"""Roles in the order in which they are stopped; those of one step at the same time. First the worker, whose
flow runs hand back their tasks, and the gateway, which takes new ones. Postgres last: others may write."""
ROLES = tuple(role for step in STOPPING for role in step)
GRACE = {"gateway": 8.0, "worker": 25.0, "ray": 8.0, "prefect": 8.0, "postgres": 30.0}
"""Time between the first signal and SIGKILL by role, in seconds. Postgres flushes all data in that time."""


class StackStopped(BaseModel):
    """Result of `stop`."""

    was_running: bool
    stopped: list[str]
    """Roles that had processes."""
    killed: int
    """Number of processes that did not end by themselves."""
    seconds: float


class StackStarted(NamedTuple):
    """Result of `start`."""

    stack: StackState
    joined: bool
    """True if the whole stack was running already."""
    changes: list[ReplacementDone]
    """Changes to the organism."""


async def start(settings: Settings, *, when: When = "drain", progress: Progress = silent) -> StackStarted:
    """Start the missing components of the stack in ``settings.home``, or join the stack that runs.

    If it fails or is cancelled, the components that it started are stopped again.

    Args:
        settings: Settings in effect.
        when: When to interrupt tasks that run on replaced replicas.
        progress: Called with every step.

    Raises:
        OrganismError: A component cannot be started; the message says which and why.
    """
    home = prepare_home(settings)
    if full := full_disks(home):
        # On a full disk Postgres accepts no new connection. Do not restart it for that: it goes on when there
        # is space, and could not start without.
        raise StackError(
            f"{full[0]}; nothing was started or stopped", "free some space, then run `organism up`"
        )
    async with turn(home, "up", waiting=_teller(progress)):
        try:
            return await _Start(settings, home, when, progress).run()
        finally:
            ports.release()


async def stop(settings: Settings, *, progress: Progress = silent) -> StackStopped:
    """Stop every process of the stack in ``settings.home``. Its data stays.

    Raises:
        StackError: Some process cannot be stopped.
    """
    started = time.monotonic()
    home = settings.home.resolve()
    if not home.is_dir():
        return StackStopped(was_running=False, stopped=[], killed=0, seconds=0.0)
    async with turn(home, "down", waiting=_teller(progress), interrupt=True):
        refs = known_processes(home)
        marks = marks_of(home)
        there = {role for role in ROLES if marks.members(refs, [role])}
        killed = await uninterrupted(_stop_roles(marks, refs, there, progress))
        forget_stack(home)
        shutil.rmtree(short_folder(marks.stack_id), ignore_errors=True)
    seconds = round(time.monotonic() - started, 2)
    return StackStopped(was_running=bool(there), stopped=sorted(there), killed=killed, seconds=seconds)


def prepare_home(settings: Settings) -> Path:
    """Create the stack's folders and the token of its HTTP routes, and return its home.

    Raises:
        StackError: The folders cannot be created, belong to another user, or have too long a path.
        ConfigurationError: The token cannot be written.
    """
    components.refuse_long_sockets(settings.home.resolve(), stack_id_of(settings.home))
    # Other users may enter root's home but not list it: Postgres runs as another user below it.
    home = private_folder(settings.home.resolve(), mode=0o711 if os.geteuid() == 0 else 0o700)
    private_folder(home / "logs")
    make_token(settings.model_copy(update={"home": home}))
    private_folder(components.run_folder(home))
    return home


def marks_of(home: Path) -> processes.Marks:
    """Return the marks by which processes of the stack in ``home`` are recognized."""
    home = home.resolve()
    return processes.Marks(stack_id_of(home), components.run_folder(home), home / "postgres" / "data")


class _Start:
    """One run of `start`."""

    def __init__(self, settings: Settings, home: Path, when: When, progress: Progress) -> None:
        self.settings = settings
        self.home = home
        self.when = when
        self.changes: list[ReplacementDone] = []
        self.progress = progress
        self.database_answers = asyncio.Event()
        self.ray_answers = asyncio.Event()
        self.marks = marks_of(home)
        self.embedded = EmbeddedPostgres(home, self.marks.stack_id) if settings.dsn is None else None

    async def run(self) -> StackStarted:
        app = await organism_app.load(self.settings)
        if self.settings.dsn is not None:  # connect before a cluster is started for nothing
            from organism_flows.blocks.queue.db.connection import connect

            await (await connect(self.settings.dsn.get_secret_value())).close()
        previous = self._previous()
        refuse_other_installation(previous)
        healthy = await self._healthy(previous) if previous else set()
        if previous and healthy >= self._wanted():
            for line in ignored_ports(self.settings, previous):
                self._note("stack", line)
            await organism_app.declare_limits(app, self.settings, on_note=partial(self._note, "limits"))
            await self._deploy(app, previous, self._timed("organism"))
            return StackStarted(previous, True, self.changes)
        kept = healthy & set(ROLES)
        if not kept >= {"ray", "prefect"}:
            # It was started with their addresses. Postgres keeps its own, and flow runs survive its restart.
            kept.discard("worker")
        try:
            stack = await self._clear(previous, kept)
            write_stack(stack)
            await self._bring_up(stack, kept, app)
            self._assert_alive(stack)
            self._assert_loopback(stack)
            write_stack(stack)
        except BaseException:
            await uninterrupted(self._undo(previous, kept))
            raise
        return StackStarted(stack, False, self.changes)

    def _wanted(self) -> set[str]:
        wanted = {"ray", "prefect", "organism"} | ({"postgres"} if self.embedded else set())
        wanted |= {"worker"} if self.settings.worker else set()
        return wanted | ({"gateway"} if self.settings.gateway else set())

    def _previous(self) -> StackState | None:
        try:
            return read_stack(self.home)
        except StackError as error:
            self._note("stack", f"{error.what}; starting afresh")
            return None

    async def _healthy(self, previous: StackState) -> set[str]:
        """Return the roles of ``previous`` that run and work, and ``organism`` if it answers."""
        if previous.dsn_mark != dsn_mark(self.home, self.settings):
            self._note("stack", "the stack runs with another database than ORGANISM_DSN names; restarting it")
            return set()
        if not self._knows_secret(previous):
            self._note("stack", "the stack runs without the secret that Prefect is to ask for; restarting it")
            return set()
        alive = {role for role, ref in previous.processes.items() if processes.find(ref)}
        if not alive:
            return set()
        async with health.local_client() as client:
            checks: dict[str, Awaitable[Finding]] = {
                "ray": health.check_ray(client, previous),
                "prefect": health.check_prefect(client, previous),
                "organism": health.check_organism(client, previous),
            }
            if self.settings.worker:
                checks["worker"] = health.check_worker(client, previous)
            if self.settings.gateway:
                checks["gateway"] = health.check_gateway(client, previous)
            if self.embedded:
                checks["postgres"] = health.check_postgres(previous.dsn)
            answers = dict(zip(checks, await asyncio.gather(*checks.values()), strict=True))
        if self.embedded and self.settings.worker and not answers["postgres"].ok:
            # Prefect's server knows the worker only from the database, whose restart flow runs survive.
            answers["worker"] = ok("worker")
        return {role for role, answer in answers.items() if answer.ok and role in alive | {"organism"}}

    def _knows_secret(self, previous: StackState) -> bool:
        """Return True if the processes of ``previous`` have the secret that Prefect must require now."""
        known = read_secret(previous.prefect_secret_path)
        own = own_prefect_secret(previous.prefect_api_url)
        return bool(known) and own in (None, known)

    async def _clear(self, previous: StackState | None, kept: set[str]) -> StackState:
        """Stop what is broken or left over, and choose the addresses. Roles to restart leave ``kept``."""
        refs = previous.processes if previous else {}
        await _stop_roles(self.marks, refs, set(ROLES) - kept, silent, sweep=not kept)
        dsn = self.embedded.dsn() if self.embedded else ""
        stack = plan(self.settings, self.home, dsn=dsn, previous=previous, kept=kept, on_note=self._note)
        if previous and (misled := _misled(stack, previous) & kept):
            kept -= misled
            await _stop_roles(self.marks, refs, misled, silent)
            stack = plan(self.settings, self.home, dsn=dsn, previous=previous, kept=kept, on_note=self._note)
        return stack

    async def _bring_up(self, stack: StackState, kept: set[str], app: organism_app.OrganismApp) -> None:
        for role in sorted(kept):
            self.progress(Event(role, "kept"))
        async with health.local_client() as client:
            steps = [self._database(stack, kept), self._ray(stack, kept, app, client)]
            steps += [self._prefect(stack, kept, client)]
            if self.settings.gateway and "gateway" not in kept:
                steps.append(self._gateway(stack, client))
            await all_of(steps)
            await organism_app.declare_limits(app, self.settings, on_note=partial(self._note, "limits"))
            if self.settings.worker and "worker" not in kept:
                await components.start_watchdog(client, stack)

    async def _database(self, stack: StackState, kept: set[str]) -> None:
        dsn = stack.dsn
        if self.embedded is None:
            assert self.settings.dsn is not None
            dsn = (self.settings.direct_dsn or self.settings.dsn).get_secret_value()
        elif "postgres" not in kept:
            async with self._timed("postgres"):
                child = await self.embedded.start(postgres_environment(stack))
                self._remember(stack, child)
                await self.embedded.wait_ready(child)
        self.database_answers.set()
        async with self._timed("tables"):
            from organism_flows.blocks.queue import migrate
            from organism_flows.blocks.queue.db.roles import how_to_make

            if missing := await migrate(dsn):
                self._note("tables", how_to_make(missing))

    async def _ray(
        self, stack: StackState, kept: set[str], app: organism_app.OrganismApp, client: Any
    ) -> None:
        if "ray" not in kept:
            async with self._timed("ray"):
                child = components.start_ray(self.settings, stack)
                self._remember(stack, child)
                check = partial(health.check_ray, client, stack)
                await components.wait_for(child, check, components.RAY_TIMEOUT)
        self.ray_answers.set()
        async with self._timed("organism") as step:
            await self._deploy(app, stack, step)
            await organism_app.wait_until_healthy(client, stack)

    async def _deploy(
        self, app: organism_app.OrganismApp, stack: StackState, step: Callable[[str], None]
    ) -> None:
        note = partial(self._note, "organism")
        self.changes = await organism_app.deploy(app, stack, when=self.when, on_note=note, on_progress=step)

    async def _prefect(self, stack: StackState, kept: set[str], client: Any) -> None:
        new_worker = self.settings.worker and "worker" not in kept
        await self.database_answers.wait()
        if "prefect" not in kept or new_worker:  # without a worker there are no deployments
            with components.deploying(self.settings, stack) as apply_deployments:
                if "prefect" not in kept:
                    await self._prefect_server(stack, client)
                async with self._timed("deployments"):
                    await apply_deployments()
        if new_worker:
            # It begins at once what is due, for which the processors are not free yet and which needs Ray.
            await self.ray_answers.wait()
            async with self._timed("worker"):
                since = datetime.now(UTC)
                child = components.start_worker(self.settings, stack)
                self._remember(stack, child)
                check = partial(health.check_worker, client, stack, since=since)
                await components.wait_for(child, check, components.WORKER_TIMEOUT)

    async def _prefect_server(self, stack: StackState, client: Any) -> None:
        for line in components.about_prefects_data(stack):
            self._note("prefect", line)
        async with self._timed("prefect"):
            child = components.start_prefect(self.settings, stack)
            self._remember(stack, child)
            answers = partial(health.check_prefect, client, stack)
            check = partial(components.check_own_port, child, stack.prefect_api_url, answers)
            await components.wait_for(child, check, components.PREFECT_TIMEOUT)

    async def _gateway(self, stack: StackState, client: Any) -> None:
        async with self._timed("gateway"):
            child = components.start_gateway(self.settings, stack)
            self._remember(stack, child)
            answers = partial(health.check_gateway, client, stack)
            check = partial(components.check_own_port, child, stack.gateway_url, answers)
            await components.wait_for(child, check, components.GATEWAY_TIMEOUT)

    def _remember(self, stack: StackState, child: processes.Child) -> None:
        # Write it before waiting for the process: if we are killed now, the next `up` or `down` finds it.
        stack.processes[child.role] = child.ref
        write_stack(stack)

    def _assert_alive(self, stack: StackState) -> None:
        # The answers may have come from another server on the same port.
        for role, ref in stack.processes.items():
            if processes.find(ref) is None:
                log = self.home / "logs" / f"{role}.log"
                raise processes.failure(f"{role} ended while starting", processes.last_words(log), log)

    def _assert_loopback(self, stack: StackState) -> None:
        exposed = processes.exposed_sockets(self.marks.members(stack.processes))
        if exposed:
            raise StackError(
                f"other machines could reach {', '.join(exposed)}, so the stack was stopped",
                "report this with your versions of Ray and Prefect",
            )

    async def _undo(self, previous: StackState | None, kept: set[str]) -> None:
        refs = known_processes(self.home)
        await _stop_roles(self.marks, refs, set(ROLES) - kept, self.progress, sweep=not kept)
        if kept and previous:
            rest = {role: ref for role, ref in refs.items() if role in kept}
            write_stack(previous.model_copy(update={"processes": rest}))
        else:
            forget_stack(self.home)

    def _note(self, component: str, line: str) -> None:
        self.progress(Event(component, "note", detail=line))

    def _timed(self, component: str) -> StepTimer:
        return StepTimer(component, self.progress)


def _misled(stack: StackState, previous: StackState) -> set[str]:
    """Return the roles that were started with an address that has changed."""
    misled = set()
    if stack.prefect_api_url != previous.prefect_api_url:
        misled.add("ray")  # its workers report to Prefect
    if stack.organism_url != previous.organism_url:
        misled.add("gateway")
    return misled


async def _stop_roles(
    marks: processes.Marks,
    refs: dict[str, ProcessRef],
    roles: set[str],
    progress: Progress,
    *,
    sweep: bool = True,
) -> int:
    """Stop ``roles`` in order, with ``sweep`` also processes of unknown role; return how many were killed."""

    async def one(role: str) -> int:
        started = time.monotonic()
        progress(Event(role, "stopping"))
        first = STOP_SIGNAL if role == "postgres" else signal.SIGTERM
        killed = await processes.stop(marks, refs, role, first=first, grace=GRACE[role])
        progress(Event(role, "stopped", time.monotonic() - started))
        return killed

    killed = 0
    for step in STOPPING:
        killed += sum(await asyncio.gather(*(one(role) for role in step if role in roles)))
    if sweep and roles:
        killed += await processes.stop(marks, refs, None, grace=0.0)
    return killed


def _teller(progress: Progress) -> Callable[[str], None]:
    return lambda line: progress(Event("stack", "note", detail=line))
