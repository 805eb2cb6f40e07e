"""The organism: takes tasks, routes them to organs, streams their outcomes back.

A plain class without Serve; `serve_apps.organism.app` puts it on replicas.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import copy_context
from dataclasses import fields
from typing import Any, TypeAlias

from blocks.errors import ConfigurationError
from blocks.jsonb import from_json
from blocks.queue.wire import Batch, Outcomes
from serve_apps.organism import stream
from serve_apps.organism.agents import closed_on_error, load
from serve_apps.organism.config import OrganConfig, OrganismConfig, parse_config
from serve_apps.organism.endings import Ending
from serve_apps.organism.errors import describe
from serve_apps.organism.gate import Gate, Ticket
from serve_apps.organism.introspection import ORGANISM
from serve_apps.organism.jobs import Job
from serve_apps.organism.loading import Handler, extend_import_path
from serve_apps.organism.organ import CANCELLED_BEFORE, LINGER_S, Organ, Rules
from serve_apps.organism.router import NoOrgan, Router
from serve_apps.organism.stream import Call, happens
from serve_apps.organism.tasks import InvalidTask, parse_task, refused

logger = logging.getLogger("ray.serve.organism")

DELIVERY_S = 0.05
"""The word that an exclusive batch begins needs the event loop, and time, to leave the replica."""
ABANDONED_LIMIT = 32
"""Handler calls left behind (a thread or task each) beyond which the replica asks to be replaced."""

Work: TypeAlias = "dict[Organ, list[Job]]"


class OrganismManager:
    """Runs tasks on the organs of one configuration, which may change while it runs.

    Args:
        config: Its first configuration; None: none until `reconfigure`.
        replica: Name of the replica it runs on, for `health` and `status`.

    Raises:
        ConfigurationError: The configuration is wrong or a handler does not import.
    """

    def __init__(
        self, config: OrganismConfig | dict[str, Any] | None = None, *, replica: str = "local"
    ) -> None:
        self._replica = replica
        self._started = time.monotonic()
        self._gate = Gate()
        self._rules = Rules(result_limit_bytes=0, gate=self._gate)
        self._config: OrganismConfig | None = None
        self._organs: dict[str, Organ] = {}
        self._retiring: list[Organ] = []
        self._router: Router | None = None
        self._open: dict[Call, Work] = {}
        """Calls on this replica; no work: not begun."""
        self._reconfiguring = asyncio.Lock()
        self._refused: str | None = None
        if config is not None:
            parsed = parse_config(config)
            extend_import_path(parsed.python_path)
            handlers: dict[str, Handler] = {}
            with closed_on_error(handlers):
                for organ in parsed.organs:
                    handlers[organ.id] = load(organ)
            self._apply(parsed, handlers)

    # Configuration

    @property
    def configured(self) -> bool:
        """Whether a configuration is in effect."""
        return self._router is not None

    async def reconfigure(self, user_config: OrganismConfig | dict[str, Any]) -> None:
        """Apply a configuration; tasks already accepted end under the old one.

        Raises:
            ConfigurationError: It is wrong or a handler does not import; the old one stays in effect.
        """
        try:
            await self._reconfigure(user_config)
            self._refused = None
        except ConfigurationError as error:
            self._refused = str(error)
            logger.error("configuration refused: %s", error)
            raise

    async def _reconfigure(self, user_config: OrganismConfig | dict[str, Any]) -> None:
        async with self._reconfiguring:
            parsed = parse_config(user_config)
            extend_import_path(parsed.python_path)
            handlers: dict[str, Handler] = {}
            with closed_on_error(handlers):
                for organ in parsed.organs:
                    present = self._organs.get(organ.id)
                    if present and all(
                        getattr(present.config, name) == getattr(organ, name)
                        for name in ("handler", "batch", "processes")
                    ):
                        handlers[organ.id] = present.handler
                    else:
                        # In a thread: importing a model may take minutes, and there is work to do meanwhile.
                        handlers[organ.id] = await asyncio.to_thread(load, organ)
            self._apply(parsed, handlers)

    def _apply(self, config: OrganismConfig, handlers: dict[str, Handler]) -> None:
        old = self._organs
        organs = {organ.id: self._organ(organ, handlers[organ.id]) for organ in config.organs}
        self._router = Router(config, organs)
        self._rules.result_limit_bytes = config.result_limit_bytes
        self._config = config
        self._organs = organs
        kept = set(organs.values())
        self._retiring += [organ for organ in old.values() if organ not in kept]
        self._pump()
        logger.info("organism configured: %d organs, types %s", len(organs), ", ".join(self._router.types))

    def _organ(self, config: OrganConfig, handler: Handler) -> Organ:
        present = self._organs.get(config.id)
        return present if present and present.config == config else Organ(config, handler, self._rules)

    # Running tasks

    async def handle_incoming_task(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run one task.

        Args:
            task: Its fields; see `serve_apps.organism.tasks.Task`.

        Returns:
            Its outcome: task_id, success, result, error, retryable, path, organ_id, elapsed_ms. A bad task
            has one too, whose error names the field.
        """
        try:
            parsed = parse_task(task)
            batch = parsed.as_batch()
        except InvalidTask as error:
            return refused(task, str(error))
        ended = Outcomes()
        async with aclosing(self._run(batch, exclusive=False)) as parts:
            async for outcomes in parts:
                if len(outcomes):
                    ended = outcomes
        result = ended.results[0]
        return {
            "task_id": parsed.task_id,
            "success": ended.causes[0] == "completed",
            "result": None if result is None else from_json(result),
            "error": ended.errors[0],
            "retryable": ended.causes[0] in ("failed", "timed_out", "interrupted"),
            "path": ended.paths[0],
            "organ_id": ended.organ_ids[0],
            "elapsed_ms": ended.elapsed_ms[0],
        }

    async def handle_tasks(
        self, wire: dict[str, Any], exclusive: bool = False
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Run a batch.

        Args:
            wire: `Batch.to_wire()`.
            exclusive: Nothing else runs on this replica meanwhile, so that its death is this batch's doing.

        Yields:
            `Outcomes.to_wire()`: some tasks as they end, and at least every 2 s one, empty if need be; one in
            any case. An exclusive batch says by an empty one that it begins, before it does.

        Raises:
            ConfigurationError: The batch is of another version, or its columns do not fit, or there is no
                configuration yet; none of it ran.
        """
        batch = _open_wire(wire)
        async with aclosing(self._run(batch, exclusive=exclusive)) as parts:
            async for outcomes in parts:
                yield outcomes.to_wire()

    async def _run(self, batch: Batch, *, exclusive: bool) -> AsyncGenerator[Outcomes, None]:
        # Handlers run in copies of the caller's context: Serve's request id is in their log lines.
        context = copy_context()
        context.run(ORGANISM.set, self)
        call = Call(batch, context)
        turn = asyncio.Event()
        ticket = Ticket(on_turn=turn.set) if exclusive else None
        work = self._open[call] = {}
        try:
            if ticket is not None:
                self._gate.request(ticket)
                while not await happens(turn, stream.SIGN_OF_LIFE_S) and len(call.cancelled) < len(batch):
                    yield Outcomes(waiting=True)
            timeout_s = self._route(call, ticket, work)
            if exclusive:
                # What dies from here on is this batch's doing, and the caller is to know it.
                yield Outcomes(timeout_s=timeout_s)
                await asyncio.sleep(DELIVERY_S)
            for organ, jobs in work.items():
                organ.submit(jobs)
            if not len(batch):
                # Of a stream without a message gRPC may lose what Serve says before the first.
                yield Outcomes()
            async with aclosing(call.chunks()) as chunks:
                async for outcomes in chunks:
                    outcomes.timeout_s = timeout_s
                    yield outcomes
        finally:
            # Reached by cancellation too. A finished call has nothing left to drop.
            del self._open[call]
            ending = [task for organ, jobs in work.items() for task in organ.drop(jobs)] if call.left else []
            if ticket is not None:
                self._gate.release(ticket)
            self._pump()
            if ending:
                await asyncio.wait(ending, timeout=LINGER_S)

    def _route(self, call: Call, ticket: Ticket | None, work: Work) -> float | None:
        """Add the jobs of ``call`` to ``work`` by organ; what is not to run is reported at once.

        Returns:
            The longest timeout among the jobs, in seconds; None: there are none.
        """
        if self._router is None or self._config is None:
            raise ConfigurationError("the organism has no configuration yet", "deploy it with a user_config")
        batch = call.batch
        longest_s = None
        for position, task_type in enumerate(batch.types):
            if batch.claims[position] in call.cancelled:
                ending = Ending("cancelled", error=CANCELLED_BEFORE)
                call.report(position, ending, path="fast", organ_id=None, elapsed_ms=0.0)
                continue
            try:
                organ, path = self._router.route(
                    task_type, batch.domains[position], batch.drift_scores[position]
                )
            except NoOrgan as error:
                ending = Ending("rejected", error=str(error))
                call.report(position, ending, path="fast", organ_id=None, elapsed_ms=0.0)
                continue
            timeout_s = batch.timeouts[position]
            if timeout_s is None:
                timeout_s = organ.config.timeout_s or self._config.default_timeout_s
            elif not (timeout_s > 0 and math.isfinite(timeout_s)):
                ending = Ending(
                    "rejected", error=f"timeout is {timeout_s!r}, not a positive number of seconds"
                )
                call.report(position, ending, path=path, organ_id=organ.config.id, elapsed_ms=0.0)
                continue
            work.setdefault(organ, []).append(Job(call, position, timeout_s, path, ticket))
            longest_s = max(timeout_s, longest_s or 0.0)
        return longest_s

    def _pump(self) -> None:
        """Start what may start now, and let go of old organs that nothing needs any more."""
        for organ in (*self._organs.values(), *self._retiring):
            organ.pump()
        for organ in list(self._retiring):
            if organ.idle and not organ.abandoned and not any(organ in work for work in self._open.values()):
                organ.close()
                self._retiring.remove(organ)

    def cancel_tasks(self, claims: list[int]) -> list[int]:
        """Stop tasks; each is reported ``cancelled`` through its own call, at once.

        A waiting task never starts. An async handler is cancelled, and may clean up. A plain function cannot
        be stopped: it counts as abandoned until it ends. A handler batch goes on for its other tasks. What
        has ended keeps its outcome, and calling again changes nothing.

        Returns:
            The claims among ``claims`` that are on this replica.
        """
        wanted = set(claims)
        known: set[int] = set()
        for call, work in self._open.items():
            here = wanted.intersection(call.batch.claims)
            if not here:
                continue
            known |= here
            call.cancelled |= here
            for organ, jobs in work.items():
                organ.cancel([job for job in jobs if job.claim in here])
        return sorted(known)

    # Telling

    def health(self) -> dict[str, Any]:
        """Whether it serves: status, organism_initialized, uptime_s, pid, replica.

        Degraded: it serves, but not by the latest configuration; ``refused_configuration`` says why."""
        problem = self._problem()
        return {
            "status": "unhealthy" if problem else "degraded" if self._refused else "healthy",
            "organism_initialized": self.configured,
            "problem": problem,
            "refused_configuration": self._refused,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "pid": os.getpid(),
            "replica": self._replica,
        }

    def status(self) -> dict[str, Any]:
        """What it serves and what it has done: known types, figures by organ, effective configuration."""
        organs = {organ.config.id: organ.status() for organ in self._organs.values()}
        totals: Counter[str] = Counter()
        for figures in organs.values():
            for name in (
                "in_flight",
                "waiting",
                "abandoned",
                "completed",
                "failed",
                "rejected",
                "timed_out",
                "cancelled",
                "interrupted",
            ):
                totals[name] += figures[name]
        config = self._config
        return {
            **self.health(),
            "task_types": self._router.types if self._router else [],
            "organs": organs,
            "totals": dict(totals),
            "exclusive": self._gate.exclusive,
            "retiring_organs": len(self._retiring),
            "config": config.model_dump(mode="json") if config else None,
        }

    async def check_health(self) -> None:
        """Return at once while the replica can work; async, so that a wedged event loop does not.

        Raises:
            RuntimeError: It should be replaced.
        """
        if problem := self._problem():
            raise RuntimeError(problem)

    def _problem(self) -> str | None:
        abandoned = sum(organ.abandoned for organ in (*self._organs.values(), *self._retiring))
        if abandoned > ABANDONED_LIMIT:
            return f"{abandoned} handler calls hang and cannot be stopped, more than {ABANDONED_LIMIT}"
        return next((organ.problem for organ in self._organs.values() if organ.problem), None)


def _open_wire(wire: dict[str, Any]) -> Batch:
    next_step = "run the same organism-flows version on lanes and replicas"
    try:
        batch = Batch.from_wire(wire)
        lengths = {field.name: len(getattr(batch, field.name)) for field in fields(Batch)}
    except ValueError as error:
        raise ConfigurationError(str(error).partition(": run ")[0], next_step) from None
    except Exception as error:
        raise ConfigurationError(f"not a batch: {describe(error)}", next_step) from None
    if len(set(lengths.values())) > 1:
        raise ConfigurationError(f"the columns of the batch differ in length: {lengths}", next_step)
    return batch
