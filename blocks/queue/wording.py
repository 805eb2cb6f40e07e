"""Moments, numbers and errors in the words of a sentence."""

from __future__ import annotations

from datetime import datetime

from organism_flows.blocks.queue.models.rows import TaskWait


def time_text(moment: datetime | None) -> str:
    """Return a moment to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}" if moment else "an unknown time"


def at_time(moment: datetime | None) -> str:
    """Return " at" and the moment; empty if it is not known."""
    return f" at {time_text(moment)}" if moment else ""


def wait_text(wait: TaskWait | None) -> str:
    """Return what a task waits for. `None` means that its row alone says that it waits."""
    if wait is None:
        return "waits for an event"
    text = f"waits for the event {wait.event} since {time_text(wait.since)}"
    if wait.until is None:
        return f"{text}, however long that takes"
    return f"{text}, and {'fails' if wait.or_fail else 'continues without it'} at {time_text(wait.until)}"


def counted(number: int, one: str, many: str) -> str:
    """Return the number with the singular or the plural."""
    return f"{number} {one if number == 1 else many}"


def times(number: int) -> str:
    """Return how often, in words."""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def oldest(number: int) -> str:
    """Return "the oldest " if there are several."""
    return "" if number == 1 else "the oldest "


def shortened(text: str, length: int = 200) -> str:
    """Return ``text`` on one line, cut off at ``length`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
