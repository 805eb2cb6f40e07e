"""A client of the gateway, for programs that know neither Prefect nor Ray nor Postgres.

```python
async with Client() as client:  # the stack of ORGANISM_HOME; or Client(url, token=...)
    task = await client.submit("echo", {"n": 1})
    print(await task.result(timeout=10))
```

`SyncClient` is the same for programs without an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import httpx

from organism_flows.blocks.client import requests as calls
from organism_flows.blocks.client.answer_lines import AnswerLines
from organism_flows.blocks.client.async_operations import AsyncOperations
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
from organism_flows.blocks.client.sync_client import SyncClient, SyncTaskHandle
from organism_flows.blocks.errors import GatewayUnavailable
from organism_flows.blocks.queue.explain import Why
from organism_flows.blocks.queue.models.operations import (
    NewTask,
    TaskFilter,
)
from organism_flows.blocks.queue.models.rows import TaskRow, TaskSummary
from organism_flows.blocks.queue.models.streams import StreamBegin, StreamChunk

__all__ = [
    "Client",
    "SyncClient",
    "SyncTaskHandle",
    "TaskHandle",
]


@dataclass(frozen=True)
class TaskHandle:
    """A task of the gateway."""

    client: Client
    id: UUID
    deduplicated: bool = False
    """True if this is an older, unfinished task that has the ``dedup_key`` of the submitted one."""

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the task and return the result of its handler.

        Args:
            timeout: Longest wait in seconds, outages included. `None` means no limit.

        Raises:
            TaskEnded: The task failed or was cancelled.
            TimeoutError: The time is up. The task goes on.
            GatewayError: The task does not exist any more, or this token may not read it.
            GatewayUnavailable: The gateway cannot be reached when the time is up.
        """
        return result_of(await self.client.wait(self.id, timeout), timeout)

    async def status(self) -> TaskStatus:
        """Return the current status of the task."""
        return await self.client.status(self.id)

    async def why(self) -> Why:
        """Return the reason why the task waits, or how it ended."""
        return await self.client.why(self.id)

    def stream(self, timeout: float | None = None) -> AsyncIterator[StreamBegin | StreamChunk]:
        """Yield what the handler emits, until the task has ended; see `Client.stream`."""
        return self.client.stream(self.id, timeout)

    async def cancel(self) -> TaskActionResult:
        """Cancel the task: at once if it waits, else as soon as its handler has been asked to stop."""
        return await self.client.cancel(self.id)


