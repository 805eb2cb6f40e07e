"""The organism as a Ray Serve application: app ``organism``, deployment ``OrganismManager``.

Where the configuration says so, the application has more deployments: one for each organ apart, and the drift
valve.

Annotations are not postponed in this module: Serve and FastAPI evaluate them in a pickled copy of the class.
The globals of that copy lack names that only annotations use.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from organism_flows.blocks.errors import ConfigurationError, OrganismError
from organism_flows.blocks.gc_tuning import collect_rarely
from organism_flows.blocks.organism_client import OrganismClient
from organism_flows.blocks.queue.wire import Cause
from organism_flows.blocks.tracing import tracer
from organism_flows.serve_apps.organism.assembly import nowhere
from organism_flows.serve_apps.organism.config import Cusum, load_config
from organism_flows.serve_apps.organism.escalation.cusum import DriftValve, Key
from organism_flows.serve_apps.organism.execution.remote_organ import OrganClient
from organism_flows.serve_apps.organism.http_auth import PROVEN, HttpAuth
from organism_flows.serve_apps.organism.manager import OrganismManager
from organism_flows.serve_apps.organism.ray_metrics import Telemetry
from organism_flows.serve_apps.organism.release.serve_config import (
    MANAGER,
    VALVE,
    organ_deployment,
    organ_options,
    organs_apart,
    wants_valve,
)
from organism_flows.serve_apps.organism.request import InvalidTask, ParamsTooLong, parse_task, refused

CAUSES: tuple[str, ...] = get_args(Cause)
TAKEN_DOWN_CHECK_S = 0.5
"""Pause between two checks whether Serve takes this replica down, in seconds."""

http = FastAPI(title="Organism", description="One task at a time; queued work goes through the gateway.")
http.add_middleware(HttpAuth)


class BuildArgs(BaseModel):
    """Arguments of `build` in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    config: Path | None = Field(
        default=None,
        description="YAML file of the organism's configuration, on the machine that builds; unset: the demo "
        "organism. A user_config in the deployments section replaces it.",
    )
    organs: list[str] | None = Field(
        default=None,
        description="Ids of the organs that are deployments of their own; their options and configurations "
        "are in the deployments section. Unset: as the file says.",
    )
    valve: bool | None = Field(
        default=None, description="Whether there is a drift valve for all replicas; unset: as the file says."
    )
    code: dict[str, str] | str | None = Field(
        default=None,
        description="Digests of the handlers' code by file, or any text: replicas are replaced "
        "when it changes.",
    )
    retry: str | None = Field(
        default=None, description="Anything new: makes Serve try again what it has given up, unchanged."
    )


