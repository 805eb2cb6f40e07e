"""The routes that cancel, run, retry and redrive tasks."""

from uuid import UUID

from fastapi import APIRouter, Request

from organism_flows.blocks.client.messages import (
    BulkCancelRequest,
    BulkCancelResult,
    BulkRedriveRequest,
    BulkRedriveResult,
    BulkRetryRequest,
    BulkRetryResult,
    TaskActionResult,
)
from organism_flows.blocks.queue import RedriveFilter, TaskFilter, TaskRow
from organism_flows.blocks.queue.models.operations import Status
from organism_flows.serve_apps.gateway.dependencies import (
    OF_A_TASK,
    TheQueue,
    TheTask,
    errors,
    record,
    show_change,
)
from organism_flows.serve_apps.gateway.http.json_body import Route
from organism_flows.serve_apps.gateway.http.problems import RequestRefused

STEERED_AT_MOST = 100_000
"""Number of tasks after which a request stops cancelling or retrying, and answers that there may be more."""
UNDONE_AT_MOST = 1000
"""Most tasks whose cancel can be undone."""
REDRIVEN_AT_MOST = 100_000
"""Most tasks that one request redrives; then it answers that there may be more."""
UNDER_WAY: tuple[Status, ...] = ("queued", "waiting", "running", "retry")
CONFLICT = {**OF_A_TASK, **errors("not-found", "ambiguous-id", "conflict", "not-json")}

router = APIRouter(prefix="/api/tasks", tags=["steering"], route_class=Route)


@router.post(
    "/cancel",
    summary="Cancel the tasks that fit a filter",
    responses=errors("bad-request", "too-large", "not-json"),
)
async def cancel_all(body: BulkCancelRequest, queue: TheQueue, request: Request) -> BulkCancelResult:
    """Count the unfinished tasks that fit, and with `dry_run: false` cancel them.

    Tasks that are submitted meanwhile are not cancelled.
    """
    filter = TaskFilter(**body.model_dump(exclude={"dry_run"}))
    if filter == TaskFilter():
        raise RequestRefused(
            "invalid", "body: no condition is given", next_step="give at least one, such as type"
        )
    matched = await queue.operator.cancellable(filter)
    cancelled = requested = 0
    undo: list[UUID] = []
    complete = True
    if not body.dry_run:
        async for done in queue.operator.cancel_all(filter):
            cancelled += len(done.cancelled)
            undo = [*undo, *done.cancelled][: UNDONE_AT_MOST + 1]
            requested += len(done.requested)
            if cancelled + requested >= STEERED_AT_MOST:
                complete = False
                break
        asked = filter.model_dump(mode="json", exclude_defaults=True)
        await record(request, "cancel", asked, tasks=cancelled + requested)
    # A retry cannot make a task one that is only created.
    undoable = len(undo) <= UNDONE_AT_MOST and not matched.get("created")
    return BulkCancelResult(
        dry_run=body.dry_run,
        matched=matched,
        cancelled=cancelled,
        requested=requested,
        complete=complete,
        undo=undo if undoable else [],
    )


@router.post(
    "/retry",
    summary="Run the failed and cancelled tasks that fit a filter again",
    responses=errors("bad-request", "too-large", "not-json"),
)
async def retry_all(body: BulkRetryRequest, queue: TheQueue, request: Request) -> BulkRetryResult:
    """Count the failed and cancelled tasks that fit, and with `dry_run: false` queue them again.

    They are due at once and have fresh attempts; their history stays. With `ids`, just these tasks are queued
    again. `POST /api/tasks/redrive` selects dead letters by when they ended.
    """
    filter = TaskFilter(**body.model_dump(exclude={"dry_run", "ids"}))
    if filter == TaskFilter() and not body.ids:
        raise RequestRefused(
            "invalid", "body: no condition is given", next_step="give at least one, such as type"
        )
    matched = {} if body.ids else await queue.operator.retriable(filter)
    retried = kept_out = 0
    complete = True
    if not body.dry_run:
        asked = filter.model_dump(mode="json", exclude_defaults=True)
        if body.ids:
            asked = {"ids": len(body.ids)}
            done = await queue.operator.retry(body.ids)
            retried, kept_out = len(done.retried), len(done.duplicates)
        else:
            async for done in queue.operator.retry_all(filter):
                retried += len(done.retried)
                kept_out += len(done.duplicates)
                if retried >= STEERED_AT_MOST:
                    complete = False
                    break
        await record(request, "retry", asked, tasks=retried)
    return BulkRetryResult(
        dry_run=body.dry_run, matched=matched, retried=retried, kept_out=kept_out, complete=complete
    )


