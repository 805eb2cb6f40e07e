"""Types of the fields of a task: what they refuse, and what they normalize."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field

from organism_flows.blocks.json_text import to_json
from organism_flows.blocks.snooze import EVENT_NAME

PARAMS_LIMIT_BYTES = 1_000_000
"""Largest params of a task, in bytes. Keep larger inputs in a store, and put their address into the params.
"""


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character, which Postgres cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is not text") from None
    return text


Text = Annotated[str, AfterValidator(_storable)]


def _whole(number: Any) -> Any:
    # JSON has no integers: 5.0 is one, and some languages write it so.
    return int(number) if isinstance(number, float) and number.is_integer() else number


WHOLE = BeforeValidator(_whole)


def _utc(moment: datetime) -> datetime:
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999") from None


def _written_out(moment: Any) -> Any:
    # Otherwise a number would mean seconds since 1970, or milliseconds, depending on its size.
    number = re.fullmatch(r"\s*[-+]?[\d.]+\s*", moment) if isinstance(moment, str) else None
    if number or not isinstance(moment, (str, date)):
        raise ValueError("is not a moment such as 2030-01-01T00:00:00Z")
    # Postgres prints a zone of whole hours without minutes: 2030-01-01 00:00:00+00.
    return (
        re.sub(r"(:\d\d(?:\.\d+)?\s?[-+]\d\d)\s*$", r"\1:00", moment) if isinstance(moment, str) else moment
    )


Moment = Annotated[datetime, Field(strict=False), BeforeValidator(_written_out), AfterValidator(_utc)]
"""A moment in UTC. One without a zone is taken as UTC: asyncpg returns infinity without a zone."""


class EncodedParams(dict[str, Any]):
    """Params with their JSON text. It is made once, so they do not change after that."""

    __slots__ = ("text",)

    def __init__(self, params: Mapping[str, Any], text: str) -> None:
        super().__init__(params)
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodedParams, (dict(self), self.text)

    def _fixed(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the params of a task are encoded already: make a new task with others")

    __setitem__ = __delitem__ = __ior__ = _fixed
    clear = pop = popitem = setdefault = update = _fixed


def encoded(params: dict[str, Any]) -> EncodedParams:
    """Return params with their JSON text.

    Raises:
        NotJson: They cannot be JSON, or are too long.
    """
    if isinstance(params, EncodedParams):
        return params
    return EncodedParams(params, to_json(params, limit_bytes=PARAMS_LIMIT_BYTES))


EventName = Annotated[str, Field(pattern=f"^{EVENT_NAME.pattern}$", examples=["approval"])]
TaskType = Annotated[Text, Field(min_length=1, max_length=200, pattern=r"\S")]
TaskParams = Annotated[dict[str, Any], AfterValidator(encoded)]
