"""The results of tasks, made from what their handler returned or raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from organism_flows.blocks.errors import MustLeave
from organism_flows.blocks.json_text import NotJson, to_json
from organism_flows.serve_apps.organism.handler_api.errors import describe, harmless, is_permanent
from organism_flows.serve_apps.organism.handler_api.snoozing import snooze_of

if TYPE_CHECKING:  # worker processes start faster without the queue
    from organism_flows.blocks.queue.wire import Cause


class HandlerResult(NamedTuple):
    """The way one task ended: its cause, with a result as JSON text or an error, and what it logged.

    Of a snoozed task the result is a `Snooze` as JSON text.
    """

    cause: Cause
    result: str | None = None
    error: str | None = None
    spent: float | None = None
    """Units that the handler has reported. `None` means that it reported none."""
    log: str | None = None


HandlerResults: TypeAlias = "Sequence[HandlerResult]"
NULL = HandlerResult("completed", "null")


def of_value(value: Any, size: int, limit_bytes: int, *, batch: bool) -> HandlerResults:
    """Return the results of the ``size`` tasks of one call that returned ``value``.

    Raises:
        TypeError: A batch handler returned no list.
        ValueError: A batch handler returned a list without exactly one result per task.
    """
    return returned_by_batch(value, size, limit_bytes) if batch else (returned(value, limit_bytes),)


def of_error(error: BaseException, size: int) -> HandlerResults:
    """Return the results of the ``size`` tasks of one call that raised ``error``.

    With several tasks the result is empty, because it is not known which of them caused the error.
    """
    return () if size > 1 else (raised(error),)


def returned(value: Any, limit_bytes: int) -> HandlerResult:
    """Return the result of a task whose handler returned ``value``. An exception is as good as raised."""
    if isinstance(value, BaseException):
        return raised(value)
    if value is None:
        return NULL
    try:
        return HandlerResult("completed", to_json(value, limit_bytes=limit_bytes))
    except NotJson as error:
        return HandlerResult("rejected", error=harmless(f"the result cannot be stored: {error}"))


def raised(error: BaseException) -> HandlerResult:
    """Return the result of a task whose handler raised ``error``."""
    if isinstance(error, MustLeave):
        return HandlerResult("interrupted", error=describe(error))
    if is_permanent(error):
        return HandlerResult("rejected", error=describe(error))
    try:
        snooze = snooze_of(error)
    except ValueError as unclear:
        return HandlerResult("failed", error=harmless(f"{describe(error)}; not put off: {unclear}"))
    if snooze is not None:
        return HandlerResult("snoozed", snooze.to_json(), describe(error))
    return HandlerResult("failed", error=describe(error))


def returned_by_batch(value: Any, size: int, limit_bytes: int) -> HandlerResults:
    """Return the results of ``size`` tasks whose batch handler returned ``value``.

    An exception in the list fails its task only.

    Raises:
        TypeError: ``value`` is no list.
        ValueError: ``value`` does not have exactly one result per task.
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"the batch handler returned a {type(value).__name__}, not a list")
    if len(value) != size:
        raise ValueError(f"the batch handler returned {len(value)} results for {size} tasks")
    return [returned(item, limit_bytes) for item in value]
