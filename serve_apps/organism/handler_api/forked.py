"""The end of a process that a handler forked and that returns from the handler as if it were the replica."""

from __future__ import annotations

import os

_forked = False


def _note() -> None:
    global _forked
    _forked = True


def end_if_forked() -> None:
    """End this process, at once and silently, if it is a fork of the one that imported this module.

    A fork would go on as the replica or the worker process: it would report the task a second time, or the
    next one, and keep their connections open.
    """
    if _forked:
        os._exit(0)


os.register_at_fork(after_in_child=_note)
