"""The RayCluster block: the address of Ray, and how a lane is placed on it."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

from pydantic import Field, SecretStr

from organism_flows.blocks import ray_connection
from organism_flows.blocks.errors import ConfigurationError

from organism_flows.blocks.prefect_blocks.block_base import NamedBlock  # isort: skip  # first: it points Prefect at the stack
from prefect.task_runners import TaskRunner
from prefect_ray import RayTaskRunner

from organism_flows.blocks.process_environment import join_stack
from organism_flows.blocks.settings import load_settings


class RayCluster(NamedBlock):
    """The Ray cluster that lanes and the organism run on.

    An empty field takes its value from the environment: RAY_ADDRESS, and Ray's own token settings. Without
    those it takes that of the embedded stack of this machine.

    Example:
        ```python
        from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster

        await (await RayCluster.named("default")).connect()
        ```
    """

    _block_type_name: ClassVar[str] = "Ray Cluster"
    _block_type_slug: ClassVar[str] = "ray-cluster"
    _description: ClassVar[str] = "A Ray cluster that runs lanes and the organism."

    address: str | None = Field(
        default=None,
        pattern=r"^[^/:]+:\d+$",
        description="host:port of the Ray head. Empty: RAY_ADDRESS, then the embedded one.",
    )
    token: SecretStr | None = Field(
        default=None, description="Ray's authentication token. Empty: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
    )
    lane_cpus: float = Field(
        default=0.1,
        title="CPUs a lane",
        ge=0,
        le=64,
        description="CPUs Ray sets aside for a lane. Lanes wait more than they work; a whole CPU each would "
        "leave none for the organism on a small machine.",
    )

    async def connect(self) -> None:
        """Connect this process to the cluster, unless it is connected already.

        Raises:
            ConfigurationError: There is no address, nothing listens there, the token is wrong, or no Ray node
                runs on this machine.
        """
        import ray

        if ray.is_initialized():
            return
        await ray_connection.connect(self._address(), self.token)

    def lane_options(self) -> dict[str, Any]:
        """Return the Ray options of a lane."""
        return {
            "num_cpus": self.lane_cpus,
            # Ray would restart a killed lane three times, silently and under the same Prefect task run.
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
        }

    def _address(self) -> str:
        if self.address:
            return self.address
        join_stack(load_settings().home)
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            raise ConfigurationError(
                "no Ray cluster: RAY_ADDRESS is not set and no embedded stack is up",
                "run `organism up`, or set RAY_ADDRESS=host:port",
            )
        if address.startswith("ray://"):
            raise ConfigurationError(
                f"RAY_ADDRESS={address} is of Ray Client, which is not supported",
                "name the Ray head's host:port, and run a node that takes no work next to the flows: "
                "`ray start --address=host:port --num-cpus=0`",
            )
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            # The task runner silently drops "auto", and joins the cluster that was last started on this host.
            raise ConfigurationError(
                f"RAY_ADDRESS={address} is not host:port", "name the Ray head's host and GCS port"
            )
        return address


def last_line(error: BaseException) -> str:
    """Return the last line of an error of Ray: its text holds whole tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


class LaneTaskRunner(RayTaskRunner[Any]):  # type: ignore[misc]  # prefect-ray ships no types
    """A `RayTaskRunner` that uses the connection which the flow has made itself, with `RayCluster.connect`.

    The base class connects while Prefect sets the flow run up. A failure there leaves the run ``Running`` for
    ever (Prefect 3.8.8). The base class also shuts Ray down at the end, even under a notebook that still uses
    it.
    """

    def __enter__(self) -> Self:
        TaskRunner.__enter__(self)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        TaskRunner.__exit__(self, *exc_info)
