"""Text of numbers, durations and whatever a task may hold, for the cells of tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from organism_flows.deployments.cli.output import without_controls

DAY_S = 86_400


def plain(value: object, length: int = 200, style: str = "") -> Text:
    """Return the first line of a value as text that neither marks up nor controls the terminal."""
    line = str(value).partition("\n")[0]
    return Text(without_controls(line if len(line) <= length else f"{line[: length - 1]}…"), style=style)


def number(value: float | None, *, more: bool = False, style: str = "") -> Text:
    """Return a number aligned to the right; ``more`` marks a count that was not finished."""
    if value is None:
        return Text("–", style="dim", justify="right")
    digits = f"{value:.1f}" if isinstance(value, float) and 0 < value < 10 else f"{value:,.0f}"
    return Text(f"{digits}{'+' if more else ''}", style=style if value else "dim", justify="right")


def duration(seconds: float | None, style: str = "") -> Text:
    """Return a length of time in its largest fitting unit, aligned to the right."""
    return Text(span(seconds), style=style if seconds is not None else "dim", justify="right")


def span(seconds: float | None) -> str:
    """Return a length of time in its largest fitting unit."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, length in (("d", DAY_S), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def moment(at: datetime | None) -> str:
    """Return a moment in the zone of this machine, without the date if it is near."""
    if at is None:
        return "–"
    near = abs((datetime.now(UTC) - at).total_seconds()) < DAY_S / 2
    try:
        return f"{at.astimezone():{'%H:%M:%S' if near else '%Y-%m-%d %H:%M'}}"
    except (ValueError, OverflowError):
        # The first and the last years that Postgres knows leave Python's range in some zones.
        return f"{at:%Y-%m-%d %H:%M}"


def lines(value: Any, limit: int = 20_000) -> Text:
    """Return any value over several lines, cut off after ``limit`` characters."""
    text = str(value)
    return Text(
        without_controls(text if len(text) <= limit else f"{text[:limit]}\n… {len(text):,} characters")
    )
