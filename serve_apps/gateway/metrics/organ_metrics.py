"""Load of the organs, read from the organism whenever Prometheus asks for the metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from organism_flows.blocks.errors import OrganismUnavailable, OrganismUnknown
from organism_flows.blocks.long_work import OrganismWork
from organism_flows.blocks.organism_reports import StatusReport
from organism_flows.serve_apps.gateway.organism_link import OrganismLink, TooManyCalls

TIMEOUT_S = 1.0
"""Longest time a scrape waits for each answer of the organism, in seconds."""
KEPT_S = 60.0
"""Time for which a replica's answer is kept, in seconds. Each request reaches one replica. With several
replicas, the metrics are those of the replicas that have answered within this time."""


class Organs:
    """Reads the load of the organs.

    Args:
        organism: The organism that has the organs.
    """

    def __init__(self, organism: OrganismLink) -> None:
        self._organism = organism
        self._up: bool | None = None
        self._answers: dict[str, tuple[float, StatusReport]] = {}
        self._work: OrganismWork | None = None

    async def refresh(self) -> None:
        """Ask the organism once.

        Never raises: that the organism does not answer is a metric too.
        """
        now = time.monotonic()
        self._work = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._organism.status()
        except OrganismUnknown:
            self._up = None
        except (OrganismUnavailable, TooManyCalls, TimeoutError):
            self._up = False
        else:
            self._up = True
            self._answers[answer.replica or "(unnamed)"] = now, answer
        self._answers = {name: kept for name, kept in self._answers.items() if now - kept[0] < KEPT_S}
        if not self._up:
            self._answers.clear()
            return
        # An organism of an older version has no such route. Then these metrics are missing.
        with suppress(OrganismUnavailable, TooManyCalls, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                self._work = OrganismWork.of(await self._organism.running())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the last answer; none while it is not known where the organism is."""
        if self._up is None:
            return
        yield GaugeMetricFamily(
            "organism_up", "Whether the organism answered the gateway.", value=float(self._up)
        )
        labels: Any = ["organ", "replica"]
        in_flight = GaugeMetricFamily(
            "organism_organ_in_flight", "Tasks in handlers, by organ and replica.", labels=labels
        )
        waiting = GaugeMetricFamily(
            "organism_organ_waiting", "Tasks waiting for handlers, by organ and replica.", labels=labels
        )
        for replica, (_, answer) in self._answers.items():
            for organ, load in answer.organs.items():
                in_flight.add_metric([organ, replica], load.in_flight)
                waiting.add_metric([organ, replica], load.waiting)
        yield from (in_flight, waiting)
        if self._work is None:
            return
        suspects = GaugeMetricFamily(
            "organism_organ_suspects", "Tasks in processes of their own, by organ and replica.", labels=labels
        )
        lingering = GaugeMetricFamily(
            "organism_organ_lingering",
            "Handlers that were asked to stop and still run, by organ and replica.",
            labels=labels,
        )
        for one in self._work.organs:
            suspects.add_metric([one.organ, one.replica], one.suspects)
            lingering.add_metric([one.organ, one.replica], one.lingering)
        draining = GaugeMetricFamily(
            "organism_replicas_draining",
            "Replicas that take no tasks any more and end those they have.",
            value=self._work.draining,
        )
        yield from (suspects, lingering, draining)
