"""Checks of the queue and its lanes: tasks that wait, are stuck, interrupted or dead, and live lanes."""

from __future__ import annotations

from datetime import datetime

from organism_flows.blocks.finding import Finding, degraded, ok
from organism_flows.blocks.long_work import LongWork
from organism_flows.blocks.queue import Closure, LaneRow, LineWait, Pause, Queue, ReadyTasks
from organism_flows.flows.prefect_support.markdown import one_line
from organism_flows.flows.verification.thresholds import Thresholds

COUNTED = 100_000
"""Upper bound on the ready tasks of one type that are counted."""


async def check(queue: Queue, limits: Thresholds) -> list[Finding]:
    """Return all findings about the queue and its lanes."""
    waiting = await queue.health.ready(at_most=COUNTED)
    stuck = await queue.health.stuck()
    lanes = await queue.reader.lanes()
    counts = await queue.reader.counts()
    work = await queue.health.long_work()
    return [
        _waiting(waiting, limits),
        _starved([line for line in await queue.health.line_waits(limits.starved_s) if line.starved]),
        _stuck(stuck),
        _dead_letters(counts["failed"], limits),
        _paused(await queue.operator.pauses()),
        _closed(await queue.operator.closures(), await queue.reader.now(), limits),
        await _interrupted(queue, work),
        ok("queue: suspects", work.suspects_note or "no task that may have killed a replica runs"),
        ok("queue: waiting on replicas", work.handed_over_note or "no task waits for a handler for long"),
        ok("lanes: leaving", work.leaving_note or "none"),
        _lanes(lanes, any(tasks.ready for tasks in waiting), str(await queue.reader.now())),
    ]


def _waiting(waiting: list[ReadyTasks], limits: Thresholds) -> Finding:
    seen = "; ".join(
        f"{tasks.type}: {tasks.ready:,}{'+' if tasks.ready >= COUNTED else ''} ready, "
        f"the oldest for {tasks.oldest_s:.0f} s"
        for tasks in waiting[:5]
    )
    oldest_s = max((tasks.oldest_s for tasks in waiting), default=0.0)
    if oldest_s > limits.oldest_ready_s:
        return degraded(
            "queue: waiting",
            seen,
            "see `organism tasks why <id>` of one; more lanes or replicas, or work that is paused",
        )
    return ok("queue: waiting", seen or "nothing is ready")


def _starved(lines: list[LineWait]) -> Finding:
    if not lines:
        return ok("queue: starved", "no key or type waits while others run")
    seen = "; ".join(
        f"type {one_line(line.type, 60)}{f', domain {one_line(line.domain, 60)}' if line.domain else ''}"
        f"{f', key {one_line(line.key, 60)}' if line.key else ''}, priority {line.priority}: "
        f"for {line.waits_s:,.0f} s"
        for line in lines[:5]
    )
    return degraded(
        "queue: starved",
        f"{len(lines)} wait while others of their priority run: {seen}",
        "see `organism tasks why <id>` of one; a limit that others use up, or a type without room for it",
    )


def _stuck(count: int) -> Finding:
    if count:
        return degraded(
            "queue: stuck",
            f"{count} tasks run under lanes whose lease is past",
            "the next lane or watchdog takes them back; see that one runs",
        )
    return ok("queue: stuck", "every running task has a lane with a lease")


def _dead_letters(count: int, limits: Thresholds) -> Finding:
    seen = f"{count:,} tasks have failed for good"
    if count > limits.dead_letters:
        return degraded(
            "queue: dead letters",
            seen,
            "list them with `organism tasks list --status failed`, then `organism redrive`",
        )
    return ok("queue: dead letters", seen)


def _paused(pauses: list[Pause]) -> Finding:
    if not pauses:
        return ok("queue: paused", "nothing")
    first = pauses[0]
    return degraded(
        "queue: paused",
        ", ".join(f"{p.kind} {p.name} ({p.reason or 'no reason given'})" for p in pauses),
        f"when it may go on: `organism tasks resume --{first.kind} {first.name}`",
    )


def _closed(closures: list[Closure], now: datetime, limits: Thresholds) -> Finding:
    long = [each for each in closures if (now - each.closed_at).total_seconds() > limits.closed_s]
    if not long:
        return ok("queue: closed", f"{len(closures)} keys and limits" if closures else "nothing")
    seen = "; ".join(
        f"{each.kind} {one_line(each.name, 60)}{f' for key {one_line(each.key, 60)}' if each.key else ''} "
        f"since {each.closed_at:%Y-%m-%d %H:%M}, until {each.until:%Y-%m-%d %H:%M}"
        f"{f' ({one_line(each.reason, 100)})' if each.reason else ''}"
        for each in long[:5]
    )
    return degraded(
        "queue: closed",
        f"{len(long)} for over {limits.closed_s:g} s: {seen}",
        "if it may go on: `organism limits open NAME`, or with --type and --key",
    )


async def _interrupted(queue: Queue, work: LongWork) -> Finding:
    if work.interrupted_note is None:
        return ok("queue: interrupted", "no unfinished task was interrupted more than twice")
    most = await queue.health.most_interrupted(at_most=3)
    named = "; ".join(f"{one_line(kind, 60)} {task}: {times} times" for task, kind, times in most)
    return degraded(
        "queue: interrupted",
        f"{work.interrupted_note}{f' ({named})' if named else ''}",
        "see `organism tasks why <id>`; bound it: `organism tasks policy <type> --max-interruptions N`",
    )


def _lanes(lanes: list[LaneRow], work: bool, now: str) -> Finding:
    claiming = [lane for lane in lanes if lane.claiming]
    seen = "; ".join(
        f"{lane.id} on {lane.host}, {lane.settled:,} settled since {lane.started_at:%H:%M:%S}, "
        f"renewed {lane.renewed_at:%H:%M:%S}"
        for lane in claiming[:5]
    )
    if claiming:
        return ok("lanes: alive", f"{len(claiming)}: {seen}")
    ending = sum(lane.live for lane in lanes)
    none = f"none claims ({ending} are leaving or stopping)" if ending else "none"
    if work:
        return degraded(
            "lanes: alive",
            f"{none}, and there is work (database clock {now[:19]})",
            "start one: `organism dispatch`, or the schedule of dispatch/organism",
        )
    return ok("lanes: alive", f"{none}, and nothing is ready")
