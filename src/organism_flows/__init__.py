"""Run work from a Postgres table on Ray Serve, with Prefect flows in between.

The names in `__all__` are what users import. Each is loaded when it is first asked for, so that
``import organism_flows`` costs nothing and a program that only submits tasks loads neither Prefect nor Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from organism_flows.blocks.lazy_names import lazily_imported

if TYPE_CHECKING:
    from organism_flows.blocks.client.async_client import Client
    from organism_flows.blocks.client.sync_client import SyncClient
    from organism_flows.blocks.errors import (
        MustLeave,
        PermanentError,
        RetryAfter,
        StaleClaim,
        StreamFull,
        WaitFor,
    )
    from organism_flows.blocks.prefect_blocks.organism import Organism
    from organism_flows.blocks.queue import NewTask
    from organism_flows.blocks.queue.models.streams import StreamBegin, StreamChunk
    from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
    from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
    from organism_flows.flows.bootstrap import bootstrap
    from organism_flows.flows.dispatch import dispatch
    from organism_flows.flows.redrive import redrive
    from organism_flows.flows.submit import submit
    from organism_flows.flows.verify import verify
    from organism_flows.flows.watchdog import watchdog

__all__ = [
    "Client",
    "MustLeave",
    "NewTask",
    "Organism",
    "PermanentError",
    "RayCluster",
    "RetryAfter",
    "StaleClaim",
    "StreamBegin",
    "StreamChunk",
    "StreamFull",
    "SyncClient",
    "TaskQueue",
    "WaitFor",
    "bootstrap",
    "dispatch",
    "redrive",
    "submit",
    "verify",
    "watchdog",
]

_MODULES = {
    "Client": "blocks.client.async_client",
    "MustLeave": "blocks.errors",
    "NewTask": "blocks.queue",
    "Organism": "blocks.prefect_blocks.organism",
    "PermanentError": "blocks.errors",
    "RayCluster": "blocks.prefect_blocks.ray_cluster",
    "RetryAfter": "blocks.errors",
    "StaleClaim": "blocks.errors",
    "StreamBegin": "blocks.queue.models.streams",
    "StreamChunk": "blocks.queue.models.streams",
    "StreamFull": "blocks.errors",
    "SyncClient": "blocks.client.sync_client",
    "TaskQueue": "blocks.prefect_blocks.task_queue",
    "WaitFor": "blocks.errors",
    "bootstrap": "flows.bootstrap",
    "dispatch": "flows.dispatch",
    "redrive": "flows.redrive",
    "submit": "flows.submit",
    "verify": "flows.verify",
    "watchdog": "flows.watchdog",
}


def __getattr__(name: str) -> Any:
    return lazily_imported(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
