"""Calls of the Serve deployments that run tasks, with timeouts and errors of our own.

Ray's handles have no timeout. A call goes on when its caller stops waiting. A dead replica raises one of a
family of exceptions that changes between versions. `OrganismClient` hides all of that: its callers get
outcomes, `OrganismUnavailable` or `ReplicaLost`. It does not depend on Prefect: replicas use it for calls
among themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, cast

from organism_flows.blocks.errors import OrganismError, OrganismUnavailable, ReplicaLost
from organism_flows.blocks.organism_reports import HealthReport, StatusReport
from organism_flows.blocks.process_environment import accept_large_messages
from organism_flows.blocks.queue.wire import Batch, Outcomes
from organism_flows.blocks.task_report import Acknowledgement

GRPC_LIMIT_CHARS = 500_000
"""Largest params and checkpoints of a batch that go straight to the replica by gRPC, in characters. gRPC
takes messages of up to 4 MB; larger ones go through Ray's object store. By gRPC, 1,000 no-ops and their
outcomes take the caller 3.4 ms of processor time instead of 6.2. Errors arrive as Ray's own either way."""
accept_large_messages()

CANCEL_PAUSES_S = (0.02, 0.1, 0.5, 0.0)
"""Seconds to wait after each attempt to cancel tasks that no replica knows: their batch may still be on its
way."""


