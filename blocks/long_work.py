"""Facts about running work for an operator: suspects, interruptions, leaving lanes, copies.

This module does not import the queue: `organism status` answers in less time than that import takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from organism_flows.blocks.http_clients import own_client
from organism_flows.blocks.sql_statement import Statement, read_sql

if TYPE_CHECKING:
    import httpx

WAITS_LONG_S = 60.0
"""Seconds that a task may wait on a replica for a handler before it counts as waiting for long."""
COUNTED = 100_000
"""Most interrupted tasks that are counted."""
PARAMETERS = {"waits_long_s": WAITS_LONG_S, "limit": COUNTED}
"""Parameters of the statement ``long_work``."""
RUNNING_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class LeavingLane:
    """A live lane that no longer claims and waits for its calls to end."""

    id: str
    run: str | None
    since: datetime
    tasks: int
    """Tasks that it still holds."""
    oldest_at: datetime | None
    """When the oldest of them began, or was claimed if it has not begun. `None` means it holds none."""
    until: datetime | None
    """When the timeouts of all of them are over. `None` means the timeout of one is not in the database."""


@dataclass(frozen=True, slots=True)
class LongWork:
    """Running work, as the queue records it."""

    now: datetime
    """The time of the database."""
    suspects: int
    """Running tasks that have already been on a replica when it died. Each runs in a process of its own."""
    handed_over: int
    """Tasks that have waited on a replica for a handler for more than `WAITS_LONG_S`."""
    handed_over_since: datetime | None
    interrupted: int
    """Unfinished tasks that were interrupted more than twice, counted up to `COUNTED`."""
    leaving: tuple[LeavingLane, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> LongWork:
        """Return the work in ``row``, the answer of the statement ``long_work``."""
        leaving = [
            LeavingLane(
                lane["id"],
                lane["run"],
                since,
                lane["tasks"],
                _moment(lane["oldest_at"]),
                _moment(lane["until"]),
            )
            for lane in json.loads(row["leaving"])
            if (since := _moment(lane["since"])) is not None
        ]
        return cls(
            row["now"],
            row["suspects"],
            row["handed_over"],
            row["handed_over_since"],
            row["interrupted"],
            tuple(leaving),
        )

    @property
    def suspects_note(self) -> str | None:
        """Return a line that says how many suspects run, or `None` if none does."""
        if not self.suspects:
            return None
        return _counted(
            self.suspects,
            "suspect runs in a process of its own",
            "suspects run in processes of their own",
        )

    @property
    def interrupted_note(self) -> str | None:
        """Return a line that says how many tasks were interrupted often, or `None` if none was."""
        if not self.interrupted:
            return None
        often = "interrupted more than twice"
        many = f"+ tasks were {often}"
        if self.interrupted >= COUNTED:
            return f"{self.interrupted:,}{many}"
        return _counted(self.interrupted, f"unfinished task was {often}", f"unfinished tasks were {often}")

    @property
    def handed_over_note(self) -> str | None:
        """Return a line that says how many tasks wait on replicas, or `None` if none waits for long."""
        if not self.handed_over or self.handed_over_since is None:
            return None
        tasks = _counted(self.handed_over, "task on a replica has", "tasks on replicas have")
        since = self._clock(self.handed_over_since)
        return f"{tasks} waited more than {WAITS_LONG_S:g} s for a handler, the oldest since {since}"

    @property
    def leaving_note(self) -> str | None:
        """Return a line that says how many lanes are leaving and until when, or `None` if none is."""
        if not self.leaving:
            return None
        tasks = sum(lane.tasks for lane in self.leaving)
        since = self._clock(min(lane.since for lane in self.leaving))
        several = len(self.leaving) > 1
        lanes = f"{len(self.leaving)} lanes leave, the first" if several else "1 lane leaves"
        note = f"{lanes} since {since} ({_counted(tasks, 'task', 'tasks')})"
        oldest = min((lane.oldest_at for lane in self.leaving if lane.oldest_at), default=None)
        if oldest is None:
            return note
        ends = [lane.until for lane in self.leaving if lane.tasks]
        known = [end for end in ends if end is not None]
        if len(known) == len(ends):
            return f"{note}, until {self._clock(max(known))} at the latest"
        whose = "their" if several else "its"
        return f"{note}, until {whose} tasks end, the oldest is held since {self._clock(oldest)}"

    @property
    def notes(self) -> list[str]:
        """Return all these lines. Empty if there is nothing to report."""
        notes = (self.suspects_note, self.leaving_note, self.interrupted_note, self.handed_over_note)
        return [note for note in notes if note]

    def _clock(self, moment: datetime) -> str:
        same_day = moment.astimezone(UTC).date() == self.now.astimezone(UTC).date()
        return f"{moment.astimezone(UTC):{'' if same_day else '%Y-%m-%d '}%H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class OrganWork:
    """Work that runs in one organ on one replica."""

    replica: str
    organ: str
    draining: bool
    suspects: int
    """Tasks that run in processes of their own."""
    lingering: int
    """Handlers that were asked to stop and still run."""


@dataclass(frozen=True, slots=True)
class OrganismWork:
    """Answer of the organism's route ``/running``, over all replicas."""

    organs: tuple[OrganWork, ...] = ()
    draining: int = 0
    """Replicas that take no more tasks and finish those they have."""

    @classmethod
    def of(cls, answer: Any) -> OrganismWork | None:
        """Return the work in an answer of the route, or `None` if the answer has another form."""
        try:
            organs = tuple(
                OrganWork(
                    str(replica["replica"]),
                    str(organ),
                    bool(replica.get("draining")),
                    int(figures.get("suspects", 0)),
                    int(figures.get("lingering", 0)),
                )
                for replica in answer["replicas"]
                for organ, figures in replica["organs"].items()
            )
            return cls(organs, sum(bool(replica.get("draining")) for replica in answer["replicas"]))
        except (KeyError, TypeError, AttributeError, ValueError):
            return None

    @property
    def copies(self) -> int:
        """Return the number of handlers that were asked to stop and still run.

        Their tasks may run again elsewhere by now.
        """
        return sum(organ.lingering for organ in self.organs)

    @property
    def copies_note(self) -> str | None:
        """Return a line that says how many copies run, and in which organs. `None` if none does."""
        if not self.copies:
            return None
        by_organ: dict[str, int] = {}
        for organ in self.organs:
            by_organ[organ.organ] = by_organ.get(organ.organ, 0) + organ.lingering
        where = ", ".join(f"{name}: {count}" for name, count in sorted(by_organ.items()) if count)
        handlers = _counted(self.copies, "handler that was asked", "handlers that were asked")
        return f"{handlers} to stop still {'runs' if self.copies == 1 else 'run'} ({where})"

    @property
    def notes(self) -> list[str]:
        """Return a line for the copies and one for draining replicas. Empty if there are none."""
        draining = (
            _counted(
                self.draining,
                "replica is draining: it ends the tasks it has",
                "replicas are draining: they end the tasks they have",
            )
            if self.draining
            else None
        )
        return [note for note in (self.copies_note, draining) if note]


