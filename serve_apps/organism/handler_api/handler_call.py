"""The one place that catches what a handler raises, on the replica and in worker processes."""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Self

from organism_flows.serve_apps.organism.handler_api.forked import end_if_forked
from organism_flows.serve_apps.organism.handler_api.results import HandlerResults, of_error


class HandlerCall:
    """Catches everything that one call of a handler raises, and has the results of its tasks.

    SystemExit and KeyboardInterrupt would end the loop of the replica. A CancelledError that the handler
    raised by itself is a failure; one that the organ caused does not matter, because its tasks are reported
    already.

        with HandlerCall(len(tasks)) as call:
            call.results = ...
        return call.results

    Args:
        size: Number of tasks of the call.
    """

    __slots__ = ("_size", "results")

    def __init__(self, size: int) -> None:
        self._size = size
        self.results: HandlerResults = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[True]:
        end_if_forked()
        if error is not None:
            self.results = of_error(error, self._size)
        return True
