"""A lane in a process of its own, to be frozen by a test: says when a task runs, and how it ended."""

from __future__ import annotations

import asyncio
import sys

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.queue import Queue
from organism_flows.flows.lanes.lane import Lane
from tests.support.scripted_organism import ScriptedOrganism


async def main(dsn: str, lease_s: float) -> None:
    organism = ScriptedOrganism()

    async def finish_when_told() -> None:
        await organism.started.wait()
        print("started", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        organism.let_go.set()

    async with Queue(dsn, lease_s=lease_s) as queue:
        telling = asyncio.create_task(finish_when_told())
        try:
            print(await Lane(queue, organism, until_empty=True).run(), flush=True)
        except OrganismError as error:
            print(type(error).__name__, error, flush=True)
        telling.cancel()


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
