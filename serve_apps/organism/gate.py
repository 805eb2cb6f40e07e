"""Lets one call have the replica to itself, so that a replica's death can be charged to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Ticket:
    """A request for the replica; ``on_turn`` is called once when it is granted."""

    __slots__ = ("on_turn",)

    def __init__(self, on_turn: Callable[[], None]) -> None:
        self.on_turn = on_turn


class Gate:
    """Counts what runs, and admits nothing else while a ticket waits or is held.

    Waiting tickets close the gate at once: otherwise a busy replica would never become empty.
    """

    def __init__(self) -> None:
        self.running = 0
        self._waiting: deque[Ticket] = deque()
        self._holder: Ticket | None = None

    @property
    def exclusive(self) -> bool:
        """Whether a ticket waits or is held."""
        return self._holder is not None or bool(self._waiting)

    def admits(self, ticket: Ticket | None) -> bool:
        """Whether a task of the call with this ticket may start now."""
        return ticket is self._holder and (ticket is not None or not self._waiting)

    def enter(self) -> None:
        self.running += 1

    def leave(self) -> None:
        self.running -= 1
        if not self.running:
            self._advance()

    def request(self, ticket: Ticket) -> None:
        """Wait in line; the turn may come before this returns."""
        self._waiting.append(ticket)
        self._advance()

    def release(self, ticket: Ticket) -> None:
        """Give back a ticket, held or waiting; then the caller starts what may start again."""
        if ticket is self._holder:
            self._holder = None
        elif ticket in self._waiting:
            self._waiting.remove(ticket)
        self._advance()

    def _advance(self) -> None:
        if self._holder is None and self._waiting and not self.running:
            self._holder = self._waiting.popleft()
            self._holder.on_turn()
