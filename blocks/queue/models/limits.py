"""Limits on what runs at once or begins within a period."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from organism_flows.blocks.queue.models.fields import WHOLE, Moment, TaskType, Text

LimitKind: TypeAlias = Literal["running", "rate", "cost"]
"""What a limit counts.

- ``running``: tasks that lanes hold, over all lanes and replicas.
- ``rate``: tasks that begin within a period, wherever in time that begins.
- ``cost``: units that tasks spend within a period, such as tokens or cents. Until the handler has reported
  what it spent, the estimate of the task counts.
"""
Amount: TypeAlias = Annotated[int, Field(ge=0, lt=2**31), WHOLE]
Key: TypeAlias = Annotated[Text, Field(min_length=1, max_length=125)]
Weight: TypeAlias = Annotated[int, Field(ge=1, le=1000), WHOLE]
"""How many tasks a key gets when others get one, where they share."""


class Limit(BaseModel, defer_build=True):
    """How many tasks may run at once, or begin within a period."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Annotated[Text, Field(min_length=1, max_length=100, pattern=r"\S")]
    kind: LimitKind
    types: list[TaskType] = Field(
        default=[], max_length=100, description="Types that share it. Empty: every type."
    )
    by_key: bool = Field(
        default=False, description="True: each key has the amount for itself. Tasks without a key share one."
    )
    amount: Amount = Field(
        description="Most tasks at once, or tasks or units within a period. 0 means closed."
    )
    period_s: float | None = Field(
        default=None, gt=0, le=366 * 86400, description="Length of the period of a rate or cost, in seconds."
    )
    burst: Annotated[int, Field(ge=1, lt=2**31), WHOLE] | None = Field(
        default=None,
        description="Most tasks of a rate that begin at one moment. `None`: those of a tenth of a second.",
    )
    exceptions: dict[Key, Amount] = Field(
        default={}, max_length=10_000, description="Amounts of single keys, of a limit by key."
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Limit:
        if self.kind == "rate" and self.period_s is None:
            raise ValueError("a rate needs period_s, the seconds in which amount tasks may begin")
        if self.kind == "cost" and self.period_s is None:
            raise ValueError("a cost needs period_s, the seconds in which amount units may be spent")
        if self.kind == "running" and (self.period_s is not None or self.burst is not None):
            raise ValueError("only a rate has period_s and burst")
        if self.kind == "cost" and self.burst is not None:
            raise ValueError("only a rate has a burst")
        if self.exceptions and not self.by_key:
            raise ValueError("exceptions are of keys, so the limit must be by_key")
        return self


class LimitUse(Limit):
    """A limit, and how much of it is used."""

    declared: bool = Field(
        default=False, description="True: from the file of the organism, whose next deployment sets it again."
    )

    running: dict[str, int] = Field(
        default={},
        description="Tasks that count against a limit on what runs, by key: the 20 keys with most. "
        "The empty key is of tasks without one, or of all together.",
    )
    left: dict[str, int] = Field(
        default={},
        description="Tasks of a rate that could begin when one last did, by key: the 20 keys with least.",
    )
    spent: dict[str, float] = Field(
        default={}, description="Units of a cost that were spent within the period: the 20 keys with most."
    )

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of its amount that each key has used. Empty for a rate."""
        used = {**self.running, **self.spent}
        return {
            key: tasks / (self.exceptions.get(key, self.amount) or tasks)
            for key, tasks in used.items()
            if tasks
        }

    @property
    def share(self) -> float | None:
        """Return the share of its amount that is used, by the key that has used most. `None` for a rate."""
        return None if self.kind == "rate" else max(self.shares.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class LimitRoom:
    """What a limit allows one task now."""

    name: str
    key: str
    kind: LimitKind
    amount: int
    room: float
    """More tasks that may begin, or units that may be spent. Below ``needs``: it must wait."""
    level: float
    """Level of a rate: the room, unless the limit is closed."""
    next_s: float | None
    """Seconds until a rate allows another, or until a closed limit opens. `None`: nobody knows, or never."""
    needs: float
    """Room that the task needs: 1, or its estimate of a cost."""
    opens_s: float | None
    """Seconds until it opens. `None` means it is not closed."""
    now: datetime
    """When this was so, by the database's clock."""


ClosedKind: TypeAlias = Literal["type", "limit"]


class ClosureName(BaseModel, defer_build=True):
    """What is closed or open: a key of a type, or a limit."""

    model_config = ConfigDict(extra="forbid")

    kind: ClosedKind = Field(
        description="`type`: the tasks of a type with this key. `limit`: those that a limit is on."
    )
    name: TaskType = Field(description="The type, or the limit.")
    key: Annotated[Text, Field(max_length=125)] = Field(
        default="", description="The key. Empty: tasks without one, or all tasks of a limit."
    )


class Closing(ClosureName):
    """A key or limit to close until a moment."""

    until: Moment
    reason: Annotated[Text, Field(max_length=500)] | None = Field(
        default=None, description="Shown in the answer why a task waits."
    )


class Closure(BaseModel, defer_build=True):
    """A key or limit that is closed: of its tasks none is claimed before a moment."""

    kind: ClosedKind = Field(
        description="`type`: the tasks of a type with this key. `limit`: those that a limit is on."
    )
    name: str = Field(description="The type, or the limit.")
    key: str = Field(description="The key. Empty: tasks without one, or all tasks of a limit.")
    until: Moment
    reason: str | None = Field(description="Error of the handler that closed it, or what the operator said.")
    closed_at: Moment
