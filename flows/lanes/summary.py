"""The counts of one lane."""

from __future__ import annotations

from dataclasses import dataclass


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

    def __str__(self) -> str:
        return (
            f"{self.completed} completed, {self.failed} dead letters, {self.retried} to be retried, "
            + (f"{self.cancelled} cancelled, " if self.cancelled else "")
            + f"{self.released} handed back, {self.stale} stale; {self.calls} calls in {self.seconds:.1f} s"
        )

    @property
    def settled(self) -> int:
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
