"""The TaskQueue block: the connection to the queue, its secrets and its limits."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr

from organism_flows.blocks.local_stack.stack_state import queue_dsn
from organism_flows.blocks.prefect_blocks.block_base import NamedBlock
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.settings import load_settings


class TaskQueue(NamedBlock):
    """The table of tasks that lanes claim from.

    An empty field takes its value from the setting of the same name in the environment. Without that it takes
    that of the embedded stack of this machine.

    Example:
        ```python
        from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue

        async with (await TaskQueue.named("default")).open() as queue:
            print(await queue.reader.counts())
        ```
    """

    _block_type_name: ClassVar[str] = "Task Queue"
    _block_type_slug: ClassVar[str] = "task-queue"
    _description: ClassVar[str] = "A tasks table in Postgres that lanes claim from."

    dsn: SecretStr | None = Field(
        default=None,
        title="Connection URL",
        description="postgresql://user:password@host:port/name. Empty: ORGANISM_DSN, then the embedded one.",
    )
    direct_dsn: SecretStr | None = Field(
        default=None,
        title="Direct connection URL",
        description="Past a pooler in transaction mode, for LISTEN. Empty: ORGANISM_DIRECT_DSN; where the "
        "connection URL leads through a pooler and neither is set, lanes poll.",
    )
    lease_seconds: float | None = Field(
        default=None,
        title="Lease (seconds)",
        gt=0.5,
        le=3600,
        description="A lane silent for this long loses its tasks.",
    )
    backoff_base_s: float = Field(
        default=1.0,
        title="Backoff, first delay (seconds)",
        gt=0,
        le=3600,
        description="Delay before the second attempt; doubles from there.",
    )
    backoff_cap_s: float = Field(
        default=300.0,
        title="Backoff, longest delay (seconds)",
        gt=0,
        description="Longest delay between two attempts.",
    )

    def pinned(self) -> TaskQueue:
        """Return a copy with every empty field filled in, for a process that has another environment.

        Raises:
            ConfigurationError: No database is configured and no embedded stack is up.
        """
        settings = load_settings()
        return self.model_copy(
            update={
                "dsn": self.dsn or queue_dsn(settings),
                # The setting belongs to the database of the settings, not to one that the block names itself.
                "direct_dsn": self.direct_dsn or (None if self.dsn else settings.direct_dsn),
                "lease_seconds": self.lease_seconds or settings.lease_seconds,
            }
        )

    def open(self, *, application_name: str = "organism", connections: int = 4) -> Queue:
        """Return the queue; enter it with ``async with``.

        Args:
            application_name: Name of its connections in Postgres.
            connections: Most connections at once.

        Raises:
            ConfigurationError: No database is configured and no embedded stack is up.
        """
        pinned = self.pinned()
        assert pinned.dsn is not None
        assert pinned.lease_seconds is not None
        return Queue(
            pinned.dsn.get_secret_value(),
            direct_dsn=pinned.direct_dsn.get_secret_value() if pinned.direct_dsn else None,
            lease_s=pinned.lease_seconds,
            backoff_base_s=pinned.backoff_base_s,
            backoff_cap_s=pinned.backoff_cap_s,
            connections=connections,
            application_name=application_name,
        )
