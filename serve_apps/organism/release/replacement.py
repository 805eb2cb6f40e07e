"""Replacement of the organism that runs: what it costs the tasks, and a wait until there are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import httpx
from pydantic import BaseModel

from organism_flows.blocks.errors import OrganismUnavailable
from organism_flows.serve_apps.organism.release.changes import (
    TAKEN_DOWN,
    Change,
    Effect,
    compare,
    label,
    notes,
)
from organism_flows.serve_apps.organism.release.serve_api import (
    details,
    fitted,
    replace,
    routes_client,
    routes_url,
)
from organism_flows.serve_apps.organism.release.serve_config import APP

When = Literal["drain", "idle", "now"]
"""When replicas end: after tasks had ``drain_s`` to end, once they have no tasks, or at once."""
POLL_S = 0.5
REPORT_S = 10.0
"""Longest time between two reports during a wait, in seconds."""
PATIENCE_S = 30.0
"""Longest time a wait goes on while the organism does not say what runs on it, in seconds."""
WORDS = {
    Effect.STARTED: "replicas are started",
    Effect.IN_PLACE: "the configuration is applied in place, nothing is interrupted",
    Effect.SCALED_DOWN: "replicas are taken away",
    Effect.REPLACED: "replicas are replaced",
    Effect.REMOVED: "its replicas are removed",
}


class OrganRunning(BaseModel):
    """Tasks of one organ on one replica."""

    in_flight: int
    waiting: int = 0
    longest_s: float | None = None
    drain_s: float


class ReplicaRunning(BaseModel):
    """Tasks on one replica."""

    replica: str
    draining: bool = False
    organs: dict[str, OrganRunning]


class RunningTasks(BaseModel):
    """Tasks on all replicas, as the organism's route ``/running`` returns them."""

    replicas: list[ReplicaRunning]

    def on(self, organs: Collection[str]) -> ReplacedLoad:
        """Return what runs for ``organs`` on replicas that are not being taken down already."""
        found = [
            organ
            for replica in self.replicas
            if not replica.draining
            for name, organ in replica.organs.items()
            if name in organs
        ]
        busy = [organ for organ in found if organ.in_flight]
        return ReplacedLoad(
            tasks=sum(organ.in_flight for organ in found),
            waiting=sum(organ.waiting for organ in found),
            longest_s=max((organ.longest_s or 0.0 for organ in busy), default=0.0),
            drain_s=sorted({organ.drain_s for organ in busy}),
        )


class LoadUnknown(NamedTuple):
    """The reason why it is not known what runs."""

    why: str
    lasting: bool
    """True if asking again will not help."""


class ReplacedLoad(BaseModel):
    """What runs on replicas that are to be taken down."""

    tasks: int
    waiting: int
    longest_s: float
    drain_s: list[float]
    """Seconds that the tasks have to end: the different values of the organs, in rising order."""

    @property
    def idle(self) -> bool:
        """Return True if nothing runs or waits there."""
        return not self.tasks and not self.waiting

    @property
    def line(self) -> str:
        """Return what runs, in words."""
        if self.idle:
            return "nothing runs there"
        waiting = f"{self.waiting:,} wait{'s' if self.waiting == 1 else ''} there" if self.waiting else ""
        if not self.tasks:
            return waiting
        run = f"{_tasks(self.tasks)} there, the longest for {self.longest_s:.0f} s"
        return f"{run}, and {waiting}" if waiting else run


class ReplacementDone(Change):
    """A change that was made, with the tasks that were there when it was announced."""

    load: ReplacedLoad | None = None
    """`None` means that nothing is taken down, or that it was not known what ran."""
    line: str
    """The whole change in words."""


@dataclass(frozen=True)
class ReplacementPlan:
    """The changes that a deployment would make."""

    config: dict[str, Any]
    """What to deploy, in Serve's config schema."""
    changes: list[Change]
    notes: list[str]
    code_changed: bool
    """True if handlers' code differs that was deployed with digests of its files."""
    routes: str | None
    """Base of the routes of the organism that runs. `None` means that none runs, or that it has no routes."""

    @property
    def taken_down(self) -> set[str]:
        """Return the ids of the organs whose replicas will end."""
        return {organ for one in self.changes if one.effect in TAKEN_DOWN for organ in one.organs}


async def plan(dashboard_url: str, token: str | None, config_dict: dict[str, Any]) -> ReplacementPlan:
    """Return what deploying ``config_dict`` would change.

    Args:
        dashboard_url: URL of the Ray dashboard.
        token: Ray's authentication token; `None` means the cluster has none.
        config_dict: What to deploy, made by `serve_config`.

    Raises:
        OrganismUnavailable: The dashboard cannot be reached.
        ConfigurationError: The token is refused.
    """
    there = await details(dashboard_url, token)
    present = there.get("applications", {}).get(APP) or {}
    config = fitted(config_dict, there)
    [wanted] = [app for app in config["applications"] if app["name"] == APP]
    running = present.get("status") in ("RUNNING", "DEPLOYING", "UNHEALTHY")
    deployed = present.get("deployed_app_config")
    return ReplacementPlan(
        config,
        compare(deployed, wanted),
        notes(wanted),
        isinstance(code := _code(deployed), dict) and code != _code(wanted),
        routes_url(there, dashboard_url) if running else None,
    )


