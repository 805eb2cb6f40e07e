"""What a handler that puts its task off asks for, on its way from the replica to Postgres."""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

EVENT_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
EVENT_NAME_RULE = "1 to 100 letters, digits and _ . : -"


@dataclass(frozen=True, slots=True)
class Snooze:
    """When a task may be claimed again, what it waits for, and what is closed until then."""

    after_s: float | None = None
    """Seconds until then, by the database's clock. `None` if ``until`` is given, or if only an event
    resumes it."""
    until: str | None = None
    """The moment, as ISO text with its time zone."""
    closes: str | None = None
    """What is closed until then: ``key``, or the name of a limit."""
    event: str | None = None
    """Name of the event that resumes it before then."""
    or_fail: bool = False
    """True if it fails then, without the event, instead of continuing."""

    def to_json(self) -> str:
        """Return it as JSON text."""
        return orjson.dumps(self).decode()

    @classmethod
    def from_json(cls, text: str | None) -> Snooze:
        """Return what `to_json` wrote."""
        return cls(**orjson.loads(text or "{}"))
