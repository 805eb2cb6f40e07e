"""The gateway as an ingress deployment of Ray Serve: ``organism_flows.serve_apps.gateway.ingress:build``.

For installations whose traffic passes through Serve's proxies anyway. It stops when Ray stops; the gateway
under uvicorn does not. Settings and tokens are those of the replica's environment.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from organism_flows.blocks.errors import OrganismUnavailable
from organism_flows.blocks.organism_client import OrganismClient
from organism_flows.blocks.organism_reports import HealthReport, StatusReport
from organism_flows.serve_apps.gateway.app import create_app


class IngressArgs(BaseModel):
    """Arguments of `build` in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    organism: str = Field(default="organism", description="Name of the organism's Serve application.")


class OrganismByHandle:
    """An `OrganismLink` that calls the organism by the handle of its deployment.

    Args:
        app_name: Name of the organism's Serve application.
    """

    def __init__(self, app_name: str) -> None:
        self._client = OrganismClient(app_name)

    async def health(self) -> HealthReport:
        """Return the organism's health."""
        return await self._client.health()

    async def status(self) -> StatusReport:
        """Return the organism's configuration and load."""
        return await self._client.status()

    async def running(self) -> dict[str, Any]:
        """Return what runs on all replicas of the organism.

        Raises:
            OrganismUnavailable: The client cannot ask for it, or the organism does not answer.
        """
        ask = getattr(self._client, "running", None)
        if ask is None:
            raise OrganismUnavailable("this version does not ask for it", "use its HTTP routes: ORGANISM_URL")
        answer: dict[str, Any] = await ask()
        return answer

    async def handle(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run a task and return its outcome."""
        return await self._client.handle_task(task)


def build(args: IngressArgs) -> Application:
    """Return the application, for ``import_path`` in a Serve config file.

    The application needs a ``route_prefix`` of its own.
    """
    name = args.organism

    def app() -> FastAPI:
        return create_app(organism=OrganismByHandle(name))

    # Serve calls `app` on the replica, so the replica's environment is in effect.
    ingress: Any = serve.deployment(name="Gateway", max_ongoing_requests=1000)(serve.ingress(app)())
    application: Application = ingress.bind()
    return application
