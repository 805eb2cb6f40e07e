"""The Organism block: the Serve app that runs the tasks."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from organism_flows.blocks.organism_client import OrganismClient
from organism_flows.blocks.prefect_blocks.block_base import NamedBlock


class Organism(NamedBlock):
    """The Ray Serve app that runs tasks.

    Example:
        ```python
        from organism_flows.blocks.prefect_blocks.organism import Organism

        print(await (await Organism.named("default")).client().health())
        ```
    """

    _block_type_name: ClassVar[str] = "Organism"
    _block_type_slug: ClassVar[str] = "organism"
    _description: ClassVar[str] = "A Ray Serve app whose OrganismManager runs tasks."

    app_name: str = Field(default="organism", min_length=1, description="Name of the Serve app.")
    deployment_name: str = Field(
        default="OrganismManager", min_length=1, description="Name of the deployment that takes tasks."
    )
    silence_s: float = Field(
        default=30.0,
        title="Silence (seconds)",
        gt=0,
        le=600,
        description="A call without any sign of life for this long is given up; replicas send one every 2 s.",
    )
    health_timeout_s: float = Field(
        default=10.0,
        title="Health timeout (seconds)",
        gt=0,
        le=600,
        description="Longest wait for health() and other short calls.",
    )

    def client(self) -> OrganismClient:
        """Return a client, for a process that is connected to Ray."""
        return OrganismClient(
            self.app_name,
            self.deployment_name,
            silence_s=self.silence_s,
            health_timeout_s=self.health_timeout_s,
        )
