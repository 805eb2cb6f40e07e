"""What a drain costs: processor time by process, WAL written and row versions that died.

These hold on a machine that does other work too, where rates do not.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil

if TYPE_CHECKING:
    from benchmarks.stack import Stack

EVERY_S = 0.02
"""How often the processes are read that end by themselves."""
POSTGRES = "Postgres"
WORKER = "worker"
REPLICA = "replica"
"""All replicas together."""
LANE = "lane"
FLOW = "flow"
PROXY = "Serve's controller and proxy"
RAY = "rest of Ray"
PREFECT = "Prefect server"
WRITTEN = """
    SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal,
           (SELECT coalesce(sum(n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables) AS dead
"""


@dataclass(slots=True)
class Group:
    """Processes that are counted together."""

    processes: list[psutil.Process]
    first: dict[int, float] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)

    def read(self) -> None:
        """Read the time that each process has used so far; of one that has ended, the last reading counts."""
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self.last[process.pid] = times.user + times.system
                self.first.setdefault(process.pid, self.last[process.pid])

    @property
    def seconds(self) -> float:
        """Processor time from the first reading to the last."""
        return sum(used - self.first[pid] for pid, used in self.last.items())


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Meter:
    """Counters from one moment to another.

    Args:
        dsn: Database whose row versions are counted.
        own: Root of the processes of a peer.
    """

    def __init__(self, stack: Stack, dsn: str, own: int | None = None) -> None:
        self._dsn = dsn
        self._written: dict[str, float] = {}
        ray = tree(stack.state.processes["ray"].pid)
        replicas, serve = [p for p in ray if is_replica(p)], [p for p in ray if is_serve(p)]
        ray = [p for p in ray if p not in replicas]
        self.groups = {
            REPLICA: Group(replicas),
            PROXY: Group(serve),
            RAY: Group([p for p in ray if p not in serve]),
            PREFECT: Group(tree(stack.state.processes["prefect"].pid)),
        }
        self._trees = {POSTGRES: stack.state.processes["postgres"].pid} | ({WORKER: own} if own else {})
        self._before: dict[str, float] = {}
        self._after: dict[str, float] = {}

    async def begin(self) -> None:
        """Read everything for the first time."""
        self._before = {name: used_by_tree(pid) for name, pid in self._trees.items()}
        for group in self.groups.values():
            group.first.clear()  # those that were watched before count from now on too
        self._read_groups()
        self._written = await written(self._dsn)

    def watch(self, name: str, *pids: int) -> None:
        """Count more processes, which may end, under one name."""
        watched = self.groups[name] = Group([])
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                watched.processes.append(psutil.Process(pid))
            for group in self.groups.values():
                if group is not watched:
                    group.processes = [p for p in group.processes if p.pid != pid]
                    group.first.pop(pid, None)
                    group.last.pop(pid, None)
        watched.read()

    async def until_ended(self, name: str) -> None:
        """Read the process of ``name`` until it has ended, then all others."""
        group = self.groups[name]
        while any(map(psutil.Process.is_running, group.processes)):
            group.read()
            await asyncio.sleep(EVERY_S)
        self.read_processes()

    def read_processes(self) -> None:
        """Read the processes for the last time."""
        self._after = {name: used_by_tree(pid) for name, pid in self._trees.items()}
        self._read_groups()

    async def finish(self, tasks: int) -> dict[str, Any]:
        """Processor time in microseconds a task by process, and what was written, a task.

        Call it once the clients of the database have ended: a backend reports its row counts when it ends.
        """
        now = await written(self._dsn)
        seconds = {name: self._after[name] - self._before[name] for name in self._trees}
        seconds |= {name: group.seconds for name, group in self.groups.items()}
        return {
            "processor_us": {name: 1e6 * each / tasks for name, each in seconds.items()},
            "wal_bytes": (now["wal"] - self._written["wal"]) / tasks,
            "dead_rows": (now["dead"] - self._written["dead"]) / tasks,
        }

    def _read_groups(self) -> None:
        for group in self.groups.values():
            group.read()


def is_replica(process: psutil.Process) -> bool:
    """Return True for a replica of `OrganismManager`."""
    return runs(process, "ray::ServeReplica:organism:OrganismManager")


def is_serve(process: psutil.Process) -> bool:
    """Return True for Serve's controller and its proxy."""
    return runs(process, "ray::ServeController", "ray::ProxyActor")


def runs(process: psutil.Process, *names: str) -> bool:
    """Return True for a worker of Ray with one of these names."""
    with contextlib.suppress(psutil.Error):
        return any(word.startswith(names) for word in process.cmdline())
    return False


def used_with_ended(process: psutil.Process) -> float:
    """Processor time of a process and of its children that have ended."""
    return float(sum(process.cpu_times()[:4]))  # user, system, and both of ended children


def used_by_tree(pid: int) -> float:
    """Processor time of a process and of all that it has or had below it."""
    used = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            used += used_with_ended(process)
    return used


async def written(dsn: str) -> dict[str, float]:
    """WAL position and row versions that have died so far."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(WRITTEN)
        assert row is not None
        return {name: float(value) for name, value in row.items()}
    finally:
        await connection.close()
