"""The stream of a task as server-sent events, for both kinds of client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from organism_flows.blocks.client.answer_lines import AnswerLines
from organism_flows.blocks.client.connection import WaitBudget
from organism_flows.blocks.client.requests import TASK_PATH, missing_task
from organism_flows.blocks.queue.models.streams import StreamBegin, StreamChunk

SILENCE_S = 30.0
"""Longest silence in an answer, in seconds. The gateway sends something every 10 s."""


class StreamEvents:
    """The events of one stream, read from one answer or, if that breaks off, from several.

    Args:
        id: Id of the task, or the beginning of its id.
        timeout: Longest time in seconds. `None` means no limit.
    """

    def __init__(self, id: UUID | str, timeout: float | None) -> None:
        self._id = id
        self._timeout = timeout
        self.patience = WaitBudget(timeout)
        self._last: str | None = None
        self._lines = AnswerLines()
        self._fields: dict[bytes, bytes] = {}
        self.ended = False
        """True once the task has ended and every chunk has been read."""

    def request(self) -> dict[str, Any]:
        """Return the options of a streamed request for what follows the last event."""
        self._lines, self._fields = AnswerLines(), {}  # an earlier answer may have broken off within an event
        return {
            "method": "GET",
            "url": f"{TASK_PATH}/{self._id}/stream",
            "headers": {"Last-Event-ID": self._last} if self._last else {},
            "timeout": min(SILENCE_S, self.patience.left + 1.0),
        }

    def read(self, piece: bytes) -> Iterator[StreamBegin | StreamChunk]:
        """Take a piece of an answer, and yield the events that it completes.

        Raises:
            GatewayError: The task no longer exists.
            TimeoutError: The time is up.
        """
        for line in self._lines.add(piece):
            if line:
                name, _, value = line.partition(b": ")
                self._fields[name] = value
            elif (event := self._event()) is not None:
                yield event
        self.check_time()

    def check_time(self) -> None:
        """Raise `TimeoutError` if the time is up and the task has not ended."""
        if not self.ended and self.patience.left <= 0:
            raise TimeoutError(f"task {self._id} has not ended after {self._timeout:g} s")

    def _event(self) -> StreamBegin | StreamChunk | None:
        fields, self._fields = self._fields, {}
        match fields.get(b"event"):
            case b"gone":
                raise missing_task(self._id)
            case b"end":
                self.ended = True
            case b"begin" | b"chunk" as event:
                self._last = fields[b"id"].decode()
                claim, number = map(int, self._last.split("-"))
                if event == b"chunk":
                    return StreamChunk(claim, number, fields[b"data"].decode())
                return StreamBegin(claim, number, json.loads(fields[b"data"])["attempt"])
        return None
