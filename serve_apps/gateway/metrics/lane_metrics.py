"""Counters of the lanes, for Prometheus: sums over every lane that ever ran, so they never fall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from organism_flows.blocks.queue.counters import BATCH_SIZES, CALL_SECONDS, buckets

COUNTERS = {
    "claims": ("organism_lane_claims", "Tasks claimed."),
    "retries": ("organism_lane_retries", "Attempts that failed or timed out and will be made again."),
    "released": ("organism_lane_released", "Tasks handed back with their attempt uncharged."),
    "stale_writes": ("organism_lane_stale_writes", "Outcomes refused: another lane held the task by then."),
    "lanes_lost": ("organism_lanes_lost", "Lanes whose lease ran out."),
    "leases_lost": ("organism_lease_losses", "Tasks taken back from lanes that were lost."),
}
ENDED = ("completed", "failed", "cancelled")
HISTOGRAMS = {
    "batch_size": ("organism_lane_batch_size", "Tasks of a call to the organism.", BATCH_SIZES),
    "call_seconds": (
        "organism_lane_call_seconds",
        "Seconds from a call to the organism to the settlement of its last outcome.",
        CALL_SECONDS,
    ),
}


def lane_metrics(figures: Mapping[str, float]) -> Iterator[Metric]:
    """Yield every metric of lanes, including those that have counted nothing yet.

    Args:
        figures: Counts by their names in `blocks.queue.counters`.
    """
    for name, (metric, described) in COUNTERS.items():
        yield CounterMetricFamily(metric, described, value=figures.get(name, 0.0))
    settlements = CounterMetricFamily(
        "organism_lane_settlements",
        "Tasks that ended, by status; failed are dead letters.",
        labels=["status"],
    )
    for status in ENDED:
        # A task may also end when it is taken back from a lost lane.
        ended = figures.get(status, 0.0) + figures.get(f"reaped.{status}", 0.0)
        settlements.add_metric([status], ended)
    yield settlements
    for name, (metric, described, bounds) in HISTOGRAMS.items():
        reached, total = buckets(figures, name, bounds)
        yield HistogramMetricFamily(
            metric,
            described,
            buckets=[(f"{bound:g}" if bound < inf else "+Inf", number) for bound, number in reached],
            sum_value=total,
        )
