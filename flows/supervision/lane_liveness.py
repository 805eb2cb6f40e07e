"""Liveness of a lane, judged from its row in the lanes table and the observer's own clock."""

from __future__ import annotations

from datetime import datetime

from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.flows.lanes.lease import RENEWALS_A_LEASE

REGISTER_S = 120.0
"""Time within which a lane has to register, in seconds.

Starting its process and importing takes 3 s, and 20 s on a busy machine. The rest is for a cluster that has
to find room for it.
"""
ENDING_S = 5.0
"""Time for a lane that lost its lease to notice it, end by itself and begin again, in seconds."""
LEAVING_S = 60.0
"""Time for a lane that closed its lease to report to Prefect, whose server may be away, in seconds."""


class LaneLiveness:
    """Signs of life of one lane of a dispatch run.

    A renewal is noticed when ``renewed_at`` of the row has changed. Silence is measured from that moment by
    the observer's clock, so no two clocks are ever compared. Renewals made while the table could not be read
    are noticed at the next read.

    Args:
        lease_s: Length of the lane's lease, in seconds.
        now: Current time in seconds, by any clock that never runs backwards. The methods take the same clock.
    """

    def __init__(self, lease_s: float, now: float) -> None:
        self._lease_s = lease_s
        self._heard = now
        self._renewed_at: datetime | None = None
        self._left: float | None = None
        self._settled: dict[str, int] = {}

    def record(self, row: LaneRow | None, now: float) -> None:
        """Record the row that the table has now; `None` means it has no row of the lane."""
        if row is not None:
            self._settled[row.id] = row.settled
            self._left = None
            if row.renewed_at != self._renewed_at:
                self._renewed_at = row.renewed_at
                self._heard = now
        elif self._renewed_at and self._left is None and now - self._heard < self._lease_s * 2 / 3:
            # The row was renewed less than two heartbeats ago: only the lane itself can have deleted it.
            self._left = now

    def trouble(self, now: float) -> str | None:
        """Return why the lane must be killed and replaced, or `None` if it lives."""
        silent = now - self._heard
        if self._renewed_at is None:
            return f"it did not register within {REGISTER_S:g} s" if silent > REGISTER_S else None
        if self._left is not None:
            gone = now - self._left
            return f"it closed its lease {gone:.0f} s ago and did not end" if gone > LEAVING_S else None
        if silent > self._lease_s + ENDING_S:
            return f"it has not renewed its lease of {self._lease_s:g} s for {silent:.0f} s"
        return None

    @property
    def ids(self) -> list[str]:
        """Return every id under which the lane was seen."""
        return list(self._settled)

    def settled(self, *, without: str | None = None) -> int:
        """Return the number of tasks that the lane had settled when it was last seen.

        Args:
            without: An id whose tasks are not counted. A retry of the lane has a new id.
        """
        return sum(settled for lane, settled in self._settled.items() if lane != without)


assert RENEWALS_A_LEASE >= 3, "liveness takes two thirds of a lease for the sign of a lane that left in order"
