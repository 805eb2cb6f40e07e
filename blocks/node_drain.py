"""Notice that Ray takes this node away: `ray drain-node`, a scale-down, or a preemption with a deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from math import inf

CHECK_S = 1.0
"""Pause between two checks, in seconds."""


async def node_is_drained() -> float:
    """Wait until Ray drains this node, and return the seconds until it takes it away; ``inf``: no deadline.

    The process must be connected to Ray.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[float] = loop.create_future()
    given_up = threading.Event()

    def settle(left_s: float) -> None:
        if not found.done():
            found.set_result(left_s)

    def check() -> None:
        while not given_up.wait(CHECK_S):
            # Ray's control store may be away, and the loop be closed.
            with suppress(Exception):
                if (left_s := _left_s()) is not None:
                    loop.call_soon_threadsafe(settle, left_s)
                    return

    # A daemon thread, because a call of a control store that is away must not keep this process from ending.
    threading.Thread(target=check, name="node-drain", daemon=True).start()
    try:
        return await found
    finally:
        given_up.set()


def _left_s() -> float | None:
    """Return the seconds until Ray takes this node away; `None` if it stays."""
    import ray
    from ray._private.state import state

    # Private to Ray. Ray Train 2.60 reads preemptions in the same way.
    deadline_ms = state.get_draining_nodes().get(ray.get_runtime_context().get_node_id())
    if deadline_ms is None:
        return None
    return max(deadline_ms / 1000 - time.time(), 0.0) if deadline_ms else inf
