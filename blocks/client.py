"""A client of the gateway, for programs that know neither Prefect nor Ray nor Postgres.

```python
async with Client("http://127.0.0.1:8080") as client:
    task = await client.submit("echo", {"n": 1})
    print(await task.result(timeout=10))
```
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, ValidationError

from blocks.errors import OrganismError
from blocks.gateway_api import (
    PAGE_LIMIT,
    CancelAll,
    CancelledAll,
    Page,
    PauseOrder,
    Pauses,
    Problem,
    RedriveAll,
    RedrivenAll,
    Resumed,
    ResumeOrder,
    Steered,
    Submission,
    TaskStatus,
    Waited,
)
from blocks.queue.models import NewTask, Pause, PausedKind, RedriveFilter, TaskFilter, TaskLine, TaskRow
from blocks.queue.why import Why

URL = "http://127.0.0.1:8080"
WAIT_S = 30.0
"""Of one request; a longer wait is several."""
OUTAGE_PAUSE_S = 1.0

Model = TypeVar("Model", bound=BaseModel)


class GatewayError(OrganismError):
    """The gateway refused a request.

    Args:
        problem: What it said.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail, problem.next_step or "")

    def __reduce__(self) -> tuple[type[GatewayError], tuple[Problem]]:  # type: ignore[override]
        return type(self), (self.problem,)


class GatewayUnavailable(OrganismError):
    """The gateway cannot be reached, or cannot reach the queue; the same request may be made again.

    A submission whose answer was lost may have been stored all the same: with a ``dedup_key`` it is safe to
    repeat while that task is unfinished.
    """


class TaskEnded(OrganismError):
    """A task whose result was asked for has failed or was cancelled.

    Args:
        outcome: How it ended.
    """

    def __init__(self, outcome: Waited) -> None:
        self.outcome = outcome
        super().__init__(f"task {outcome.id} is {outcome.status}: {outcome.error or 'no error is told'}")

    def __reduce__(self) -> tuple[type[TaskEnded], tuple[Waited]]:  # type: ignore[override]
        return type(self), (self.outcome,)


@dataclass(frozen=True)
class Task:
    """A task of the gateway."""

    client: Client
    id: UUID
    deduplicated: bool = False
    """It is an older, unfinished task that has the ``dedup_key`` of the one submitted."""

    async def result(self, timeout: float | None = None) -> Any:
        """What its handler returned, as soon as it has.

        Args:
            timeout: Longest wait in seconds, outages included; None: as long as it takes.

        Raises:
            TaskEnded: It failed or was cancelled.
            TimeoutError: The time is up; the task goes on.
            GatewayError: It does not exist any more, or this token may not look.
            GatewayUnavailable: The gateway cannot be reached when the time is up.
        """
        outcome = await self.client.wait(self.id, timeout)
        if not outcome.finished:
            raise TimeoutError(f"task {self.id} is {outcome.status} after {timeout:g} s")
        if outcome.status != "completed":
            raise TaskEnded(outcome)
        return outcome.result

    async def status(self) -> TaskStatus:
        """How it stands."""
        return await self.client.status(self.id)

    async def why(self) -> Why:
        """What it waits for, or how it ended."""
        return await self.client.why(self.id)

    async def cancel(self) -> Steered:
        """Cancel it: at once while it waits, else as soon as its handler has been told."""
        return await self.client.cancel(self.id)


