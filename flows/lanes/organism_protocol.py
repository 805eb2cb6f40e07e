"""What a lane needs of the organism, so that it can be tried with any."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from organism_flows.blocks.queue import Batch, Outcomes


class OrganismCalls(Protocol):
    """What a lane needs of the organism."""

    def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        """Run ``batch`` and yield outcomes as they come, some of them empty as a sign of life.

        Raises:
            OrganismUnavailable: Nothing of the batch ran.
            ReplicaLost: What has not been yielded is unknown.
        """
        ...

    async def cancel(self, runs: Mapping[str, int]) -> None:
        """Stop tasks, wherever they run under the claim given by id, or an older one; each is reported
        through its own call.

        Raises:
            OrganismUnavailable: Not every replica could be asked.
        """
        ...

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None:
        """Have those of these tasks handed back that no handler has begun with.

        Args:
            leaving: Those too that wait for a replica of their organ's own deployment.

        Raises:
            OrganismUnavailable: Not every replica could be asked.
        """
        ...
