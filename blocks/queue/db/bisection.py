"""Statements over many tasks, one of which Postgres may refuse."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from organism_flows.blocks.queue.db.sqlstates import verdict

Item = TypeVar("Item")
Answer = TypeVar("Answer")

logger = logging.getLogger("organism.queue")


async def in_halves(
    items: Sequence[Item],
    write: Callable[[Sequence[Item]], Awaitable[Answer]],
    refused: Callable[[Item, Exception], Awaitable[Answer | None]],
) -> list[Answer]:
    """Write all items that Postgres accepts, in one statement if it accepts all.

    Postgres does not say which row of a statement it refuses. So the items are halved until the refused one
    is alone.

    Args:
        items: Items to write.
        write: Writes some of them in one statement.
        refused: Called with an item that is refused alone, and the error. Its answer, unless `None`, is
            returned as well.

    Returns:
        The answer to each statement.
    """
    if not items:
        return []
    try:
        return [await write(items)]
    except Exception as error:
        if verdict(error) != "value":
            raise
        if len(items) == 1:
            answer = await refused(items[0], error)
            return [] if answer is None else [answer]
    middle = len(items) // 2
    first = await in_halves(items[:middle], write, refused)
    return first + await in_halves(items[middle:], write, refused)


def storable(text: object) -> str:
    """Return ``text`` with escapes in place of characters that Postgres cannot store."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def one_line(error: Exception) -> str:
    """Return the error of a statement on one line."""
    return storable(" ".join((str(error) or type(error).__name__).split()))
