"""Writes of several callers that share statements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
T = TypeVar("T")


class Waiting(NamedTuple, Generic[Item, Answer]):
    """An item that waits to be written."""

    item: Item
    size: int
    written: asyncio.Future[Answer]


class SharedStatements(Generic[Item, Answer]):
    """Writes items, those of several callers in one statement.

    Items that come in while ``at_once`` statements are in flight share the next one.

    Args:
        name: Name of its asyncio tasks.
        write: Writes some items in one statement, and returns the answer to each.
        at_once: Upper bound on the statements in flight. More of them would only be smaller.
        size: Upper bound on the sizes of the items of one statement, unless one alone is larger.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        at_once: int,
        size: int,
    ) -> None:
        self._name = name
        self._write = write
        self._at_once = at_once
        self._size = size
        self._waiting: list[Waiting[Item, Answer]] = []
        self._writing: set[asyncio.Task[None]] = set()

    async def write(self, item: Item, size: int) -> Answer:
        """Write ``item``. Return the answer when Postgres has acknowledged it.

        A caller that is cancelled stays until its write has ended.
        """
        one = Waiting[Item, Answer](item, size, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if len(self._writing) < self._at_once:
            writer = asyncio.create_task(self._write_waiting(), name=self._name)
            self._writing.add(writer)
            writer.add_done_callback(self._writing.discard)
        return await finished(one.written)

    async def close(self) -> None:
        """Wait until everything is written."""
        await asyncio.gather(*self._writing)

    async def _write_waiting(self) -> None:
        while self._waiting:
            chosen = self._choose()
            try:
                answers = await self._write([one.item for one in chosen])
            except BaseException as error:
                for one in chosen:
                    one.written.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for one, answer in zip(chosen, answers, strict=True):
                one.written.set_result(answer)

    def _choose(self) -> list[Waiting[Item, Answer]]:
        total = number = 0
        for one in self._waiting:
            total += one.size
            if number and total > self._size:
                break
            number += 1
        chosen, self._waiting = self._waiting[:number], self._waiting[number:]
        return chosen


async def finished(write: Awaitable[T]) -> T:
    """Return the result of ``write``. Whoever is cancelled meanwhile stays until it has ended.

    The statement is already on its way: its tasks must not be handed back as well. A process that ends
    cancels every asyncio task, and the lane does so again when it closes.
    """
    ending = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(ending)
    except asyncio.CancelledError:
        while not ending.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([ending])
        ending.result()  # an error of the write goes before the cancellation
        raise
