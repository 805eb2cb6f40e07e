"""A cancel and another session at the same row, step by step: nothing is left to be cancelled for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from organism_flows.blocks.queue import Batch, NewTask, Queue, ReapResult
from organism_flows.blocks.queue.db.session import Session
from tests.support.queue.sessions import (
    blocked_on_a_row,
    claim_in,
    completion,
    expired_claim,
    failed,
    open_transaction,
    release,
    running_task,
)
from tests.support.sql import database_of

pytestmark = pytest.mark.anyio


REPORTS = pytest.mark.parametrize(
    ("write", "arguments"), [("complete", completion), ("settle", failed), ("release", release)]
)


@REPORTS
async def test_a_cancel_waits_for_a_report_under_way(
    queue: Queue, write: str, arguments: Callable[[Batch], dict[str, Any]]
) -> None:
    batch, task_id = await running_task(queue)
    async with open_transaction(queue) as reporting:
        assert len(await Session(reporting).fetch(write, **arguments(batch))) == 1
        cancelling = asyncio.create_task(queue.operator.cancel([task_id]))
        await blocked_on_a_row(queue)
    done, status = await cancelling, (await queue.get(batch.ids[0])).status
    if write == "complete":
        assert (done.unchanged, status) == ([task_id], "completed")
    else:  # It went back into line, and waits no more.
        assert (done.cancelled, status) == ([task_id], "cancelled")


@REPORTS
async def test_a_report_after_a_cancel_under_way_ends_the_task(
    queue: Queue, write: str, arguments: Callable[[Batch], dict[str, Any]]
) -> None:
    batch, task_id = await running_task(queue)
    async with open_transaction(queue) as cancelling:
        [row] = await Session(cancelling).fetch("cancel", ids=[task_id])
        assert row["status"] == "running"
        reporting = asyncio.create_task(database_of(queue).fetch(write, **arguments(batch)))
        await blocked_on_a_row(queue)
    assert len(await reporting) == 1
    task = await queue.get(batch.ids[0])
    assert task.status == ("completed" if write == "complete" else "cancelled")
    assert (task.cancel_requested, task.locked_by) == (False, None)


async def test_a_cancel_while_a_claim_is_under_way_reaches_the_lane(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    await queue.leases.register("lane")
    async with open_transaction(queue) as claiming:
        assert await claim_in(claiming, "lane") == [str(task_id)]
        cancelling = asyncio.create_task(queue.operator.cancel([task_id]))
        await blocked_on_a_row(queue)
    assert (await cancelling).requested == [task_id]
    assert len(await queue.claims.cancel_requests("lane")) == 1


async def test_a_claim_passes_by_what_is_being_cancelled(queue: Queue) -> None:
    cancelled, other = await queue.submit([NewTask(type="t"), NewTask(type="t")])
    await queue.leases.register("lane")
    async with open_transaction(queue) as cancelling:
        await Session(cancelling).fetch("cancel", ids=[cancelled])
        assert (await queue.claims.claim("lane", 10)).ids == [str(other)]
    assert (await queue.get(str(cancelled))).status == "cancelled"


async def test_a_cancel_and_a_reap_at_the_same_moment(queue: Queue) -> None:
    batch = await expired_claim(queue)
    task_id = UUID(batch.ids[0])
    async with open_transaction(queue) as cancelling:
        await Session(cancelling).fetch("cancel", ids=[task_id])
        assert (await queue.leases.reap()).retried == 0, "the reaper passes by what is locked"
    assert await queue.leases.reap() == ReapResult(0, 1, 0, {batch.ids[0]: batch.claims[0]})
    assert (await queue.get(batch.ids[0])).status == "cancelled"


async def test_a_cancel_after_a_reap_under_way_ends_the_task(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as reaping:
        await Session(reaping).fetch("reap", max_leases=10, strays=True)
        cancelling = asyncio.create_task(queue.operator.cancel([UUID(batch.ids[0])]))
        await blocked_on_a_row(queue)
    assert (await cancelling).cancelled == [UUID(batch.ids[0])]
    assert (await queue.get(batch.ids[0])).status == "cancelled"


async def test_of_two_cancels_of_a_waiting_task_one_did_it(queue: Queue) -> None:
    ids = await queue.submit([NewTask(type="t") for _ in range(5)])
    async with open_transaction(queue) as first:
        assert len(await Session(first).fetch("cancel", ids=ids)) == 5
        second = asyncio.create_task(queue.operator.cancel(ids))
        await blocked_on_a_row(queue)
    assert (await second).unchanged == ids


async def test_two_cancels_in_different_orders_do_not_wait_for_each_other(queue: Queue) -> None:
    ids = await queue.submit([NewTask(type="t") for _ in range(3)])
    async with open_transaction(queue) as other:
        # Whoever locks in the order given has an outer task by now, and wants the other's next.
        await other.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", ids[1])
        cancelling = [asyncio.create_task(queue.operator.cancel(order)) for order in (ids, ids[::-1])]
        await blocked_on_a_row(queue, 2)
    first, second = await asyncio.gather(*cancelling)
    assert sorted(first.cancelled + second.cancelled) == sorted(ids)
