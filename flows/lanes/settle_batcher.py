"""Settles the outcomes of several calls in one statement, which by itself costs as much as about 20 tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from organism_flows.blocks.queue import Batch, Outcomes, Settled

STATEMENTS_AT_ONCE = 2
"""Upper bound on the statements in flight. More of them would only be smaller."""
TASKS_A_STATEMENT = 1000


class SettleBatcher:
    """Writer of outcomes: one statement takes all that came in while the one before was written.

    Args:
        write: `Claims.settle`, for the lane.
    """

    def __init__(self, write: Callable[[Batch, Outcomes], Awaitable[Settled]]) -> None:
        self._write = write
        self._waiting: list[tuple[Batch, Outcomes, asyncio.Future[Settled]]] = []
        self._writing: set[asyncio.Task[None]] = set()

    async def settle(self, batch: Batch, outcomes: Outcomes) -> Settled:
        """Write the outcomes of some tasks of ``batch``, and return what became of those tasks.

        It returns when Postgres has acknowledged them.

        Raises:
            Exception: Any error of ``write``.
        """
        done: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, outcomes, done))
        if len(self._writing) < STATEMENTS_AT_ONCE:
            writer = asyncio.create_task(self._write_all(), name="settle")
            self._writing.add(writer)
            writer.add_done_callback(self._writing.discard)
        return await done

    async def close(self) -> None:
        """Wait until everything is written."""
        await asyncio.gather(*self._writing)

    async def _write_all(self) -> None:
        while self._waiting:
            chosen = self._choose()
            batch, outcomes = _merge(chosen)
            try:
                settled = await self._write(batch, outcomes)
            except BaseException as error:
                for _, _, done in chosen:
                    if not done.done():
                        done.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for part, reported, done in chosen:
                if not done.done():
                    done.set_result(_share(settled, part, reported))

    def _choose(self) -> list[tuple[Batch, Outcomes, asyncio.Future[Settled]]]:
        tasks = number = 0
        for _, outcomes, _ in self._waiting:
            tasks += len(outcomes)
            if number and tasks > TASKS_A_STATEMENT:
                break
            number += 1
        chosen, self._waiting = self._waiting[:number], self._waiting[number:]
        return chosen


def _merge(chosen: list[tuple[Batch, Outcomes, asyncio.Future[Settled]]]) -> tuple[Batch, Outcomes]:
    if len(chosen) == 1:
        return chosen[0][0], chosen[0][1]
    merged, all_outcomes = Batch(), Outcomes()
    for batch, outcomes, _ in chosen:
        begin = len(merged.ids)
        # A settlement needs only the ids and claims of the tasks.
        merged.ids += [batch.ids[p] for p in outcomes.positions]
        merged.claims += [batch.claims[p] for p in outcomes.positions]
        all_outcomes.extend(outcomes)
        all_outcomes.positions[begin:] = range(begin, begin + len(outcomes))
    return merged, all_outcomes


def _share(settled: Settled, batch: Batch, outcomes: Outcomes) -> Settled:
    ids = [batch.ids[p] for p in outcomes.positions]
    statuses = {task_id: status for task_id in ids if (status := settled.statuses.get(task_id))}
    return Settled(statuses, [task_id for task_id in ids if task_id not in statuses])
