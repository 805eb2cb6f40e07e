"""Whether a lane lives, told from outside: from what the lanes table says of it and our own clock."""

from __future__ import annotations

from datetime import datetime

from organism_flows.blocks.queue.lane_models import LaneRow
from organism_flows.flows.lanes.lease import RENEWALS_A_LEASE

REGISTER_S = 120.0
"""A lane that has not registered by then never will. Starting its process and importing takes 3 s, and 20 s
on a busy machine; the rest is for a cluster that has to find room for it."""
ENDING_S = 5.0
"""What a lane that lost its lease may take to notice, end by itself and begin again."""
LEAVING_S = 60.0
"""What a lane that closed its lease in order may take to tell Prefect, whose server may be away."""


class LaneLiveness:
    """What has been heard of one lane of a dispatch run.

    A renewal is heard when the row's ``renewed_at`` has changed, and silence is measured from then by the
    listener's clock: no two clocks are ever compared, and a time in which nobody could listen proves nothing.

    Args:
        lease_s: The lane's lease in seconds.
        now: Seconds, of any clock that only grows; so are all others here.
    """

    def __init__(self, lease_s: float, now: float) -> None:
        self._lease_s = lease_s
        self._heard = now
        self._renewed_at: datetime | None = None
        self._left: float | None = None
        self._settled: dict[str, int] = {}

    def listen(self, row: LaneRow | None, now: float) -> None:
        """Take in what the table says now; None: it has no row of the lane."""
        if row is not None:
            self._settled[row.id] = row.settled
            self._left = None
            if row.renewed_at != self._renewed_at:
                self._renewed_at = row.renewed_at
                self._heard = now
        elif self._renewed_at and self._left is None and now - self._heard < self._lease_s * 2 / 3:
            # It was renewed less than two heartbeats ago: nobody but the lane itself can have taken it out.
            self._left = now

    def trouble(self, now: float) -> str | None:
        """Why the lane is to be ended and replaced, or None."""
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
        """Every id it was seen under."""
        return list(self._settled)

    def settled(self, *, beside: str | None = None) -> int:
        """Tasks it was last heard to have settled, under any of its ids (a retry has a new one) but one."""
        return sum(settled for lane, settled in self._settled.items() if lane != beside)


assert RENEWALS_A_LEASE >= 3, "a pulse takes two thirds of a lease for the sign of a lane that left in order"
