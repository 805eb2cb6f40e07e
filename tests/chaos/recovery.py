"""How long a kill was felt, from what Postgres recorded: by the tasks that were lost, and in the flow of all.

Kills are dated by this machine's clock, which is the clock of the Postgres on it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from organism_flows.blocks.queue import FINISHED
from tests.support.history import History

WINDOW_S = 3.0
"""The flow is back when it is so for so long."""
STEP_S = 0.1
ONSET_S = 5.0
"""A dip that begins later than this after a kill is not its doing."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one kill did."""

    held: int
    """Tasks that were running at the kill."""
    lost: int
    """How many of them were taken back from their holder, and so are run again."""
    back_s: float
    """Seconds until the last of those had been taken back."""
    flow_s: float | None
    """Seconds until tasks were settled at half the rate before again; 0: the rate never fell below it; None:
    it did not come back before the tasks ran out."""
    rate_before: float
    """Tasks settled per second before."""

    @property
    def seconds(self) -> float | None:
        """All of it; None: it never ended."""
        return None if self.flow_s is None else max(self.back_s, self.flow_s)


class Timeline:
    """What happened when, of one run.

    Args:
        history: What was recorded.
        before_s: The rate before a kill is the mean over so many seconds.
    """

    def __init__(self, history: History, *, before_s: float) -> None:
        self._before_s = before_s
        self._settled: list[float] = []
        self._held: list[tuple[float, float, bool]] = []
        for task, changes in history.changes.items():
            kind = history.tasks.get(task, {}).get("type", "")
            # Those that wait end when somebody answers.
            short = kind not in ("long", "asks") and not kind.startswith("units")
            charged = {charge.claim: charge.cause for charge in history.charges.get(task, [])}
            begun = 0.0
            for change in changes:
                at = change.at.timestamp()
                if change.new == "running":
                    begun = at
                elif change.old == "running":
                    lost = charged.get(change.claim) in ("lease_lost", "replica_lost", "unavailable")
                    self._held.append((begun, at, lost))
                if change.new in FINISHED and short:
                    self._settled.append(at)
        self._settled.sort()

    def claims_lasted(self, share: float) -> float:
        """Seconds below which ``share`` of all claims lasted, whatever ended them."""
        lasted = sorted(end - begun for begun, end, _ in self._held)
        return lasted[min(int(share * len(lasted)), len(lasted) - 1)] if lasted else 0.0

    def standstills(self, longer_s: float, until: float) -> list[tuple[float, float]]:
        """Stretches of more than ``longer_s`` seconds in which no short task was settled: begin and end.

        Args:
            until: Of those that begin before; later there may be none left to settle.
        """
        return [
            (begin, end) for begin, end in pairwise(self._settled) if begin < until and end - begin > longer_s
        ]

    def after(self, kill: float) -> Recovery:
        """What followed a kill at ``kill``, in seconds since the epoch."""
        running = [(end, lost) for begun, end, lost in self._held if begun <= kill < end]
        rate = self._count(kill - self._before_s, kill) / self._before_s
        return Recovery(
            held=len(running),
            lost=sum(lost for _, lost in running),
            back_s=max((end - kill for end, lost in running if lost), default=0.0),
            flow_s=self._flow(kill, rate),
            rate_before=round(rate, 1),
        )

    def _count(self, start: float, end: float) -> int:
        return bisect_left(self._settled, end) - bisect_left(self._settled, start)

    def _flow(self, kill: float, rate: float) -> float | None:
        last = self._settled[-1] if self._settled else kill
        at, dip = kill, False
        while at + WINDOW_S <= last:
            enough = self._count(at, at + WINDOW_S) >= rate * WINDOW_S / 2
            if dip and enough:
                # With a sudden and full return half the window lies behind it.
                return at + WINDOW_S / 2 - kill
            dip = dip or not enough
            if not dip and at - kill > ONSET_S:
                return 0.0
            at += STEP_S
        return None if dip else 0.0
