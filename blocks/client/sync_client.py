"""The client of the gateway for programs without an event loop, such as a Flask app or a script.

```python
with SyncClient() as client:
    print(client.submit("echo", {"n": 1}).result(timeout=10))
```
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import httpx

from organism_flows.blocks.client import requests as calls
from organism_flows.blocks.client.connection import WaitBudget, connection
from organism_flows.blocks.client.messages import (
    TASKS_LIMIT,
    BulkCancelResult,
    BulkRedriveResult,
    TaskActionResult,
    TaskStatus,
    WaitResult,
)
from organism_flows.blocks.client.requests import (
    ApiRequest,
    ExportFormat,
    GatewayUnavailable,
    Model,
    result_of,
    unreachable,
)
from organism_flows.blocks.queue.explain import Why
from organism_flows.blocks.queue.models import (
    NewTask,
    Pause,
    PausedKind,
    RedriveFilter,
    TaskFilter,
    TaskRow,
    TaskSummary,
)


@dataclass(frozen=True)
class SyncTaskHandle:
    """A task of the gateway."""

    client: SyncClient
    id: UUID
    deduplicated: bool = False
    """It is an older, unfinished task that has the ``dedup_key`` of the one submitted."""

    def result(self, timeout: float | None = None) -> Any:
        """What its handler returned, as soon as it has.

        Args:
            timeout: Longest wait in seconds, outages included; None: as long as it takes.

        Raises:
            TaskEnded: It failed or was cancelled.
            TimeoutError: The time is up; the task goes on.
            GatewayError: It does not exist any more, or this token may not look.
            GatewayUnavailable: The gateway cannot be reached when the time is up.
        """
        return result_of(self.client.wait(self.id, timeout), timeout)

    def status(self) -> TaskStatus:
        """How it stands."""
        return self.client.status(self.id)

    def why(self) -> Why:
        """What it waits for, or how it ended."""
        return self.client.why(self.id)

    def cancel(self) -> TaskActionResult:
        """Cancel it: at once while it waits, else as soon as its handler has been told."""
        return self.client.cancel(self.id)


class SyncClient:
    """Talks to one gateway. Use as a context manager, or as long as the process lives, from any thread.

    Args:
        url: Where the gateway is. None: as ORGANISM_GATEWAY_URL says, else the stack in ORGANISM_HOME, and
            the token is that of the environment or the stack.
        token: What it asks for. The environment's token is never sent to a ``url`` that is given here.
        timeout: Seconds for a request, beyond what it waits for a task.
        transport: Another way to the gateway, for tests.

    Raises:
        ConfigurationError: No gateway is known.

    Raises (from any method):
        GatewayError: The gateway refused; its `problem` says why.
        GatewayUnavailable: It cannot be reached, or cannot reach the queue.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._timeout = timeout
        self._http = httpx.Client(**connection(url, token, timeout), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def submit(self, type: str, params: dict[str, Any] | None = None, **fields: Any) -> SyncTaskHandle:
        """Add a task.

        Args:
            fields: The others of `blocks.queue.NewTask`, such as ``priority`` or ``dedup_key``.

        Raises:
            pydantic.ValidationError: A field is not acceptable.
        """
        [task] = self.submit_all([NewTask(type=type, params=params or {}, **fields)])
        return task

    def submit_all(self, tasks: Sequence[NewTask]) -> list[SyncTaskHandle]:
        """Add tasks, all or none; in their order."""
        done = self._ask(calls.submit_all(tasks))
        return [SyncTaskHandle(self, each.id, each.deduplicated) for each in done.tasks]

    def task(self, id: UUID) -> SyncTaskHandle:
        """The task of an id; it is not looked for."""
        return SyncTaskHandle(self, id)

    def get(self, id: UUID | str) -> TaskRow:
        """The task of an id, or of a beginning that no other has."""
        return self._ask(calls.get(id))

    def status(self, id: UUID | str) -> TaskStatus:
        """How a task stands."""
        return self._ask(calls.status(id))

    def why(self, id: UUID | str) -> Why:
        """What a task waits for, or how it ended."""
        return self._ask(calls.why(id))

    def wait(self, id: UUID | str, timeout: float | None = None) -> WaitResult:
        """How a task ended, or how it stands when the time is up. Outages are waited out.

        Args:
            timeout: Seconds; None: as long as it takes.
        """
        patience = WaitBudget(timeout)
        while True:
            left = patience.left
            try:
                waited = self._ask(calls.wait(id, left, self._timeout))
            except GatewayUnavailable:
                time.sleep(patience.outage_pause())
                continue
            if waited.finished or left <= calls.WAIT_S:
                return waited

    def wait_many(self, ids: Iterable[UUID], timeout: float | None = None) -> Iterator[WaitResult]:
        """Yield how each of many tasks ended, as it does, or how it stands when the time is up.

        It takes one request, or one every 30 s. Outages are waited out.

        Args:
            timeout: Seconds; None: as long as it takes.

        Raises:
            GatewayError: One does not exist, or not any more; or this token may not look.
        """
        left = list(dict.fromkeys(ids))
        patience = WaitBudget(timeout)
        while left:
            some, seconds = left[:TASKS_LIMIT], patience.left
            seen: set[UUID] = set()
            try:
                for waited in self._lines(some, seconds):
                    if waited.finished or seconds <= calls.WAIT_S:
                        seen.add(waited.id)
                        yield waited
            except GatewayUnavailable:
                time.sleep(patience.outage_pause())
            left = [id for id in left if id not in seen]

    def cancel(self, id: UUID | str) -> TaskActionResult:
        """Cancel a task."""
        return self._ask(calls.steer(id, "cancel"))

    def run(self, id: UUID | str) -> TaskActionResult:
        """Queue a task that is only created."""
        return self._ask(calls.steer(id, "run"))

    def retry(self, id: UUID | str) -> TaskActionResult:
        """Queue a failed or cancelled task again."""
        return self._ask(calls.steer(id, "retry"))

    def cancel_all(self, filter: TaskFilter, *, dry_run: bool = True) -> BulkCancelResult:
        """Count the unfinished tasks that fit, or cancel them."""
        return self._ask(calls.cancel_all(filter, dry_run))

    def redrive_all(
        self, filter: RedriveFilter, *, limit: int | None = None, dry_run: bool = True
    ) -> BulkRedriveResult:
        """Count the dead letters that fit, or queue them again."""
        return self._ask(calls.redrive_all(filter, limit, dry_run))

    def pause(self, kind: PausedKind, name: str, *, reason: str | None = None) -> list[Pause]:
        """Claim no further task of a type or domain; what is paused now."""
        return (self._ask(calls.pause(kind, name, reason))).pauses

    def resume(self, kind: PausedKind, name: str) -> bool:
        """Claim its tasks again; whether it was paused."""
        return (self._ask(calls.resume(kind, name))).resumed

    def pauses(self) -> list[Pause]:
        """What is paused."""
        return (self._ask(calls.pauses())).pauses

    def tasks(self, filter: TaskFilter | None = None) -> Iterator[TaskSummary]:
        """Every task that fits, page after page; see `blocks.queue.Queue.page` for the order."""
        cursor: str | None = None
        while True:
            page = self._ask(calls.page(filter, cursor))
            yield from page.tasks
            if (cursor := page.next) is None:
                return

    def export(self, filter: TaskFilter | None = None, format: ExportFormat = "jsonl") -> Iterator[bytes]:
        """Yield every task that fits, with params and result, in pieces of a file.

        It is whole when the iteration ends without an error.

        Args:
            format: JSON lines, CSV or Parquet.
        """
        http = self._http
        try:
            with http.stream(**calls.export(filter, format, self._timeout)) as answer:
                if not answer.is_success:
                    answer.read()
                    raise calls.refusal(answer)
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise unreachable(http.base_url, error) from None

    def _ask(self, call: ApiRequest[Model]) -> Model:
        http = self._http
        try:
            answer = http.request(call.method, call.path, **call.options)
        except httpx.TransportError as error:
            raise unreachable(http.base_url, error) from None
        return call.parsed(answer)

    def _lines(self, ids: Sequence[UUID], left: float) -> Iterator[WaitResult]:
        """Yield what one request says; raise `GatewayUnavailable` if it is broken off."""
        http = self._http
        missing = set(ids)
        try:
            with http.stream(**calls.wait_many(ids, left, self._timeout)) as answer:
                if not answer.is_success:
                    answer.read()
                    raise calls.refusal(answer)
                for line in answer.iter_lines():
                    if (waited := calls.wait_line(line)) is not None:
                        missing.discard(waited.id)
                        yield waited
        except httpx.TransportError as error:
            raise unreachable(http.base_url, error) from None
        if missing:
            raise GatewayUnavailable("the gateway broke off its answer", "ask again")