def long_work_sql() -> tuple[str, list[Any]]:
    """Return the statement ``long_work`` and its arguments, without importing the queue."""
    statement = Statement.of(_sql("long_work"))
    return statement.text, statement.arguments(PARAMETERS)


def can_write_sql() -> str:
    """Return the text of the statement ``can_write`` without importing the queue."""
    return _sql("can_write")


def _sql(name: str) -> str:
    return read_sql(Path(__file__).parent / "queue" / "sql", name)


async def ask_organism(
    url: str | None, headers: Mapping[str, str], client: httpx.AsyncClient | None = None
) -> OrganismWork | None:
    """Return what runs on all replicas of the organism, or `None` if it does not answer.

    Never raises for a failed request.

    Args:
        url: Base of its routes. `None` means it is not known.
        headers: Headers that carry its token.
        client: Client for the request. `None` means a new one.

    Returns:
        The work. `None` also if the organism's version does not have this route.
    """
    import httpx

    if url is None:
        return None
    try:
        if client is None:
            async with own_client(timeout=RUNNING_TIMEOUT_S) as own:
                return await ask_organism(url, headers, own)
        address = f"{url.rstrip('/')}/running"
        answer = await client.get(address, headers=dict(headers), timeout=RUNNING_TIMEOUT_S)
        return OrganismWork.of(answer.json()) if answer.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return None


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _moment(text: str | None) -> datetime | None:
    """Return the moment in JSON of Postgres, cut to the range of Python's dates."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        early = text.endswith("BC") or text.startswith("-")
        return (datetime.min if early else datetime.max).replace(tzinfo=UTC)
