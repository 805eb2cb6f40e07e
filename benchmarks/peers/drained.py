"""What every peer is asked for and prints; standard library only, because it runs in two environments."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

PAYLOAD = {"customer": "c-1029", "amount": 12.5, "items": [1, 2, 3]}
"""The params of every task; a no-op handler returns them, so results are as small."""
READY = "ready"


def arguments(**settings: Any) -> argparse.Namespace:
    """``--dsn``, ``--tasks``, and one option for each of ``settings``, whose value is the default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    for name, default in settings.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def ready() -> None:
    """Say that the tasks are in the tables, and wait until the harness has read its counters."""
    print(READY, flush=True)
    sys.stdin.readline()


def report(
    package: str | None,
    tasks: int,
    seconds: float,
    latencies_ms: Sequence[float] = (),
    **settings: Any,
) -> None:
    """Print the result line, and stay until the harness has read its counters again.

    Args:
        package: Whose version is measured; None: this project's.
        tasks: How many were drained.
        seconds: From the first claim to the last stored outcome.
        latencies_ms: Of each task, where they arrived one by one.
    """
    line = {
        "version": version(package) if package else None,
        "tasks": tasks,
        "seconds": seconds,
        "rate": tasks / seconds,
        "settings": settings,
        "latencies_ms": [*latencies_ms],
    }
    print(json.dumps(line), flush=True)
    sys.stdin.readline()
