"""A process that loads a file and, after each part, says so and waits for a line on its standard input."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from organism_flows.blocks.queue import Queue


async def main(dsn: str, file: str) -> None:
    def said(done: object) -> None:
        print("part", flush=True)
        sys.stdin.readline()

    print("ready", flush=True)
    sys.stdin.readline()
    async with Queue(dsn) as queue:
        await queue.producer.load_files([Path(file)], part=10, on_part=said)


asyncio.run(main(*sys.argv[1:]))