class RemoteValve:
    """A drift valve that is a deployment of its own. See `DriftValve`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def observe(
        self, cusum: Cusum, keys: Sequence[Key], scores: Sequence[float], counted: Sequence[bool]
    ) -> list[float]:
        sums: list[float] = await self._handle.observe.remote(cusum, keys, scores, counted)
        return sums

    async def reset(self, task_type: str | None = None, domain: str | None = None) -> int:
        return int(await self._handle.reset.remote(task_type, domain))

    async def sums(self) -> list[dict[str, Any]]:
        sums: list[dict[str, Any]] = await self._handle.sums.remote()
        return sums


# Serve pickles the class where it is decorated, with the globals that exist then: helpers come before it.


def _json(value: Any, status: int = 200) -> Response:
    # Not orjson: a result may hold integers of any size.
    return Response(json.dumps(value, ensure_ascii=False), status_code=status, media_type="application/json")


def _replica_name() -> str:
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except Exception:  # outside Serve, and in its local testing mode
        return "local"


def _is_taken_down() -> bool:
    """Return True if Serve has begun to take this replica down.

    Serve 2.60 does not notify a replica's class before the calls on it have ended. Then it calls the
    destructor.
    """
    try:
        from ray._private.worker import global_worker

        return any(actor._replica_impl._shutting_down for actor in global_worker.actors.values())
    except AttributeError:  # in Serve's local testing mode, or another version of it
        return False


def _app_name() -> str:
    try:
        return str(serve.get_replica_context().app_name)
    except Exception:
        return "organism"


class Replica:
    """Common base of the replicas of the organism and of the organs apart.

    Args:
        organs: Ids of the organs apart.
        valve: Handle of the drift valve. `None` means that the replica has its own.
    """

    def __init__(self, organs: Sequence[str] = (), valve: Any = None) -> None:
        collect_rarely()
        tracer("organism-replica")
        self.telemetry = Telemetry()

        def connect(organ_id: str) -> OrganClient:
            if organ_id not in organs:
                return nowhere(organ_id)
            return OrganismClient(_app_name(), organ_deployment(organ_id))

        self.organism = OrganismManager(
            replica=_replica_name(), connect=connect, valve=RemoteValve(valve) if valve else None
        )
        self._watch: asyncio.Task[None] | None = None
        self._forwarded: set[asyncio.Task[None]] = set()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._drain_when_taken_down())
        try:
            await self.organism.reconfigure(user_config)
        except ConfigurationError:
            # Serve kills a replica that raises here, and its tasks with it. A typing error in a configuration
            # must not do that: the replica keeps its configuration, and `health` says so, which
            # `wait_until_running` reads. A new replica has no configuration to keep and must fail.
            if not self.organism.configured:
                raise

    async def check_health(self) -> None:
        self.telemetry.update(self.organism.status(), CAUSES)
        await self.organism.check_health()

    async def _drain_when_taken_down(self) -> None:
        while True:
            await asyncio.sleep(TAKEN_DOWN_CHECK_S)
            if _is_taken_down():
                self.organism.drain()

    async def handle_tasks(self, wire: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        # Not wrapped: cancelling the request must reach the organism's own `finally`.
        async for outcomes in self.organism.handle_tasks(wire):
            yield outcomes

    async def cancel_tasks(self, runs: dict[str, int]) -> list[str]:
        known = self.organism.cancel_tasks(runs)
        if left := {task: claim for task, claim in runs.items() if task not in known}:
            # If a replica of the manager has died, tasks that it had sent to an organ apart go on there.
            for organ in self.organism.apart:
                forwarded = asyncio.create_task(_cancel_apart(organ.client, left))
                self._forwarded.add(forwarded)
                forwarded.add_done_callback(self._forwarded.discard)
        return known

    async def recall_tasks(self, claims: list[int], leaving: bool) -> None:
        self.organism.recall_tasks(claims, leaving)

    async def acknowledge(self, answers: dict[int, Any]) -> None:
        self.organism.acknowledge(answers)

    async def limit_drain(self, within_s: float) -> None:
        self.organism.limit_drain(within_s)

    async def running(self) -> dict[str, Any]:
        return self.organism.running()

    async def health(self) -> dict[str, Any]:
        return self.organism.health()

    async def status(self) -> dict[str, Any]:
        return self.organism.status()


async def _cancel_apart(client: OrganClient, runs: dict[str, int]) -> None:
    with suppress(OrganismError):
        await client.cancel(runs)


def _everywhere(organism: OrganismManager) -> list[OrganClient]:
    """Return clients of the manager's own deployment and of the organs apart."""
    return [OrganismClient(_app_name(), MANAGER), *(organ.client for organ in organism.apart)]


