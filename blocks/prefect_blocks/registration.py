"""Register the blocks on a Prefect server: call `register_blocks`, or run this module.

As a program it begins when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import sys

from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue


async def register_blocks() -> None:
    """Register every block type and create its ``default`` document, so that the UI shows and edits them."""
    for block in (TaskQueue, Organism, RayCluster):
        await block.ensure_registered()


if __name__ == "__main__":
    sys.stdin.read()
    asyncio.run(register_blocks())
