"""Runs a command so that Ctrl-C and SIGTERM let it clean up once, and end it with the usual exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from organism_flows.blocks.errors import OrganismError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_interrupted(work: Coroutine[Any, Any, Any]) -> Any:
    """Run ``work``, and return its result or an exit code.

    The first signal cancels it. The clean-up that follows is not interrupted again.

    Returns:
        The result of ``work``, or 128 plus the number of the signal that ended it.
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

        # Not through the loop's own signal handlers: those cannot be read back, and a dispatch run in this
        # process replaces them for a while.
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
