"""What a handler's exception asks for if it means "not now".

An exception puts its task off if it has an attribute ``retry_after``, on the class or on the instance. A
handler need not import anything for that; `RetryAfter` is there for convenience. The value is what the HTTP
header of that name holds (seconds or a date), a number of seconds, a timedelta, or a datetime with a time
zone. ``None`` means nothing: the exception is an error like any other.

An exception with an attribute ``wait_for_event`` puts its task off until the event of that name comes. With
``retry_after`` as well, it waits until then at the longest: then it continues without the event, or fails if
the attribute ``or_fail`` is true. `WaitFor` is there for convenience.

An attribute ``closes`` of the same exception closes the key of the task (``"key"``), or the limit of that
name, until then.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

from organism_flows.blocks.snooze import EVENT_NAME, EVENT_NAME_RULE, Snooze

LONGEST_S = 366 * 86400.0
NAME_LIMIT = 100
"""Most characters of the name of a limit."""


def snooze_of(error: BaseException) -> Snooze | None:
    """Return what ``error`` asks for. `None` means that it does not say "not now".

    Raises:
        ValueError: It does, in a way that nobody understands.
    """
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return snooze_of(error.exceptions[0])
    value, event = _attribute(error, "retry_after"), _attribute(error, "wait_for_event")
    if value is None and event is None:
        return None
    after_s, until = (None, None) if value is None else _moment(value)
    closes = _closes(_attribute(error, "closes"))
    return Snooze(after_s, until, closes, _event(event), _attribute(error, "or_fail") is True)


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def _moment(value: Any) -> tuple[float | None, str | None]:
    """Return the seconds or the moment that ``value`` means."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"retry_after is {value}, not a number of seconds")
        # Bounded before it is converted: an integer may be too large for a float.
        return float(min(max(value, 0), LONGEST_S)), None
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.replace(".", "", 1).isdigit():
            return min(float(text), LONGEST_S), None
        try:
            value = parsedate_to_datetime(text)
        except ValueError:
            raise ValueError(f"retry_after is {text!r:.100}, neither seconds nor an HTTP date") from None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"retry_after is {value}, which has no time zone")
        return None, value.isoformat()
    raise ValueError(f"retry_after is a {type(value).__name__}, neither seconds nor a moment")


def _event(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not EVENT_NAME.fullmatch(value):
        raise ValueError(f"wait_for_event is {value!r:.150}, no name of an event: {EVENT_NAME_RULE}")
    return value


def _closes(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LIMIT or "\0" in value:
        raise ValueError(f"closes is {value!r:.100}, neither 'key' nor the name of a limit")
    return value.encode("utf-8", "backslashreplace").decode()
