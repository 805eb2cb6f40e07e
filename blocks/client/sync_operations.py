"""What a client of the gateway does to many tasks or to the queue, and reads of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

from organism_flows.blocks.client import requests as calls
from organism_flows.blocks.client.board_messages import (
    AuditRow,
    FailureList,
    Overview,
    PolicyFigures,
    TypeFigures,
)
from organism_flows.blocks.client.limit_messages import LimitList
from organism_flows.blocks.client.messages import (
    BulkCancelResult,
    BulkRedriveResult,
    BulkRetryResult,
)
from organism_flows.blocks.client.requests import (
    ApiRequest,
    Model,
)
from organism_flows.blocks.queue.models.limits import Limit
from organism_flows.blocks.queue.models.operations import (
    Pause,
    PausedKind,
    RedriveFilter,
    TaskFilter,
    TypePolicy,
)


class SyncOperations:
    """The calls of a client that concern many tasks, or the queue."""

    def cancel_all(self, filter: TaskFilter, *, dry_run: bool = True) -> BulkCancelResult:
        """Count the unfinished tasks that match, or cancel them."""
        return self._ask(calls.cancel_all(filter, dry_run))

    def retry_all(
        self, filter: TaskFilter | None = None, *, ids: Sequence[UUID] = (), dry_run: bool = True
    ) -> BulkRetryResult:
        """Count the failed and cancelled tasks that match, or queue them again with fresh attempts.

        Args:
            filter: Which tasks.
            ids: These tasks instead, such as those that `cancel_all` returned as ``undo``.
            dry_run: Only count those that match.
        """
        return self._ask(calls.retry_all(filter, ids, dry_run))

    def redrive_all(
        self,
        filter: RedriveFilter,
        *,
        limit: int | None = None,
        from_start: bool = False,
        dry_run: bool = True,
    ) -> BulkRedriveResult:
        """Count the dead letters that match, or queue them again.

        Each continues from its newest checkpoint, unless ``from_start`` drops these.
        """
        return self._ask(calls.redrive_all(filter, limit, from_start, dry_run))

    def pause(self, kind: PausedKind, name: str, *, reason: str | None = None) -> list[Pause]:
        """Stop claiming tasks of a type or domain, and return everything that is paused."""
        return (self._ask(calls.pause(kind, name, reason))).pauses

    def resume(self, kind: PausedKind, name: str) -> bool:
        """Claim tasks of a type or domain again, and return True if it was paused."""
        return (self._ask(calls.resume(kind, name))).resumed

    def pauses(self) -> list[Pause]:
        """Return everything that is paused."""
        return (self._ask(calls.pauses())).pauses

    def limits(self) -> LimitList:
        """Return all limits with how much of each is used, and what handlers have closed."""
        return self._ask(calls.limits())

    def set_limit(self, limit: Limit) -> LimitList:
        """Set a limit, in place of one of its name, and return all limits."""
        return self._ask(calls.set_limit(limit))

    def remove_limit(self, name: str) -> bool:
        """Remove a limit, and return True if there was one of this name."""
        return (self._ask(calls.remove_limit(name))).removed

    def overview(self) -> Overview:
        """Return how the queue, the lanes and the organism stand, and what needs a person."""
        return self._ask(calls.overview())

    def failures(
        self, *, type: str | None = None, domain: str | None = None, since: datetime | None = None
    ) -> FailureList:
        """Return the newest dead letters, grouped by type and error.

        Args:
            type: Only those of this type.
            domain: Only those of this domain.
            since: Only those that finished then or later.
        """
        return self._ask(calls.failures(type, domain, since))

    def types(self) -> list[TypeFigures]:
        """Return every type that has tasks, a policy, a pause or an organ."""
        return (self._ask(calls.types())).types

    def set_policy(self, policy: TypePolicy) -> PolicyFigures:
        """Set how tasks of a type are retried and timed out. Values that are `None` become the default."""
        return self._ask(calls.set_policy(policy))

    def audit(self, action: str | None = None) -> Iterator[AuditRow]:
        """Yield who did what, when, and to how many tasks, newest first. `None` means every action."""
        cursor: str | None = None
        while True:
            page = self._ask(calls.audit(action, cursor))
            yield from page.entries
            if (cursor := page.next) is None:
                return

    def _ask(self, call: ApiRequest[Model]) -> Model:
        raise NotImplementedError
