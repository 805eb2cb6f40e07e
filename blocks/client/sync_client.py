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
from organism_flows.blocks.client.answer_lines import AnswerLines
from organism_flows.blocks.client.connection import WaitBudget, connection
from organism_flows.blocks.client.event_messages import AnswerLinks, EventResult
from organism_flows.blocks.client.messages import (
    TASKS_LIMIT,
    TaskActionResult,
    TaskStatus,
    WaitResult,
)
from organism_flows.blocks.client.requests import (
    ApiRequest,
    ExportFormat,
    Model,
    result_of,
    unreachable,
)
from organism_flows.blocks.client.stream_events import StreamEvents
from organism_flows.blocks.client.sync_operations import SyncOperations
from organism_flows.blocks.errors import GatewayUnavailable
from organism_flows.blocks.queue.explain import Why
from organism_flows.blocks.queue.models.operations import (
    NewTask,
    TaskFilter,
)
from organism_flows.blocks.queue.models.rows import TaskRow, TaskSummary
from organism_flows.blocks.queue.models.streams import StreamBegin, StreamChunk


@dataclass(frozen=True)
class SyncTaskHandle:
    """A task of the gateway."""

    client: SyncClient
    id: UUID
    deduplicated: bool = False
    """True if this is an older, unfinished task that has the ``dedup_key`` of the submitted one."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the task and return the result of its handler.

        Args:
            timeout: Longest wait in seconds, outages included. `None` means no limit.

        Raises:
            TaskEnded: The task failed or was cancelled.
            TimeoutError: The time is up. The task goes on.
            GatewayError: The task does not exist any more, or this token may not read it.
            GatewayUnavailable: The gateway cannot be reached when the time is up.
        """
        return result_of(self.client.wait(self.id, timeout), timeout)

    def status(self) -> TaskStatus:
        """Return the current status of the task."""
        return self.client.status(self.id)

    def why(self) -> Why:
        """Return the reason why the task waits, or how it ended."""
        return self.client.why(self.id)

    def stream(self, timeout: float | None = None) -> Iterator[StreamBegin | StreamChunk]:
        """Yield what the handler emits, until the task has ended; see `SyncClient.stream`."""
        return self.client.stream(self.id, timeout)

    def cancel(self) -> TaskActionResult:
        """Cancel the task: at once if it waits, else as soon as its handler has been asked to stop."""
        return self.client.cancel(self.id)


