"""Messages of a lane to replicas, sent in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.flows.lanes.organism_protocol import OrganismCalls

CLOSE_S = 5.0
"""Longest wait for messages that are still on their way when the lane ends, in seconds."""
GATHER_S = 0.01
"""Shortest time between two messages with answers, in seconds. Each costs the lane and every replica 1 ms."""


class ReplicaMessages:
    """Sends messages to replicas without waiting for them. A message that cannot be sent is logged.

    Args:
        organism: The organism that runs the tasks.
        lane: Id of the lane.
        logger: Logger of its lines.
    """

    def __init__(
        self, organism: OrganismCalls, lane: str, logger: logging.Logger | logging.LoggerAdapter[Any]
    ) -> None:
        self._organism = organism
        self._lane = lane
        self._logger = logger
        self._sending: set[asyncio.Task[None]] = set()
        self._answers: dict[int, Acknowledgement] = {}
        """Those that the next message will have."""
        self._answered_at = float("-inf")

    def stop_runs(self, runs: Mapping[str, int]) -> None:
        """Stop handlers that run these tasks under the given claim, by id, or an older one."""
        self._send(self._organism.cancel(runs))

    def recall(self, claims: Sequence[int], *, leaving: bool) -> None:
        """Ask for those of these tasks that no handler has begun; see `OrganismCalls.recall`."""
        if claims:
            self._send(self._organism.recall(claims, leaving=leaving))

    def acknowledge(self, answers: Mapping[int, Acknowledgement]) -> None:
        """Let handlers know what became of their reports, by the claims of their tasks."""
        if not self._answers.keys().isdisjoint(answers):
            self._answer()  # one of two answers to a handler may be an error
        if answers and not self._answers:
            loop = asyncio.get_running_loop()
            loop.call_at(max(self._answered_at + GATHER_S, loop.time()), self._answer)
        self._answers.update(answers)

    def _answer(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, {}
            self._answered_at = asyncio.get_running_loop().time()
            self._send(self._organism.acknowledge(answers))

    async def close(self) -> None:
        """Wait for the messages that are on their way, at most `CLOSE_S`."""
        self._answer()
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=CLOSE_S)
            for message in late:
                message.cancel()

    def _send(self, message: Coroutine[Any, Any, None]) -> None:
        async def send() -> None:
            try:
                await message
            except OrganismError as error:
                self._logger.warning("a message did not reach every replica: %s", error)

        sending = asyncio.create_task(send(), name=f"{self._lane}-message")
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
