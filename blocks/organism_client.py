"""The only code that calls a Serve handle.

Ray's handles have no timeout, go on running when their caller stops waiting, and tell of a dead replica by a
family of exceptions that changes between versions. All of that ends here: whoever uses `OrganismClient` gets
outcomes, `OrganismUnavailable` or `ReplicaLost`. Knows nothing of Prefect: replicas use it among themselves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from organism_flows.blocks.errors import OrganismError, OrganismUnavailable, ReplicaLost
from organism_flows.blocks.queue.wire import Batch, Outcomes

GRPC_LIMIT_CHARS = 500_000
"""Params up to this size go straight to the replica by gRPC, which takes messages of 4 MB; larger ones by way
of Ray's object store. By gRPC 1,000 no-ops there and back take the caller 3.4 ms of processor time, not 6.2.
Errors arrive as Ray's own either way."""
# How large a chunk of outcomes may come back; Serve reads it when it is imported, which is after this.
os.environ.setdefault("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(2**31 - 1))

CANCEL_PAUSES_S = (0.02, 0.1, 0.5, 0.0)
"""Waits after each try to cancel what no replica knows: the batch itself may still be on its way there."""


class OrganismClient:
    """Calls one deployment that runs tasks. The process must be connected to Ray.

    Args:
        app_name: Name of the Serve app.
        deployment_name: Name of the deployment.
        silence_s: Seconds without any sign of life after which a call is given up; replicas send one every
            2 s.
        health_timeout_s: Longest wait for `health` and `status`, in seconds.
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

    async def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        """Run ``batch`` and yield outcomes as they come, some of them empty as a sign of life.

        Raises:
            OrganismUnavailable: Nothing of the batch ran.
            ReplicaLost: The replica had taken the batch; what has not been yielded is unknown.
        """
        begun = False
        stream = None
        try:
            large = sum(map(len, batch.params)) > GRPC_LIMIT_CHARS
            handle = self._handle().options(stream=True, _by_reference=large)
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

            # Private to Serve: a call that no replica has taken, as while there is none, waits in there.
            taken = stream is not None and stream._replica_result is not None
            # Once sent, a call whose replica dies or falls silent may have run.
            may_have_run = isinstance(error, RayActorError) or (isinstance(error, TimeoutError) and taken)
            raise self._explain(error, self._silence_s, lost=begun or may_have_run) from None
        finally:
            _cancel(stream)

    async def handle_task(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run one task, past the queue; its outcome as `OrganismManager.handle_incoming_task` tells it.

        Cancelled, it stops the handler.

        Raises:
            OrganismUnavailable, ReplicaLost: There is no outcome.
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
        """Stop tasks, on whichever replicas they run under the claim given by id, or an older one.

        Each is reported ``cancelled`` through its own call, if somebody still listens to that. Best effort:
        returns when every task has been found somewhere, or no replica knows it after some tries (it has
        ended, or its replica is being taken down). Calling again does no harm.

        Raises:
            OrganismUnavailable: A task is not acknowledged, and not every replica has answered.
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
        """Have those of these tasks handed back that no handler has begun with.

        Each is reported ``recalled`` through its own call.

        Args:
            leaving: Those too that wait for a replica of their organ's own deployment.

        Raises:
            OrganismUnavailable: Not every replica has answered.
        """
        await self._tell_all("recall_tasks", list(claims), leaving)

    async def limit_drain(self, within_s: float) -> None:
        """Have replicas that are taken down from now on give running tasks only so many seconds.

        Raises:
            OrganismUnavailable: Not every replica has answered.
        """
        await self._tell_all("limit_drain", within_s)

    async def running(self) -> list[dict[str, Any]]:
        """What runs on each replica, as `OrganismManager.running` tells it.

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
        # To all replicas: which one Serve has chosen for a call is not known here.
        response = self._handle().broadcast(method, *arguments)
        answers: list[Any] = await response.results_async(return_exceptions=True)
        return answers

    async def health(self) -> dict[str, Any]:
        """The organism's own health report.

        Raises:
            OrganismUnavailable: It did not answer.
        """
        return await self._ask("health")

    async def status(self) -> dict[str, Any]:
        """The organism's own status report.

        Raises:
            OrganismUnavailable: It did not answer.
        """
        return await self._ask("status")

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

        if not ray.is_initialized():
            # get_deployment_handle would start a new local cluster and then say Serve is not running.
            raise OrganismUnavailable(
                "this process is not connected to Ray", "connect first: `await RayCluster.connect()`"
            )
        return serve.get_deployment_handle(self._deployment_name, app_name=self._app_name)

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
        return OrganismUnavailable(what, "look at the app with `organism status` and at its Serve logs")


def _cancel(response: Any) -> None:
    """Stop the replica, which leaving the response alone does not. Harmless when it has ended, or is None."""
    if response is not None:
        # Of a call that failed before a replica took it, this raises the failure once more (Serve 2.60).
        with suppress(Exception):
            response.cancel()
