"""Requests to the gateway and their answers, for the clients in `blocks.client`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from organism_flows.blocks.client.board_messages import (
    AuditPage,
    FailureList,
    Overview,
    PolicyFigures,
    TypeList,
)
from organism_flows.blocks.client.event_messages import AnswerLinks, EventResult
from organism_flows.blocks.client.limit_messages import LimitList, LimitRemoved, LimitRequest
from organism_flows.blocks.client.messages import (
    PAGE_LIMIT,
    BulkCancelRequest,
    BulkCancelResult,
    BulkRedriveRequest,
    BulkRedriveResult,
    BulkRetryRequest,
    BulkRetryResult,
    MissingTask,
    PauseList,
    PauseRequest,
    Problem,
    ResumeRequest,
    ResumeResult,
    SubmitResult,
    TaskActionResult,
    TaskPage,
    TaskStatus,
    WaitResult,
)
from organism_flows.blocks.errors import GatewayError, GatewayUnavailable, TaskEnded
from organism_flows.blocks.queue.explain import Why
from organism_flows.blocks.queue.models.limits import Limit
from organism_flows.blocks.queue.models.operations import (
    NewTask,
    PausedKind,
    RedriveFilter,
    TaskFilter,
    TypePolicy,
)
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.tracing import current_traceparent

WAIT_S = 30.0
"""Longest wait of one request, in seconds; a longer wait takes several."""
EXPORT_PAGE_S = 300.0
"""Longest time for a page of an export, in seconds."""
ExportFormat: TypeAlias = Literal["jsonl", "csv", "parquet"]
TASK_PATH = "/api/tasks"

Model = TypeVar("Model", bound=BaseModel)
_LINE: TypeAdapter[WaitResult | MissingTask] = TypeAdapter(WaitResult | MissingTask)


@dataclass(frozen=True)
class ApiRequest(Generic[Model]):
    """A request, and the model of its answer."""

    model: type[Model]
    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)

    def parsed(self, answer: httpx.Response) -> Model:
        """Return the model in ``answer``.

        Raises:
            GatewayError: The gateway refused.
            GatewayUnavailable: The gateway cannot reach the queue, or a proxy cannot reach the gateway.
        """
        if answer.is_success:
            return self.model.model_validate_json(answer.content)
        raise refusal(answer)


def refusal(answer: httpx.Response) -> GatewayError | GatewayUnavailable:
    """Return the error for an answer without success. Its content must have been read."""
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        # Not from the gateway but from a proxy in front of it.
        asked = f"{answer.request.method} {answer.request.url.path}"
        problem = Problem(
            type="about:blank",
            title=answer.reason_phrase,
            status=answer.status_code,
            detail=f"{asked} was answered {answer.status_code} {answer.reason_phrase}",
        )
    if problem.status in (502, 503, 504):
        return GatewayUnavailable(problem.detail, problem.next_step or "try again later")
    return GatewayError(problem)


def unreachable(base_url: httpx.URL, error: httpx.TransportError) -> GatewayUnavailable:
    """Return the error for a gateway that cannot be reached."""
    return GatewayUnavailable(
        f"cannot reach the gateway at {base_url}: {error or type(error).__name__}",
        "start it: `organism up`, or `python -m organism_flows.serve_apps.gateway`",
    )


def result_of(outcome: WaitResult, timeout: float | None) -> Any:
    """Return the result in ``outcome``.

    Args:
        outcome: Answer to the wait for a task.
        timeout: Seconds of the wait, for the message.

    Raises:
        TaskEnded: The task failed or was cancelled.
        TimeoutError: The task has not ended.
    """
    if not outcome.finished:
        raise TimeoutError(f"task {outcome.id} is {outcome.status} after {timeout:g} s")
    if outcome.status != "completed":
        raise TaskEnded(outcome)
    return outcome.result


def wait_line(line: bytes) -> WaitResult | None:
    """Return the outcome in one line of the answer to a wait for many tasks; `None` for a sign of life.

    Raises:
        GatewayError: The task does not exist, or not any more.
    """
    if not line:
        return None
    found = _LINE.validate_json(line)
    if isinstance(found, MissingTask):
        raise missing_task(found.id)
    return found


def missing_task(id: UUID | str) -> GatewayError:
    """Return the error for a task that does not exist any more."""
    detail = f"there is no task {id} any more"
    return GatewayError(
        Problem(type="urn:organism:not-found", title="There is no such thing", status=404, detail=detail)
    )


# Each function returns the request of the client method that has its name.


def submit_all(tasks: Sequence[NewTask]) -> ApiRequest[SubmitResult]:
    body = [task.model_dump(mode="json", exclude_unset=True) for task in tasks]
    options: dict[str, Any] = {"json": body}
    if (traceparent := current_traceparent()) is not None:
        options["headers"] = {"traceparent": traceparent}
    return ApiRequest(SubmitResult, "POST", TASK_PATH, options)


def get(id: UUID | str) -> ApiRequest[TaskRow]:
    return ApiRequest(TaskRow, "GET", f"{TASK_PATH}/{id}")


def status(id: UUID | str) -> ApiRequest[TaskStatus]:
    return ApiRequest(TaskStatus, "GET", f"{TASK_PATH}/{id}/status")


def why(id: UUID | str) -> ApiRequest[Why]:
    return ApiRequest(Why, "GET", f"{TASK_PATH}/{id}/why")


def wait(id: UUID | str, left: float, timeout: float) -> ApiRequest[WaitResult]:
    options = {"params": {"timeout": min(left, WAIT_S)}, "timeout": timeout + WAIT_S}
    return ApiRequest(WaitResult, "GET", f"{TASK_PATH}/{id}/wait", options)


def wait_many(ids: Sequence[UUID], left: float, timeout: float) -> dict[str, Any]:
    """Return the options of a streamed request. `wait_line` reads its lines."""
    body = {"ids": [str(id) for id in ids], "timeout": min(left, WAIT_S)}
    return {"method": "POST", "url": f"{TASK_PATH}/wait", "json": body, "timeout": timeout + WAIT_S}


def export(filter: TaskFilter | None, format: ExportFormat, timeout: float) -> dict[str, Any]:
    """Return the options of a streamed request. A page takes long if few tasks match the filter."""
    query = (filter or TaskFilter()).model_dump(mode="json", exclude_none=True)
    params = {**query, "format": format}
    return {
        "method": "GET",
        "url": f"{TASK_PATH}/export",
        "params": params,
        "timeout": timeout + EXPORT_PAGE_S,
    }


def steer(id: UUID | str, how: str) -> ApiRequest[TaskActionResult]:
    return ApiRequest(TaskActionResult, "POST", f"{TASK_PATH}/{id}/{how}")


def send_event(id: UUID | str, name: str, payload: Any) -> ApiRequest[EventResult]:
    path = f"{TASK_PATH}/{id}/events/{quote(name, safe='')}"
    return ApiRequest(EventResult, "POST", path, {"json": {"payload": payload}})


def answer_links(
    id: UUID | str, event: str, choices: Sequence[str], expires_in_s: float
) -> ApiRequest[AnswerLinks]:
    path = f"{TASK_PATH}/{id}/links/{quote(event, safe='')}"
    body = {"choices": list(choices), "expires_in_s": expires_in_s}
    return ApiRequest(AnswerLinks, "POST", path, {"json": body})


def cancel_all(filter: TaskFilter, dry_run: bool) -> ApiRequest[BulkCancelResult]:
    body = BulkCancelRequest(**filter.model_dump(), dry_run=dry_run).model_dump(mode="json")
    return ApiRequest(BulkCancelResult, "POST", f"{TASK_PATH}/cancel", {"json": body})


def retry_all(filter: TaskFilter | None, ids: Sequence[UUID], dry_run: bool) -> ApiRequest[BulkRetryResult]:
    given = filter.model_dump() if filter else {}
    body = BulkRetryRequest(**given, ids=list(ids), dry_run=dry_run).model_dump(mode="json")
    return ApiRequest(BulkRetryResult, "POST", f"{TASK_PATH}/retry", {"json": body})


def redrive_all(
    filter: RedriveFilter, limit: int | None, from_start: bool, dry_run: bool
) -> ApiRequest[BulkRedriveResult]:
    options = {"limit": limit, "from_start": from_start, "dry_run": dry_run}
    body = BulkRedriveRequest(**filter.model_dump(), **options).model_dump(mode="json")
    return ApiRequest(BulkRedriveResult, "POST", f"{TASK_PATH}/redrive", {"json": body})


def pause(kind: PausedKind, name: str, reason: str | None) -> ApiRequest[PauseList]:
    body = PauseRequest(kind=kind, name=name, reason=reason).model_dump()
    return ApiRequest(PauseList, "POST", "/api/pauses", {"json": body})


def resume(kind: PausedKind, name: str) -> ApiRequest[ResumeResult]:
    body = ResumeRequest(kind=kind, name=name).model_dump()
    return ApiRequest(ResumeResult, "POST", "/api/pauses/resume", {"json": body})


def pauses() -> ApiRequest[PauseList]:
    return ApiRequest(PauseList, "GET", "/api/pauses")


def limits() -> ApiRequest[LimitList]:
    return ApiRequest(LimitList, "GET", "/api/limits")


def set_limit(limit: Limit) -> ApiRequest[LimitList]:
    body = LimitRequest(**limit.model_dump()).model_dump(mode="json")
    return ApiRequest(LimitList, "POST", "/api/limits", {"json": body})


def remove_limit(name: str) -> ApiRequest[LimitRemoved]:
    return ApiRequest(LimitRemoved, "POST", "/api/limits/remove", {"json": {"name": name}})


def page(filter: TaskFilter | None, cursor: str | None) -> ApiRequest[TaskPage]:
    query = (filter or TaskFilter()).model_dump(mode="json", exclude_none=True)
    params = {**query, "limit": PAGE_LIMIT, **({"cursor": cursor} if cursor else {})}
    return ApiRequest(TaskPage, "GET", TASK_PATH, {"params": params})


def overview() -> ApiRequest[Overview]:
    return ApiRequest(Overview, "GET", "/api/overview")


def failures(type: str | None, domain: str | None, since: datetime | None) -> ApiRequest[FailureList]:
    query = {"type": type, "domain": domain, "since": since.isoformat() if since else None}
    params = {name: value for name, value in query.items() if value is not None}
    return ApiRequest(FailureList, "GET", "/api/failures", {"params": params})


def types() -> ApiRequest[TypeList]:
    return ApiRequest(TypeList, "GET", "/api/types")


def set_policy(policy: TypePolicy) -> ApiRequest[PolicyFigures]:
    return ApiRequest(PolicyFigures, "POST", "/api/types/policy", {"json": policy.model_dump()})


def audit(action: str | None, cursor: str | None) -> ApiRequest[AuditPage]:
    query = {"action": action, "cursor": cursor, "limit": PAGE_LIMIT}
    params = {name: value for name, value in query.items() if value is not None}
    return ApiRequest(AuditPage, "GET", "/api/audit", {"params": params})