class OrganismClient:
    """Calls one deployment that runs tasks. The process must be connected to Ray.

    Args:
        app_name: Name of the Serve app.
        deployment_name: Name of the deployment.
        silence_s: Seconds without any sign of life after which a call is given up. Replicas send one every
            2 s.
        health_timeout_s: Longest wait for any other answer than that of `call` or `handle_task`, in seconds.
    """

    def __init__(
        self,
        app_name: str = "organism",
        deployment_name: str = "OrganismManager",
        *,
        silence_s: float = 30.0,
        health_timeout_s: float = 10.0,
    ) -> None:
        self._app_name = app_name
        self._deployment_name = deployment_name
        self._silence_s = silence_s
        self._health_timeout_s = health_timeout_s
        self._in_this_loop = False
        self._own_handle: Any = None

    @asynccontextmanager
    async def in_this_loop(self) -> AsyncIterator[Self]:
        """Have Serve route the calls of this client in the running event loop within the block.

        Without it a thread of Serve's does, and every message of a call goes from thread to thread. For
        single tasks, 200 a second, a lane took 45 % of a core so, and takes 38; p99 was 15 ms and is 11.5.
        """
        self._in_this_loop = True
        try:
            yield self
        finally:
            handle, self._own_handle, self._in_this_loop = self._own_handle, None, False
            if handle is not None:
                await handle.shutdown_async()

    async def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        """Run ``batch`` and yield outcomes as they come. Some are empty, as a sign of life.

        Raises:
            OrganismUnavailable: Nothing of the batch ran.
            ReplicaLost: The replica had taken the batch. What has not been yielded is unknown.
        """
        begun = False
        stream = None
        try:
            large = _characters(batch) > GRPC_LIMIT_CHARS
            handle = self._handle().options(stream=True, _by_reference=large)
            if batch.keys:
                # Serve prefers replicas that hold the model of this name: see @serve.multiplexed.
                handle = handle.options(multiplexed_model_id=next(iter(batch.keys.values())))
            stream = handle.handle_tasks.remote(batch.to_wire())
            while True:
                try:
                    # Not asyncio.wait_for, which until Python 3.12 may swallow a cancellation (bpo-37658).
                    async with asyncio.timeout(self._silence_s):
                        wire = await anext(stream)
                except StopAsyncIteration:
                    return
                outcomes = Outcomes.from_wire(wire)
                begun = begun or not outcomes.waiting
                yield outcomes
        except Exception as error:
            from ray.exceptions import RayActorError

            # Private to Serve: None while no replica has taken the call, for example because there is none.
            taken = stream is not None and stream._replica_result is not None
            # A call that was sent to a replica which then died or fell silent may have run.
            may_have_run = isinstance(error, RayActorError) or (isinstance(error, TimeoutError) and taken)
            raise self._explain(error, self._silence_s, lost=begun or may_have_run) from None
        finally:
            _cancel(stream)

    async def handle_task(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run one task past the queue and return its outcome.

        The outcome has the form that `OrganismManager.handle_incoming_task` gives it. If this call is
        cancelled, the handler is stopped.

        Raises:
            OrganismUnavailable: There is no outcome.
            ReplicaLost: There is no outcome, because the replica that had the task died.
        """
        from ray.exceptions import RayActorError

        response = None
        try:
            response = self._handle().handle_incoming_task.remote(task)
            outcome: dict[str, Any] = await response
            return outcome
        except Exception as error:
            raise self._explain(error, 0.0, lost=isinstance(error, RayActorError)) from None
        finally:
            _cancel(response)

    async def cancel(self, runs: Mapping[str, int]) -> None:
        """Stop tasks, on whichever replicas they run.

        Each is reported ``cancelled`` by the call that runs it, if that call still has a reader. Returns when
        every task was found on a replica, or is known to none after some attempts: then it has ended, or its
        replica is being taken down. You may call this again.

        Args:
            runs: Newest claim to stop, by task id. Runs under older claims of the task are stopped as well.

        Raises:
            OrganismUnavailable: A task was not acknowledged, and not every replica has answered.
        """
        left = dict(runs)
        failures: list[BaseException] = []
        try:
            async with asyncio.timeout(self._health_timeout_s):
                for pause_s in CANCEL_PAUSES_S:
                    answers = await self._broadcast("cancel_tasks", left)
                    failures = [answer for answer in answers if isinstance(answer, BaseException)]
                    known = {task for answer in answers if answer not in failures for task in answer}
                    left = {task: claim for task, claim in left.items() if task not in known}
                    if not left:
                        return
                    await asyncio.sleep(pause_s)
            if failures:
                raise failures[0]
        except Exception as error:
            raise self._explain(error, self._health_timeout_s) from None

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None:
        """Have the tasks of these claims handed back if no handler has begun with them.

        Each is reported ``recalled`` by the call that carries it.

        Args:
            claims: Claim tokens of the tasks.
            leaving: Also hand back tasks that wait for a replica of their organ's own deployment.

        Raises:
            OrganismUnavailable: Not every replica has answered.
        """
        await self._tell_all("recall_tasks", list(claims), leaving)

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None:
        """Answer handlers that wait until what they reported is durable, on whichever replicas they run.

        Args:
            saved: Answers by claim.

        Raises:
            OrganismUnavailable: Not every replica has answered.
        """
        await self._tell_all("acknowledge", dict(saved))

    async def limit_drain(self, within_s: float) -> None:
        """Limit how long replicas that are taken down from now on let running tasks go on.

        Args:
            within_s: Seconds that running tasks still have.

        Raises:
            OrganismUnavailable: Not every replica has answered.
        """
        await self._tell_all("limit_drain", within_s)

    async def running(self) -> list[dict[str, Any]]:
        """Return what runs on each replica, as `OrganismManager.running` gives it.

        Raises:
            OrganismUnavailable: Not every replica has answered.
        """
        return cast("list[dict[str, Any]]", await self._tell_all("running"))

    async def _tell_all(self, method: str, *arguments: Any) -> list[Any]:
        try:
            async with asyncio.timeout(self._health_timeout_s):
                answers = await self._broadcast(method, *arguments)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
        except Exception as error:
            raise self._explain(error, self._health_timeout_s) from None
        return answers

    async def _broadcast(self, method: str, *arguments: Any) -> list[Any]:
        # To all replicas: the client does not know which one Serve has chosen for a call.
        response = self._handle().broadcast(method, *arguments)
        answers: list[Any] = await response.results_async(return_exceptions=True)
        return answers

    async def health(self) -> HealthReport:
        """Return the health of the organism, as one replica reports it.

        Raises:
            OrganismUnavailable: It did not answer.
        """
        return HealthReport.of(await self._ask("health"))

    async def status(self) -> StatusReport:
        """Return what the organism serves and has done, as one replica reports it.

        Raises:
            OrganismUnavailable: It did not answer.
        """
        return StatusReport.of(await self._ask("status"))

    async def _ask(self, method: str) -> dict[str, Any]:
        response = None
        try:
            response = getattr(self._handle(), method).remote()
            answer = await asyncio.wait_for(response, self._health_timeout_s)
            return cast("dict[str, Any]", answer)
        except Exception as error:
            raise self._explain(error, self._health_timeout_s) from None
        finally:
            _cancel(response)

    def _handle(self) -> Any:
        import ray
        from ray import serve
        from ray.serve.handle import DeploymentHandle

        if not ray.is_initialized():
            # get_deployment_handle would start a new local cluster and then say Serve is not running.
            raise OrganismUnavailable(
                "this process is not connected to Ray", "connect first: `await RayCluster.connect()`"
            )
        # Says whether there is such a deployment. Serve keeps it for the process, longer than an event loop.
        handle = serve.get_deployment_handle(self._deployment_name, app_name=self._app_name)
        if not self._in_this_loop:
            return handle
        if self._own_handle is None:
            self._own_handle = DeploymentHandle(self._deployment_name, self._app_name)
            self._own_handle._init(_run_router_in_separate_loop=False)
        return self._own_handle

    def _explain(self, error: Exception, waited_s: float, *, lost: bool = False) -> OrganismError:
        from ray.exceptions import RayActorError

        name = f"{self._deployment_name} (app {self._app_name})"
        if isinstance(error, OrganismError):
            return error
        if isinstance(error, RayActorError):
            what = f"a replica of {name} died"
        elif isinstance(error, TimeoutError):
            what = f"{name} gave no sign of life for {waited_s:g} s"
        elif isinstance(error, KeyError):
            what = f"there is no {name} on this Ray cluster"
        else:
            lines = [line for line in str(error).splitlines() if line.strip()]
            what = f"{name}: {type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"
        if lost:
            return ReplicaLost(what)
        return OrganismUnavailable(what, "see `organism status` and the Serve logs of the application")


def _characters(batch: Batch) -> int:
    """Return the characters of params and checkpoints."""
    return sum(map(len, batch.params)) + sum(len(one.state) for one in batch.checkpoints if one)


def _cancel(response: Any) -> None:
    """Stop the call on the replica, which dropping the response does not do. Does nothing if it has ended."""
    if response is None:
        return
    # If a call failed before a replica took it, both raise the same failure again (Serve 2.60).
    with suppress(Exception):
        response.cancel()
    with suppress(Exception, asyncio.CancelledError):
        # In our own loop, Serve does not cancel a call that a replica has taken and nobody has awaited yet.
        if response._replica_result is None and response._replica_result_future.done():
            response._replica_result_future.result().cancel()
