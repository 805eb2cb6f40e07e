"""Handlers of task types that misbehave, to show that other tasks complete nevertheless."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from organism_flows.serve_apps.organism.handler_api.errors import PermanentError
from organism_flows.serve_apps.organism.handlers.inputs import params_of


def fail(task: dict[str, Any]) -> None:
    """Raise an error; with ``params.permanent`` true, one that is not worth another attempt."""
    params = params_of(task)
    message = str(params.get("message", "raised on purpose"))
    if params.get("permanent"):
        raise PermanentError(message)
    raise RuntimeError(message)


async def hang(task: dict[str, Any]) -> None:
    """Never return, without keeping the event loop busy."""
    await asyncio.Event().wait()


def block(task: dict[str, Any]) -> None:
    """Never return, and hold a thread that nothing can end."""
    threading.Event().wait()


def end_replica(task: dict[str, Any]) -> None:
    """End the whole replica at once, as a crash in native code would."""
    os._exit(13)
