"""The overview: one look at everything, shared by all who watch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from organism_flows.blocks.client.board_messages import (
    Attention,
    LaneFigures,
    LastVerification,
    LoadFigures,
    Overview,
    PauseFigures,
    QueueFigures,
)
from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.queue import Pause
from organism_flows.blocks.versions import package_version
from organism_flows.serve_apps.gateway.board.attention import attention_of
from organism_flows.serve_apps.gateway.board.organism import OrganismWatch
from organism_flows.serve_apps.gateway.board.throughput import ThroughputRecorder, utc_now
from organism_flows.serve_apps.gateway.database import OUTAGE, Database

REFRESH_S = 2.0
"""Shortest time between two looks, in seconds."""
LOOK_SHARE = 50
"""Upper bound on the share of time spent looking, as 1/N, unless `REFRESH_LIMIT_S` ends the pause."""
REFRESH_LIMIT_S = 30.0
LOOK_TIMEOUT_S = 15.0

logger = logging.getLogger("organism.gateway")


class Overviews:
    """Makes the overview when it is asked for, at most as often as its cost allows.

    Args:
        database: The queue.
        organism: The organism.
        throughput: Samples of the lanes' counters.
        prefect_url: Returns the base of Prefect's UI, or `None`.
    """

    def __init__(
        self,
        database: Database,
        organism: OrganismWatch,
        throughput: ThroughputRecorder,
        prefect_url: Callable[[], str | None],
    ) -> None:
        self._database = database
        self._organism = organism
        self.throughput = throughput
        self._prefect_url = prefect_url
        self._made: Overview | None = None
        self._body = b""
        self._due = 0.0
        self._making: asyncio.Task[None] | None = None
        self.looks = 0

    async def get(self) -> Overview:
        """Return the overview. All who ask meanwhile share one look."""
        await self._fresh()
        assert self._made is not None
        return self._made

    async def body(self) -> bytes:
        """Return the overview as JSON, which is made once for all readers."""
        await self._fresh()
        return self._body

    def forget(self) -> None:
        """Look again for the next reader: somebody has just changed something."""
        self._due = 0.0

    async def aclose(self) -> None:
        """End a look that is under way."""
        if self._making is not None:
            self._making.cancel()

    async def _fresh(self) -> None:
        if time.monotonic() < self._due:
            return
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(), name="gateway-overview")
        # A reader who leaves does not end the look of the others.
        await asyncio.shield(self._making)

    async def _make(self) -> None:
        started = time.monotonic()
        queue, attention = await self._look()
        # Only the queue's part counts: the organism is asked seldom, by the coordinator.
        took = time.monotonic() - started
        organism = await self._organism.figures()
        if queue is not None:
            attention = attention_of(queue, organism)
        refresh_s = min(max(LOOK_SHARE * took, REFRESH_S), REFRESH_LIMIT_S)
        now, at = time.monotonic(), utc_now()
        self._made = Overview(
            at=at,
            version=package_version(),
            refresh_s=refresh_s,
            attention=attention,
            queue=queue,
            throughput=self.throughput.throughput(now, at),
            organism=organism,
            prefect_url=self._prefect_url(),
        )
        self._body = self._made.model_dump_json().encode()
        self._due = now + refresh_s
        self.looks += 1

    async def _look(self) -> tuple[QueueFigures | None, list[Attention]]:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return await self._queue_figures(), []
        except OUTAGE as error:
            what = error.what if isinstance(error, OrganismError) else str(error) or type(error).__name__
            step = error.next_step if isinstance(error, OrganismError) else "check the database"
            return None, [Attention(level="bad", what=f"Postgres does not answer: {what}", next_step=step)]
        except Exception as error:
            logger.exception("the overview could not be read")
            what = f"The queue could not be read: {type(error).__name__}"
            return None, [Attention(level="bad", what=what, next_step="It is in the gateway's log")]

    async def _queue_figures(self) -> QueueFigures:
        queue = self._database.queue
        reads = queue.board
        depths = await reads.depths()
        now = await queue.reader.now()
        lanes = await queue.reader.lanes()
        pauses = await queue.operator.pauses()
        newest = await reads.newest_audit(("pause", "verify"))
        return QueueFigures(
            types=[LoadFigures.model_validate(asdict(one)) for one in depths.types],
            domains=[LoadFigures.model_validate(asdict(one)) for one in depths.domains],
            dead=depths.dead,
            dead_more=depths.dead_more,
            dead_last_hour=depths.dead_last_hour,
            latency=asdict(depths.latency) if depths.latency else None,
            lanes=[
                LaneFigures(
                    **lane.model_dump(include=set(LaneFigures.model_fields)),
                    state=lane.state,
                    heartbeat_s=max(0.0, (now - lane.renewed_at).total_seconds()),
                    per_s=self.throughput.rate_of(lane.id, time.monotonic()),
                    held=depths.held.get(lane.id, 0),
                )
                for lane in lanes
            ],
            pauses=[pause_figures(pause, newest) for pause in pauses],
            verification=next(
                (verification for row in newest if (verification := _verification(row)) is not None), None
            ),
        )


def pause_figures(pause: Pause, audit: Sequence[dict[str, Any]]) -> PauseFigures:
    """Return a pause and who made it, by the newest rows of the audit."""
    by = next(
        (
            row["actor"].removeprefix("gateway: ")
            for row in audit
            if row["action"] == "pause"
            and isinstance(row["details"], dict)
            and (row["details"].get("kind"), row["details"].get("name")) == (pause.kind, pause.name)
        ),
        None,
    )
    return PauseFigures(**pause.model_dump(), by=by)


def _verification(row: dict[str, Any]) -> LastVerification | None:
    details = row["details"]
    if row["action"] != "verify" or not isinstance(details, dict):
        return None
    status = details.get("status")
    if status not in ("ok", "degraded", "failed"):
        return None
    run = details.get("run")
    return LastVerification(
        at=row["at"], status=status, line=str(details.get("line", "")), run=str(run) if run else None
    )
