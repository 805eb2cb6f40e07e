"""Protocol of the organism as a lane calls it, so that a lane can be tested with another one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.blocks.task_report import Acknowledgement


class OrganismCalls(Protocol):
    """The calls that a lane makes to the organism."""

    def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        """Run ``batch`` and yield outcomes as they come. Empty ones are a sign of life.

        Raises:
            OrganismUnavailable: No task of the batch ran.
            ReplicaLost: The outcomes that were not yielded are unknown.
        """
        ...

    async def cancel(self, runs: Mapping[str, int]) -> None:
        """Stop handlers that run these tasks under the given claim or an older one, on every replica.

        The outcome of each task comes through its own call.

        Args:
            runs: Newest claim to stop, by task id.

        Raises:
            OrganismUnavailable: Not every replica could be asked.
        """
        ...

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None:
        """Ask replicas to hand back those of these tasks that no handler has begun.

        Args:
            claims: Claims of the tasks.
            leaving: Include tasks that wait for a replica of their organ's own deployment.

        Raises:
            OrganismUnavailable: Not every replica could be asked.
        """
        ...

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None:
        """Answer handlers that wait until what they reported is durable, by the claims of their tasks.

        Raises:
            OrganismUnavailable: Not every replica could be asked.
        """
        ...
