"""The two columnar messages that travel between Postgres, a lane and a replica.

A lane moves hundreds of tasks a call and parses none of them: params and results stay JSON text from the
database to the handler and back. In a prototype, columns moved 1.4 to 1.7 times as many tasks per second as
one dict a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from organism_flows.blocks.task_report import Checkpoint, EndedWait, TaskReport

WIRE_VERSION = 9
"""Version of the messages. It grows when a column changes meaning; a replica refuses a batch of another
version."""

Cause: TypeAlias = Literal[
    "completed",
    "failed",
    "rejected",
    "timed_out",
    "cancelled",
    "snoozed",
    "interrupted",
    "recalled",
    "replica_lost",
]
"""Why an attempt ended.

- ``completed``: the handler returned.
- ``failed``: it raised, and another attempt may succeed.
- ``rejected``: a permanent error (no organ for the type, invalid params, a permanent exception): no retry.
- ``timed_out``: it exceeded its timeout; retried like a failure, counted separately.
- ``cancelled``: a cancel was requested; no retry.
- ``snoozed``: its handler put it off ("not now"); claimed again at the moment it named, or when the event
  that it named has come, with the attempt uncharged.
- ``interrupted``: its handler was stopped for no fault of the task, as when the replica is taken down; handed
  back with the attempt uncharged.
- ``recalled``: no handler had begun with it; handed back as if it had never been claimed.
- ``replica_lost``: a replica of its organ's own deployment died with it; handed back, and suspected.
"""
HANDED_BACK: tuple[Cause, ...] = ("interrupted", "recalled", "replica_lost")
"""Causes that settle nothing: the task goes back to the queue."""

OutcomeRow: TypeAlias = (
    "tuple[int, Cause, str | None, str | None, str, str | None, float, float | None, str | None]"
)
"""Outcome of one task: the columns of `Outcomes`, in their order."""

Policy: TypeAlias = "tuple[int | None, float | None, float | None]"
"""Most attempts, first backoff and longest backoff in seconds. `None` means not given."""


@dataclass(slots=True)
class Batch:
    """Claimed tasks, one list per column, all of one length."""

    ids: list[str] = field(default_factory=list)
    claims: list[int] = field(default_factory=list)
    """Claim tokens: every later write about a task must carry its token."""
    attempts: list[int] = field(default_factory=list)
    """1 for the first attempt."""
    types: list[str] = field(default_factory=list)
    params: list[str] = field(default_factory=list)
    """JSON text, as Postgres prints it."""
    descriptions: list[str | None] = field(default_factory=list)
    domains: list[str | None] = field(default_factory=list)
    drift_scores: list[float] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    """Seconds. `None` means the organ's own timeout."""
    suspicions: list[int] = field(default_factory=list)
    """How many replicas have died with this task on them. Above 0 it runs in a process of its own."""
    reclaimed: list[bool] = field(default_factory=list)
    """True if an earlier claim was lost or handed back: a run under it may still go on elsewhere."""
    checkpoints: list[Checkpoint | None] = field(default_factory=list)
    """Where earlier attempts got to. `None` means that they saved nothing, or that there were none."""
    traces: dict[int, str] = field(default_factory=dict, kw_only=True)
    """Trace context by claim, of the tasks that are traced. Not a column: most often there are none."""
    waits: dict[int, EndedWait] = field(default_factory=dict, kw_only=True)
    """How waits have ended, by claim, of the tasks that have waited for an event. Not a column either."""
    keys: dict[int, str] = field(default_factory=dict, kw_only=True)
    """Key by claim, of the tasks whose type runs those of one key together. A call has those of one."""
    expires_s: dict[int, float] = field(default_factory=dict, kw_only=True)
    """Seconds until a task expires, by claim, of the tasks that are to be stopped then."""

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, other: Batch) -> None:
        """Append the tasks of ``other``."""
        for name in BATCH_COLUMNS:
            getattr(self, name).extend(getattr(other, name))
        for name in BATCH_EXTRAS:
            getattr(self, name).update(getattr(other, name))

    def take(self, positions: Iterable[int]) -> Batch:
        """Return a new batch of the tasks at ``positions``, in that order."""
        taken = Batch(*_taken(self, BATCH_COLUMNS, positions))
        for name in BATCH_EXTRAS:
            if extra := getattr(self, name):
                setattr(taken, name, {claim: extra[claim] for claim in taken.claims if claim in extra})
        return taken

    def to_wire(self) -> dict[str, Any]:
        """Return a plain dict, so that two versions can meet and refuse each other with a clear message."""
        return {"version": WIRE_VERSION, **_packed(self, BATCH_COLUMNS)}

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Batch:
        """Return the batch in ``wire``.

        Raises:
            ValueError: It has another wire version.
        """
        if wire.get("version") != WIRE_VERSION:
            raise ValueError(
                f"batch of wire version {wire.get('version')!r}, this replica speaks {WIRE_VERSION}: "
                "run the same organism-flows version on lanes and replicas"
            )
        return cls(**{f.name: _unpacked(wire[f.name]) for f in fields(cls)})


BATCH_COLUMNS = tuple(f.name for f in fields(Batch) if not f.kw_only)
BATCH_EXTRAS = tuple(f.name for f in fields(Batch) if f.kw_only)
"""What few tasks have, by claim."""


