"""The organism as a Ray Serve application: app ``organism``, deployment ``OrganismManager``.

Annotations are not postponed in this module: Serve and FastAPI evaluate them in a pickled copy of the class,
whose globals lack what only annotations name.
"""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from blocks.errors import ConfigurationError
from blocks.garbage import collect_rarely
from serve_apps.organism.config import load_config
from serve_apps.organism.manager import OrganismManager
from serve_apps.organism.tasks import InvalidTask, parse_task, refused

http = FastAPI(title="Organism", description="One task at a time; queued work goes through the gateway.")


class BuildArgs(BaseModel):
    """Arguments of `build` in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    config: Path | None = Field(
        default=None,
        description="YAML file of the organism's configuration, on the machine that builds; unset: the demo "
        "organism. A user_config in the deployments section replaces it.",
    )
    code: str | None = Field(
        default=None, description="Digest of the handlers' code: replicas are replaced when it changes."
    )
    retry: str | None = Field(
        default=None, description="Anything new: makes Serve try again what it has given up, unchanged."
    )


# Serve pickles the class where it is decorated, with the globals it finds then: helpers come before it.


def _json(value: Any, status: int = 200) -> Response:
    # Not orjson: a result may hold integers of any size.
    return Response(json.dumps(value, ensure_ascii=False), status_code=status, media_type="application/json")


def _replica_name() -> str:
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except Exception:  # outside Serve, and in its local testing mode
        return "local"


@serve.deployment(name="OrganismManager")
@serve.ingress(http)
class OrganismDeployment:
    """Puts an `OrganismManager` on a replica."""

    def __init__(self) -> None:
        collect_rarely()
        self.organism = OrganismManager(replica=_replica_name())

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        try:
            await self.organism.reconfigure(user_config)
        except ConfigurationError:
            # Serve kills a replica that raises here, and its tasks with it: a typing error in a configuration
            # must not do that. The replica stays with what it has and says so in `health`, where
            # `wait_until_running` looks; a new replica has nothing to stay with and must fail.
            if not self.organism.configured:
                raise

    async def check_health(self) -> None:
        await self.organism.check_health()

    async def handle_incoming_task(self, task: dict[str, Any]) -> dict[str, Any]:
        return await self.organism.handle_incoming_task(task)

    async def handle_tasks(
        self, wire: dict[str, Any], exclusive: bool = False
    ) -> AsyncGenerator[dict[str, Any], None]:
        # Not wrapped in anything: cancelling the request must reach the organism's own `finally`.
        async for outcomes in self.organism.handle_tasks(wire, exclusive):
            yield outcomes

    async def cancel_tasks(self, claims: list[int]) -> list[int]:
        return self.organism.cancel_tasks(claims)

    async def health(self) -> dict[str, Any]:
        return self.organism.health()

    async def status(self) -> dict[str, Any]:
        return self.organism.status()

    @http.get("/health")
    async def get_health(self) -> Response:
        health = self.organism.health()
        return _json(health, 200 if health["status"] != "unhealthy" else 503)

    @http.get("/status")
    async def get_status(self) -> Response:
        return _json(self.organism.status())

    @http.post("/handle-task")
    async def post_task(self, request: Request) -> Response:
        """Run one task; 200 with its outcome, failed or not, 422 when no handler could see it."""
        try:
            raw = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            return _json(refused(None, f"the body is not JSON: {error}"), 422)
        try:
            parse_task(raw)
        except InvalidTask as error:
            return _json(refused(raw, str(error)), 422)
        return _json(await self.organism.handle_incoming_task(raw))


def build(args: BuildArgs) -> Application:
    """The application, for ``import_path: serve_apps.organism.app:build`` in a Serve config file.

    Raises:
        ConfigurationError: The configuration file is wrong.
    """
    config = load_config(args.config)
    deployment: Any = OrganismDeployment  # `serve.ingress` hides the type `serve.deployment` gave it
    application: Application = deployment.options(user_config=config.model_dump(mode="json")).bind()
    return application