class Client(AsyncOperations):
    """Talks to one gateway. Use it as an async context manager, or keep it as long as the process lives.

    One client may serve several event loops, one after the other or at once: each has its own connections.

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeout = timeout
        self._options = {**connection(url, token, timeout), "transport": transport}
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    def _http(self) -> httpx.AsyncClient:
        # The connections of a pool belong to the event loop they were made in. In another one, or after its
        # end, they fail with "Event loop is closed".
        for loop in [loop for loop in self._clients if loop.is_closed()]:
            self._clients.pop(loop, None)
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(**self._options)
        return self._clients[loop]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections of this event loop. The next request makes new ones."""
        if (http := self._clients.pop(asyncio.get_running_loop(), None)) is not None:
            await http.aclose()

    async def submit(self, type: str, params: dict[str, Any] | None = None, **fields: Any) -> TaskHandle:
        """Add a task and return a handle to it.

        Args:
            type: Type of the task.
            params: Params of the task. `None` means none.
            fields: Other fields of `blocks.queue.NewTask`, such as ``priority`` or ``dedup_key``.

        Raises:
            pydantic.ValidationError: A field is not acceptable.
        """
        [task] = await self.submit_all([NewTask(type=type, params=params or {}, **fields)])
        return task

    async def submit_all(self, tasks: Sequence[NewTask]) -> list[TaskHandle]:
        """Add all tasks or none, and return their handles in the same order."""
        done = await self._ask(calls.submit_all(tasks))
        return [TaskHandle(self, each.id, each.deduplicated) for each in done.tasks]

    def task(self, id: UUID) -> TaskHandle:
        """Return a handle to the task with this id. Does not check that it exists."""
        return TaskHandle(self, id)

    async def get(self, id: UUID | str) -> TaskRow:
        """Return the task with this id, or with the only id that begins with it."""
        return await self._ask(calls.get(id))

    async def status(self, id: UUID | str) -> TaskStatus:
        """Return the current status of a task."""
        return await self._ask(calls.status(id))

    async def why(self, id: UUID | str) -> Why:
        """Return the reason why a task waits, or how it ended."""
        return await self._ask(calls.why(id))

    async def wait(self, id: UUID | str, timeout: float | None = None) -> WaitResult:
        """Return how a task ended, or its status when the time is up. Goes on waiting through outages.

        Args:
            id: Id of the task, or the beginning of its id.
            timeout: Longest wait in seconds. `None` means no limit.
        """
        patience = WaitBudget(timeout)
        while True:
            left = patience.left
            try:
                waited = await self._ask(calls.wait(id, left, self._timeout))
            except GatewayUnavailable:
                await asyncio.sleep(patience.outage_pause())
                continue
            if waited.finished or left <= calls.WAIT_S:
                return waited

    async def wait_many(self, ids: Iterable[UUID], timeout: float | None = None) -> AsyncIterator[WaitResult]:
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
                async for waited in self._lines(some, seconds):
                    if waited.finished or seconds <= calls.WAIT_S:
                        seen.add(waited.id)
                        yield waited
            except GatewayUnavailable:
                await asyncio.sleep(patience.outage_pause())
            left = [id for id in left if id not in seen]

    async def stream(
        self, id: UUID | str, timeout: float | None = None
    ) -> AsyncIterator[StreamBegin | StreamChunk]:
        """Yield what the handler of a task emits, as it does, until the task has ended.

        A `StreamBegin` comes before the chunks of each attempt: what was read before it no longer counts. Of
        the last attempt each chunk comes once. For arguments and errors see `SyncClient.stream`.
        """
        events = StreamEvents(id, timeout)
        while not events.ended:
            try:
                async for event in self._events(events):
                    yield event
            except GatewayUnavailable:
                await asyncio.sleep(events.patience.outage_pause())

    async def cancel(self, id: UUID | str) -> TaskActionResult:
        """Cancel a task."""
        return await self._ask(calls.steer(id, "cancel"))

    async def run(self, id: UUID | str) -> TaskActionResult:
        """Queue a task that was only created."""
        return await self._ask(calls.steer(id, "run"))

    async def retry(self, id: UUID | str) -> TaskActionResult:
        """Queue a failed or cancelled task again."""
        return await self._ask(calls.steer(id, "retry"))

    async def send_event(self, id: UUID | str, name: str, payload: Any = None) -> EventResult:
        """Send an event to a task, which continues if it waits for it. Sent twice, it counts once.

        Args:
            id: Id of the task.
            name: Name of the event.
            payload: Any JSON value, which the handler gets.
        """
        return await self._ask(calls.send_event(id, name, payload))

    async def answer_links(
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
        return await self._ask(calls.answer_links(id, event, choices, expires_in_s))

    async def tasks(self, filter: TaskFilter | None = None) -> AsyncIterator[TaskSummary]:
        """Yield every task that matches, page by page. `Reader.page` of `blocks.queue` defines the order."""
        cursor: str | None = None
        while True:
            page = await self._ask(calls.page(filter, cursor))
            for line in page.tasks:
                yield line
            if (cursor := page.next) is None:
                return

    async def export(
        self, filter: TaskFilter | None = None, format: ExportFormat = "jsonl"
    ) -> AsyncGenerator[bytes, None]:
        """Yield a file with every task that matches, with params and results, in pieces.

        The file is complete only if the iteration ends without an error.

        Args:
            filter: Which tasks. `None` means all.
            format: JSON lines, CSV or Parquet.
        """
        http = self._http()
        try:
            async with http.stream(**calls.export(filter, format, self._timeout)) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise calls.refusal(answer)
                async for piece in answer.aiter_bytes():
                    yield piece
        except httpx.TransportError as error:
            raise unreachable(http.base_url, error) from None

    async def _ask(self, call: ApiRequest[Model]) -> Model:
        http = self._http()
        try:
            answer = await http.request(call.method, call.path, **call.options)
        except httpx.TransportError as error:
            raise unreachable(http.base_url, error) from None
        return call.parsed(answer)

    async def _lines(self, ids: Sequence[UUID], left: float) -> AsyncIterator[WaitResult]:
        """Yield the outcomes in the answer to one request.

        Raises:
            GatewayUnavailable: The answer broke off.
        """
        http = self._http()
        missing, lines = set(ids), AnswerLines()
        try:
            async with http.stream(**calls.wait_many(ids, left, self._timeout)) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise calls.refusal(answer)
                async for piece in answer.aiter_bytes():
                    for line in lines.add(piece):
                        if (waited := calls.wait_line(line)) is not None:
                            missing.discard(waited.id)
                            yield waited
        except httpx.TransportError as error:
            raise unreachable(http.base_url, error) from None
        if missing:
            raise GatewayUnavailable("the gateway broke off its answer", "ask again")

    async def _events(self, events: StreamEvents) -> AsyncIterator[StreamBegin | StreamChunk]:
        """Yield the events in the answer to one request. Raise `GatewayUnavailable` if it broke off."""
        http = self._http()
        try:
            async with http.stream(**events.request()) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise calls.refusal(answer)
                async for piece in answer.aiter_bytes():
                    for event in events.read(piece):
                        yield event
        except httpx.TransportError as error:
            events.check_time()
            raise unreachable(http.base_url, error) from None
        if not events.ended:
            raise GatewayUnavailable("the gateway broke off its answer", "ask again")