class SyncClient(SyncOperations):
    """Talks to one gateway, from any thread. Use it as a context manager, or as long as the process lives.

    Every method that sends a request raises `GatewayError` if the gateway refuses it, with the reason in its
    `problem`. It raises `GatewayUnavailable` if the gateway cannot be reached, or cannot reach the queue.

    Args:
        url: URL of the gateway. `None` means ORGANISM_GATEWAY_URL, or else the stack in ORGANISM_HOME, with
            the token of the environment or the stack.
        token: Token for the gateway. The token of the environment is never sent to a ``url`` given here.
        timeout: Seconds for a request, in addition to the time that it waits for a task.
        transport: Another transport to the gateway, for tests.

    Raises:
        ConfigurationError: No gateway is known.
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
        """Close the connections."""
        self._http.close()

    def submit(self, type: str, params: dict[str, Any] | None = None, **fields: Any) -> SyncTaskHandle:
        """Add a task and return a handle to it.

        Args:
            type: Type of the task.
            params: Params of the task. `None` means none.
            fields: Other fields of `blocks.queue.NewTask`, such as ``priority`` or ``dedup_key``.

        Raises:
            pydantic.ValidationError: A field is not acceptable.
        """
        [task] = self.submit_all([NewTask(type=type, params=params or {}, **fields)])
        return task

    def submit_all(self, tasks: Sequence[NewTask]) -> list[SyncTaskHandle]:
        """Add all tasks or none, and return their handles in the same order."""
        done = self._ask(calls.submit_all(tasks))
        return [SyncTaskHandle(self, each.id, each.deduplicated) for each in done.tasks]

    def task(self, id: UUID) -> SyncTaskHandle:
        """Return a handle to the task with this id. Does not check that it exists."""
        return SyncTaskHandle(self, id)

    def get(self, id: UUID | str) -> TaskRow:
        """Return the task with this id, or with the only id that begins with it."""
        return self._ask(calls.get(id))

    def status(self, id: UUID | str) -> TaskStatus:
        """Return the current status of a task."""
        return self._ask(calls.status(id))

    def why(self, id: UUID | str) -> Why:
        """Return the reason why a task waits, or how it ended."""
        return self._ask(calls.why(id))

    def wait(self, id: UUID | str, timeout: float | None = None) -> WaitResult:
        """Return how a task ended, or its status when the time is up. Goes on waiting through outages.

        Args:
            id: Id of the task, or the beginning of its id.
            timeout: Longest wait in seconds. `None` means no limit.
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
        """Yield how each task ended, as soon as it does, or its status when the time is up.

        Takes one request, or one every 30 s. Goes on waiting through outages.

        Args:
            ids: Ids of the tasks.
            timeout: Longest wait in seconds. `None` means no limit.

        Raises:
            GatewayError: A task does not exist, or not any more, or this token may not read it.
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

    def stream(self, id: UUID | str, timeout: float | None = None) -> Iterator[StreamBegin | StreamChunk]:
        """Yield what the handler of a task emits, as it does, until the task has ended.

        A `StreamBegin` comes before the chunks of each attempt: what was read before it no longer counts. Of
        the last attempt each chunk comes once. Goes on reading through outages.

        Args:
            id: Id of the task, or the beginning of its id.
            timeout: Longest time in seconds; while nothing is emitted it may take 10 s more. `None` means no
                limit.

        Raises:
            TimeoutError: The time is up. The task goes on.
            GatewayError: The task does not exist, or not any more, or this token may not read it.
            GatewayUnavailable: The gateway cannot be reached when the time is up.
        """
        events = StreamEvents(id, timeout)
        while not events.ended:
            try:
                yield from self._events(events)
            except GatewayUnavailable:
                time.sleep(events.patience.outage_pause())

    def cancel(self, id: UUID | str) -> TaskActionResult:
        """Cancel a task."""
        return self._ask(calls.steer(id, "cancel"))

    def run(self, id: UUID | str) -> TaskActionResult:
        """Queue a task that was only created."""
        return self._ask(calls.steer(id, "run"))

    def retry(self, id: UUID | str) -> TaskActionResult:
        """Queue a failed or cancelled task again."""
        return self._ask(calls.steer(id, "retry"))

    def send_event(self, id: UUID | str, name: str, payload: Any = None) -> EventResult:
        """Send an event to a task, which continues if it waits for it. Sent twice, it counts once.

        Args:
            id: Id of the task.
            name: Name of the event.
            payload: Any JSON value, which the handler gets.
        """
        return self._ask(calls.send_event(id, name, payload))

    def answer_links(
        self,
        id: UUID | str,
        event: str,
        *,
        choices: Sequence[str] = ("approve", "reject"),
        expires_in_s: float = 7 * 86400.0,
    ) -> AnswerLinks:
        """Return a link for each choice: a person who opens one sends the event, once, without a token.

        The event has the payload ``{"choice": CHOICE}``.

        Args:
            id: Id of the task.
            event: Name of the event.
            choices: Names of the choices, in the same characters as names of events.
            expires_in_s: Seconds until the links are no longer valid.
        """
        return self._ask(calls.answer_links(id, event, choices, expires_in_s))

    def tasks(self, filter: TaskFilter | None = None) -> Iterator[TaskSummary]:
        """Yield every task that matches, page by page. `Reader.page` of `blocks.queue` defines the order."""
        cursor: str | None = None
        while True:
            page = self._ask(calls.page(filter, cursor))
            yield from page.tasks
            if (cursor := page.next) is None:
                return

    def export(self, filter: TaskFilter | None = None, format: ExportFormat = "jsonl") -> Iterator[bytes]:
        """Yield a file with every task that matches, with params and results, in pieces.

        The file is complete only if the iteration ends without an error.

        Args:
            filter: Which tasks. `None` means all.
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
        """Yield the outcomes in the answer to one request.

        Raises:
            GatewayUnavailable: The answer broke off.
        """
        http = self._http
        missing, lines = set(ids), AnswerLines()
        try:
            with http.stream(**calls.wait_many(ids, left, self._timeout)) as answer:
                if not answer.is_success:
                    answer.read()
                    raise calls.refusal(answer)
                for piece in answer.iter_bytes():
                    for line in lines.add(piece):
                        if (waited := calls.wait_line(line)) is not None:
                            missing.discard(waited.id)
                            yield waited
        except httpx.TransportError as error:
            raise unreachable(http.base_url, error) from None
        if missing:
            raise GatewayUnavailable("the gateway broke off its answer", "ask again")

    def _events(self, events: StreamEvents) -> Iterator[StreamBegin | StreamChunk]:
        """Yield the events in the answer to one request.

        Raises:
            GatewayUnavailable: The answer broke off.
        """
        http = self._http
        try:
            with http.stream(**events.request()) as answer:
                if not answer.is_success:
                    answer.read()
                    raise calls.refusal(answer)
                for piece in answer.iter_bytes():
                    yield from events.read(piece)
        except httpx.TransportError as error:
            events.check_time()
            raise unreachable(http.base_url, error) from None
        if not events.ended:
            raise GatewayUnavailable("the gateway broke off its answer", "ask again")