class Client:
    """Talks to one gateway. Use as an async context manager.

    Args:
        url: Where the gateway is.
        token: What it asks for, if it does.
        timeout: Seconds for a request, beyond what it waits for a task.
        transport: Another way to the gateway, for tests.

    Raises (from any method):
        GatewayError: The gateway refused; its `problem` says why.
        GatewayUnavailable: It cannot be reached, or cannot reach the queue.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def submit(self, type: str, params: dict[str, Any] | None = None, **fields: Any) -> Task:
        """Add a task.

        Args:
            fields: The others of `blocks.queue.NewTask`, such as ``priority`` or ``dedup_key``.

        Raises:
            pydantic.ValidationError: A field is not acceptable.
        """
        [task] = await self.submit_all([NewTask(type=type, params=params or {}, **fields)])
        return task

    async def submit_all(self, tasks: Sequence[NewTask]) -> list[Task]:
        """Add tasks, all or none; in their order."""
        body = [task.model_dump(mode="json", exclude_unset=True) for task in tasks]
        done = await self._ask(Submission, "POST", "/api/tasks", json=body)
        return [Task(self, each.id, each.deduplicated) for each in done.tasks]

    def task(self, id: UUID) -> Task:
        """The task of an id; it is not looked for."""
        return Task(self, id)

    async def get(self, id: UUID | str) -> TaskRow:
        """The task of an id, or of a beginning that no other has."""
        return await self._ask(TaskRow, "GET", f"/api/tasks/{id}")

    async def status(self, id: UUID | str) -> TaskStatus:
        """How a task stands."""
        return await self._ask(TaskStatus, "GET", f"/api/tasks/{id}/status")

    async def why(self, id: UUID | str) -> Why:
        """What a task waits for, or how it ended."""
        return await self._ask(Why, "GET", f"/api/tasks/{id}/why")

    async def wait(self, id: UUID | str, timeout: float | None = None) -> Waited:
        """How a task ended, or how it stands when the time is up. Outages are waited out.

        Args:
            timeout: Seconds; None: as long as it takes.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            try:
                waited = await self._ask(
                    Waited,
                    "GET",
                    f"/api/tasks/{id}/wait",
                    params={"timeout": min(left, WAIT_S)},
                    timeout=self._timeout + WAIT_S,
                )
            except GatewayUnavailable:
                if time.monotonic() + OUTAGE_PAUSE_S > deadline:
                    raise
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            if waited.finished or left <= WAIT_S:
                return waited

    async def cancel(self, id: UUID | str) -> Steered:
        """Cancel a task."""
        return await self._ask(Steered, "POST", f"/api/tasks/{id}/cancel")

    async def run(self, id: UUID | str) -> Steered:
        """Queue a task that is only created."""
        return await self._ask(Steered, "POST", f"/api/tasks/{id}/run")

    async def retry(self, id: UUID | str) -> Steered:
        """Queue a failed or cancelled task again."""
        return await self._ask(Steered, "POST", f"/api/tasks/{id}/retry")

    async def cancel_all(self, filter: TaskFilter, *, dry_run: bool = True) -> CancelledAll:
        """Count the unfinished tasks that fit, or cancel them."""
        body = CancelAll(**filter.model_dump(), dry_run=dry_run).model_dump(mode="json")
        return await self._ask(CancelledAll, "POST", "/api/tasks/cancel", json=body)

    async def redrive_all(
        self, filter: RedriveFilter, *, limit: int | None = None, dry_run: bool = True
    ) -> RedrivenAll:
        """Count the dead letters that fit, or queue them again."""
        body = RedriveAll(**filter.model_dump(), limit=limit, dry_run=dry_run).model_dump(mode="json")
        return await self._ask(RedrivenAll, "POST", "/api/tasks/redrive", json=body)

    async def pause(self, kind: PausedKind, name: str, *, reason: str | None = None) -> list[Pause]:
        """Claim no further task of a type or domain; what is paused now."""
        body = PauseOrder(kind=kind, name=name, reason=reason).model_dump()
        return (await self._ask(Pauses, "POST", "/api/pauses", json=body)).pauses

    async def resume(self, kind: PausedKind, name: str) -> bool:
        """Claim its tasks again; whether it was paused."""
        body = ResumeOrder(kind=kind, name=name).model_dump()
        return (await self._ask(Resumed, "POST", "/api/pauses/resume", json=body)).resumed

    async def pauses(self) -> list[Pause]:
        """What is paused."""
        return (await self._ask(Pauses, "GET", "/api/pauses")).pauses

    async def tasks(self, filter: TaskFilter | None = None) -> AsyncIterator[TaskLine]:
        """Every task that fits, page after page; see `blocks.queue.Queue.page` for the order."""
        query = (filter or TaskFilter()).model_dump(mode="json", exclude_none=True)
        cursor: str | None = None
        while True:
            params = {**query, "limit": PAGE_LIMIT, **({"cursor": cursor} if cursor else {})}
            page = await self._ask(Page, "GET", "/api/tasks", params=params)
            for line in page.tasks:
                yield line
            if (cursor := page.next) is None:
                return

    async def _ask(self, model: type[Model], method: str, path: str, **options: Any) -> Model:
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise GatewayUnavailable(
                f"cannot reach the gateway at {self._http.base_url}: {error or type(error).__name__}",
                "start it: `python -m serve_apps.gateway`",
            ) from None
        if answer.is_success:
            return model.model_validate_json(answer.content)
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValidationError:
            # Not the gateway's own: of a proxy between.
            problem = Problem(
                type="about:blank",
                title=answer.reason_phrase,
                status=answer.status_code,
                detail=f"{method} {path} was answered {answer.status_code} {answer.reason_phrase}",
            )
        if problem.status in (502, 503, 504):
            raise GatewayUnavailable(problem.detail, problem.next_step or "try again later")
        raise GatewayError(problem)
