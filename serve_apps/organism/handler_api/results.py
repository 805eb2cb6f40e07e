"""What a handler returned or raised, as endings of its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from organism_flows.blocks.json_text import NotJson, to_json
from organism_flows.serve_apps.organism.handler_api.errors import describe, harmless, is_permanent

if TYPE_CHECKING:  # agents start faster without the queue
    from organism_flows.blocks.queue.wire import Cause


class HandlerResult(NamedTuple):
    """How one task ended."""

    cause: Cause
    result: str | None = None
    error: str | None = None


Endings: TypeAlias = "Sequence[HandlerResult]"
NULL = HandlerResult("completed", "null")


def of_value(value: Any, size: int, limit_bytes: int, *, batch: bool) -> Endings:
    """The endings of the ``size`` tasks of one call that returned ``value``.

    Raises:
        TypeError: It is a batch handler's, and no list.
        ValueError: It is a batch handler's, and not one result a task.
    """
    return returned_by_batch(value, size, limit_bytes) if batch else (returned(value, limit_bytes),)


def of_error(error: BaseException, size: int) -> Endings:
    """The endings of the ``size`` tasks of one call that raised ``error``; empty: it is not known whose
    fault it is."""
    return () if size > 1 else (raised(error),)


def returned(value: Any, limit_bytes: int) -> HandlerResult:
    """The ending of a task whose handler returned ``value``."""
    if value is None:
        return NULL
    try:
        return HandlerResult("completed", to_json(value, limit_bytes=limit_bytes))
    except NotJson as error:
        return HandlerResult("rejected", error=harmless(f"the result cannot be stored: {error}"))


def raised(error: BaseException) -> HandlerResult:
    """The ending of a task whose handler raised ``error``."""
    return HandlerResult("rejected" if is_permanent(error) else "failed", error=describe(error))


def returned_by_batch(value: Any, size: int, limit_bytes: int) -> Endings:
    """The endings of ``size`` tasks whose batch handler returned ``value``; exceptions in it are failures.

    Raises:
        TypeError: It is no list.
        ValueError: It is not one result a task.
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"the batch handler returned a {type(value).__name__}, not a list")
    if len(value) != size:
        raise ValueError(f"the batch handler returned {len(value)} results for {size} tasks")
    return [
        raised(item) if isinstance(item, BaseException) else returned(item, limit_bytes) for item in value
    ]
