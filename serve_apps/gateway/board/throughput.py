"""What the lanes do by the minute: samples of their counters, taken as long as the gateway runs.

The counters say it at the cost of one small read, however many tasks there are and whoever looks. Counting
the finished tasks of an hour would read all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from organism_flows.blocks.client.board_messages import Throughput, ThroughputPoint
from organism_flows.serve_apps.gateway.database import OUTAGE, Database

SAMPLE_PAUSE_S = 10.0
"""Pause between two samples, in seconds. Lanes report their counters with each heartbeat."""
MINUTES = 60
STEP_S = 60.0
ENDED = ("completed", "failed")

logger = logging.getLogger("organism.gateway")


@dataclass(frozen=True)
class Sample:
    """The counters at one moment."""

    at: float
    """By the monotonic clock."""
    completed: float
    failed: float
    retried: float
    settled: Mapping[str, int]
    """Attempts settled, by lane."""


class ThroughputRecorder:
    """Keeps the samples of the last hour.

    Args:
        database: The queue whose lanes are sampled. While it is away, there are no samples.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._samples: deque[Sample] = deque(maxlen=int(STEP_S * (MINUTES + 1) / SAMPLE_PAUSE_S) + 1)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_sampling(), name="gateway-throughput")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def add(self, sample: Sample) -> None:
        """Keep a sample that is newer than all others."""
        self._samples.append(sample)

    def forget(self) -> None:
        """Forget all samples."""
        self._samples.clear()

    def throughput(self, now: float, at: datetime) -> Throughput:
        """Return what the lanes did in the last hour, as far back as there are samples.

        Args:
            now: This moment, by the monotonic clock.
            at: This moment, for readers.
        """
        if not self._samples:
            return Throughput(since=None, completed_per_s=None, failed_per_s=None, points=[])
        points: list[ThroughputPoint] = []
        later = self._samples[-1]
        for minute in range(1, MINUTES + 1):
            earlier = self._at(now - minute * STEP_S)
            if earlier is None:
                break
            points.append(
                ThroughputPoint(
                    at=at - timedelta(seconds=(minute - 1) * STEP_S),
                    completed=max(0.0, later.completed - earlier.completed),
                    failed=max(0.0, later.failed - earlier.failed),
                    retried=max(0.0, later.retried - earlier.retried),
                )
            )
            later = earlier
        first, last = self._span(now)
        seconds = last.at - first.at
        return Throughput(
            since=at - timedelta(seconds=now - self._samples[0].at),
            completed_per_s=max(0.0, last.completed - first.completed) / seconds if seconds > 0 else None,
            failed_per_s=max(0.0, last.failed - first.failed) / seconds if seconds > 0 else None,
            points=points[::-1],
        )

    def rate_of(self, lane: str, now: float) -> float | None:
        """Return the attempts that a lane settled in a second, in the last minute; `None` if not known."""
        if not self._samples:
            return None
        first, last = self._span(now)
        if lane not in first.settled or lane not in last.settled or last.at <= first.at:
            return None
        return max(0.0, (last.settled[lane] - first.settled[lane]) / (last.at - first.at))

    def _span(self, now: float) -> tuple[Sample, Sample]:
        """Return the first and the last sample of the last minute."""
        return self._at(now - STEP_S) or self._samples[0], self._samples[-1]

    def _at(self, moment: float) -> Sample | None:
        """Return the last sample that was taken at ``moment`` or before; `None` if all are newer."""
        return next((one for one in reversed(self._samples) if one.at <= moment), None)

    async def _keep_sampling(self) -> None:
        while True:
            try:
                self.add(await self._sample())
            except OUTAGE:
                pass
            except Exception:
                logger.exception("the counters of the lanes could not be read")
            await asyncio.sleep(SAMPLE_PAUSE_S)

    async def _sample(self) -> Sample:
        queue = self._database.queue
        figures = await queue.reader.lane_figures()
        lanes = await queue.reader.lanes()
        completed, failed = (figures.get(name, 0.0) + figures.get(f"reaped.{name}", 0.0) for name in ENDED)
        return Sample(
            time.monotonic(),
            completed,
            failed,
            figures.get("retries", 0.0),
            {lane.id: lane.settled for lane in lanes},
        )


def utc_now() -> datetime:
    """Return this moment, for readers."""
    return datetime.now(UTC)
