"""Making the blocks known to a Prefect server."""

from __future__ import annotations

from blocks.organism import Organism
from blocks.ray_cluster import RayCluster
from blocks.task_queue import TaskQueue


async def register_blocks() -> None:
    """Register every block type and give each a ``default`` document, so that the UI shows and edits them."""
    for block in (TaskQueue, Organism, RayCluster):
        await block.ensure_registered()
