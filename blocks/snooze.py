"""What a handler that puts its task off asks for, on its way from the replica to Postgres."""

from __future__ import annotations

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Snooze:
    """When a task may be claimed again, and what is closed until then."""

    after_s: float | None = None
    """Seconds until then, by the database's clock. `None` if ``until`` is given."""
    until: str | None = None
    """The moment, as ISO text with its time zone."""
    closes: str | None = None
    """What is closed until then: ``key``, or the name of a limit."""

    def to_json(self) -> str:
        """Return it as JSON text."""
        return orjson.dumps(self).decode()

    @classmethod
    def from_json(cls, text: str | None) -> Snooze:
        """Return what `to_json` wrote."""
        return cls(**orjson.loads(text or "{}"))
