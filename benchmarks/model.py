"""How many tasks a second some cores run, from the processor time of a task: docs/explanation/scale.md.

Standard library only, because the plots are drawn in the environment of the peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

USABLE = 0.7
"""Share of a core that a component can use for tasks. Above it, waits grow faster than the rate."""
DATABASE_CORES = (2, 4, 8, 16, 32)
NODES = (1, 4, 16, 64, 250, 1000)
CORES_A_NODE = 16
HANDLERS_MS: dict[str, float] = {"no-op": 0, "5 ms": 5, "100 ms": 100, "1 s": 1000, "1 min": 60_000}
"""Processor time of the handler of a task."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor time of a no-op by component, in microseconds."""

    postgres_us: float
    lane_us: float
    replica_us: float
    wal_bytes: float

    @classmethod
    def of(cls, runs: Sequence[dict[str, Any]]) -> Costs:
        """Return the costs with one lane: the cheapest run, because the others have waited for processors."""
        alone = [run["costs"] for run in runs if run["kind"] == "no-op" and run["lanes"] == 1]
        best = min(alone, key=lambda costs: sum(costs["processor_us"].values()))
        used = best["processor_us"]
        return cls(used["Postgres"], used["lane"], used["replica"], best["wal_bytes"])

    def of_database(self, cores: float) -> float:
        """Return the tasks a second with which one Postgres uses its share of ``cores``."""
        return USABLE * cores * 1e6 / self.postgres_us

    def of_lane(self) -> float:
        """Return the tasks a second of one lane, which is one process."""
        return USABLE * 1e6 / self.lane_us

    def of_replicas(self, cores: float, handler_ms: float) -> float:
        """Return the tasks a second of replicas on ``cores``."""
        return USABLE * cores * 1e6 / (self.replica_us + 1000 * handler_ms)


def database_rows(costs: Costs) -> list[list[str]]:
    """Rows of: cores of one Postgres, tasks/s, lanes that it takes, WAL a second."""
    rows = []
    for cores in DATABASE_CORES:
        rate = costs.of_database(cores)
        lanes = rate / costs.of_lane()
        rows.append(
            [f"{cores}", f"{rate:,.0f}", f"{max(lanes, 1):.0f}", f"{rate * costs.wal_bytes / 1e6:,.0f}"]
        )
    return rows


def node_rows(costs: Costs, database_cores: float) -> list[list[str]]:
    """Rows of: nodes, tasks/s by handler. What one Postgres cannot keep up with is marked."""
    most = costs.of_database(database_cores)
    rows = []
    for nodes in NODES:
        rates = [costs.of_replicas(nodes * CORES_A_NODE, ms) for ms in HANDLERS_MS.values()]
        cells = [
            f"{rate:,.0f}" if rate <= most else f"{most:,.0f} ({rate / most:.0f} databases)" for rate in rates
        ]
        rows.append([f"{nodes:,}", *cells])
    return rows