@serve.deployment(name=MANAGER)
@serve.ingress(http)
class OrganismDeployment(Replica):
    """Puts an `OrganismManager` on a replica.

    Args:
        organs: Handles of the organs apart, by id. Binding them here makes them part of the application.
        valve: Handle of the drift valve.
    """

    def __init__(self, organs: dict[str, Any], valve: Any = None) -> None:
        super().__init__(list(organs), valve)

    async def handle_incoming_task(self, task: dict[str, Any]) -> dict[str, Any]:
        return await self.organism.handle_incoming_task(task)

    @http.get("/health")
    async def get_health(self, request: Request) -> Response:
        """Return the health; without the token, for probes, only whether the organism serves."""
        health = self.organism.health()
        if not getattr(request.state, PROVEN):
            health = {name: health[name] for name in ("status", "organism_initialized")}
        return _json(health, 200 if health["status"] != "unhealthy" else 503)

    @http.get("/status")
    async def get_status(self) -> Response:
        return _json(self.organism.status())

    @http.get("/organs-apart")
    async def get_organs_apart(self) -> Response:
        """Return the health of the organs that are deployments of their own, by id: one replica each."""
        return _json(await self.organism.health_apart())

    @http.get("/running")
    async def get_running(self) -> Response:
        """Return what runs on every replica, including those of organs apart, by organ."""
        parts = await asyncio.gather(
            *(client.running() for client in _everywhere(self.organism)), return_exceptions=True
        )
        replicas = [replica for part in parts if not isinstance(part, BaseException) for replica in part]
        problems = [str(part) for part in parts if isinstance(part, BaseException)]
        return _json({"replicas": replicas, "problems": problems})

    @http.post("/drain-limit")
    async def post_drain_limit(self, within_s: float) -> Response:
        """Give running tasks at most ``within_s`` seconds on replicas that are taken down from now on."""
        if not 0 <= within_s <= 604_800:
            return _json({"error": f"within_s is {within_s}, not 0 to 604800 seconds"}, 422)
        clients = _everywhere(self.organism)
        parts = await asyncio.gather(
            *(client.limit_drain(within_s) for client in clients), return_exceptions=True
        )
        problems = [str(part) for part in parts if isinstance(part, BaseException)]
        return _json({"within_s": within_s, "problems": problems}, 503 if problems else 200)

    @http.get("/drift")
    async def get_drift(self) -> Response:
        """Return the rules, the sums of all types and domains, and the paths of this replica's tasks."""
        return _json(await self.organism.drift_now())

    @http.post("/drift/reset")
    async def post_drift_reset(self, type: str | None = None, domain: str | None = None) -> Response:
        """Set sums back to 0: those of a type, those of one of its domains, or all."""
        return _json({"reset": await self.organism.drift.valve.reset(type, domain)})

    @http.post("/handle-task")
    async def post_task(self, request: Request) -> Response:
        """Run one task.

        Answer 200 with its outcome, failed or not; 413 if its params are too long; 422 if a field is wrong.
        """
        try:
            raw = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            return _json(refused(None, f"the body is not JSON: {error}"), 422)
        try:
            parse_task(raw).as_batch()
        except ParamsTooLong as error:
            return _json(refused(raw, str(error)), 413)
        except InvalidTask as error:
            return _json(refused(raw, str(error)), 422)
        return _json(await self.organism.handle_incoming_task(raw))


@serve.deployment
class OrganDeployment(Replica):
    """Puts one organ on replicas of its own, as an organism that has no other organ."""


@serve.deployment(name=VALVE, num_replicas=1, ray_actor_options={"num_cpus": 0})
class ValveDeployment(DriftValve):
    """The drift valve of all replicas. It has one replica, so that there is one sum."""


def build(args: BuildArgs) -> Application:
    """Return the application, for ``import_path`` in a Serve config file.

    Raises:
        ConfigurationError: The configuration file is wrong.
    """
    config = load_config(args.config)
    # The type checker takes these for classes, but `serve.deployment` has made deployments of them.
    manager: Any = OrganismDeployment
    organ: Any = OrganDeployment
    drift_valve: Any = ValveDeployment
    # Options in Serve's config file take precedence over those given here.
    apart = organs_apart(config)
    ids = list(apart) if args.organs is None else args.organs
    organs = {}
    for name in ids:
        options = organ_options(config, apart[name]) if name in apart else {"name": organ_deployment(name)}
        organs[name] = organ.options(**options).bind()
    valve = wants_valve(config) if args.valve is None else args.valve
    application: Application = manager.options(user_config=config.model_dump(mode="json")).bind(
        organs, drift_valve.bind() if valve else None
    )
    return application
