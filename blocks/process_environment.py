"""Changes to the environment of this process. Other modules make none when they are imported.

Prefect, Ray and Serve read their settings when they are imported, so what they need is set before:

- On the import of `organism_flows.flows` and of any block: how to reach the embedded stack that is up. What
  is set already stays, and a process that names other servers gets nothing of it. See `join_stack`.
- On the import of `organism_flows.blocks.organism_client`: the largest message that a replica may send by
  gRPC. See `accept_large_messages`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from organism_flows.blocks.local_stack.stack_state import (
    StackState,
    environment_of,
    prefect_environment_of,
    read_stack,
    same_server,
)


def join_stack(home: Path) -> StackState | None:
    """Point Prefect and Ray of this process at the embedded stack in ``home``, unless others are configured.

    Call it before you import Ray, which reads its settings at import. Prefect does so as well; if it has been
    imported already, its settings are read again here. Variables that are set already win. So a process with
    an external server or cluster keeps it, and does not send it our secrets.
    """
    stack = read_stack(home)
    if stack is not None:
        wanted = environment_of(stack)
        if os.environ.get("RAY_ADDRESS", stack.ray_address) != stack.ray_address:
            wanted = prefect_environment_of(stack)
        if not same_server(os.environ.get("PREFECT_API_URL"), stack.prefect_api_url):
            wanted.pop("PREFECT_API_AUTH_STRING", None)
        missing = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(missing)
        if missing and (prefect := sys.modules.get("prefect.context")):
            # Otherwise flows in a program that imports Prefect first would start a server of their own.
            prefect.refresh_global_settings_context()
    return stack


def accept_large_messages() -> None:
    """Let Serve take chunks of outcomes of any size by gRPC. Call it before you import Serve."""
    os.environ.setdefault("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(2**31 - 1))
