"""The gateway's link to the organism, which need not answer for the gateway to work.

It uses HTTP because the gateway stays up when Ray does not: a process that is connected to a Ray cluster ends
with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import httpx

from organism_flows.blocks.client.messages import DirectTask
from organism_flows.blocks.errors import OrganismUnavailable, OrganismUnknown, StackError
from organism_flows.blocks.http_clients import own_client
from organism_flows.blocks.organism_reports import HealthReport, StatusReport

STATUS_TIMEOUT_S = 2.0
HEALTH_KEPT_S = 1.0
TYPES_KEPT_S = 10.0
NEXT_STEP = "`organism status` shows what runs; tasks of the queue wait for it"

T = TypeVar("T")


class TooManyCalls(Exception):
    """Error: the limit of concurrent calls is reached, here or at the organism."""


class OrganismLink(Protocol):
    """A way to call the organism. Each method raises `OrganismUnavailable` when there is no answer."""

    async def health(self) -> HealthReport:
        """Return the answer of `OrganismManager.health`."""

    async def status(self) -> StatusReport:
        """Return the answer of `OrganismManager.status`."""

    async def running(self) -> dict[str, Any]:
        """Return what runs on all replicas; an organism of an older version has no such route."""

    async def handle(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of `OrganismManager.handle_incoming_task`.

        Raises:
            TooManyCalls: The organism takes no more calls.
        """


class OrganismByHttp:
    """An `OrganismLink` that calls the organism's own HTTP routes.

    Args:
        where: Returns the base of the routes, such as ``http://127.0.0.1:8000/organism``. `None` means it is
            not known. Called for each request: the organism may start after the gateway, and move.
        headers: Returns the headers that carry the token. Called for each request, for the same reason.
    """

    def __init__(
        self, where: Callable[[], str | None], headers: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self._where = where
        self._headers = headers
        self._http = own_client(timeout=STATUS_TIMEOUT_S)

    async def health(self) -> HealthReport:
        """Return the answer of the health route, also if the organism is unhealthy."""
        return HealthReport.of(await self._answer("GET", "health", fine=(200, 503)))

    async def status(self) -> StatusReport:
        """Return the answer of the status route."""
        return StatusReport.of(await self._answer("GET", "status"))

    async def running(self) -> dict[str, Any]:
        """Return the answer of the route of running tasks."""
        return await self._answer("GET", "running")

    async def handle(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run a task and return its outcome.

        Cancelling this call closes the connection, which stops the handler.
        """
        return await self._answer("POST", "handle-task", json=task, timeout=None)

    async def aclose(self) -> None:
        """Close the HTTP connections."""
        await self._http.aclose()

    async def _answer(
        self, method: str, route: str, *, fine: tuple[int, ...] = (200,), **request: Any
    ) -> dict[str, Any]:
        url = f"{self._base()}/{route}"
        try:
            answer = await self._http.request(method, url, headers=dict(self._headers()), **request)
        except (httpx.HTTPError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise OrganismUnavailable(f"the organism does not answer: {url}: {reason}", NEXT_STEP) from None
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code in fine and isinstance(body, dict):
            return body
        if answer.status_code == 503:
            raise TooManyCalls
        words = " ".join(answer.text.split())[:200]
        raise OrganismUnavailable(f"{url} answers {answer.status_code}: {words}".rstrip(": "), NEXT_STEP)

    def _base(self) -> str:
        try:
            url = self._where()
        except StackError as error:
            raise OrganismUnknown(error.what, error.next_step) from None
        if url is None:
            raise OrganismUnknown(
                "it is not known where the organism is: ORGANISM_URL is not set, and no stack is up",
                "set ORGANISM_URL, or run `organism up`; tasks of the queue wait for it",
            )
        return url.rstrip("/")


@dataclass
class _Kept(Generic[T]):
    """The last answer to a question, kept for ``kept_s`` seconds. Concurrent callers share one question."""

    ask: Callable[[], Awaitable[T]]
    kept_s: float
    _answer: T | OrganismUnavailable | None = None
    _until: float = 0.0
    _asking: asyncio.Task[T | OrganismUnavailable] | None = None

    async def __call__(self) -> T:
        if time.monotonic() >= self._until:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._fresh())
            self._answer = await asyncio.shield(self._asking)
            self._until = time.monotonic() + self.kept_s
        if isinstance(self._answer, OrganismUnavailable):
            raise self._answer
        return cast(T, self._answer)

    async def _fresh(self) -> T | OrganismUnavailable:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await self.ask()
        except OrganismUnavailable as error:
            return error
        except (TooManyCalls, TimeoutError):
            reason = f"the organism does not answer within {STATUS_TIMEOUT_S:g} s"
            return OrganismUnavailable(reason, NEXT_STEP)


class Coordinator:
    """Calls the organism: keeps its answers for a while, and limits how many tasks it runs at once.

    Args:
        organism: Runs tasks.
        calls: Most calls of `submit` under way at once.
    """

    def __init__(self, organism: OrganismLink, calls: int) -> None:
        self._organism = organism
        self._calls = calls
        self._under_way = 0
        self._health = _Kept(organism.health, HEALTH_KEPT_S)
        self._status = _Kept(organism.status, TYPES_KEPT_S)

    async def health(self) -> HealthReport:
        """Return the organism's health, at most 1 s old.

        Raises:
            OrganismUnavailable: The organism does not answer.
        """
        return await self._health()

    async def status(self) -> StatusReport:
        """Return the organism's configuration and load, at most 10 s old.

        Raises:
            OrganismUnavailable: The organism does not answer.
        """
        return await self._status()

    async def types(self) -> list[str] | None:
        """Return the task types that the organism serves, at most 10 s old.

        Returns:
            `None` means that the organism takes any type, or that it does not answer.
        """
        try:
            return (await self._status()).served_types
        except OrganismUnavailable:
            return None

    async def submit(self, task: DirectTask) -> dict[str, Any]:
        """Run a task outside of the queue, and return its outcome.

        Raises:
            TooManyCalls: The limit of concurrent calls is reached, here or at the organism.
            OrganismUnavailable: The organism does not answer, or answers with an error.
            TimeoutError: The task took longer than its deadline. Its handler is asked to stop.
        """
        if self._under_way >= self._calls:
            raise TooManyCalls
        self._under_way += 1
        try:
            async with asyncio.timeout(task.deadline_s):
                return await self._organism.handle(task.model_dump(exclude={"deadline_s"}, exclude_none=True))
        finally:
            self._under_way -= 1

    async def aclose(self) -> None:
        """Close the connections to the organism."""
        if isinstance(self._organism, OrganismByHttp):
            await self._organism.aclose()
