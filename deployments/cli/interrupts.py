"""Running a command so that Ctrl-C and SIGTERM let it clean up, once, and then end it with the usual code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from organism_flows.blocks.errors import OrganismError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_interrupted(work: Coroutine[Any, Any, Any]) -> Any:
    """Run ``work`` to its end.

    The first signal cancels it; what it then does to clean up is not interrupted again.

    Returns:
        Its result, or 128 plus the signal that ended it.
    """
    received: list[signal.Signals] = []

    async def supervised() -> Any:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def on_signal(number: int) -> None:
            received.append(signal.Signals(number))
            if len(received) == 1:
                task.cancel()
            else:
                print("still cleaning up", file=sys.stderr, flush=True)

        # Not through the loop's own signal handlers: those cannot be read back, and a dispatch run in here
        # puts its own in their place for a while.
        before = {
            number: signal.signal(number, lambda n, _: loop.call_soon_threadsafe(on_signal, n))
            for number in SIGNALS
        }
        try:
            return await task
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    try:
        return asyncio.run(supervised())
    except (asyncio.CancelledError, OrganismError):
        if not received:
            raise
    print(f"interrupted by {received[0].name}", file=sys.stderr)
    return 128 + received[0]