async def carry_out(
    plan: ReplacementPlan,
    dashboard_url: str,
    token: str | None,
    timeout_s: float,
    *,
    when: When = "drain",
    on_note: Callable[[str], None],
    on_progress: Callable[[str], None] | None = None,
) -> list[ReplacementDone]:
    """Report what ``plan`` changes and what that costs, deploy it, and wait until it runs.

    Args:
        plan: The plan, made by `plan`.
        dashboard_url: URL of the Ray dashboard.
        token: Ray's authentication token; `None` means the cluster has none.
        timeout_s: Longest wait until it runs, in seconds; once more for what ran before if it does not run.
        when: When tasks on replicas that end are interrupted.
        on_note: Called with each line that should stay readable.
        on_progress: Called with a line whenever something has changed.

    Returns:
        The changes that were made; empty if there was nothing to change.

    Raises:
        ConfigurationError: The configuration is wrong.
        OrganismUnavailable: It does not run in time; or with "idle", it is not known what runs now.
    """
    report = on_progress or (lambda _: None)
    running = await _running(plan.routes) if plan.taken_down else RunningTasks(replicas=[])
    done = [_described(change, running, when) for change in plan.changes]
    if not _only(done, Effect.STARTED):
        for line in [*plan.notes, *_lines(done)]:
            on_note(line)
    if plan.taken_down and plan.routes is not None:
        if when == "idle":
            await _wait_until_idle(plan, report)
        elif when == "now":
            on_note(await _limit_drain(plan.routes))
    await replace(dashboard_url, token, plan.config, timeout_s, on_progress)
    return done


def summary(done: Collection[ReplacementDone]) -> str:
    """Return what was done to the organism, in one line."""
    if not done:
        return "nothing to change"
    replaced = [one for one in done if one.effect in TAKEN_DOWN]
    reasons = list(dict.fromkeys(reason for one in replaced or done for reason in one.why))
    what = "replaced" if replaced else "started" if _only(done, Effect.STARTED) else "changed in place"
    return f"the organism was {what}: {'; '.join(reasons)}"


def _code(app: dict[str, Any] | None) -> Any:
    return ((app or {}).get("args") or {}).get("code")


def _only(done: Collection[ReplacementDone], effect: Effect) -> bool:
    return all(one.effect is effect for one in done)


def _described(change: Change, running: RunningTasks | LoadUnknown, when: When) -> ReplacementDone:
    line = f"{WORDS[change.effect]}: {'; '.join(change.why)}"
    load = None
    if change.effect in TAKEN_DOWN:
        if isinstance(running, LoadUnknown):
            line += f"; what runs there is not known: {running.why}"
        else:
            load = running.on(change.organs)
            line += f"; {load.line}"
            if not load.idle:
                line += _cost(load, when)
    return ReplacementDone(**change.model_dump(), load=load, line=line)


def _cost(load: ReplacedLoad, when: When) -> str:
    """Return what happens to the tasks that run, in words."""
    match when:
        case "idle":
            return "; it is done when they have ended (--when-idle)"
        case "now":
            return "; they are handed back at once, uncharged, and run again from the start (--now)"
        case "drain":
            if not load.tasks:
                return "; they are handed back at once, uncharged"
            spans = [load.drain_s[0], load.drain_s[-1]] if load.drain_s else []
            span = " to ".join(f"{one:g}" for one in dict.fromkeys(spans))
            return (
                f"; they have {span} s to end and are then handed back uncharged "
                "and run again from the start (drain_s)"
            )


def _lines(done: Collection[ReplacementDone]) -> list[str]:
    """Return one line for all deployments with the same change."""
    alike: dict[str, list[str]] = {}
    for one in done:
        alike.setdefault(one.line, []).append(label(one))
    return [f"{', '.join(labels)}: {line}" for line, labels in alike.items()]


async def _running(routes: str | None) -> RunningTasks | LoadUnknown:
    if routes is None:
        return LoadUnknown("it does not run, or has no HTTP routes", lasting=True)
    try:
        async with routes_client(routes, timeout=10.0) as client:
            response = await client.get("/running")
        if response.status_code == 404:
            return LoadUnknown("it is of an older version, which does not say", lasting=True)
        response.raise_for_status()
        return RunningTasks.model_validate(response.json())
    except (httpx.HTTPError, ValueError) as error:
        return LoadUnknown(f"{routes}/running does not answer: {_first_line(error)}", lasting=False)


async def _wait_until_idle(plan: ReplacementPlan, report: Callable[[str], None]) -> None:
    silent_since: float | None = None
    reported, reported_at = (-1, -1), 0.0
    while True:
        running = await _running(plan.routes)
        now = time.monotonic()
        if isinstance(running, LoadUnknown):
            silent_since = silent_since or now
            if running.lasting or now - silent_since > PATIENCE_S:
                raise OrganismUnavailable(
                    f"--when-idle needs to know what runs on the organism: {running.why}",
                    "leave --when-idle out, or see `organism status`",
                )
        else:
            silent_since = None
            load = running.on(plan.taken_down)
            if load.idle:
                return
            if (load.tasks, load.waiting) != reported or now - reported_at >= REPORT_S:
                reported, reported_at = (load.tasks, load.waiting), now
                report(f"waiting until nothing runs there: {load.line}")
        await asyncio.sleep(POLL_S)


async def _limit_drain(routes: str) -> str:
    """Make replicas that are taken down from now on hand back running tasks at once; return a note on it."""
    try:
        async with routes_client(routes, timeout=10.0) as client:
            response = await client.post("/drain-limit", params={"within_s": 0})
        response.raise_for_status()
        return "--now: what runs on the replicas that go is handed back at once"
    except httpx.HTTPError as error:
        return f"--now has no effect, tasks have their time to end: {_first_line(error)}"


def _tasks(count: int) -> str:
    return f"{count:,} task{'s' if count != 1 else ''} run{'s' if count == 1 else ''}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
