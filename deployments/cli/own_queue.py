"""The queue that commands work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from organism_flows.blocks.queue import Queue


def open_queue() -> Queue:
    """Return the configured queue, not yet opened, for one command."""
    from organism_flows.blocks.local_stack.stack_state import queue_dsn
    from organism_flows.blocks.queue import Queue
    from organism_flows.blocks.settings import load_settings

    return Queue(queue_dsn(load_settings()).get_secret_value(), connections=1)
