"""Metrics of limits and of who waits: limits, what is closed, and which keys and types are starved.

Submitters choose keys, and there may be any number: only those that use or wait most now have labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from organism_flows.blocks.queue import LimitUse, LineWait, Queue

LIMITS_SHOWN = 100
"""Most limits with a label of their own, by name, and most types and limits that are closed."""
KEYS_SHOWN = 10
"""Most keys of a limit, and most lines of waiting tasks, with labels of their own."""
STARVED_AFTER_S = 60.0
"""Seconds without a turn from which a line counts as starved."""


@dataclass
class LimitFigures:
    """What was read of limits and waiting lines."""

    limits: list[LimitUse] = field(default_factory=list)
    closures: dict[str, int] = field(default_factory=dict)
    """How many keys of types, and limits, are closed."""
    closed_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """For how long the first key of a type, or of a limit, has been closed, by kind and name."""
    waits: list[LineWait] = field(default_factory=list)
    """Lines of waiting tasks, those that have waited longest first."""


async def read_limits(queue: Queue) -> LimitFigures:
    """Return the figures of limits and waiting lines."""
    closures = await queue.operator.closures()
    now = await queue.reader.now()
    closed_s: dict[tuple[str, str], float] = {}
    for closure in closures:
        name = (closure.kind, closure.name)
        closed_s[name] = max(closed_s.get(name, 0.0), (now - closure.closed_at).total_seconds())
    return LimitFigures(
        await queue.operator.limits(),
        {"type": 0, "limit": 0} | Counter(closure.kind for closure in closures),
        closed_s,
        await queue.health.line_waits(STARVED_AFTER_S),
    )


def limit_metrics(figures: LimitFigures) -> Iterator[Metric]:
    """Yield the metrics of limits and waiting lines."""
    closures = GaugeMetricFamily("organism_closures", "Keys and limits that are closed.", labels=["kind"])
    for kind, number in figures.closures.items():
        closures.add_metric([kind], number)
    closed = GaugeMetricFamily(
        "organism_closed_seconds",
        "Seconds for which a limit, or the first key of a type or limit, has been closed.",
        labels=["kind", "name"],
    )
    longest = sorted(figures.closed_s.items(), key=lambda item: -item[1])[:LIMITS_SHOWN]
    for (kind, name), seconds in longest:
        closed.add_metric([kind, name], max(seconds, 0))
    limits = GaugeMetricFamily(
        "organism_limit_use",
        "Share of its amount that a limit on what runs or is spent has used, by the key with most.",
        labels=["limit"],
    )
    keys = GaugeMetricFamily(
        "organism_limit_key_use",
        "Share of its amount that a key has used of a limit by key: the 10 keys with most.",
        labels=["limit", "key"],
    )
    for limit in figures.limits[:LIMITS_SHOWN]:
        if limit.share is not None:
            limits.add_metric([limit.name], limit.share)
        if limit.by_key:
            most = sorted(limit.shares.items(), key=lambda item: -item[1])[:KEYS_SHOWN]
            for key, share in most:
                keys.add_metric([limit.name, key], share)
    yield from (closures, closed, limits, keys, *_waits(figures.waits))


def _waits(waits: list[LineWait]) -> Iterator[Metric]:
    line = ["type", "domain", "key"]
    waiting = GaugeMetricFamily(
        "organism_line_oldest_seconds",
        "Seconds since the first task of a type, domain and key was due: the 10 that have waited longest.",
        labels=line,
    )
    starved = GaugeMetricFamily(
        "organism_line_starved_seconds",
        "The same of those of which none has run for a minute, while others of their priority did.",
        labels=line,
    )
    for metric, lines in ((waiting, waits), (starved, [one for one in waits if one.starved])):
        shown: dict[tuple[str, str, str], float] = {}
        for one in lines:
            # Of several priorities, the one that has waited longest comes first.
            shown.setdefault((one.type, one.domain, one.key), one.waits_s)
        for labels, seconds in list(shown.items())[:KEYS_SHOWN]:
            metric.add_metric(labels, seconds)
    count = GaugeMetricFamily(
        "organism_starved_lines",
        "Types, domains and keys of which none has run for a minute, while others of their priority did.",
        value=sum(one.starved for one in waits),
    )
    yield from (waiting, starved, count)