@router.post(
    "/redrive",
    summary="Put back the dead letters that fit a filter",
    responses=errors("bad-request", "too-large", "not-json"),
)
async def redrive_all(body: BulkRedriveRequest, queue: TheQueue, request: Request) -> BulkRedriveResult:
    """Count the dead letters that fit, and with `dry_run: false` queue them again, with fresh attempts.

    Their history keeps the errors. The table `task_audit` records who redrove them.
    """
    wanted = RedriveFilter(**body.model_dump(exclude={"dry_run", "limit", "from_start"}))
    if wanted in (RedriveFilter(), RedriveFilter(cancelled=True)):
        raise RequestRefused(
            "invalid", "body: no condition is given", next_step="give at least one, such as type"
        )
    if body.dry_run:
        found = await queue.operator.redrivable(wanted)
        count = found.count if body.limit is None else min(found.count, body.limit)
        return BulkRedriveResult(
            dry_run=True,
            found=count,
            sample=found.sample[:count],
            redriven=0,
            kept_out=0,
            complete=True,
            audit=None,
        )
    limit = min(body.limit or REDRIVEN_AT_MOST, REDRIVEN_AT_MOST)
    done = await queue.operator.redrive(
        wanted, actor=f"gateway: {request.state.who}", limit=limit, from_start=body.from_start
    )
    show_change(request)
    complete = done.redriven < limit or done.redriven == body.limit
    return BulkRedriveResult(
        dry_run=False,
        found=None,
        sample=[],
        redriven=done.redriven,
        kept_out=done.kept_out,
        complete=complete,
        audit=done.audit,
    )


@router.post("/{task_id}/cancel", summary="Cancel a task", responses=CONFLICT)
async def cancel(task: TheTask, queue: TheQueue, request: Request) -> TaskActionResult:
    """Cancel a task: at once while it waits; while it runs, as soon as the request reaches its handler.

    A task that is already cancelled does not change. For one that has completed or failed, the answer is a
    conflict.
    """
    done = await queue.operator.cancel([task.id])
    if done.cancelled or done.requested:
        await record(request, "cancel", {"id": str(task.id)}, tasks=1)
    task = await queue.get(str(task.id))
    if done.cancelled:
        return TaskActionResult(id=task.id, outcome="cancelled", status=task.status)
    if done.requested:
        return TaskActionResult(id=task.id, outcome="requested", status=task.status)
    return _unchanged(task, "cancelled", ("cancelled",))


@router.post("/{task_id}/run", summary="Run a task that is only created", responses=CONFLICT)
async def run(task: TheTask, queue: TheQueue, request: Request) -> TaskActionResult:
    """Queue a task that was submitted with `run_immediately: false`.

    A task that already waits or runs does not change. For one that has ended, the answer is a conflict.
    """
    started = await queue.operator.start([task.id])
    if started:
        await record(request, "run", {"id": str(task.id)}, tasks=1)
    task = await queue.get(str(task.id))
    if started:
        return TaskActionResult(id=task.id, outcome="queued", status=task.status)
    return _unchanged(task, "run", UNDER_WAY)


@router.post("/{task_id}/retry", summary="Run a failed or cancelled task again", responses=CONFLICT)
async def retry(task: TheTask, queue: TheQueue, request: Request) -> TaskActionResult:
    """Queue a failed or cancelled task again, with fresh attempts; its history stays.

    A task that already waits or runs does not change. For one that has completed or is only created, the
    answer is a conflict. It is a conflict too if another unfinished task of its type has its `dedup_key`.
    """
    done = await queue.operator.retry([task.id])
    if done.retried:
        await record(request, "retry", {"id": str(task.id)}, tasks=1)
    task = await queue.get(str(task.id))
    if done.retried:
        return TaskActionResult(id=task.id, outcome="queued", status=task.status)
    if done.duplicates:
        raise RequestRefused(
            "conflict",
            f"another unfinished task of type {task.type} has the dedup_key {task.dedup_key}",
            next_step="wait for that one, or cancel it",
        )
    return _unchanged(task, "retried", UNDER_WAY)


def _unchanged(task: TaskRow, asked: str, fine: tuple[Status, ...]) -> TaskActionResult:
    if task.status not in fine:
        raise RequestRefused("conflict", f"task {task.id} is {task.status} and cannot be {asked}")
    return TaskActionResult(id=task.id, outcome="unchanged", status=task.status)
