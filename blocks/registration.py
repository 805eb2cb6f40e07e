"""Making the blocks known to a Prefect server: `python -m blocks.registration`, or `register_blocks`."""

from __future__ import annotations

import asyncio

from blocks.organism import Organism
from blocks.ray_cluster import RayCluster
from blocks.task_queue import TaskQueue


async def register_blocks() -> None:
    """Register every block type and give each a ``default`` document, so that the UI shows and edits them."""
    for block in (TaskQueue, Organism, RayCluster):
        await block.ensure_registered()


if __name__ == "__main__":
    asyncio.run(register_blocks())
