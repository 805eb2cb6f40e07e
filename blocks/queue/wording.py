"""Moments, numbers and errors in the words of a sentence."""

from __future__ import annotations

from datetime import datetime


def time_text(moment: datetime | None) -> str:
    """Return a moment to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}" if moment else "an unknown time"


def at_time(moment: datetime | None) -> str:
    """Return " at" and the moment; empty if it is not known."""
    return f" at {time_text(moment)}" if moment else ""


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
