"""One statement that polls for all clients that wait, as long as any client waits.

Settlements and reports do nothing extra: Postgres does not notify of its own accord, and polling costs only
those who wait (docs/decisions/0011-gateway.md).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Protocol, Self, TypeVar

from organism_flows.serve_apps.gateway.database import OUTAGE

POLL_PAUSE_S = 0.02
"""Shortest pause between two polls, in seconds."""
POLL_SHARE = 20
"""The share of a poll that says nothing else."""
POLL_PAUSE_LIMIT_S = 2.0
"""Longest pause between two polls, in seconds."""
OUTAGE_PAUSE_S = 0.5
"""Pause after a poll that failed, in seconds."""

Subject = TypeVar("Subject")
Subject_contra = TypeVar("Subject_contra", contravariant=True)
Answer = TypeVar("Answer")
Answer_contra = TypeVar("Answer_contra", contravariant=True)

logger = logging.getLogger("organism.gateway")


class Watcher(Protocol[Subject_contra, Answer_contra]):
    """Receives the answer to each poll for a subject."""

    def notify(self, subject: Subject_contra, answer: Answer_contra | None) -> None: ...


class SharedPoll(Generic[Subject, Answer]):
    """Polls for what clients wait for, and passes the answers on.

    Args:
        read: Returns the answers by subject. One that does not exist is left out.
        share: Upper bound on the share of time spent polling, as 1/N, unless `POLL_PAUSE_LIMIT_S` ends the
            pause.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Subject]], Awaitable[Mapping[Subject, Answer]]],
        *,
        share: int = POLL_SHARE,
    ) -> None:
        self._read = read
        self._share = share
        self._watchers: dict[Subject, set[Watcher[Subject, Answer]]] = {}
        self._awaited = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.polls = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_polling(), name="gateway-waiting")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def waiters(self) -> int:
        """Return the number of waits: a request that waits for ten tasks counts ten times."""
        return sum(len(watchers) for watchers in self._watchers.values())

    def _add(self, subject: Subject, watcher: Watcher[Subject, Answer]) -> None:
        self._watchers.setdefault(subject, set()).add(watcher)
        self._awaited.set()

    def _remove(self, subject: Subject, watcher: Watcher[Subject, Answer]) -> None:
        self._watchers[subject].discard(watcher)
        if not self._watchers[subject]:
            del self._watchers[subject]

    async def _keep_polling(self) -> None:
        while True:
            if not self._watchers:
                self._awaited.clear()
                await self._awaited.wait()
            started = time.monotonic()
            pause = OUTAGE_PAUSE_S
            try:
                # Watchers that are added during the read are left out: what is read may be older than what
                # those clients have seen.
                asked = {subject: list(watchers) for subject, watchers in self._watchers.items()}
                answers = await self._read(list(asked))
                for subject, watchers in asked.items():
                    for watcher in watchers:
                        watcher.notify(subject, answers.get(subject))
                took = time.monotonic() - started
                pause = min(max(self._share * took, POLL_PAUSE_S), POLL_PAUSE_LIMIT_S)
                self.polls += 1
            except OUTAGE:
                pass
            except Exception:
                logger.exception("reading what is waited for failed")
            await asyncio.sleep(pause)
