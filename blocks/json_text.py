r"""Params and results as JSON text that Postgres takes as jsonb, or a clear reason why they cannot be.

The fast path is `orjson`, which gets everything right but three things. It writes NaN and Infinity as null.
It writes NUL characters, which jsonb refuses. It raises for integers of more than 64 bits. The first two
leave a trace in the text (``null``, ``\u0000``). Only after such a trace or an error is the value walked in
Python.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import re
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from pydantic import BaseModel

DEPTH_LIMIT = 254
"""Deepest nesting, in levels; the limit of orjson."""
INTEGER_BITS_LIMIT = 13_000
"""Largest integer, in bits. jsonb takes 131,072 digits; Python prints no more than 4,300 (about 14,280 bits).
"""
DIGITS_LIMIT = 4_300
"""Most digits of an integer that Python reads or prints."""

_LONG_NUMBER = re.compile("[0-9]{19}")
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS
_HINTS = {
    "set": "return a list",
    "frozenset": "return a list",
    "bytes": "return text, for example base64",
    "Decimal": "return str() or float() of it",
    "coroutine": "it was not awaited",
    "generator": "return a list",
    "async_generator": "return a list",
    "ndarray": "return .tolist()",
}


class NotJson(ValueError):
    """The value cannot be stored. The message names the place (``$.rows[3].score``) and the reason."""


class JsonTooLong(NotJson):
    """The JSON text of the value is longer than it may be."""


def to_json(value: Any, *, limit_bytes: int) -> str:
    """Return ``value`` as JSON text.

    Encodes None, booleans, numbers, text, lists, tuples, dicts with text keys, dataclasses, pydantic models,
    enums, UUIDs, dates and times. Nothing is altered or left out silently.

    Args:
        value: Params of a task, or the return value of a handler.
        limit_bytes: Longest acceptable text, in bytes of UTF-8.

    Raises:
        NotJson: The value cannot be JSON, or is too long. Another try cannot succeed.
    """
    if value is None:
        return "null"
    try:
        text = orjson.dumps(value, _default, _OPTIONS).decode()
    except BaseException as error:
        if not isinstance(error, TypeError):
            raise NotJson(f"$ cannot be encoded: {type(error).__name__}") from None
        text = _checked(value, error)
    else:
        # Reading it back and comparing is 10 times faster than the walk, and finds every false null.
        if "\\u0000" in text or ("null" in text and not _same(text, value)):
            _checked(value, None)
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit_bytes:
        raise JsonTooLong(f"$ is {size:,} bytes of JSON, more than the limit of {limit_bytes:,}")
    return text


def from_json(text: str) -> Any:
    """Return the value of JSON text as Postgres prints it. Integers of up to 4,300 digits are exact.

    Raises:
        ValueError: The text is not JSON, or holds a value that Python cannot hold.
    """
    # orjson reads integers beyond 64 bits as floats. They have at least 19 digits, so a short text has none.
    if len(text) < 19 or _LONG_NUMBER.search(text) is None:
        return orjson.loads(text)
    try:
        return json.loads(text, parse_int=_integer, parse_float=_fraction)
    except RecursionError:
        raise NotJson("$ is nested too deeply") from None


def readable_json(text: str) -> Any:
    """Return the value of JSON text, with a note in place of each value that JSON readers refuse.

    Use it to show a task: jsonb, as Postgres prints it, holds more than other readers of JSON accept. The
    returned value can always be encoded again. A note is a text such as ``"(not shown: an integer of 5,000
    digits)"``.
    """
    try:
        value = (
            orjson.loads(text)
            if len(text) < 19 or _LONG_NUMBER.search(text) is None
            else json.loads(text, parse_int=_or_words(_integer), parse_float=_or_words(_fraction))
        )
    except (ValueError, RecursionError):
        return _NESTED
    # The encoder walks the value by recursion, with several frames for each level.
    return (
        _NESTED if text.count("[") + text.count("{") > DEPTH_LIMIT and _depth(value) > DEPTH_LIMIT else value
    )


_NESTED = f"(not shown: nested deeper than {DEPTH_LIMIT} levels)"


def _integer(digits: str) -> int:
    if len(digits) > DIGITS_LIMIT:
        raise NotJson(f"an integer of {len(digits):,} digits, more than {DIGITS_LIMIT:,}")
    return int(digits)


def _fraction(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotJson("a number with a fraction beyond the range of a float")
    return number


def _or_words(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_or_say(digits: str) -> Any:
        try:
            return read(digits)
        except NotJson as error:
            return f"(not shown: {error})"

    return read_or_say


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for each in level for item in _items(each)]:
        depth += 1
    return depth


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _same(text: str, value: Any) -> bool:
    try:
        return bool(orjson.loads(text) == value)
    except BaseException:  # an __eq__ that the user has written
        return False


def _default(value: Any) -> Any:
    """Return a value that orjson can encode in place of one that it cannot."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(type(value).__name__)


def _checked(value: Any, cause: BaseException | None) -> str:
    """Walk ``value`` and raise for the first invalid place.

    Args:
        value: What was to be encoded.
        cause: Error of the fast path. `None` means that its text is valid unless this walk raises.

    Returns:
        The text, encoded by the standard library. Empty if ``cause`` is `None`.

    Raises:
        NotJson: The value cannot be stored.
    """
    try:
        plain = _plain(value, "$", 0)
        return "" if cause is None else json.dumps(plain, ensure_ascii=False, allow_nan=False)
    except NotJson:
        raise
    except BaseException as error:
        raise NotJson(f"$ cannot be encoded: {type(error).__name__}") from None


def _plain(value: Any, place: str, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if depth > DEPTH_LIMIT:
        raise NotJson(f"{place[:80]}… is nested deeper than {DEPTH_LIMIT} levels, or contains itself")
    if isinstance(value, enum.Enum):
        return _plain(value.value, place, depth + 1)
    if isinstance(value, str):
        return _text(value, place)
    if isinstance(value, int):
        if value.bit_length() > INTEGER_BITS_LIMIT:
            raise NotJson(
                f"{place} is an integer of {value.bit_length():,} bits, more than {INTEGER_BITS_LIMIT:,}"
            )
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJson(f"{place} is {'NaN' if math.isnan(value) else 'Infinity'}, which JSON cannot hold")
        return float(value)
    if isinstance(value, dict):
        return {
            _key(key, place): _plain(
                item, f"{place}.{key}" if _is_name(key) else f"{place}[{key!r:.80}]", depth + 1
            )
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    try:
        return _plain(_default(value), place, depth + 1)
    except TypeError:
        name = type(value).__name__
        hint = _HINTS.get(name) or ("return .item()" if type(value).__module__ == "numpy" else "")
        raise NotJson(
            f"{place} is a {name}, which JSON cannot hold" + (f": {hint}" if hint else "")
        ) from None


def _text(value: str, place: str) -> str:
    if "\x00" in value:
        raise NotJson(f"{place} contains a NUL character, which Postgres cannot store")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise NotJson(
                f"{place} contains a lone surrogate at character {error.start}, which Postgres cannot store"
            ) from None
    return str.__str__(value)


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        raise NotJson(f"{place} has the key {key!r:.80} of type {type(key).__name__}; JSON keys are text")
    return _text(key, f"a key of {place}")


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isidentifier()
