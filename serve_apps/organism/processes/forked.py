"""Ends a process that a handler has forked and that returns from the handler, as if it were the replica's."""

from __future__ import annotations

import os

_forked = False


def _note() -> None:
    global _forked
    _forked = True


def end_if_forked() -> None:
    """End this process, at once and silently, if it is a copy of the one that imported this module.

    A copy would go on as the replica or the agent: it would report the task a second time, or the next one,
    and keep their connections open.
    """
    if _forked:
        os._exit(0)


os.register_at_fork(after_in_child=_note)
