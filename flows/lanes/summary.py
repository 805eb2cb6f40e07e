"""The counts of one lane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from organism_flows.blocks.queue import Settled


@dataclass(slots=True)
class LaneSummary:
    """Counts of one lane. ``claimed`` is the sum of settled tasks, stale ones and those handed back."""

    lane: str
    claimed: int = 0
    completed: int = 0
    failed: int = 0
    """Dead letters."""
    cancelled: int = 0
    retried: int = 0
    """Attempts that failed or timed out and will be made again."""
    released: int = 0
    """Tasks handed back with the attempt not charged."""
    stale: int = 0
    """Outcomes refused because a newer claim holds the task."""
    calls: int = 0
    seconds: float = 0.0
    node_drained: bool = False
    """True if the lane left because Ray takes its node away."""

    def __str__(self) -> str:
        return (
            f"{self.completed} completed, {self.failed} dead letters, {self.retried} to be retried, "
            + (f"{self.cancelled} cancelled, " if self.cancelled else "")
            + f"{self.released} handed back, {self.stale} stale; {self.calls} calls in {self.seconds:.1f} s"
        )

    def add_settled(self, settled: Settled) -> None:
        """Count the tasks of a settlement."""
        counts = Counter(settled.statuses.values())
        self.completed += counts.pop("completed", 0)
        self.failed += counts.pop("failed", 0)
        self.cancelled += counts.pop("cancelled", 0)
        self.retried += counts.total()
        # A task that its handler put off is not charged, as one that is handed back.
        self.retried -= settled.snoozed
        self.released += settled.snoozed
        self.stale += len(settled.stale)

    def add_released(self, tasks: int, statuses: Mapping[str, str]) -> None:
        """Count ``tasks`` tasks that were handed back, with the new status of those not claimed again."""
        for status in statuses.values():
            if status == "failed":
                self.failed += 1
            else:
                self.released += 1
        self.stale += tasks - len(statuses)

    @property
    def settled(self) -> int:
        """Return the number of tasks that were settled, with any outcome."""
        return self.completed + self.failed + self.cancelled + self.retried

    @property
    def figures(self) -> dict[str, int]:
        """Return the counts by their names in `blocks.queue.counters`."""
        return {
            "claims": self.claimed,
            "completed": self.completed,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "retries": self.retried,
            "released": self.released,
            "stale_writes": self.stale,
        }
