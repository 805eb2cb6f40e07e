"""Checks for alerts: dead letters, tasks that wait or are interrupted, dispatch, verify."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.exceptions import ObjectNotFound

from organism_flows.blocks.finding import FindingStatus
from organism_flows.blocks.queue import Queue, ReadyTasks
from organism_flows.flows.alerting.transitions import Alert, AlertFinding
from organism_flows.flows.prefect_support.markdown import one_line
from organism_flows.flows.verification.verification import Verification

TIMEOUT_S = 10.0
COUNTED = 100_000
"""Number up to which dead letters, interrupted tasks and ready tasks of a type are counted."""
CLEARED_AT = 0.9
"""Share of a limit at or below which an alert is cleared.

Without this hysteresis, a value near the limit would raise and clear the alert at every check.
"""
DISPATCH = "dispatch/organism"


async def dead_letters(queue: Queue, limit: int) -> AlertFinding:
    """Check whether more than ``limit`` tasks have failed for good."""
    count = await queue.health.dead_letters(at_most=max(COUNTED, limit + 1))
    seen = f"{count:,}{'+' if count >= COUNTED else ''} tasks have failed for good, the limit is {limit:,}"
    return _finding(
        "dead-letters",
        _compared(count, limit),
        seen,
        "see why: organism tasks list --status failed; when that is mended: organism redrive",
        {"dead_letters": count, "limit": limit},
    )


async def oldest_ready(queue: Queue, limit_s: float) -> AlertFinding:
    """Check whether a task has been ready for longer than ``limit_s`` seconds."""
    types = await queue.health.ready(at_most=COUNTED)
    oldest_s = max((ready.oldest_s for ready in types), default=0.0)
    seen = f"the oldest ready task has waited for {oldest_s:,.0f} s, the limit is {limit_s:,.0f} s"
    if types:
        seen += f" ({', '.join(map(_waiting, types[:3]))}{' …' if len(types) > 3 else ''})"
    paused = [f"{pause.kind} {one_line(pause.name, 60)}" for pause in await queue.operator.pauses()]
    if paused:
        seen += f"; paused: {', '.join(paused[:5])}"
    return _finding(
        "oldest-ready",
        _compared(oldest_s, limit_s),
        seen,
        "see why one waits: organism tasks list --status queued, organism tasks why <id>",
        {"oldest_ready_s": round(oldest_s, 1), "limit_s": limit_s},
    )


async def interrupted(queue: Queue, limit: int) -> AlertFinding:
    """Check whether more than ``limit`` unfinished tasks were interrupted more than twice."""
    count = await queue.health.interrupted(at_most=max(COUNTED, limit + 1))
    shown = f"{count:,}{'+' if count >= COUNTED else ''}"
    seen = f"unfinished tasks that were interrupted more than twice: {shown}, the limit is {limit:,}"
    most = await queue.health.most_interrupted(at_most=3) if count else []
    if most:
        named = ", ".join(f"{one_line(kind, 60)} {task}: {times} times" for task, kind, times in most)
        seen += f" ({named}{' …' if count > len(most) else ''})"
    return _finding(
        "interrupted",
        _compared(count, limit),
        seen,
        "see what interrupts one: organism tasks why <id>; "
        "bound it: organism tasks policy <type> --max-interruptions N",
        {"interrupted": count, "limit": limit},
    )


def dispatch(lanes: int, due: bool, patience_s: float) -> AlertFinding:
    """Check whether lanes claim tasks if they should.

    Args:
        lanes: Number of lanes that claim tasks.
        due: A run of dispatch was due by its schedule.
        patience_s: Time without a lane after which the alert is raised, in seconds.
    """
    if lanes:
        seen = f"{lanes} lanes claim tasks"
    elif due:
        seen = f"no lane has claimed for {patience_s:g} s, though {DISPATCH} is scheduled and a run was due"
    else:
        seen = f"no lane claims tasks, and by the schedule of {DISPATCH} none has to"
    return _finding(
        "dispatch-missing",
        "failed" if due and not lanes else "ok",
        seen,
        f"see the runs of {DISPATCH} and the work pool in Prefect; for now: organism dispatch",
        {"lanes": lanes},
        patience_s=patience_s,
    )


def verification(found: Verification) -> AlertFinding:
    """Check whether a check of verify has failed. A degraded one is no alert."""
    failures = [f for f in found.troubles if f.status == "failed"]
    seen = "; ".join(f"{f.check}: {one_line(f.evidence)}" for f in failures[:5])
    if len(failures) > 5:
        seen += f"; and {len(failures) - 5} more"
    todo = "; ".join(dict.fromkeys(one_line(f.action) for f in failures[:5]))
    well = f"no check fails any more ({one_line(found.line)})"
    status: FindingStatus = "failed" if failures else "ok"
    return _finding("verify", status, seen or well, todo, {"failed": len(failures)})


def _finding(
    alert: Alert,
    status: FindingStatus,
    evidence: str,
    action: str,
    figures: dict[str, Any],
    patience_s: float = 0.0,
) -> AlertFinding:
    return AlertFinding(
        check=alert,
        status=status,
        evidence=evidence,
        action="" if status == "ok" else action,
        figures=figures,
        patience_s=patience_s,
    )


def _compared(value: float, limit: float) -> FindingStatus:
    """Return the status of a value: ``degraded`` inside the hysteresis band below the limit."""
    if value > limit:
        return "failed"
    return "ok" if value <= limit * CLEARED_AT else "degraded"


def _waiting(tasks: ReadyTasks) -> str:
    return f"{one_line(tasks.type, 60)}: {tasks.ready:,}{'+' if tasks.ready >= COUNTED else ''} ready"


async def dispatch_is_due(client: PrefectClient, queue: str) -> bool:
    """Return True if dispatch of this queue has a schedule that is on and has been for one run at least."""
    try:
        deployment = await client.read_deployment_by_name(DISPATCH)
    except ObjectNotFound:
        return False
    active = [schedule for schedule in deployment.schedules if schedule.active]
    if deployment.paused or not active or deployment.parameters.get("queue", "default") != queue:
        return False
    on_since = [schedule.updated for schedule in active if schedule.updated]
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
            expected_start_time=FlowRunFilterExpectedStartTime(
                after_=min(on_since, default=None), before_=datetime.now(UTC)
            ),
        ),
        limit=1,
    )
    return bool(runs)
