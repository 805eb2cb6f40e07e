"""An organ on this replica: a handler, its slots, its timeouts, and the results of the tasks it runs.

It is driven by callbacks on the event loop, not by a coroutine for each task. So starting and ending a task
costs few microseconds, and a handler that cannot be stopped can be left behind. Async handlers that return
without waiting share one asyncio task: a task for each costs more than the handlers do.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Coroutine, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any

from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.job_runner import LINGER_S, JobRunner
from organism_flows.serve_apps.organism.execution.jobs import Invocation, Job
from organism_flows.serve_apps.organism.execution.local.handler_caller import (
    AwaitableResult,
    HandlerCaller,
    NotIsolated,
)
from organism_flows.serve_apps.organism.execution.local.isolation import DELIVERY_S, Isolation
from organism_flows.serve_apps.organism.execution.local.job_queue import JobQueue
from organism_flows.serve_apps.organism.execution.local.timeouts import Timeouts
from organism_flows.serve_apps.organism.execution.organ_status import organ_status
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.execution.thread_pool import ThreadPool
from organism_flows.serve_apps.organism.handler_api.errors import harmless
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult, HandlerResults, of_error

logger = logging.getLogger("ray.serve.organism")

TASKS_A_TURN = 8
"""Most asyncio tasks that are started before the check which of their handlers wait."""
STRETCH_S = 0.005
"""Longest time that handlers which do not wait may hold the event loop one after another, in seconds."""


class LocalOrgan(JobRunner):
    """Runs tasks under one handler.

    Args:
        config: Configuration of the organ.
        handler: The handler, loaded by `load_handler` or `ProcessPool.load`.
        shared: What all organs of the replica share.
    """

    def __init__(self, config: OrganConfig, handler: Handler, shared: SharedState) -> None:
        super().__init__(config, shared.counters_of(config.id))
        self.handler = handler
        self.version = config.version or handler.version
        self._shared = shared
        self._caller = HandlerCaller(handler, shared)
        if handler.processes is not None:
            handler.processes.expand(config.concurrency)
        self._isolation = Isolation(config, handler, shared)
        self._threads = ThreadPool(config.id)
        self._waiting = JobQueue(config)
        self._first_steps: set[Invocation] = set()
        """Handler calls in an asyncio task that has not been seen to wait yet."""
        self._check_due = False
        """True if `_watch_waiting` will be called in the next turn of the loop."""
        self._deadlines = Timeouts(self._expire)
        self._slots_taken = 0
        self._abandoned_tasks = 0

    @property
    def abandoned(self) -> int:
        return self._threads.abandoned + self._abandoned_tasks

    @property
    def problem(self) -> str | None:
        problem = self.handler.processes.problem if self.handler.processes else None
        return f"organ {self.config.id}: its processes do not start: {problem}" if problem else None

    @property
    def idle(self) -> bool:
        return not (self._runs or self._first_steps or self._waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Run ``jobs`` as slots become free, and report each to its call."""
        self._waiting.add(jobs)
        self.pump()

    def pump(self) -> None:
        """Start what can start now, or a part of it and the rest in the next turn of the loop."""
        while self._slots_taken < self.config.concurrency and len(self._first_steps) < TASKS_A_TURN:
            jobs = self._waiting.next(suspects=self._isolation.has_room)
            if not jobs:
                break
            self._start(jobs)

    def acknowledge(self, job: Job, answer: Acknowledgement) -> None:
        """Let the handler of ``job`` know what became of its reports, or that it must leave."""
        if answer.leave_within_s is not None and job.leave_by is None:
            job.leave_by = time.monotonic() + answer.leave_within_s
        self._caller.acknowledge(job, answer)

    def _can_recall(self, job: Job, *, leaving: bool) -> bool:
        # A job that is to be tried alone has been in a handler already.
        return job.run is None and not job.alone

    def _stop_job(self, job: Job, run: Invocation, result: HandlerResult) -> None:
        last = run.open_jobs() == [job]
        if last and run.work is not None and not self._threads.abandon(run.work):
            return  # it has just ended
        self._report(job, result)
        # A handler batch goes on for its other tasks, and so does this one in it.
        self._shared.lingering[job.call.batch.ids[job.position]] = run
        if last:
            run.reported = True
            self._stop(run)

    def _stop_run(self, run: Invocation) -> asyncio.Task[None] | None:
        if not run.reported and (run.work is None or self._threads.abandon(run.work)):
            run.reported = True
            self._stop(run)
        return None if run.released else run.task

    def close(self) -> None:
        self._threads.close()
        self._isolation.close()
        if self.handler.processes is not None:
            self.handler.processes.shrink(self.config.concurrency)

    def status(self) -> dict[str, Any]:
        runs = (*self._runs, *self._first_steps)
        return organ_status(
            self.config,
            self.handler,
            self.counters,
            runs,
            waiting=self._waiting.count,
            suspects=self._isolation.running,
            abandoned=self.abandoned,
        )

    # Starting

    def _start(self, jobs: list[Job]) -> None:
        run = self._prepare(jobs)
        if run is None:
            return
        self._slots_taken += 1
        if run.jobs[0].suspect and not self._isolation.enter(run):
            # The caller must know that it begins: if the replica dies from here on, it is the cause.
            for job in run.jobs:
                job.begin_reported = True
                job.call.begin(job.position, self.version)
            asyncio.get_running_loop().call_later(DELIVERY_S, self._begin, run)
        else:
            self._begin(run)

    def _begin(self, run: Invocation) -> None:
        """Call the handler, or start the process or thread that calls it."""
        if run.reported:  # stopped while it was announced
            return self._ended_after_report(run)
        loop = asyncio.get_running_loop()
        processes = run.processes = run.processes or self.handler.processes
        if processes is None and self._caller.on_loop and not self.config.batch:
            self._first_steps.add(run)
            run.task = self._create_task(run, self._call_in_turn(run))
            if not self._check_due:
                self._check_due = True
                loop.call_soon(self._watch_waiting)
            return None
        if processes is None:
            self._watch(run)
        else:
            # A process may have to start first. That does not count as the task's time.
            run.begun = False
            self._runs.add(run)
            run.on_begin = partial(loop.call_soon_threadsafe, self._begun_in_process, run)
        if processes is None and self._caller.on_loop:
            run.task = self._create_task(run, self._call_batch(run))
            return None
        context = run.jobs[0].call.context.copy()
        try:
            run.work = self._threads.submit(
                lambda: context.run(self._caller.in_thread, run), lambda value: self._collect(run, value)
            )
        except RuntimeError as error:
            self._end(run, of_error(error, len(run.jobs)))

    def _prepare(self, jobs: list[Job]) -> Invocation | None:
        """Return a call for those of ``jobs`` whose params can be read; `None` means there are none."""
        run = Invocation([], [], 0.0, self.config.id, self.version)
        return run if self._take(run, jobs, time.monotonic()) else None

    def _take(self, run: Invocation, jobs: list[Job], now: float) -> bool:
        """Make ``run`` a call for those of ``jobs`` whose params can be read; return False if none can."""
        tasks = []
        for job in jobs:
            if job.call.batch.waits and (wait := job.wait) and wait.timed_out and wait.or_fail:
                text = f"the event {wait.event} that it waited for did not come in time"
                self._report(job, HandlerResult("rejected", error=text))
                continue
            if job.expires is not None and not job.shorten(now):
                self._report(job, HandlerResult("recalled", error="expired before a handler began"))
                continue
            try:
                tasks.append(job.task())
                job.run = run
            except (ValueError, RecursionError) as error:
                self._report(job, HandlerResult("rejected", error=harmless(f"params is not JSON: {error}")))
        if not tasks:
            return False
        run.jobs = jobs if len(tasks) == len(jobs) else [job for job in jobs if not job.reported]
        if len(jobs) > 1 and any(job.expires for job in run.jobs):
            # A call has one timeout: that of its task that expires last.
            longest_s = max(job.timeout_s for job in run.jobs)
            for job in run.jobs:
                job.timeout_s = longest_s
        run.tasks, run.started, run.reported = tasks, now, False
        return True

    def _create_task(self, run: Invocation, call: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(call, context=run.jobs[0].call.context.copy())

    def _watch_waiting(self) -> None:
        """Watch the handlers that wait, and start jobs that still wait for a slot.

        Handlers that began in this turn of the loop have made their first step by now.
        """
        self._check_due = False
        for run in self._first_steps:
            run.waits = True
            self._watch(run)
        self._first_steps.clear()
        self.pump()

    def _begun_in_process(self, run: Invocation) -> None:
        if not (run.begun or run.released):
            run.begun, run.started = True, time.monotonic()
            self._watch(run)

    def _watch(self, run: Invocation) -> None:
        self._runs.add(run)
        if not run.reported:
            self._deadlines.add(run, run.timeout_s, run.started)

    # Calling

    async def _call_in_turn(self, run: Invocation) -> None:
        """Call the handler for ``run``, and then for other jobs of its call, as long as it does not wait."""
        task, context = run.task, copy_context()
        assert task is not None
        until = run.started + STRETCH_S
        going_on = True
        while going_on:
            results = await self._caller.results(run)
            now = time.monotonic()
            self._report_all(run, results, now)
            # A context variable or a cancellation that a handler leaves in the task must not reach the next.
            alone = run.waits or task.cancelling() or copy_context() != context
            going_on = not alone and now < until and self._go_on(run, now)
        self._release(run)

    def _go_on(self, run: Invocation, now: float) -> bool:
        """Make ``run`` the next handler call for jobs of the same batch; return False if there is none.

        A handler that does not wait has ended before anything else can see its run.
        """
        while jobs := self._waiting.next(run.jobs[0].call):
            if self._take(run, jobs, now):
                return True
        return False

    async def _call_batch(self, run: Invocation) -> None:
        self._end(run, await self._caller.results(run))

    async def _await(self, run: Invocation, awaitable: Awaitable[Any]) -> None:
        self._end(run, await self._caller.results(run, awaitable))

    def _collect(self, run: Invocation, value: HandlerResults | AwaitableResult | NotIsolated) -> None:
        run.work = None
        if isinstance(value, NotIsolated):
            self._isolation.give_up()
            self._waiting.again(run.open_jobs(), alone=False)
            run.reported = True
            self._ended_after_report(run)
        elif not isinstance(value, AwaitableResult):
            self._end(run, value)
        elif run.reported:
            if inspect.iscoroutine(value.awaitable):
                value.awaitable.close()
            self._ended_after_report(run)
        else:
            run.task = self._create_task(run, self._await(run, value.awaitable))

    # Ending

    def _end(self, run: Invocation, results: HandlerResults) -> None:
        """Report a handler that has ended by itself. No results mean that its batch failed as a whole."""
        now = time.monotonic()
        if self.config.batch:
            self._waiting.learn(len(run.jobs), (now - run.started) * 1000)
        self._report_all(run, results, now)
        self._release(run)
        if self._shared.lingering:
            self._shared.ended(run)

    def _ended_after_report(self, run: Invocation) -> None:
        self._release(run)
        self._shared.ended(run)

    def _report_all(self, run: Invocation, results: HandlerResults, now: float) -> None:
        if run.reported:
            return
        run.reported = True
        if results:
            elapsed_ms = (now - run.started) * 1000
            for job, result in zip(run.jobs, results, strict=True):
                if result.cause == "interrupted" and job.leave_by is None:
                    # It would come back at once, again and again.
                    result = HandlerResult("failed", error=f"raised without need: {result.error}")
                self._report(job, result, elapsed_ms)
        else:
            self._isolate(run, "raised")

    def _expire(self, run: Invocation) -> None:
        """Report the timeout at once, whether or not the handler can be stopped."""
        place = self._caller.place(run)
        if run.work is not None and not self._threads.abandon(run.work):
            return
        if not run.reported:
            run.reported = True
            if len(run.jobs) > 1:
                self._isolate(run, "timed out")
            else:
                job = run.jobs[0]
                what = "timed out" if job.expires is None else "timed out, or expired,"
                text = f"{what} after {job.timeout_s:.4g} s" + (f" ({place})" if place else "")
                self._report(job, HandlerResult("timed_out", error=text))
        self._stop(run)

    def _stop(self, run: Invocation) -> None:
        """Leave an abandoned thread behind and kill the process it waits for, or cancel an async handler.

        The slot of an async handler is free when the handler has ended, or `LINGER_S` later.
        """
        self._shared.lingering.update((task["task_id"], run) for task in run.tasks)
        if run.work is not None:
            self._caller.kill(run)
            self._release(run)
            return
        if run.task is None:
            return
        self._deadlines.discard(run, run.timeout_s)
        run.task.add_done_callback(lambda _: self._ended_after_report(run))
        run.task.cancel()
        run.linger = asyncio.get_running_loop().call_later(LINGER_S, self._abandon, run)

    def _abandon(self, run: Invocation) -> None:
        if not run.released:
            run.abandoned = True
            self._abandoned_tasks += 1
            logger.warning("organ %s: a cancelled handler does not end", self.config.id)
            self._free(run)

    def _isolate(self, run: Invocation, what: str) -> None:
        """Try each task of a failed handler batch alone, so that only those that fail are charged."""
        logger.warning("organ %s: a batch of %d %s; trying each alone", self.config.id, len(run.jobs), what)
        self._waiting.again(run.open_jobs(), alone=True)

    def _release(self, run: Invocation) -> None:
        """Free the slot of a handler that has ended or was left behind."""
        if not run.released:
            self._free(run)
        elif run.abandoned:
            run.abandoned = False
            self._abandoned_tasks -= 1

    def _free(self, run: Invocation) -> None:
        run.released = True
        self._deadlines.discard(run, run.timeout_s)
        if run.linger is not None:
            run.linger.cancel()
        self._runs.discard(run)
        self._first_steps.discard(run)
        self._slots_taken -= 1
        for job in run.jobs:
            if job.run is run:
                job.run = None  # else only the garbage collector frees both, and the batch with them
        if run.suspect:
            self._isolation.leave(run)
        self.pump()