@dataclass(slots=True)
class Outcomes:
    """Outcomes of some tasks of one batch, one list per column, all of one length.

    An empty one is a sign of life: the replica is still working.
    """

    positions: list[int] = field(default_factory=list)
    """Index of each task in its batch."""
    causes: list[Cause] = field(default_factory=list)
    results: list[str | None] = field(default_factory=list)
    """JSON text that Postgres should accept as jsonb. If snoozed, a `Snooze`. Otherwise `None`."""
    errors: list[str | None] = field(default_factory=list)
    """Readable text. `None` if completed."""
    paths: list[str] = field(default_factory=list)
    """``fast``, ``escalated``, or ``fallback``: it drifted, and there is no planner."""
    organ_ids: list[str | None] = field(default_factory=list)
    elapsed_ms: list[float] = field(default_factory=list)
    spent: list[float | None] = field(default_factory=list)
    """Units that handlers have reported. `None` means that one reported none."""
    versions: list[str | None] = field(default_factory=list)
    """Versions of the handlers. `None` if not known."""
    waiting: bool = field(default=False, kw_only=True)
    """True if none of the remaining tasks is in a handler: they wait for their turn, or for a replica of
    their organ."""
    begun: dict[int, str | None] = field(default_factory=dict, kw_only=True)
    """Tasks that a handler has begun with since the last report and that have not ended: the version of the
    handler by the index of each. Only tasks that run for some seconds: the others end before they could be
    reported here."""
    reports: list[TaskReport] = field(default_factory=list, kw_only=True)
    """What tasks have reported since the last message. It comes before the outcomes here."""
    timeout_s: float | None = field(default=None, kw_only=True)
    """Longest timeout among the batch's tasks, in seconds, unless ``waiting``. The replica enforces each from
    the moment its handler starts. `None` means no task of the batch has started."""

    policies: dict[str, Policy] = field(default_factory=dict, kw_only=True)
    """Retry policy by organ id, for tasks that have none themselves or by their type."""
    logs: dict[int, str] = field(default_factory=dict, kw_only=True)
    """What handlers logged, by claim. Not a column: most tasks log nothing."""
    leaving: bool = field(default=False, kw_only=True)
    """True if the replica is being taken down. If it dies from now on, no task of it is to blame."""

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def of(cls, rows: Sequence[OutcomeRow]) -> Outcomes:
        """Return a table of ``rows``."""
        return cls(*map(list, zip(*rows, strict=True)))

    def add(
        self,
        position: int,
        cause: Cause,
        result: str | None = None,
        error: str | None = None,
        path: str = "fast",
        organ_id: str | None = None,
        elapsed_ms: float = 0.0,
        spent: float | None = None,
        version: str | None = None,
    ) -> None:
        """Append one task's outcome."""
        self.positions.append(position)
        self.causes.append(cause)
        self.results.append(result)
        self.errors.append(error)
        self.paths.append(path)
        self.organ_ids.append(organ_id)
        self.elapsed_ms.append(elapsed_ms)
        self.spent.append(spent)
        self.versions.append(version)

    def extend(self, other: Outcomes) -> None:
        """Append the outcomes of ``other``, with their positions."""
        for name in OUTCOME_COLUMNS:
            getattr(self, name).extend(getattr(other, name))
        self.policies.update(other.policies)
        self.logs.update(other.logs)

    def take(self, rows: Iterable[int]) -> Outcomes:
        """Return a new table of the given rows, in that order."""
        taken = _taken(self, OUTCOME_COLUMNS, rows)
        return Outcomes(*taken, policies=self.policies, logs=self.logs)

    def to_wire(self) -> dict[str, Any]:
        return _packed(self, OUTCOME_COLUMNS)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Outcomes:
        return cls(**{name: _unpacked(value) for name, value in wire.items()})


OUTCOME_COLUMNS = tuple(f.name for f in fields(Outcomes) if not f.kw_only)


def _packed(table: Batch | Outcomes, columns: Sequence[str]) -> dict[str, Any]:
    """Return the fields of ``table``, with columns of equal values as a tuple of the value and its number.

    Of a call of no-ops that is most columns: without them its messages take half of the time.
    """
    packed = {field.name: getattr(table, field.name) for field in fields(table)}
    for name in columns:
        column = packed[name]
        if len(column) > 1 and column[0] == column[-1] and column.count(column[0]) == len(column):
            packed[name] = (column[0], len(column))
    return packed


def _unpacked(value: Any) -> Any:
    if isinstance(value, tuple):
        equal, number = value
        return [equal] * number
    return value


def _taken(table: Batch | Outcomes, names: Sequence[str], rows: Iterable[int]) -> Iterator[list[Any]]:
    """Yield some rows of the named columns. Consecutive ones, given as a range, cost a tenth."""
    columns = (getattr(table, name) for name in names)
    if isinstance(rows, range):
        return (column[rows.start : rows.stop : rows.step] for column in columns)
    chosen = list(rows)
    return ([column[row] for row in chosen] for column in columns)


def positions_of(column: Sequence[object], wanted: object) -> list[int]:
    """Return the indexes at which ``column`` holds ``wanted``."""
    return [i for i, value in enumerate(column) if value == wanted]
