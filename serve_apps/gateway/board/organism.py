"""How the organism stands, for the board: its health, and its organs on the replicas that have answered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from organism_flows.blocks.client.board_messages import OrganFigures, OrganismFigures
from organism_flows.blocks.errors import OrganismUnavailable, OrganismUnknown
from organism_flows.serve_apps.gateway.organism_link import Coordinator

KEPT_S = 60.0
"""Time for which a replica's answer is kept, in seconds: each request reaches one replica."""


class OrganismWatch:
    """Asks the organism for its status, and keeps the newest answer of each replica.

    Args:
        coordinator: The way to the organism. It keeps answers for a while, however often it is asked.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._answers: dict[str, tuple[float, Mapping[str, Any]]] = {}

    async def figures(self) -> OrganismFigures:
        """Return how the organism stands. Never raises: that it does not answer is said as well."""
        now = time.monotonic()
        try:
            status = (await self._coordinator.status()).plain()
        except OrganismUnavailable as error:
            self._answers.clear()
            known = not isinstance(error, OrganismUnknown)
            return OrganismFigures(
                status="unhealthy" if known else "unknown", reason=error.what, next_step=error.next_step
            )
        self._answers[str(status.get("replica"))] = now, status
        self._answers = {name: kept for name, kept in self._answers.items() if now - kept[0] < KEPT_S}
        health = status.get("status")
        reason = status.get("problem") or status.get("refused_configuration")
        return OrganismFigures(
            status=health if health in ("healthy", "degraded", "unhealthy") else "healthy",
            reason=str(reason) if reason else None,
            next_step="see `organism status`, correct the configuration, and deploy again"
            if reason
            else None,
            any_type=bool((status.get("config") or {}).get("default_organ")),
            organs=list(self._organs()),
        )

    def _organs(self) -> Iterator[OrganFigures]:
        by_id: dict[str, list[Mapping[str, Any]]] = {}
        for _, status in self._answers.values():
            organs = status.get("organs")
            for name, organ in organs.items() if isinstance(organs, Mapping) else ():
                if isinstance(organ, Mapping):
                    by_id.setdefault(str(name), []).append(organ)
        for name, replicas in sorted(by_id.items()):
            newest = replicas[-1]
            yield OrganFigures(
                id=name,
                kind=newest.get("kind"),
                handler=newest.get("handler"),
                versions=list(dict.fromkeys(str(one["version"]) for one in replicas if one.get("version"))),
                task_types=[str(each) for each in newest.get("task_types") or []],
                replicas=len(replicas),
                **{
                    figure: sum(_count(one.get(figure)) for one in replicas)
                    for figure in ("in_flight", "waiting", "completed", "failed")
                },
            )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
