"""The queue that commands work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from organism_flows.blocks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from organism_flows.blocks.queue import Queue


def open_queue() -> Queue:
    """Return the configured queue, not yet opened, for one command."""
    from organism_flows.blocks.local_stack.stack_state import queue_dsn
    from organism_flows.blocks.queue import Queue
    from organism_flows.blocks.settings import load_settings

    return Queue(queue_dsn(load_settings()).get_secret_value(), connections=1)


async def ids_of(queue: Queue, named: Sequence[str]) -> list[UUID]:
    """Return the ids of the tasks that a command line names, by whole ids or beginnings of ids.

    Raises:
        ConfigurationError: No task is named.
        TaskNotFound: There is no such task.
    """
    if not named:
        raise ConfigurationError("no task was named", "give at least one id: `organism tasks list` has them")
    return [(await queue.get(id)).id for id in named]
